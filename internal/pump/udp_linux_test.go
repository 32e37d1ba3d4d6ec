package pump

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"legate/internal/testnet"

	"golang.org/x/sys/unix"
)

// udpHandler answers with next and writes down what it was told.
type udpHandler struct {
	mu        sync.Mutex // guards the following
	next      func(*Flow, Attempt) Step
	attempts  []Attempt
	flows     []*Flow
	connected []int
	results   []Result
}

func (h *udpHandler) Next(f *Flow, last Attempt) Step {
	h.mu.Lock()
	h.attempts = append(h.attempts, last)
	if last.Kind == Accepted {
		h.flows = append(h.flows, f)
	}
	next := h.next
	h.mu.Unlock()
	return next(f, last)
}

func (h *udpHandler) set(next func(*Flow, Attempt) Step) {
	h.seen(func(h *udpHandler) { h.next = next })
}

func (h *udpHandler) Connected(_ *Flow, leg int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.connected = append(h.connected, leg)
}

func (h *udpHandler) Done(_ *Flow, r Result) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.results = append(h.results, r)
}

// seen calls f with the handler's notes.
func (h *udpHandler) seen(f func(h *udpHandler)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
}

func (h *udpHandler) flow(i int) (f *Flow) {
	h.seen(func(h *udpHandler) { f = h.flows[i] })
	return f
}

func (h *udpHandler) kinds() (ks []AttemptKind) {
	h.seen(func(h *udpHandler) {
		for _, a := range h.attempts {
			ks = append(ks, a.Kind)
		}
	})
	return ks
}

func (h *udpHandler) connects() (n int) {
	h.seen(func(h *udpHandler) { n = len(h.connected) })
	return n
}

func (h *udpHandler) done(i int) (r Result) {
	h.seen(func(h *udpHandler) { r = h.results[i] })
	return r
}

func (h *udpHandler) ends() (n int) {
	h.seen(func(h *udpHandler) { n = len(h.results) })
	return n
}

// to is the step that names endpoints, the same ones every time.
func to(addrs ...netip.AddrPort) func(*Flow, Attempt) Step {
	return func(*Flow, Attempt) Step {
		legs := make([]Leg, len(addrs))
		for i, a := range addrs {
			legs[i] = Leg{Network: UDP, Addr: a}
		}
		return Step{Dial: legs}
	}
}

// byPointer names the endpoint that p holds at the time.
func byPointer(p *atomic.Pointer[netip.AddrPort]) func(*Flow, Attempt) Step {
	return func(f *Flow, a Attempt) Step { return to(*p.Load())(f, a) }
}

type udpWorld struct {
	*udpAcceptor
	h    *udpHandler
	port uint16
	free atomic.Int64 // descriptors of the budget
}

// serveUDPOn serves addr until the test ends, when everything must be given
// back.
func serveUDPOn(t *testing.T, addr string, l Listener, next func(*Flow, Attempt) Step) *udpWorld {
	t.Helper()
	testnet.CheckLeaks(t)
	fd, err := BindUDP(netip.MustParseAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	l.Network, l.FD = UDP, fd
	w := &udpWorld{h: &udpHandler{next: next}}
	w.free.Store(10000)
	a, err := serveUDP(udpConfig{Listener: l, Handler: w.h, Acquire: w.acquire, Release: w.release})
	if err != nil {
		t.Fatal(err)
	}
	w.udpAcceptor = a.(*udpAcceptor)
	w.port = w.own.addr.Port()
	t.Cleanup(func() {
		w.cut(errors.New("the test is over"))
		if n := w.free.Load(); n != 10000 {
			t.Errorf("%d descriptors of 10000 in the budget after the end", n)
		}
		w.h.seen(func(h *udpHandler) {
			if len(h.flows) != len(h.results) {
				t.Errorf("%d flows, %d times Done", len(h.flows), len(h.results))
			}
		})
	})
	return w
}

func (w *udpWorld) acquire(n int) bool {
	if w.free.Add(-int64(n)) < 0 {
		w.free.Add(int64(n))
		return false
	}
	return true
}

func (w *udpWorld) release(n int) { w.free.Add(int64(n)) }

// client is connected: the kernel drops what comes from another address.
func (w *udpWorld) client(t *testing.T, host string) *net.UDPConn {
	t.Helper()
	return dialTestUDP(t, netip.AddrPortFrom(netip.MustParseAddr(host), w.port))
}

func dialTestUDP(t *testing.T, to netip.AddrPort) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func listenTestUDP(t *testing.T, addr string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// echo answers every datagram with prefix and the datagram.
func echo(t *testing.T, addr, prefix string) netip.AddrPort {
	t.Helper()
	c, at := listenTestUDP(t, addr)
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			c.WriteToUDPAddrPort(append([]byte(prefix), buf[:n]...), from)
		}
	}()
	return at
}

// freeUDP returns an address where nobody serves.
func freeUDP(t *testing.T) netip.AddrPort {
	c, at := listenTestUDP(t, "127.0.0.1:0")
	c.Close()
	return at
}

func sendTo(t *testing.T, c net.Conn, p string) {
	t.Helper()
	if _, err := c.Write([]byte(p)); err != nil {
		t.Fatalf("send %d bytes: %v", len(p), err)
	}
}

func receiveFrom(t *testing.T, c *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(testnet.Patience))
	buf := make([]byte, maxDatagram)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil {
		t.Fatalf("receive: %v", err)
	}
	return string(buf[:n]), from
}

func expect(t *testing.T, c *net.UDPConn, want string) {
	t.Helper()
	if got, _ := receiveFrom(t, c); got != want {
		t.Fatalf("received %d bytes %.40q, want %d bytes %.40q", len(got), got, len(want), want)
	}
}

func ask(t *testing.T, c *net.UDPConn, p, want string) {
	t.Helper()
	sendTo(t, c, p)
	expect(t, c, want)
}

func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	testnet.Eventually(t, testnet.Patience, cond)
}

func TestUDP_AnswersComeFromTheAddressThatTheClientUsed(t *testing.T) {
	testnet.NeedIPv6(t)
	for _, c := range []struct{ listen, client, server string }{
		{"127.0.0.1:0", "127.0.0.1", "127.0.0.1:0"},
		{"0.0.0.0:0", "127.0.0.1", "127.0.0.1:0"},
		{"0.0.0.0:0", "127.0.0.2", "127.0.0.1:0"},
		{"0.0.0.0:0", "127.0.0.2", "[::1]:0"},
		{"[::]:0", "127.0.0.1", "127.0.0.1:0"},
		{"[::]:0", "127.0.0.2", "127.0.0.1:0"},
		{"[::]:0", "127.0.0.2", "[::1]:0"},
		{"[::]:0", "::1", "127.0.0.1:0"},
		{"[::1]:0", "::1", "[::1]:0"},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			w := serveUDPOn(t, c.listen, Listener{}, nil)
			w.h.set(to(echo(t, c.server, "answer to ")))
			conn := w.client(t, c.client)
			ask(t, conn, "one", "answer to one")
			ask(t, conn, "two", "answer to two")
			if got, want := w.h.flow(0).Client, conn.LocalAddr().(*net.UDPAddr).AddrPort(); got != netip.AddrPortFrom(want.Addr().Unmap(), want.Port()) {
				t.Errorf("client %v, want %v", got, want)
			}
		})
	}
}

func TestUDP_OneClientSocketMayUseSeveralOfOurAddresses(t *testing.T) {
	w := serveUDPOn(t, "[::]:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	c, _ := listenTestUDP(t, "127.0.0.1:0")
	for _, host := range []string{"127.0.0.2", "127.0.0.3", "127.0.0.2"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(host), w.port)
		if _, err := c.WriteToUDPAddrPort([]byte(host), at); err != nil {
			t.Fatal(err)
		}
		got, from := receiveFrom(t, c)
		if got != host || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != at {
			t.Errorf("sent to %v, got %q from %v", at, got, from)
		}
	}
	if n := w.h.connects(); n != 2 {
		t.Errorf("%d sessions, want one for each of two addresses", n)
	}
}

func TestUDP_DatagramsPassWholeAndUnmerged(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	c := w.client(t, "127.0.0.1")
	var sum uint64
	for _, n := range []int{0, 1, 0, 512, 1200, 1252, 1452, 1473, 9000, 65507, 0} {
		p := string(bytes.Repeat([]byte{byte(n)}, n))
		ask(t, c, p, p)
		sum += uint64(n)
	}
	for i := range 30 {
		sendTo(t, c, fmt.Sprintf("%01200d", i))
		sum += 1200
	}
	for i := range 30 {
		expect(t, c, fmt.Sprintf("%01200d", i))
	}
	if got := w.h.flow(0).Counters(); got != (Counters{In: sum, Out: sum}) {
		t.Errorf("counters %+v, want %d both ways", got, sum)
	}
	w.h.flow(0).Cut(nil)
	eventually(t, func() bool { return w.h.ends() == 1 })
	if r := w.h.done(0); r.Counters.In != sum || r.Counters.Out != sum || r.Started.IsZero() {
		t.Errorf("result %+v", r)
	}
	if n := w.DroppedUDP(); n != 0 {
		t.Errorf("%d dropped", n)
	}
}

func TestUDP_TooLongForTheWayIsDroppedAlone(t *testing.T) {
	testnet.NeedIPv6(t)
	w := serveUDPOn(t, "[::1]:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	c := w.client(t, "::1")
	ask(t, c, "before", "before")
	sendTo(t, c, string(make([]byte, 65527))) // IPv6 carries it, IPv4 cannot
	ask(t, c, "after", "after")
	if n := w.DroppedUDP(); n != 1 {
		t.Errorf("%d dropped, want 1", n)
	}
	if ks := w.h.kinds(); !slices.Equal(ks, []AttemptKind{Accepted}) {
		t.Errorf("the endpoint was blamed: %v", ks)
	}
}

func TestUDP_RefusedEndpointMovesWithTheNextDatagram(t *testing.T) {
	dead := freeUDP(t)
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	good := echo(t, "127.0.0.1:0", "good ")
	w.h.set(func(f *Flow, a Attempt) Step {
		if a.Kind == Refused {
			return to(good)(f, a)
		}
		return to(dead)(f, a)
	})
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "lost, nobody was there")
	eventually(t, w.noticedRefusal)
	ask(t, c, "second", "good second")
	ask(t, c, "third", "good third")
	w.h.seen(func(h *udpHandler) {
		if len(h.attempts) != 2 || h.attempts[1].Kind != Refused || !errors.Is(h.attempts[1].Err, unix.ECONNREFUSED) {
			t.Errorf("attempts %+v", h.attempts)
		}
	})
}

// noticedRefusal tells whether the only session knows that it was refused.
func (w *udpWorld) noticedRefusal() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sessions {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.refused != nil
	}
	return false
}

// The error that an earlier datagram caused is reported by the send of the
// next one, which then was not sent. Here nobody reads the socket before that
// send, as it happens when both come at once.
func TestUDP_DatagramInWhosePlaceARefusalWasReportedIsSent(t *testing.T) {
	dead := freeUDP(t)
	for _, also := range []string{"another endpoint", "the same endpoint"} {
		t.Run(also, func(t *testing.T) {
			w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
			back, at := listenTestUDP(t, "127.0.0.1:0")
			w.h.set(func(f *Flow, a Attempt) Step {
				if a.Kind == Refused && also == "another endpoint" {
					return to(at)(f, a)
				}
				return to(dead)(f, a)
			})
			s := newUDPSession(w.udpAcceptor, udpKey{client: at})
			if !w.acquire(1) || !s.open() {
				t.Fatal("not opened")
			}
			defer func() { s.mu.Lock(); s.end(CauseCut, nil); s.mu.Unlock(); s.finish() }()
			s.forward([]byte("first"))
			waitForError(t, s.up.Load().fd)
			if also == "the same endpoint" {
				back.Close()
				again, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(dead))
				if err != nil {
					t.Fatal(err)
				}
				defer again.Close()
				back = again
			}
			s.forward([]byte("second"))
			expect(t, back, "second")
			if ks := w.h.kinds(); !slices.Equal(ks, []AttemptKind{Accepted, Refused}) {
				t.Errorf("attempts %v", ks)
			}
		})
	}
}

func waitForError(t *testing.T, fd int) {
	t.Helper()
	eventually(t, func() bool {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, _ := unix.Poll(p, 0)
		return n == 1 && p[0].Revents&unix.POLLERR != 0
	})
}

func TestUDP_EndpointThatComesBackIsUsedAgain(t *testing.T) {
	at := freeUDP(t)
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, to(at))
	c := w.client(t, "127.0.0.1")
	for range 20 {
		sendTo(t, c, "nobody hears")
	}
	echo(t, at.String(), "back ")
	sendTo(t, c, "now")
	for got := ""; got != "back now"; { // after those still on their way
		got, _ = receiveFrom(t, c)
	}
	w.h.seen(func(h *udpHandler) {
		if len(h.flows) != 1 {
			t.Errorf("%d sessions, want 1", len(h.flows))
		}
	})
}

func TestUDP_WakeMovesAtOnceAndLateAnswersAreDropped(t *testing.T) {
	var where atomic.Pointer[netip.AddrPort]
	old, oldAt := listenTestUDP(t, "127.0.0.1:0")
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, byPointer(&where))
	fresh, freshAt := listenTestUDP(t, "127.0.0.1:0")
	where.Store(&oldAt)
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "a")
	_, session := receiveFrom(t, old)
	old.WriteToUDPAddrPort([]byte("in time"), session)
	expect(t, c, "in time")

	where.Store(&freshAt)
	w.h.flow(0).Wake()
	eventually(t, func() bool { return w.h.connects() == 2 })
	old.WriteToUDPAddrPort([]byte("late"), session)
	sendTo(t, c, "b")
	_, session = receiveFrom(t, fresh)
	fresh.WriteToUDPAddrPort([]byte("from the new one"), session)
	expect(t, c, "from the new one")
	if ks := w.h.kinds(); !slices.Equal(ks, []AttemptKind{Accepted, Woken}) {
		t.Errorf("attempts %v", ks)
	}
}

func TestUDP_WakeWithTheSameAnswerKeepsTheSocket(t *testing.T) {
	server, at := listenTestUDP(t, "127.0.0.1:0")
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, to(at))
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "a")
	_, before := receiveFrom(t, server)
	for i := range 50 {
		w.h.flow(0).Wake()
		eventually(t, func() bool { return w.h.connects() == i+2 })
	}
	sendTo(t, c, "b")
	if _, after := receiveFrom(t, server); after != before {
		t.Errorf("the endpoint saw %v, then %v", before, after)
	}
}

func TestUDP_WakeAndCutInsideNext(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	at := echo(t, "127.0.0.1:0", "")
	gone := errors.New("gone")
	w.h.set(func(f *Flow, a Attempt) Step {
		switch a.Kind {
		case Accepted:
			f.Wake()
		case Woken:
			f.Cut(gone)
		}
		f.Counters()
		return to(at)(f, a)
	})
	sendTo(t, w.client(t, "127.0.0.1"), "a")
	eventually(t, func() bool { return w.h.ends() == 1 })
	if r := w.h.done(0); r.Cause != CauseCut || !errors.Is(r.Err, gone) {
		t.Errorf("ended with %v, %v", r.Cause, r.Err)
	}
	w.h.flow(0).Wake() // and after the end nothing happens
	w.h.flow(0).Cut(gone)
	if _, err := w.h.flow(0).Freeze(); !errors.Is(err, ErrNotMovable) {
		t.Errorf("freeze: %v", err)
	}
}

// Wakes and cuts that meet moves in progress must neither be lost nor hang.
func TestUDP_WakeStorm(t *testing.T) {
	var where atomic.Pointer[netip.AddrPort]
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, byPointer(&where))
	ats := []netip.AddrPort{echo(t, "127.0.0.1:0", ""), echo(t, "127.0.0.1:0", ""), freeUDP(t)}
	where.Store(&ats[0])
	c := w.client(t, "127.0.0.1")
	ask(t, c, "hello", "hello")
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for n := range 200 {
				where.Store(&ats[(n+i)%len(ats)])
				w.h.flow(0).Wake()
				c.Write([]byte("noise"))
			}
		})
	}
	wg.Wait()
	where.Store(&ats[1])
	w.h.flow(0).Wake()
	eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, s := range w.sessions {
			up := s.up.Load()
			return up != nil && up.addr == ats[1]
		}
		return false
	})
	buf := make([]byte, 10)
	eventually(t, func() bool { // again: the queues may have been full of noise
		sendTo(t, c, "last")
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			n, err := c.Read(buf)
			if err != nil || string(buf[:n]) == "last" {
				return err == nil
			}
		}
	})
}

func TestUDP_NoEndpointDropsAndAsksAgain(t *testing.T) {
	down := errors.New("link is down")
	for _, c := range []struct {
		name string
		step Step
		err  error
	}{
		{"end", Step{End: down}, down},
		{"end in order", Step{End: io.EOF}, nil},
		{"park", Step{Park: time.Now().Add(time.Hour)}, errNeverHeld},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
			at := echo(t, "127.0.0.1:0", "")
			var up atomic.Bool
			w.h.set(func(f *Flow, a Attempt) Step {
				if up.Load() {
					return to(at)(f, a)
				}
				return c.step
			})
			conn := w.client(t, "127.0.0.1")
			sendTo(t, conn, "dropped")
			sendTo(t, conn, "dropped")
			eventually(t, func() bool { return w.h.ends() == 2 })
			if r := w.h.done(0); r.Cause != CauseEnded || !errors.Is(r.Err, c.err) || r.Counters != (Counters{}) {
				t.Errorf("result %+v", r)
			}
			up.Store(true)
			ask(t, conn, "served", "served")
			if n := w.DroppedUDP(); n != 2 {
				t.Errorf("%d dropped, want 2", n)
			}
		})
	}
}

func TestUDP_RefusedThenNoEndpointEndsTheSession(t *testing.T) {
	dead := freeUDP(t)
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, func(f *Flow, a Attempt) Step {
		if a.Kind == Refused {
			return Step{End: a.Err}
		}
		return to(dead)(f, a)
	})
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "first")
	eventually(t, w.noticedRefusal)
	sendTo(t, c, "second")
	eventually(t, func() bool { return w.h.ends() == 1 })
	if r := w.h.done(0); r.Cause != CauseEnded || !errors.Is(r.Err, unix.ECONNREFUSED) {
		t.Errorf("result %+v", r)
	}
	if n := w.DroppedUDP(); n != 1 {
		t.Errorf("%d dropped, want 1", n)
	}
}

func TestUDP_FirstLegThatConnectsIsTaken(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	good := Leg{Network: UDP, Addr: echo(t, "127.0.0.1:0", "")}
	// Without SO_BROADCAST the kernel refuses to connect there.
	bad := Leg{Network: UDP, Addr: netip.MustParseAddrPort("255.255.255.255:9")}
	legs := []Leg{bad, good, bad}
	w.h.set(func(*Flow, Attempt) Step { return Step{Dial: legs} })
	ask(t, w.client(t, "127.0.0.1"), "a", "a")
	w.h.seen(func(h *udpHandler) {
		if !slices.Equal(h.connected, []int{1}) {
			t.Errorf("connected %v, want leg 1", h.connected)
		}
	})
	if !errors.Is(legs[0].Err, unix.EACCES) || legs[1].Err != nil || !errors.Is(legs[2].Err, ErrNotTried) {
		t.Errorf("errors of the legs: %v, %v, %v", legs[0].Err, legs[1].Err, legs[2].Err)
	}
}

func TestUDP_FailedConnectsAreReportedAndBounded(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, to(netip.MustParseAddrPort("255.255.255.255:9")))
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "a")
	eventually(t, func() bool { return w.h.ends() == 1 })
	if ks := w.h.kinds(); len(ks) != maxAsks || ks[1] != DialFailed {
		t.Errorf("attempts %v", ks)
	}
}

func TestUDP_OwnAddressIsRefused(t *testing.T) {
	testnet.NeedIPv6(t)
	for _, c := range []struct{ listen, client, leg string }{
		{"127.0.0.1", "127.0.0.1", "127.0.0.1"},
		{"0.0.0.0", "127.0.0.1", "127.0.0.1"},
		{"0.0.0.0", "127.0.0.1", "127.0.0.7"},
		{"0.0.0.0", "127.0.0.1", "0.0.0.0"},
		{"::", "127.0.0.1", "127.0.0.1"},
		{"::", "::1", "::1"},
		{"::1", "::1", "::1"},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			w := serveUDPOn(t, netip.AddrPortFrom(netip.MustParseAddr(c.listen), 0).String(), Listener{}, nil)
			legs := make([]Leg, 1)
			w.h.set(func(_ *Flow, a Attempt) Step {
				if a.Kind == DialFailed {
					return Step{End: legs[0].Err}
				}
				legs[0] = Leg{Network: UDP, Addr: netip.AddrPortFrom(netip.MustParseAddr(c.leg), w.port)}
				return Step{Dial: legs}
			})
			sendTo(t, w.client(t, c.client), "round and round")
			eventually(t, func() bool { return w.h.ends() == 1 })
			if r := w.h.done(0); !errors.Is(r.Err, ErrSelfConnect) {
				t.Errorf("result %+v", r)
			}
		})
	}
}

func TestUDP_ServerOnTheSamePortOfAnotherAddressIsNoLoop(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.2:0", Listener{}, nil)
	w.h.set(to(echo(t, fmt.Sprintf("127.0.0.3:%d", w.port), "")))
	ask(t, w.client(t, "127.0.0.2"), "a", "a")
}

func TestUDP_SocketConnectedToItselfIsRefused(t *testing.T) {
	fd, err := BindUDP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	at, err := localUDP(fd)
	if err != nil {
		t.Fatal(err)
	}
	if err := connectUDP(fd, at, udpOwn{}); !errors.Is(err, ErrSelfConnect) {
		t.Errorf("connected to itself: %v", err)
	}
}

func TestUDP_CapDropsNewClientsOnly(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{Max: 2}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	a, b, c := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	ask(t, a, "a", "a")
	ask(t, b, "b", "b")
	sendTo(t, c, "c")
	eventually(t, func() bool { return w.DroppedUDP() == 1 })
	ask(t, a, "a", "a")
	if n := w.h.connects(); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
	w.h.flow(1).Cut(nil)
	eventually(t, func() bool { return w.h.ends() == 1 })
	ask(t, c, "c", "c")
}

func TestUDP_WithoutDescriptorsNewClientsAreDropped(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	a, b := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	ask(t, a, "a", "a")
	held := w.free.Swap(0)
	sendTo(t, b, "b")
	eventually(t, func() bool { return w.DroppedUDP() == 1 })
	ask(t, a, "a", "a")
	w.free.Add(held)
	ask(t, b, "b", "b")
	if ks := w.h.kinds(); !slices.Equal(ks, []AttemptKind{Accepted, Accepted}) {
		t.Errorf("attempts %v", ks)
	}
}

// Our own shortage ends nothing but the datagram, and blames nobody.
func TestUDP_ShortageBlamesNobody(t *testing.T) {
	for _, err := range []error{unix.EMFILE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRNOTAVAIL, unix.EAGAIN} {
		if !isUDPShortage(fmt.Errorf("connect: %w", err)) || isRefusal(err) {
			t.Errorf("%v is not taken for our own shortage", err)
		}
	}
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	at := echo(t, "127.0.0.1:0", "")
	c := w.client(t, "127.0.0.1")
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	none := lim
	none.Cur = 3
	w.h.set(func(f *Flow, a Attempt) Step {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
			t.Error(err)
		}
		return to(at)(f, a)
	})
	sendTo(t, c, "a")
	eventually(t, func() bool { return w.h.ends() == 1 })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	if r := w.h.done(0); r.Cause != CauseEnded || !errors.Is(r.Err, unix.EMFILE) {
		t.Errorf("result %+v", r)
	}
	if ks := w.h.kinds(); !slices.Equal(ks, []AttemptKind{Accepted}) || w.DroppedUDP() != 1 {
		t.Errorf("attempts %v, %d dropped", ks, w.DroppedUDP())
	}
}

func TestUDP_SuspendDropsNewClientsOnly(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	a, b := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	ask(t, a, "a", "a")
	if err := w.Suspend(); err != nil {
		t.Fatal(err)
	}
	sendTo(t, b, "b")
	eventually(t, func() bool { return w.DroppedUDP() == 1 })
	ask(t, a, "a", "a")
	if err := w.Resume(); err != nil {
		t.Fatal(err)
	}
	ask(t, b, "b", "b")
}

func TestUDP_IdleSessionsEndAndBusyOnesDoNot(t *testing.T) {
	const idle = 300 * time.Millisecond
	w := serveUDPOn(t, "127.0.0.1:0", Listener{Idle: idle}, nil)
	server, at := listenTestUDP(t, "127.0.0.1:0")
	w.h.set(to(at))
	quiet, talker, listener := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	sendTo(t, quiet, "q")
	receiveFrom(t, server)
	sendTo(t, talker, "t")
	receiveFrom(t, server)
	sendTo(t, listener, "l")
	_, session := receiveFrom(t, server)
	begun := time.Now()
	beat := time.NewTicker(idle / 10)
	defer beat.Stop()
	for time.Since(begun) < 3*idle {
		<-beat.C
		sendTo(t, talker, "t")
		receiveFrom(t, server)
		server.WriteToUDPAddrPort([]byte("l"), session)
		expect(t, listener, "l")
	}
	if n := w.h.ends(); n != 1 {
		t.Fatalf("%d sessions ended, want the quiet one alone", n)
	}
	if r := w.h.done(0); r.Cause != CauseIdle || r.Err != nil || r.Duration < idle {
		t.Errorf("result %+v", r)
	}
	eventually(t, func() bool { return w.h.ends() == 3 })
}

func TestUDP_ThousandSessions(t *testing.T) {
	w := serveUDPOn(t, "[::]:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	clients := make([]*net.UDPConn, 1000)
	for i := range clients {
		clients[i] = w.client(t, "127.0.0.1")
		ask(t, clients[i], fmt.Sprint(i), fmt.Sprint(i))
	}
	for i, c := range clients {
		ask(t, c, fmt.Sprint(-i), fmt.Sprint(-i))
	}
	if n := w.free.Load(); n != 10000-1001 {
		t.Errorf("budget has %d, want 1001 less than 10000", n)
	}
	w.cut(errors.New("all at once"))
	if n := w.h.ends(); n != 1000 {
		t.Errorf("%d sessions ended when cut returned", n)
	}
}

func TestUDP_CloseLetsSessionsGoOn(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	a, b := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	ask(t, a, "a", "a")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sendTo(t, b, "b")
	eventually(t, func() bool { return w.DroppedUDP() == 1 })
	ask(t, a, "still here", "still here")
	w.h.flow(0).Cut(io.EOF)
	<-w.done
	fd, err := BindUDP(w.own.addr)
	if err != nil {
		t.Fatalf("the address is not free again: %v", err)
	}
	unix.Close(fd)
	if err := w.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestUDP_CloseTakesWhatIsQueued(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	at := echo(t, "127.0.0.1:0", "")
	inNext, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.h.set(func(f *Flow, a Attempt) Step {
		once.Do(func() { close(inNext); <-goOn })
		return to(at)(f, a)
	})
	clients := make([]*net.UDPConn, 20)
	for i := range clients {
		clients[i] = w.client(t, "127.0.0.1")
		sendTo(t, clients[i], "queued")
		if i == 0 {
			<-inNext // the others wait in the queue
		}
	}
	closed := make(chan struct{})
	go func() { defer close(closed); _ = w.Close() }()
	eventually(t, func() bool { return w.phase.Load() == udpClosing })
	close(goOn)
	<-closed
	for _, c := range clients {
		expect(t, c, "queued")
	}
}

func TestUDP_CloseWithoutSessionsFreesTheAddress(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	<-w.done
}

func TestUDP_StuckPeersDelayNobody(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	_, deaf := listenTestUDP(t, "127.0.0.1:0") // reads nothing
	good := echo(t, "127.0.0.1:0", "")
	var n atomic.Int32
	w.h.set(func(f *Flow, a Attempt) Step {
		if n.Add(1) == 1 {
			return to(deaf)(f, a)
		}
		return to(good)(f, a)
	})
	stuck, reader := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	unread := w.client(t, "127.0.0.1") // reads no answers
	big := string(make([]byte, 60000))
	sendTo(t, stuck, big)
	for i := range 100 {
		sendTo(t, stuck, big)
		sendTo(t, unread, big)
		ask(t, reader, fmt.Sprint(i), fmt.Sprint(i))
	}
}

func TestUDP_ClientThatIsGoneStopsNothing(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	server, at := listenTestUDP(t, "127.0.0.1:0")
	w.h.set(to(at))
	gone, alive := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	sendTo(t, gone, "x")
	_, session := receiveFrom(t, server)
	gone.Close()
	for range 20 {
		server.WriteToUDPAddrPort([]byte("is anybody there?"), session)
	}
	sendTo(t, alive, "y")
	_, session = receiveFrom(t, server)
	server.WriteToUDPAddrPort([]byte("z"), session)
	expect(t, alive, "z")
	if n := w.h.ends(); n != 0 {
		t.Errorf("%d sessions ended", n)
	}
}

func TestUDP_EngineCloseCutsSessions(t *testing.T) {
	testnet.CheckLeaks(t)
	e, err := NewNet(NetConfig{})
	if err != nil {
		t.Fatal(err)
	}
	h := &udpHandler{next: to(echo(t, "127.0.0.1:0", ""))}
	fd, err := BindUDP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	at, err := localUDP(fd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Serve(Listener{Network: UDP, FD: fd}, h); err != nil {
		t.Fatal(err)
	}
	ask(t, dialTestUDP(t, at), "a", "a")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if h.ends() != 1 || h.done(0).Cause != CauseCut {
		t.Errorf("%d ends after the engine closed", h.ends())
	}
}

func TestBindUDP_DoesNotShareItsAddress(t *testing.T) {
	testnet.CheckLeaks(t)
	fd, err := BindUDP(netip.MustParseAddrPort("[::]:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	at, err := localUDP(fd)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"::", "0.0.0.0", "127.0.0.1"} {
		second, err := BindUDP(netip.AddrPortFrom(netip.MustParseAddr(host), at.Port()))
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("second bind on %s: %d, %v", host, second, err)
		}
	}
}
