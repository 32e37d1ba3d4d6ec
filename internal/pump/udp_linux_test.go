package pump

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"legate/internal/testnet"

	"golang.org/x/sys/unix"
)

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
	// A batch is counted when all of it is sent.
	eventually(t, func() bool { return w.h.flow(0).Counters() == Counters{In: sum, Out: sum} })
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

func TestUDP_OwnSocketIsConnected(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	server, at := listenTestUDP(t, "127.0.0.1:0")
	failing := Leg{Network: UDP, Addr: at, Socket: func(int, int) (int, error) { return -1, unix.EINVAL }}
	good := Leg{Network: UDP, Addr: at, Socket: func(domain, kind int) (int, error) {
		fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 77}})
		}
		return fd, err
	}}
	legs := []Leg{failing, good}
	w.h.set(func(*Flow, Attempt) Step { return Step{Dial: legs} })
	sendTo(t, w.client(t, "127.0.0.1"), "a")
	_, from, err := server.ReadFromUDPAddrPort(make([]byte, 10))
	if err != nil || from.Addr() != netip.MustParseAddr("127.0.0.77") {
		t.Errorf("the datagram came from %v, %v", from, err)
	}
	w.h.seen(func(*udpHandler) {
		if !errors.Is(legs[0].Err, unix.EINVAL) {
			t.Errorf("the leg whose socket failed has %v", legs[0].Err)
		}
	})
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
		answer(t, server, session, "is anybody there?")
	}
	sendTo(t, alive, "y")
	_, session = receiveFrom(t, server)
	answer(t, server, session, "z")
	expect(t, alive, "z")
	if n := w.h.ends(); n != 0 {
		t.Errorf("%d sessions ended", n)
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
