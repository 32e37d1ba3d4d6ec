package forward

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// world is a forwarder with everything below it, on real sockets.
type world struct {
	t    *testing.T
	fw   *Forwarder
	pool *endpoints.Pool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	engine, err := pump.NewNet(pump.NetConfig{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t}
	w.pool = endpoints.New(endpoints.Config{
		Dial: func(ctx context.Context, e spec.Endpoint, d time.Duration) error { return w.fw.Dial(ctx, e, d) },
		Changed: func(target spec.Target) {
			w.fw.Changed(target)
		},
	})
	w.fw = New(Config{Engine: engine, Pool: w.pool})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := w.fw.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		w.pool.Close()
		if err := engine.Close(); err != nil {
			t.Errorf("close engine: %v", err)
		}
	})
	return w
}

func fixed(addr string) spec.Target {
	a := netip.MustParseAddrPort(addr)
	return spec.Target{Source: spec.SourceFixed, Protocol: spec.TCP, Host: a.Addr().String(), Port: a.Port()}
}

// serve applies one link on a free port and returns its address.
func (w *world) serve(change func(*spec.Options), targets ...string) string {
	w.t.Helper()
	port := freePort(w.t)
	l := spec.Link{Name: "test", Listen: spec.Listen{Protocol: spec.TCP, Host: "127.0.0.1", Port: port}, Options: spec.DefaultOptions()}
	if change != nil {
		change(&l.Options)
	}
	w.apply(l, targets...)
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String()
}

func (w *world) apply(l spec.Link, targets ...string) {
	w.t.Helper()
	for _, a := range targets {
		tg := fixed(a)
		l.Targets = append(l.Targets, tg)
		w.pool.Set(tg, spec.Answer{Endpoints: []spec.Endpoint{{Protocol: spec.TCP, Addr: netip.MustParseAddrPort(a)}}, At: time.Now()})
	}
	for _, err := range w.fw.Apply([]spec.Link{l}) {
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort().Port()
}

// upper serves what it receives in upper case.
func upper(t *testing.T, addr string) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				_, _ = c.Write([]byte(strings.ToUpper(string(b))))
			}()
		}
	}()
	return ln
}

func ask(t *testing.T, addr, text string) (string, error) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Write([]byte(text)); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func TestForward_CarriesBothWays(t *testing.T) {
	w := newWorld(t)
	addr := w.serve(nil, upper(t, "127.0.0.1:0").Addr().String())
	got, err := ask(t, addr, "hello")
	if err != nil || got != "HELLO" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestForward_HoldsUntilTheEndpointIsUp(t *testing.T) {
	w := newWorld(t)
	back := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t)).String()
	addr := w.serve(nil, back)
	type answer struct {
		text string
		err  error
		when time.Time
	}
	answers := make(chan answer)
	for range 5 {
		go func() {
			text, err := ask(t, addr, "held")
			answers <- answer{text, err, time.Now()}
		}()
	}
	deadline := time.Now().Add(5 * time.Second)
	for w.fw.Snapshot()[0].Counters.Held < 5 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	up := time.Now()
	upper(t, back)
	for range 5 {
		a := <-answers
		if a.err != nil || a.text != "HELD" {
			t.Errorf("got %q, %v", a.text, a.err)
		}
		t.Logf("after %v", a.when.Sub(up))
	}
}
