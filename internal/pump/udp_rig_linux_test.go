package pump

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"legate/internal/testnet"
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
// back; plain, when given, is udpConfig.Plain.
func serveUDPOn(t *testing.T, addr string, l Listener, next func(*Flow, Attempt) Step, plain ...bool) *udpWorld {
	t.Helper()
	testnet.CheckLeaks(t)
	fd, err := BindUDP(netip.MustParseAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	l.Network, l.FD = UDP, fd
	w := &udpWorld{h: &udpHandler{next: next}}
	w.free.Store(10000)
	a, err := serveUDP(udpConfig{
		Listener: l, Handler: w.h, Acquire: w.acquire, Release: w.release, Plain: len(plain) > 0 && plain[0],
	})
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
			_, _ = c.WriteToUDPAddrPort(append([]byte(prefix), buf[:n]...), from)
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

func answer(t *testing.T, c *net.UDPConn, to netip.AddrPort, p string) {
	t.Helper()
	if _, err := c.WriteToUDPAddrPort([]byte(p), to); err != nil {
		t.Fatalf("answer %v: %v", to, err)
	}
}

func receiveFrom(t *testing.T, c *net.UDPConn) (string, netip.AddrPort) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(testnet.Patience))
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

// trainOf is what a receive of these datagrams would give.
func trainOf(ps ...string) (*udpBatch, *udpTrain) {
	t := &udpTrain{}
	for _, p := range ps {
		t.msgs = append(t.msgs, udpMessage{p: []byte(p), size: len(p)})
	}
	return newUDPBatch(narrowBatch), t
}
