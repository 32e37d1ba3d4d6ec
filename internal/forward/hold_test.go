package forward

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func itoa(n int) string { return strconv.Itoa(n) }

// downWorld is a link to one address where nobody listens yet.
func downWorld(t *testing.T, change func(*spec.Options)) (w *world, back string) {
	t.Helper()
	back = net.JoinHostPort("127.0.0.1", itoa(testnet.FreePort(t)))
	return newWorld(t, change, back), back
}

func held(n int64) func(spec.LinkStatus) bool {
	return func(s spec.LinkStatus) bool { return s.State == spec.StateHolding && s.Counters.Held == n }
}

func TestHold_ReleasesSoonAfterARefusingEndpointIsUp(t *testing.T) {
	w, back := downWorld(t, nil)
	c := w.dial()
	w.eventually(held(1))
	up := time.Now()
	testnet.ListenAt(t, "tcp4", back).Handle(testnet.Say("back"))
	if got, err := read(t, c, soon); got != "back\n" || err != nil {
		t.Fatalf("got %q, %v", got, err)
	}
	// The promise is 250 ms; the rest is what a busy machine may add.
	if took := time.Since(up); took > time.Second {
		t.Errorf("released after %v", took)
	}
	if s := w.status(); s.State != spec.StateUp || s.Counters.HeldTotal != 1 || s.Counters.Held != 0 {
		t.Errorf("status afterwards: %+v", s)
	}
}

func TestHold_ReleasesInOrderOfArrival(t *testing.T) {
	const n = 200
	w, back := downWorld(t, nil)
	for i := range n {
		c := w.dial()
		if _, err := fmt.Fprintf(c, "%d\n", i); err != nil {
			t.Fatal(err)
		}
		w.eventually(func(s spec.LinkStatus) bool { return s.Counters.HeldTotal == int64(i+1) })
	}
	var mu sync.Mutex
	var order []int
	server := testnet.ListenAt(t, "tcp4", back)
	for len(order) < n {
		c := server.Accept(t)
		var i int
		if err := c.SetReadDeadline(time.Now().Add(soon)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fscan(c, &i); err != nil {
			continue // the probe that found the server
		}
		mu.Lock()
		order = append(order, i)
		mu.Unlock()
	}
	for i, got := range order {
		if got != i {
			t.Fatalf("connection %d came as number %d: %v", got, i, order)
		}
	}
}

func TestHold_EndsWithAResetAndSoDoLaterOnes(t *testing.T) {
	const hold = 700 * time.Millisecond
	w, back := downWorld(t, func(o *spec.Options) { o.Hold = hold })
	start := time.Now()
	first := w.dial()
	w.eventually(held(1))
	second := w.dial()
	w.resets(first, soon)
	if took := time.Since(start); took < hold-10*time.Millisecond {
		t.Errorf("held for %v, want %v", took, hold)
	}
	w.resets(second, soon) // counted from when the link went down
	start = time.Now()
	w.refuses(soon)
	if took := time.Since(start); took >= hold {
		t.Errorf("a connection to a link that is down for long waited %v", took)
	}
	if s := w.status(); s.State != spec.StateDown || s.Counters.Failed["down"]+s.Counters.Failed["refused"] != 3 {
		t.Errorf("status: %+v", s.Counters)
	}
	testnet.ListenAt(t, "tcp4", back).Handle(testnet.Say("back"))
	w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateUp })
	w.answers("back")
}

func TestHold_ZeroResetsAtOnce(t *testing.T) {
	w, _ := downWorld(t, func(o *spec.Options) { o.Hold = 0 })
	w.refuses(soon)
	if s := w.status(); s.Counters.HeldTotal != 0 || s.Counters.Failed["refused"] != 1 {
		t.Errorf("counters %+v", s.Counters)
	}
}

// Who was held goes to the new target: it is at no former one.
func TestHold_EndFormerSparesWhoWaited(t *testing.T) {
	for range 20 {
		w, _ := downWorld(t, nil)
		c := w.dial()
		w.eventually(held(1))
		w.point(say(t, "new"))
		n, err := w.fw.EndFormer(t.Context(), "test", 0)
		if got, readErr := read(t, c, soon); n.Cut > 0 || err != nil || got != "new\n" {
			t.Fatalf("%d cut, %v; the client got %q, %v", n.Cut, err, got, readErr)
		}
	}
}

// How long the former target was silent says nothing about the new one.
func TestHold_IsWholeAfterASwap(t *testing.T) {
	const hold = 2 * time.Second
	w := newWorld(t, func(o *spec.Options) { o.Hold, o.ConnectTimeout = hold, hold-100*time.Millisecond }, testnet.BlackHole(t, loopback).String())
	start := time.Now()
	first := w.dial()
	testnet.Eventually(t, soon, func() bool { return time.Since(start) > hold*3/4 })
	w.point(net.JoinHostPort("127.0.0.1", itoa(testnet.FreePort(t)))) // where nobody listens yet
	swapped := time.Now()
	w.resets(first, soon)
	if took := time.Since(swapped); took < hold-50*time.Millisecond {
		t.Errorf("held for %v after the swap, want %v", took, hold)
	}
}

func TestHold_ClientsLeave(t *testing.T) {
	w, back := downWorld(t, nil)
	rst, fin, half := w.dial(), w.dial(), w.dial()
	if _, err := half.Write([]byte("PING")); err != nil {
		t.Fatal(err)
	}
	if err := half.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	w.eventually(held(3))
	reset(rst)
	rst.Close()
	w.eventually(held(2))
	fin.Close()
	w.eventually(held(1))
	if n := w.status().Counters.Abandoned; n != 2 {
		t.Errorf("%d abandoned, want the reset and the finished one", n)
	}
	testnet.ListenAt(t, "tcp4", back).Handle(testnet.Echo)
	if got, err := read(t, half, soon); got != "PING" || err != nil {
		t.Errorf("the half-closed client got %q, %v", got, err)
	}
}

func TestHold_IsBounded(t *testing.T) {
	w, _ := downWorld(t, nil)
	for range maxHeld {
		w.dial()
	}
	w.eventually(held(maxHeld))
	w.refuses(soon)
	if n := w.status().Counters.Failed["hold-full"]; n != 1 {
		t.Errorf("%d refused for a full queue", n)
	}
}

func TestHold_EndsForAnUnknownTargetThatAppears(t *testing.T) {
	w := newWorld(t, nil, testnet.RefusingAddr(t, loopback).String())
	target := w.link.Targets[0]
	w.pool.Set(target, spec.Answer{At: time.Now()})
	c := w.dial()
	w.eventually(held(1))
	_, e := fixed(say(t, "found"), spec.TCP)
	w.pool.Set(target, spec.Answer{Endpoints: spec.Members(e), At: time.Now()})
	if got, err := read(t, c, soon); got != "found\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestHold_SwapReleases(t *testing.T) {
	w, _ := downWorld(t, nil)
	c := w.dial()
	w.eventually(held(1))
	w.point(say(t, "elsewhere"))
	if got, err := read(t, c, soon); got != "elsewhere\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// A check that only connects is no worse than none: the link stops listening
// before the first client finds the server gone.
func TestWhenDownRefuse_StopsListeningByATCPCheck(t *testing.T) {
	server := testnet.Serve(t, "tcp4", testnet.Echo)
	w := newWorld(t, func(o *spec.Options) { checked(o); o.WhenDown = spec.WhenDownRefuse }, server.String())
	exchange(t, w.dial(), "x")
	w.sick.Store(server.String(), true)
	w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateDown })
	w.sick.Delete(server.String())
	w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateUp })
}

func TestWhenDownRefuse_StopsListening(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			back := net.JoinHostPort("127.0.0.1", itoa(testnet.FreePort(t)))
			w := newWorld(t, func(o *spec.Options) { o.WhenDown = spec.WhenDownRefuse })
			if network == "unix" {
				path := testnet.SocketPath(t)
				w.link.Listen, w.addr = spec.Listen{Protocol: spec.Unix, Path: path}, "unix:"+path
				w.link.Options.SocketMode = 0o600
			}
			w.point(back)
			refused := func() bool {
				c, err := testnet.DialErr(w.addr)
				if err == nil {
					c.Close()
				}
				return testnet.Name(err) == "ECONNREFUSED"
			}
			for range 2 { // down and up, twice
				w.eventually(func(s spec.LinkStatus) bool {
					return s.State == spec.StateDown && s.Endpoints[0].Health == spec.HealthEjected
				})
				testnet.Eventually(t, soon, refused)
				server := testnet.ListenAt(t, "tcp4", back)
				server.Handle(testnet.Say("back"))
				w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateUp })
				testnet.Eventually(t, soon, func() bool { return !refused() })
				w.answers("back")
				server.Close()
			}
		})
	}
}

// What the probes see and what connections meet may differ, for example when
// connects take longer than their time-out but not than a probe's.
func TestHold_EndsThoughTheLinkSeemsToComeUpAgainAndAgain(t *testing.T) {
	const hold = time.Second
	bad := testnet.RefusingAddr(t, loopback).String()
	w := newWorld(t, func(o *spec.Options) { o.Hold = hold }, bad)
	_, e := fixed(bad, spec.TCP)
	stop := make(chan struct{})
	var lying sync.WaitGroup
	lying.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				w.pool.Report(e, nil)
			}
		}
	})
	start := time.Now()
	w.refuses(soon)
	close(stop)
	lying.Wait()
	if took := time.Since(start); took < hold/2 || took > 3*hold {
		t.Errorf("held for %v, want about %v", took, hold)
	}
}

// A source that failed is asked again only after a long pause, unless somebody
// says that clients wait for it.
func TestHold_OfATargetWithoutEndpointsAsksItsSource(t *testing.T) {
	w := newWorld(t, nil)
	w.serve(several)
	w.link.Targets = []spec.Target{several}
	w.apply()
	before := w.suspected.Load()
	w.dial()
	testnet.Await(t, "that the source is asked again", func() bool { return w.suspected.Load() > before })
}
