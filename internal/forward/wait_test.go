package forward

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/testnet"
)

func waiting(n int64) func(spec.LinkStatus) bool {
	return func(s spec.LinkStatus) bool { return s.Counters.Held == n }
}

func failed(s spec.LinkStatus, why string) int64 { return s.Counters.Failed[why] }

// one lets an endpoint have a single connection.
func one(o *spec.Options) { o.EndpointConnections = 1 }

func TestFull_WaitsForRoom(t *testing.T) {
	w := newWorld(t, one, testnet.Serve(t, "tcp4", testnet.Echo).String())
	first := w.dial()
	exchange(t, first, "x")
	second, third := w.dial(), w.dial()
	w.eventually(waiting(2))
	if s := w.status(); s.State != spec.StateUp || s.Endpoints[0].Load != 1 || !s.Full {
		t.Errorf("state %s with %d connections at the endpoint, full: %v", s.State, s.Endpoints[0].Load, s.Full)
	}
	first.Close()
	exchange(t, second, "y")
	second.Close()
	exchange(t, third, "z")
	third.Close()
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Current == 0 && s.Endpoints[0].Load == 0 && !s.Full })
}

func TestFull_GoesToTheOneWithRoom(t *testing.T) {
	a, b := testnet.Serve(t, "tcp4", testnet.Echo).String(), testnet.Serve(t, "tcp4", testnet.Echo).String()
	w := newWorld(t, func(o *spec.Options) { one(o); o.Balance = spec.BalanceFirst }, a, b)
	for range 2 {
		exchange(t, w.dial(), "x")
	}
	for _, e := range w.status().Endpoints {
		if e.Current != 1 {
			t.Errorf("%s has %d connections", e.Address, e.Current)
		}
	}
}

// A healthy endpoint that is full is worth waiting for while another fails.
func TestFull_IsBetterThanWhatFails(t *testing.T) {
	bad := testnet.RefusingAddr(t, loopback).String()
	w := newWorld(t, one, testnet.Serve(t, "tcp4", testnet.Echo).String(), bad)
	first := w.dial()
	exchange(t, first, "x")
	second := w.dial()
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Held == 1 && is(bad, spec.HealthEjected)(s) })
	first.Close()
	exchange(t, second, "y")
}

func TestFull_EndsWithHold(t *testing.T) {
	const hold = 400 * time.Millisecond
	w := newWorld(t, func(o *spec.Options) { one(o); o.Hold = hold }, testnet.Serve(t, "tcp4", testnet.Echo).String())
	exchange(t, w.dial(), "x")
	start := time.Now()
	w.refuses(soon)
	if took := time.Since(start); took < hold-10*time.Millisecond {
		t.Errorf("waited for %v, want %v", took, hold)
	}
	w.link.Options.Hold = 0
	w.apply()
	w.refuses(hold / 2)
	if s := w.status(); failed(s, "endpoint-full") != 2 || s.State != spec.StateUp {
		t.Errorf("%s, failed %v", s.State, s.Counters.Failed)
	}
}

// The limit is the endpoint's, whoever connects to it.
func TestFull_OfAnotherLinksConnections(t *testing.T) {
	w := newWorld(t, one, testnet.Serve(t, "tcp4", testnet.Echo).String())
	other := w.link
	other.Name = "other"
	other.Listen.Port = uint16(testnet.FreePort(t))
	for _, err := range w.fw.Apply([]spec.Link{w.link, other}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	theirs := testnet.Dial(t, net.JoinHostPort("127.0.0.1", itoa(int(other.Listen.Port))))
	exchange(t, theirs, "x")
	ours := w.dial()
	w.eventually(waiting(1))
	theirs.Close()
	exchange(t, ours, "y")
}

// The limit is exact for one link, however many come at once.
func TestFull_LimitIsKept(t *testing.T) {
	const most, clients = 3, 60
	var mu sync.Mutex
	at, highest := 0, 0
	w := newWorld(t, func(o *spec.Options) { o.EndpointConnections = most }, testnet.Serve(t, "tcp4", func(c net.Conn) {
		mu.Lock()
		at++
		highest = max(highest, at)
		mu.Unlock()
		// Before the answer, after which the client leaves.
		defer testnet.Say("done")(c)
		defer func() { mu.Lock(); at--; mu.Unlock() }()
	}).String())
	var busy sync.WaitGroup
	for range clients {
		busy.Go(func() {
			if err := hello(w.addr); err != nil {
				t.Error(err)
			}
		})
	}
	busy.Wait()
	if highest > most {
		t.Errorf("%d connections at once, want %d at most", highest, most)
	}
	w.eventually(func(s spec.LinkStatus) bool {
		return s.Counters.Current == 0 && s.Endpoints[0].Load == 0 && s.Counters.Held == 0
	})
}

// Another connection may have taken the room that there was when the first
// attempt failed.
func TestFull_LimitIsKeptByLaterAttempts(t *testing.T) {
	l := handler(t, "192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80")
	s := l.linkSpec()
	s.Options.EndpointConnections, s.Options.Balance = 1, spec.BalanceFirst
	l.set(s)
	var first, second pump.Flow
	fails := func(step pump.Step) pump.Step {
		step.Dial[0].Err = syscall.ECONNREFUSED
		return l.Next(&first, pump.Attempt{Kind: pump.DialFailed})
	}
	step := fails(l.Next(&first, pump.Attempt{}))
	if got := l.Next(&second, pump.Attempt{}).Dial; len(got) != 1 || got[0].Addr.String() != "192.0.2.3:80" {
		t.Fatalf("the second connection goes to %v", got)
	}
	if got := fails(step); len(got.Dial) > 0 {
		t.Errorf("the first one is a second one at %s", got.Dial[0].Addr)
	}
}

func TestPause_HoldsBeyondHoldAndReleasesInOrder(t *testing.T) {
	const n, hold = 100, 200 * time.Millisecond
	server := testnet.Listen(t, "tcp4")
	w := newWorld(t, func(o *spec.Options) { o.Hold = hold }, server.Addr.String())
	w.mode(spec.ModePause)
	paused := time.Now()
	for i := range n {
		if _, err := fmt.Fprintf(w.dial(), "%d\n", i); err != nil {
			t.Fatal(err)
		}
		w.eventually(func(s spec.LinkStatus) bool { return s.Counters.HeldTotal == int64(i+1) })
	}
	if s := w.status(); s.State != spec.StatePaused || s.Counters.Held != n {
		t.Errorf("%s with %d waiting", s.State, s.Counters.Held)
	}
	testnet.Eventually(t, soon, func() bool { return time.Since(paused) > 3*hold })
	w.mode(spec.ModeServe)
	for i := range n {
		var got int
		c := server.Accept(t)
		_ = c.SetReadDeadline(time.Now().Add(soon))
		if _, err := fmt.Fscan(c, &got); err != nil || got != i {
			t.Fatalf("connection %d came as number %d (%v)", got, i, err)
		}
	}
	if s := w.status(); s.State != spec.StateUp || len(s.Counters.Failed) != 0 {
		t.Errorf("%s, failed %v", s.State, s.Counters.Failed)
	}
}

// Nobody waits for an endpoint after the resume, only for who came before.
func TestPause_ReleasesAllWithoutHold(t *testing.T) {
	const n, rounds = 20, 10
	w := newWorld(t, func(o *spec.Options) { o.Hold = 0 }, testnet.Serve(t, "tcp4", testnet.Echo).String())
	for range rounds {
		w.mode(spec.ModePause)
		clients := make([]net.Conn, n)
		for i := range clients {
			clients[i] = w.dial()
		}
		w.eventually(waiting(n))
		w.mode(spec.ModeServe)
		for _, c := range clients {
			exchange(t, c, "x")
			c.Close()
		}
	}
}

// Where connects take a while, only so many are under way at a time.
func TestPause_ReleasesAllWithoutHoldToASlowServer(t *testing.T) {
	const n = 70
	server := testnet.Listen(t, "tcp4")
	backlog := func(length int) {
		fd := server.FD(t)
		defer unix.Close(fd)
		if err := unix.Listen(fd, length); err != nil {
			t.Fatal(err)
		}
	}
	backlog(0)
	w := newWorld(t, func(o *spec.Options) { o.Hold = 0 }, server.Addr.String())
	w.mode(spec.ModePause)
	clients := make([]net.Conn, n)
	for i := range clients {
		clients[i] = w.dial()
	}
	w.eventually(waiting(n))
	w.mode(spec.ModeServe)
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Held < n/2 })
	backlog(4096)
	server.Handle(testnet.Echo)
	defer server.Close()
	for _, c := range clients {
		exchange(t, c, "x")
	}
}

// A link that refuses while it is down still gives those the time of hold that
// a pause had let in: the server is back, and not yet found.
func TestPause_GivesHoldThoughTheLinkRefuses(t *testing.T) {
	const n = 5
	server := testnet.Serve(t, "tcp4", testnet.Echo)
	w := newWorld(t, func(o *spec.Options) { o.WhenDown = spec.WhenDownRefuse }, server.String())
	c := w.dial()
	exchange(t, c, "x")
	c.Close()
	w.mode(spec.ModePause)
	clients := make([]net.Conn, n)
	for i := range clients {
		clients[i] = w.dial()
	}
	w.eventually(waiting(n))
	server.Close()
	w.eventually(is(server.String(), spec.HealthEjected))
	l := w.fw.serving()[0]
	testnet.Eventually(t, soon, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !l.downSince.IsZero()
	})
	testnet.ListenAt(t, "tcp4", server.String()).Handle(testnet.Echo)
	w.mode(spec.ModeServe)
	for _, c := range clients {
		exchange(t, c, "x")
	}
}

// Nobody waits any more, so that nothing is urgent: a hundred probes would tell
// a server that is down ten times a second of clients that are gone.
func TestPause_NothingIsUrgentForWhoIsGone(t *testing.T) {
	w, _ := downWorld(t, func(o *spec.Options) { o.Hold = 0 })
	w.refuses(soon)
	l := w.fw.serving()[0]
	for range 10 {
		w.mode(spec.ModePause)
		c := w.dial()
		w.eventually(waiting(1))
		w.mode(spec.ModeServe)
		w.resets(c, soon)
		testnet.Eventually(t, soon, func() bool {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.attention == endpoints.Down
		})
	}
}

func TestPause_LiveConnectionsGoOn(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	c := w.dial()
	exchange(t, c, "before")
	w.mode(spec.ModePause)
	exchange(t, c, "meanwhile")
}

// Who waited while the link was paused gets all of hold when it is down then.
func TestPause_HoldCountsFromTheResume(t *testing.T) {
	const hold = 600 * time.Millisecond
	w, _ := downWorld(t, func(o *spec.Options) { o.Hold = hold })
	w.resets(w.dial(), soon) // it is down for longer than hold
	w.mode(spec.ModePause)
	c := w.dial()
	w.eventually(waiting(1))
	resumed := time.Now()
	w.mode(spec.ModeServe)
	w.resets(c, soon)
	if took := time.Since(resumed); took < hold-10*time.Millisecond {
		t.Errorf("reset %v after the resume, want %v", took, hold)
	}
}

// What waits for a link that is down goes on waiting when it is paused.
func TestPause_OfADownLinkSetsItsTimeLimitAside(t *testing.T) {
	const hold = 300 * time.Millisecond
	w, back := downWorld(t, func(o *spec.Options) { o.Hold = hold })
	c := w.dial()
	w.eventually(held(1))
	w.mode(spec.ModePause)
	start := time.Now()
	testnet.Eventually(t, soon, func() bool { return time.Since(start) > 2*hold })
	w.eventually(waiting(1))
	testnet.ListenAt(t, "tcp4", back).Handle(testnet.Say("back"))
	w.mode(spec.ModeServe)
	if got, err := read(t, c, soon); got != "back\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestDrain_RefusesAndLetsGoOn(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	c := w.dial()
	exchange(t, c, "before")
	w.mode(spec.ModeDrain)
	refused := func() bool {
		c, err := testnet.DialErr(w.addr)
		if err == nil {
			c.Close()
		}
		return testnet.Name(err) == "ECONNREFUSED"
	}
	testnet.Eventually(t, soon, refused)
	exchange(t, c, "meanwhile")
	if s := w.status(); s.State != spec.StateDrained {
		t.Errorf("state %s", s.State)
	}
	w.mode(spec.ModeServe)
	testnet.Eventually(t, soon, func() bool { return !refused() })
	exchange(t, w.dial(), "again")
}

// After a restart a drained link is opened as such. Who comes before its
// listener is suspended must not slip through to the server.
func TestDrain_HoldsFromTheFirstClientAfterARestart(t *testing.T) {
	w := newWorld(t, nil, say(t, "drained"))
	var early net.Conn
	w.fw.cfg.Open = func(s spec.Link) ([]pump.Listener, error) {
		ls, err := Bind(s)
		early = w.dial() // it is in the listen queue before anybody serves that
		return ls, err
	}
	w.link.Listen.Port = uint16(testnet.FreePort(t))
	w.addr = netip.AddrPortFrom(loopback, w.link.Listen.Port).String()
	w.mode(spec.ModeDrain)
	w.resets(early, soon)
	w.eventually(func(s spec.LinkStatus) bool { return failed(s, "drained") == 1 && s.State == spec.StateDrained })
	w.mode(spec.ModeServe)
	w.mode(spec.ModeDrain)
	w.mode(spec.ModeServe)
	testnet.Eventually(t, soon, func() bool {
		c, err := testnet.DialErr(w.addr)
		if err != nil {
			return false
		}
		defer c.Close()
		got, _ := read(t, c, soon)
		return got == "drained\n"
	})
}

func TestDrain_ResetsWhatWaits(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	w.mode(spec.ModePause)
	c := w.dial()
	w.eventually(waiting(1))
	w.mode(spec.ModeDrain)
	w.resets(c, soon)
	w.eventually(func(s spec.LinkStatus) bool { return failed(s, "drained") == 1 && s.Counters.Current == 0 })
}

func TestModes_OfUDPDropNewSessionsOnly(t *testing.T) {
	for _, m := range []spec.Mode{spec.ModePause, spec.ModeDrain} {
		t.Run(string(m), func(t *testing.T) {
			w := newWorld(t, nil)
			w.link.Listen.Protocol = spec.UDP
			w.point(udpServer(t, "here"))
			old, fresh := udpClient(t, w.addr), udpClient(t, w.addr)
			if got := askUDP(t, old); got != "here" {
				t.Fatalf("got %q", got)
			}
			w.mode(m)
			testnet.Eventually(t, soon, func() bool {
				if _, err := fresh.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				return w.status().Counters.DroppedUDP > 0
			})
			if got := askUDP(t, old); got != "here" {
				t.Errorf("the old session got %q", got)
			}
			w.mode(spec.ModeServe)
			testnet.Eventually(t, soon, func() bool { return askUDP(t, fresh) == "here" })
		})
	}
}

// However connections end, and whatever becomes of the link meanwhile, none
// stays in an endpoint's load.
func TestLoad_IsNoneWhenAllAreGone(t *testing.T) {
	const clients, rounds = 6, 60
	echo := []string{testnet.Serve(t, "tcp4", testnet.Echo).String(), testnet.Serve(t, "tcp4", testnet.Echo).String()}
	early := testnet.Serve(t, "tcp4", func(net.Conn) {}).String()
	resets := testnet.Serve(t, "tcp4", reset).String()
	bad := testnet.RefusingAddr(t, loopback).String()
	hole := testnet.BlackHole(t, loopback).String()
	for name, change := range map[string]func(*spec.Options){
		"plain":  func(*spec.Options) {},
		"full":   func(o *spec.Options) { o.EndpointConnections, o.Hold = 2, 50*time.Millisecond },
		"header": func(o *spec.Options) { o.SendProxy, o.OnRemoved = spec.ProxyV2, spec.Fate{Kind: spec.FateCut} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *spec.Options) { o.ConnectTimeout = 30 * time.Millisecond; change(o) })
			twice := spec.Target{Source: spec.SourceDNS, Protocol: spec.TCP, Host: "twice.example", Port: 1}
			w.link.Targets = []spec.Target{several, twice}
			w.apply()
			stop := make(chan struct{})
			var busy sync.WaitGroup
			for range clients {
				busy.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
							ping(t, w.addr)
						}
					}
				})
			}
			answers := [][]string{echo, {early, echo[0]}, {resets, bad, echo[1]}, {hole, echo[0]}, nil, {early, resets}, {bad, hole}}
			for i := range rounds {
				w.serve(several, answers[i%len(answers)]...)
				w.serve(twice, answers[(i/2+3)%len(answers)]...)
				w.mode([]spec.Mode{spec.ModeServe, spec.ModeServe, spec.ModePause}[i%3])
				w.status()
			}
			w.mode(spec.ModeServe)
			close(stop)
			busy.Wait()
			w.serve(several, append(echo, early, resets, bad, hole)...) // so that all are seen
			w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Current == 0 && w.load() == 0 })
		})
	}
}

// A session that stays, moves or finds nobody is in one endpoint's load at most.
func TestLoad_OfUDPSessions(t *testing.T) {
	w := newWorld(t, nil)
	w.link.Listen.Protocol = spec.UDP
	w.point(udpServer(t, "blue"))
	c := udpClient(t, w.addr)
	for range 3 {
		if got := askUDP(t, c); got != "blue" {
			t.Fatalf("got %q", got)
		}
		w.fw.serving()[0].mu.Lock()
		w.fw.serving()[0].flows.live[0].pump.Wake()
		w.fw.serving()[0].mu.Unlock()
	}
	w.eventually(func(s spec.LinkStatus) bool { return w.load() == 1 })
	w.point(udpServer(t, "green"))
	testnet.Eventually(t, soon, func() bool { return askUDP(t, c) == "green" })
	w.eventually(func(s spec.LinkStatus) bool { return w.load() == 1 && s.Endpoints[0].Load == 1 })
}

func TestConnection_ChoosesAmongManyWithoutAllocation(t *testing.T) {
	const many = 1000
	var targets []string
	for i := range many {
		targets = append(targets, fmt.Sprintf("192.0.2.%d:%d", i%250, 1000+i))
	}
	for _, b := range []spec.Balance{spec.BalanceRoundRobin, spec.BalanceLeast, spec.BalanceRandom, spec.BalanceFirst, spec.BalanceHash} {
		t.Run(string(b), func(t *testing.T) {
			l := handler(t, targets...)
			s := l.linkSpec()
			s.Options.Balance, s.Options.CallerConnections, s.Options.CallerRate, s.Options.EndpointConnections = b, 5, 1_000_000, 5
			l.set(s)
			p := pump.Flow{Client: netip.MustParseAddrPort("192.0.2.9:9")}
			for _, c := range l.candidates().All { // the first connection of each is news
				l.fw.cfg.Pool.Report(c.Endpoint, nil)
				l.stats.of(c.Endpoint)
			}
			l.connection(&p)
			if n := testing.AllocsPerRun(100, func() { l.connection(&p) }); n != 0 {
				t.Errorf("%v allocations per connection", n)
			}
			if n := l.candidates().All[0].Live.Load(); n != 0 {
				t.Errorf("load %d afterwards", n)
			}
		})
	}
}

func TestCallerRate_ResetsWhoComesTooFast(t *testing.T) {
	const rate = 2
	w := newWorld(t, func(o *spec.Options) { o.CallerRate = rate }, say(t, "here"))
	start := time.Now()
	served := 0
	for time.Since(start) < 100*time.Millisecond {
		c, err := testnet.DialErr(w.addr)
		if err != nil { // reset so soon that the connect fails
			continue
		}
		if got, _ := read(t, c, soon); got == "here\n" {
			served++
		}
		c.Close()
	}
	if served != rate {
		t.Errorf("%d connections were served at once, want %d", served, rate)
	}
	s := w.status()
	if failed(s, "caller-rate") != s.Counters.Total-rate || s.Endpoints[0].Total != rate {
		t.Errorf("%d of %d reached the endpoint, failed %v", s.Endpoints[0].Total, s.Counters.Total, s.Counters.Failed)
	}
}

func TestCallerConnections_OfUDPAreSessions(t *testing.T) {
	w := newWorld(t, func(o *spec.Options) { o.CallerConnections = 1 })
	w.link.Listen.Protocol = spec.UDP
	w.point(udpServer(t, "here"))
	first, second := udpClient(t, w.addr), udpClient(t, w.addr)
	if got := askUDP(t, first); got != "here" {
		t.Fatalf("got %q", got)
	}
	if got := askUDP(t, second); got == "here" {
		t.Error("a second session of the caller is served")
	}
	if got := askUDP(t, first); got != "here" {
		t.Errorf("the first session got %q", got)
	}
	if s := w.status(); failed(s, "caller-connections") == 0 || s.Counters.DroppedUDP == 0 {
		t.Errorf("%d dropped, failed %v", s.Counters.DroppedUDP, s.Counters.Failed)
	}
}
