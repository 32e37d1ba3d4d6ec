package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func TestApply_NewTargetKeepsLiveConnections(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	old := w.dial()
	exchange(t, old, "before")
	w.point(say(t, "new"))
	w.answers("new")
	exchange(t, old, "after")
	if e := w.status().Endpoints; len(e) != 2 || e[1].Health != spec.HealthFormer || e[1].Current != 1 {
		t.Errorf("status does not show where the live connection goes: %+v", e)
	}
}

func exchange(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(b); {
		m, err := c.Read(b[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	if string(b) != text {
		t.Fatalf("got %q, want %q", b, text)
	}
}

func TestApply_RemovedLinkRefusesAndItsConnectionsGoOn(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	c := w.dial()
	exchange(t, c, "before")
	w.fw.Apply(nil)
	if _, err := testnet.DialErr(w.addr); testnet.Name(err) != "ECONNREFUSED" {
		t.Errorf("connect gives %v", err)
	}
	exchange(t, c, "after")
}

func TestApply_TwoLinksOnOneAddress(t *testing.T) {
	w := newWorld(t, nil, say(t, "first"))
	for name, second := range map[string]spec.Listen{
		"same":       w.link.Listen,
		"everywhere": {Protocol: spec.TCP, Port: w.link.Listen.Port},
	} {
		t.Run(name, func(t *testing.T) {
			other := w.link
			other.Name, other.Listen = "second", second
			errs := w.fw.Apply([]spec.Link{w.link, other})
			if errs[0] != nil || errs[1] == nil || !strings.Contains(errs[1].Error(), `"test"`) {
				t.Errorf("errors %v; the second must name the first", errs)
			}
			if s := w.fw.Snapshot(); len(s) != 2 || s[1].State != spec.StateError && second != w.link.Listen {
				t.Errorf("snapshot %+v", s)
			}
			w.answers("first")
		})
	}
}

func TestApply_AddressOfSomebodyElse(t *testing.T) {
	w := newWorld(t, nil)
	taken := testnet.Listen(t, "tcp4")
	l := w.link
	l.Listen.Port = taken.Addr.Port()
	errs := w.fw.Apply([]spec.Link{l})
	var ue *spec.UserError
	if !errors.As(errs[0], &ue) || !strings.Contains(ue.What, "address already in use") || !strings.Contains(ue.Hint, "ss -lnp") {
		t.Errorf("error %#v", errs[0])
	}
}

func TestEndFormer_DrainWaitsAndThenCuts(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	ends, stays := w.dial(), w.dial()
	exchange(t, ends, "x")
	exchange(t, stays, "x")
	w.point(testnet.Serve(t, "tcp4", testnet.Echo).String())
	fresh := w.dial()
	exchange(t, fresh, "x")
	const within = 500 * time.Millisecond
	start := time.Now()
	done := make(chan error, 1)
	var n Ended
	go func() {
		var err error
		n, err = w.fw.EndFormer(context.Background(), "test", within)
		done <- err
	}()
	testnet.Eventually(t, soon, w.isWatched)
	ends.Close()
	if err := <-done; err != nil || n != (Ended{Ended: 1, Cut: 1}) {
		t.Fatalf("%+v, %v; want one ended, one cut", n, err)
	}
	if took := time.Since(start); took < within {
		t.Errorf("drained for %v, want %v", took, within)
	}
	w.resets(stays, soon)
	exchange(t, fresh, "still there")
}

// isWatched tells whether somebody waits for connections to end.
func (w *world) isWatched() bool {
	l := w.fw.serving()[0]
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news != nil
}

func TestEndFormer_ReturnsWhenTheLastOneEnded(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	c := w.dial()
	exchange(t, c, "x")
	w.point(say(t, "new"))
	done := make(chan error, 1)
	go func() {
		_, err := w.fw.EndFormer(context.Background(), "test", time.Hour)
		done <- err
	}()
	testnet.Eventually(t, soon, w.isWatched)
	c.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(soon):
		t.Error("the drain did not end with the last connection")
	}
}

func TestEndFormer_WaitsForWhatIsStillConnecting(t *testing.T) {
	hole := testnet.BlackHole(t, loopback).String()
	w := newWorld(t, func(o *spec.Options) { o.ConnectTimeout = time.Second }, hole)
	c := w.dial()
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Current == 1 })
	w.point(say(t, "new"))
	start := time.Now()
	if _, err := w.fw.EndFormer(context.Background(), "test", time.Hour); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 500*time.Millisecond {
		t.Errorf("returned after %v, while a connection might still have reached the former endpoint", took)
	}
	if got, err := read(t, c, soon); got != "new\n" || err != nil {
		t.Errorf("the connection that was under way got %q, %v", got, err)
	}
}

func TestClose_LetsConnectionsEnd(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	c := w.dial()
	exchange(t, c, "before")
	closed := make(chan error, 1)
	go func() { closed <- w.fw.Close(context.Background()) }()
	testnet.Eventually(t, soon, func() bool {
		c, err := testnet.DialErr(w.addr)
		if err == nil {
			c.Close()
		}
		return testnet.Name(err) == "ECONNREFUSED"
	})
	exchange(t, c, "after")
	c.Close()
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestClose_ReleasesWhatIsHeld(t *testing.T) {
	w, back := downWorld(t, nil)
	c := w.dial()
	w.eventually(held(1))
	closed := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	go func() { closed <- w.fw.Close(ctx) }()
	testnet.ListenAt(t, "tcp4", back).Handle(testnet.Say("just in time"))
	if got, err := read(t, c, soon); got != "just in time\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	c.Close()
	if err := <-closed; err != nil || ctx.Err() != nil {
		t.Errorf("close: %v, %v", err, ctx.Err())
	}
}

func TestMaxConnections_LetsClientsWaitInTheQueue(t *testing.T) {
	w := newWorld(t, func(o *spec.Options) { o.MaxConnections = 1 }, testnet.Serve(t, "tcp4", testnet.Echo).String())
	first, second := w.dial(), w.dial()
	exchange(t, first, "x")
	if _, err := second.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	if n := w.status().Counters.Total; n != 1 {
		t.Fatalf("%d connections accepted", n)
	}
	first.Close()
	b := make([]byte, 1)
	if err := second.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Read(b); err != nil || b[0] != 'y' {
		t.Errorf("the second got %q, %v", b, err)
	}
}

func TestCounters_OfLinkAndEndpoint(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	c := w.dial()
	exchange(t, c, "12345")
	check := func(current int64) {
		t.Helper()
		w.eventually(func(s spec.LinkStatus) bool {
			e := s.Endpoints[0]
			return s.Counters.Current == current && s.Counters.Total == 1 && s.Counters.BytesIn == 5 && s.Counters.BytesOut == 5 &&
				e.Current == current && e.Total == 1 && e.BytesIn == 5 && e.BytesOut == 5
		})
	}
	check(1)
	c.Close()
	check(0)
}

func TestLocalhost_ServesBothFamilies(t *testing.T) {
	testnet.NeedIPv6(t)
	w := newWorld(t, nil)
	w.link.Listen.Host = "localhost"
	w.point(say(t, "here"))
	for _, ip := range []string{"127.0.0.1", "::1"} {
		w.addr = netip.AddrPortFrom(netip.MustParseAddr(ip), w.link.Listen.Port).String()
		w.answers("here")
	}
}

func TestUDP_SessionsFollowTheirLink(t *testing.T) {
	w := newWorld(t, nil)
	w.link.Listen.Protocol = spec.UDP
	w.point(udpServer(t, "blue"))
	c := udpClient(t, w.addr)
	if got := w.status().Endpoints[0].Health; got != spec.HealthUnknown {
		t.Errorf("before the first session it is %s", got)
	}
	if got := askUDP(t, c); got != "blue" {
		t.Fatalf("got %q", got)
	}
	w.eventually(func(s spec.LinkStatus) bool { return s.Endpoints[0].Health == spec.HealthOK }) // it has answered
	w.point(udpServer(t, "green"))
	testnet.Eventually(t, soon, func() bool { return askUDP(t, c) == "green" })
	s := w.status()
	if s.Counters.Total != 1 || s.Counters.MovedUDP != 1 || s.Endpoints[0].Current != 1 {
		t.Errorf("one session moved, but status is %+v", s)
	}
	const answer = uint64(len("green"))
	w.eventually(func(s spec.LinkStatus) bool {
		e := &s.Endpoints[0]
		return e.BytesOut >= answer && e.BytesOut%answer == 0 // none of what the other one said
	})
}

// Sessions that move together share the new endpoints as those do that come one
// after the other.
func TestUDP_SessionsThatMoveAreSpread(t *testing.T) {
	const sessions = 21
	w := newWorld(t, nil)
	w.link.Listen.Protocol = spec.UDP
	w.point(udpServer(t, "old"))
	clients := make([]net.Conn, sessions)
	for i := range clients {
		clients[i] = udpClient(t, w.addr)
		if got := askUDP(t, clients[i]); got != "old" {
			t.Fatalf("got %q", got)
		}
	}
	w.point(udpServer(t, "a"), udpServer(t, "b"), udpServer(t, "c"))
	seen := map[string]int{}
	for _, c := range clients {
		answer := "old"
		testnet.Eventually(t, soon, func() bool { answer = askUDP(t, c); return answer != "old" })
		seen[answer]++
	}
	for _, name := range []string{"a", "b", "c"} {
		if seen[name] != sessions/3 {
			t.Errorf("%d sessions went to %v", sessions, seen)
		}
	}
}

func TestUDP_WithoutEndpointIsDroppedAndCounted(t *testing.T) {
	w := newWorld(t, nil)
	w.link.Listen.Protocol = spec.UDP
	w.point()
	c := udpClient(t, w.addr)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.DroppedUDP == 1 && s.Counters.Held == 0 })
}

func udpServer(t *testing.T, name string) string {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 100)
		for {
			_, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(name), from)
		}
	}()
	return c.LocalAddr().String()
}

func udpClient(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func askUDP(t *testing.T, c net.Conn) string {
	t.Helper()
	if _, err := c.Write([]byte("who")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(b)
	if err != nil {
		return err.Error()
	}
	return string(b[:n])
}
