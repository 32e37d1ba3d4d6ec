package pumptest

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

func dialProbes(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{}, always())
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	server := Listen(t, "tcp4")
	cases := map[string]struct {
		ctx  context.Context
		leg  pump.Leg
		want string
	}{
		"open":      {t.Context(), to(server), ""},
		"unix":      {t.Context(), to(Listen(t, "unix")), ""},
		"refused":   {t.Context(), refusing(t), "refused"},
		"missing":   {t.Context(), pump.Leg{Network: pump.Unix, Path: "/nonexistent/socket"}, "missing"},
		"timeout":   {t.Context(), swallowing(t, 100*time.Millisecond), "timeout"},
		"cancelled": {cancelled, swallowing(t, Patience), "error"},
	}
	for name, c := range cases {
		if got := pump.Reason(dialAndClose(r, c.ctx, c.leg)); got != c.want {
			t.Errorf("%s: the reason is %q, not %q", name, got, c.want)
		}
	}
	if end := endOf(t, accept(t, server)); end != EOF && end != RESET {
		t.Errorf("the server saw %s", end)
	}
}

// dialDatagrams asks an endpoint of UDP, from here and with a socket of its own.
func dialDatagrams(t *testing.T, newEngine New) {
	server, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	r := start(t, newEngine, setup{}, nil)
	leg := pump.Leg{Network: pump.UDP, Addr: server.LocalAddr().(*net.UDPAddr).AddrPort()}
	elsewhere := leg
	elsewhere.Socket = from(t, [4]byte{127, 0, 0, 77})
	for want, leg := range map[string]pump.Leg{"127.0.0.1": leg, "127.0.0.77": elsewhere} {
		c, err := r.engine.Dial(t.Context(), leg)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("ask")); err != nil {
			t.Fatal(err)
		}
		_, from, err := server.ReadFromUDPAddrPort(make([]byte, 10))
		if err != nil || from.Addr().Unmap().String() != want {
			t.Errorf("the question came from %v, %v; want %s", from, err, want)
		}
	}
}

// dialAndClose tells only whether a leg can be reached.
func dialAndClose(r *rig, ctx context.Context, leg pump.Leg) error {
	c, err := r.engine.Dial(ctx, leg)
	if err != nil {
		return err
	}
	return c.Close()
}

// from makes sockets that connect from an address, as ones from elsewhere do.
func from(t *testing.T, a [4]byte) func(domain, kind int) (int, error) {
	return func(domain, kind int) (int, error) {
		fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: a}); err != nil {
			t.Errorf("bind: %v", err)
		}
		return fd, nil
	}
}

func ownSocketIsConnected(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	failing, refused, good := to(server), refusing(t), to(server)
	failing.Socket = func(int, int) (int, error) { return -1, unix.EMFILE }
	refused.Socket = from(t, [4]byte{127, 0, 0, 77})
	good.Socket = refused.Socket
	legs := []pump.Leg{failing, refused, good}
	r := start(t, newEngine, setup{}, inTurn(fixed(dialStep(legs...))))
	client := r.dial()
	c := server.Accept(t)
	if got := c.RemoteAddr().String(); !strings.HasPrefix(got, "127.0.0.77:") {
		t.Errorf("the server is connected to %s", got)
	}
	signals := new(Signals)
	Play(t, Part{Peer: client, Steps: steps{Send("ask"), Expect("answer"), Close()}},
		Part{Peer: NewPeer("endpoint", c, signals), Steps: steps{Expect("ask"), Send("answer"), ExpectEnd(EOF), Close()}})
	r.endedWith(1, pump.CauseEOF)
	if !pump.IsShortage(legs[0].Err) || !errors.Is(legs[1].Err, unix.ECONNREFUSED) {
		t.Errorf("the other legs have %v and %v", legs[0].Err, legs[1].Err)
	}
	probe, err := r.engine.Dial(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	defer probe.Close()
	if got := server.Accept(t).RemoteAddr().String(); got != probe.LocalAddr().String() || !strings.HasPrefix(got, "127.0.0.77:") {
		t.Errorf("a question from %s arrived from %s", probe.LocalAddr(), got)
	}
}
