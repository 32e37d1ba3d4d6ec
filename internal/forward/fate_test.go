package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// twoEchoes is a world with two endpoints of one target and a connection to
// each.
func twoEchoes(t *testing.T, change func(*spec.Options)) (w *world, a, b string, toA, toB net.Conn) {
	t.Helper()
	a, b = testnet.Serve(t, "tcp4", testnet.Echo).String(), testnet.Serve(t, "tcp4", testnet.Echo).String()
	w = newWorld(t, change)
	w.serve(several, a, b)
	w.link.Targets = []spec.Target{several}
	w.apply()
	for toA == nil || toB == nil {
		c := w.dial()
		exchange(t, c, "x")
		for _, s := range w.fw.Connections(nil) {
			switch {
			case s.Caller != c.LocalAddr().String():
			case s.Endpoint == a:
				toA = c
			default:
				toB = c
			}
		}
	}
	return w, a, b, toA, toB
}

func TestOnRemoved_CutsItsConnectionsAlone(t *testing.T) {
	w, _, b, toA, toB := twoEchoes(t, func(o *spec.Options) { o.OnRemoved = spec.Fate{Kind: spec.FateCut} })
	w.serve(several, b)
	w.resets(toA, soon)
	exchange(t, toB, "still there")
}

// The address of a container that runs no more may be another's by now: its
// connections end though removed endpoints keep theirs.
func TestDead_ContainersConnectionsEndInAnyCase(t *testing.T) {
	a, b := testnet.Serve(t, "tcp4", testnet.Echo).String(), testnet.Serve(t, "tcp4", testnet.Echo).String()
	w := newWorld(t, func(o *spec.Options) { o.Balance = spec.BalanceFirst })
	member := func(address, id string) spec.Member {
		_, e := fixed(address, spec.TCP)
		e.Container = id
		return e.Plain()
	}
	set := func(dead []string, members ...spec.Member) {
		w.pool.Set(several, spec.Answer{Endpoints: members, At: time.Now(), Dead: dead})
	}
	set(nil, member(a, "aa"))
	w.link.Targets = []spec.Target{several}
	w.apply()
	toA := w.dial()
	exchange(t, toA, "x")
	set(nil, member(b, "bb")) // renamed, say: it is no longer ours, and lives
	w.eventually(is(a, spec.HealthFormer))
	toB := w.dial()
	exchange(t, toB, "y")
	exchange(t, toA, "still there")
	set([]string{"aa"}, member(b, "bb"))
	w.resets(toA, soon)
	set([]string{"aa", "bb"}, member(b, "cc")) // another one has its address
	w.resets(toB, soon)
	exchange(t, w.dial(), "of the new one")
}

func TestOnRemoved_KeepsByDefaultAndAfterASwap(t *testing.T) {
	w, _, b, toA, toB := twoEchoes(t, nil)
	w.serve(several, b)
	w.eventually(func(s spec.LinkStatus) bool {
		return len(s.Endpoints) == 2 && s.Endpoints[1].Health == spec.HealthFormer
	})
	exchange(t, toA, "kept")
	w.link.Options.OnRemoved = spec.Fate{Kind: spec.FateCut}
	w.point(testnet.Serve(t, "tcp4", testnet.Echo).String())
	exchange(t, toB, "of a former target")
}

func TestOnUnhealthy_Cuts(t *testing.T) {
	w, a, _, toA, toB := twoEchoes(t, func(o *spec.Options) { checked(o); o.OnUnhealthy = spec.Fate{Kind: spec.FateCut} })
	w.falls(a)
	w.resets(toA, soon)
	exchange(t, toB, "still there")
}

func TestOnUnhealthy_DrainCutsLaterUnlessItRecovers(t *testing.T) {
	const within = 300 * time.Millisecond
	w, a, _, toA, toB := twoEchoes(t, func(o *spec.Options) {
		checked(o)
		o.OnUnhealthy = spec.Fate{Kind: spec.FateDrain, Within: within}
	})
	w.falls(a)
	w.recovers(a)
	start := time.Now()
	testnet.Eventually(t, soon, func() bool { return time.Since(start) > 2*within })
	exchange(t, toA, "recovered in time")
	w.falls(a)
	start = time.Now()
	w.resets(toA, soon)
	if took := time.Since(start); took < within/2 {
		t.Errorf("cut after %v, want %v", took, within)
	}
	exchange(t, toB, "still there")
}

func TestAllUnhealthy_HoldsForChecksWithMeaning(t *testing.T) {
	for _, policy := range []spec.AllUnhealthy{spec.AllUnhealthyTry, spec.AllUnhealthyHold} {
		t.Run(string(policy), func(t *testing.T) {
			server := say(t, "here")
			w := newWorld(t, func(o *spec.Options) { checked(o); o.AllUnhealthy = policy }, server)
			w.eventually(is(server, spec.HealthOK))
			w.falls(server)
			if policy == spec.AllUnhealthyTry {
				w.answers("here")
				return
			}
			c := w.dial()
			w.eventually(held(1))
			w.recovers(server)
			if got, err := read(t, c, soon); got != "here\n" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestRebalance_OldConnectionsEndGentlyAfterAnAddition(t *testing.T) {
	const age = 200 * time.Millisecond
	w, a, b, toA, toB := twoEchoes(t, func(o *spec.Options) { o.Rebalance = age })
	start := time.Now()
	testnet.Eventually(t, soon, func() bool { return time.Since(start) > age })
	fresh := w.dial()
	exchange(t, fresh, "x")
	w.serve(several, a, b, testnet.Serve(t, "tcp4", testnet.Echo).String())
	for _, c := range []net.Conn{toA, toB} {
		if got, err := read(t, c, soon); got != "" || err != nil {
			t.Errorf("got %q, %v; want the end in order", got, err)
		}
		c.Close()
	}
	exchange(t, fresh, "young")
}

func TestRebalance_LeavesConnectionsAloneWithoutAnAddition(t *testing.T) {
	const age = 50 * time.Millisecond
	w, a, b, toA, toB := twoEchoes(t, func(o *spec.Options) { o.Rebalance = age })
	w.serve(several, b, a)
	w.serve(several, b)
	start := time.Now()
	testnet.Eventually(t, soon, func() bool { return time.Since(start) > 5*age })
	exchange(t, toA, "still")
	exchange(t, toB, "there")
}

func TestAwaitNone_OfAnEndpointAndALink(t *testing.T) {
	w, a, _, toA, toB := twoEchoes(t, nil)
	w.pool.Drain(map[string]time.Time{a: time.Now()})
	w.eventually(is(a, spec.HealthDrained))
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.fw.AwaitNone(short, "", a); err == nil {
		t.Error("nobody waits for the connection to the drained endpoint")
	}
	for range 4 {
		exchange(t, w.dial(), "elsewhere")
	}
	done := make(chan error, 1)
	go func() { done <- w.fw.AwaitNone(t.Context(), "", a) }()
	testnet.Eventually(t, soon, w.isWatched)
	for _, c := range w.fw.Connections(func(c spec.ConnectionStatus) bool { return c.Endpoint == a }) {
		if c.Caller == toA.LocalAddr().String() {
			toA.Close()
		}
	}
	// Others may have been made to find one of each.
	w.fw.serving()[0].mu.Lock()
	for _, f := range w.fw.serving()[0].flows.live {
		if f.on != nil && f.on.endpoint.String() == a {
			f.pump.Cut(io.EOF)
		}
	}
	w.fw.serving()[0].mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	exchange(t, toB, "still there")
	if err := w.fw.AwaitNone(short, "test", ""); err == nil {
		t.Error("the link has connections")
	}
}

func TestExplain_SaysWhatTheNextConnectionMeets(t *testing.T) {
	w := newWorld(t, nil, say(t, "here"))
	verdict := func(want string) {
		t.Helper()
		x, err := w.fw.Explain("test", spec.CallerAt(loopback))
		if err != nil || !strings.HasPrefix(x.Verdict, want) {
			t.Errorf("verdict %q, %v; want %q", x.Verdict, err, want)
		}
	}
	verdict("goes to " + w.status().Endpoints[0].Address)
	w.mode(spec.ModePause)
	verdict("waits, behind 0 others, until the link is resumed")
	w.mode(spec.ModeDrain)
	verdict("refused: the link is drained")
	w.mode(spec.ModeServe)
	w.fw.Settle("test")
	w.point(testnet.RefusingAddr(t, loopback).String())
	w.dial()
	w.eventually(held(1))
	verdict("waits for up to 10s, behind 1 others: every endpoint is ejected")
	w.link.Options.Hold = 0
	w.apply()
	verdict("reset at once")
	w.link.Options.CallerConnections = 1
	w.apply()
	verdict("reset: this caller has as many connections")
	if _, err := w.fw.Explain("other", spec.Caller{}); err == nil {
		t.Error("a link that does not exist is explained")
	}
}

// A client is reset, or waits, as the options say, though nothing is known yet.
func TestExplain_BeforeASourceHasAnswered(t *testing.T) {
	for want, change := range map[string]func(*spec.Options){
		"waits for up to 10s: ":                                      func(*spec.Options) {},
		"reset at once (hold=0): ":                                   func(o *spec.Options) { o.Hold = 0 },
		"reset at once, and later ones refused (when-down=refuse): ": func(o *spec.Options) { o.WhenDown = spec.WhenDownRefuse },
	} {
		w := newWorld(t, change)
		w.link.Targets = []spec.Target{{Source: spec.SourceDNS, Protocol: spec.TCP, Host: "db.test", Port: 1}}
		w.apply()
		x, err := w.fw.Explain("test", spec.CallerAt(loopback))
		if want += "there are no endpoints: not every source has answered yet"; err != nil || x.Verdict != want {
			t.Errorf("verdict %q, %v; want %q", x.Verdict, err, want)
		}
		if w.link.Options.Hold == 0 || w.link.Options.WhenDown == spec.WhenDownRefuse {
			w.refuses(soon)
			continue
		}
		w.dial()
		w.eventually(held(1))
	}
}

func TestExplain_SaysWhenTheLinkIsAtItsLimit(t *testing.T) {
	for p, want := range map[spec.Protocol]string{
		spec.TCP: "waits in the listen queue, for as long as it takes: the link has 1 of 1 connections (max-connections)",
		spec.UDP: "dropped: the link has 1 of 1 sessions (max-connections)",
	} {
		t.Run(string(p), func(t *testing.T) {
			w := newWorld(t, nil)
			w.link.Options.MaxConnections, w.link.Listen.Protocol = 1, p
			if p == spec.UDP {
				w.point(udpServer(t, "here"))
				askUDP(t, udpClient(t, w.addr))
			} else {
				w.point(testnet.Serve(t, "tcp4", testnet.Echo).String())
				exchange(t, w.dial(), "x")
			}
			x, err := w.fw.Explain("test", spec.CallerAt(loopback))
			if err != nil || !strings.HasPrefix(x.Verdict, want) {
				t.Errorf("verdict %q, %v; want %q", x.Verdict, err, want)
			}
		})
	}
}

// Of a primary and its standby one is always not the primary, and all is well.
func TestStatus_AStandbyIsNothingWrong(t *testing.T) {
	primary, standby := say(t, "primary"), say(t, "standby")
	w := newWorld(t, func(o *spec.Options) { checked(o); o.AllUnhealthy = spec.AllUnhealthyHold }, primary, standby)
	w.sick.Store(standby, &spec.RoleError{Is: "standby", Want: "primary"})
	w.eventually(is(standby, spec.HealthStandby))
	w.eventually(is(primary, spec.HealthOK))
	if s := w.status().State; s != spec.StateUp {
		t.Errorf("the link is %s", s)
	}
	w.answers("primary")
	w.sick.Store(primary, true)
	w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateDown })
	w.sick.Store(primary, &spec.RoleError{Is: "standby", Want: "primary"})
	w.eventually(is(primary, spec.HealthStandby))
	if x, err := w.fw.Explain("test", spec.CallerAt(loopback)); err != nil || !strings.Contains(x.Verdict, "every endpoint is standby") {
		t.Errorf("verdict %q, %v", x.Verdict, err)
	}
}

// A check that fails as it did before is news to nobody but who looks.
func TestStatus_TellsWhenAnEndpointWasLastAsked(t *testing.T) {
	addr := say(t, "here")
	w := newWorld(t, checked, addr)
	w.sick.Store(addr, true)
	w.eventually(func(s spec.LinkStatus) bool { return s.Endpoints[0].Health == spec.HealthUnhealthy })
	first := *w.status().Endpoints[0].CheckedAt
	w.eventually(func(s spec.LinkStatus) bool { return s.Endpoints[0].CheckedAt.After(first) })
	testnet.Eventually(t, soon, func() bool {
		x, err := w.fw.Explain("test", spec.CallerAt(loopback))
		return err == nil && x.Endpoints[0].CheckedAt.After(first.Add(time.Second/2))
	})
}

func TestTry_NamesEachAttempt(t *testing.T) {
	bad := testnet.RefusingAddr(t, loopback).String()
	good := say(t, "here")
	w := newWorld(t, func(o *spec.Options) { o.Balance = spec.BalanceFirst }, bad, good)
	got, err := w.fw.Try(t.Context(), "test", spec.CallerAt(loopback))
	if err != nil || len(got) != 2 || got[0].Connected || !strings.Contains(got[0].Error, "refused") || !got[1].Connected || got[1].Address != good {
		t.Errorf("%+v, %v", got, err)
	}
}

// That a connect succeeds is not enough: something may listen for a server that
// is not up.
func TestTry_GoesOnFromOneThatClosesAtOnce(t *testing.T) {
	closing := testnet.Serve(t, "tcp4", func(net.Conn) {}).String()
	w := newWorld(t, func(o *spec.Options) { o.Balance = spec.BalanceFirst }, closing, testnet.Serve(t, "tcp4", testnet.Echo).String())
	got, err := w.fw.Try(t.Context(), "test", spec.CallerAt(loopback))
	if err != nil || len(got) != 2 || got[0].Connected || !strings.Contains(got[0].Error, "closes them at once") || !got[1].Connected {
		t.Errorf("%+v, %v", got, err)
	}
}

// Who was sent to an unhealthy endpoint, for want of another, knew.
func TestOnUnhealthy_SparesWhoCameLater(t *testing.T) {
	a := testnet.Serve(t, "tcp4", testnet.Echo).String()
	w := newWorld(t, func(o *spec.Options) { checked(o); o.OnUnhealthy = spec.Fate{Kind: spec.FateCut} })
	w.sick.Store(a, true)
	w.point(a)
	w.eventually(is(a, spec.HealthUnhealthy))
	c := w.dial()
	exchange(t, c, "x")
	w.apply() // has the link look again
	exchange(t, c, "y")
	exchange(t, c, "z")
}

// The fate of an endpoint without connections is that of one that is on its
// way there, too.
func TestOnRemoved_FindsWhoIsStillConnecting(t *testing.T) {
	l := handler(t, "192.0.2.1:80")
	s := l.linkSpec()
	s.Options.OnRemoved = spec.Fate{Kind: spec.FateDrain, Within: time.Hour}
	l.set(s)
	var p pump.Flow
	if len(l.Next(&p, pump.Attempt{}).Dial) == 0 {
		t.Fatal("nothing is dialled")
	}
	_, other := fixed("192.0.2.2:80", spec.TCP)
	l.fw.cfg.Pool.Set(s.Targets[0], spec.Answer{Endpoints: spec.Members(other), At: time.Now()})
	l.reconsider()
	l.Connected(&p, 0)
	es := p.Data.(*flow).on
	if !errors.Is(es.fate.why, ErrRemoved) {
		t.Errorf("the fate is %v", es.fate.why)
	}
	l.Done(&p, pump.Result{})
	l.endFate(es)
}

// A change of policy ends the connections that it now forbids, and says why to
// who asks.
func TestDenied_ConnectionsEndAndNewOnesGoElsewhere(t *testing.T) {
	var denied sync.Map // addresses
	w, a, _, toA, toB := twoEchoes(t, nil)
	w.fw.cfg.Admit = func(_ spec.Link, m *spec.Member) error {
		if _, is := denied.Load(m.String()); is {
			return errors.New("legate.allow of the server does not name the caller")
		}
		return nil
	}
	w.apply()
	exchange(t, toA, "allowed")
	denied.Store(a, true)
	w.apply()
	w.resets(toA, soon)
	exchange(t, toB, "still there")
	for range 4 {
		exchange(t, w.dial(), "elsewhere")
	}
	w.eventually(is(a, spec.HealthDenied))
	x, err := w.fw.Explain("test", spec.Caller{})
	if err != nil || len(x.Endpoints) != 2 || !strings.Contains(x.Endpoints[1].LastError, "legate.allow") {
		t.Errorf("explained as %+v (%v), want the rule that refuses", x.Endpoints, err)
	}
	w.fw.cfg.Admit = func(spec.Link, *spec.Member) error { return errors.New("nobody may") }
	w.apply()
	if c, err := net.Dial("tcp", w.addr); err == nil { // the reset may be quicker
		defer c.Close()
		w.resets(c, time.Second) // at once: hold is 10 s
	}
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Failed["denied"] == 1 })
	w.link.Targets = []spec.Target{{Source: spec.SourceDocker, Protocol: spec.TCP, Host: "nobody"}}
	w.apply()
	if x, err := w.fw.Explain("test", spec.Caller{}); err != nil || !strings.Contains(x.Verdict, "there are no endpoints") {
		t.Errorf("without an endpoint the verdict is %q (%v)", x.Verdict, err)
	}
}

// Who goes to an endpoint that is unhealthy, for want of another, is not cut
// there for that, whoever connects last.
func TestOnUnhealthy_KeepsWhoConnectsLast(t *testing.T) {
	const at = "192.0.2.1:80"
	for _, kind := range []spec.FateKind{"", spec.FateKeep, spec.FateDrain, spec.FateCut} {
		l := handler(t, at)
		s := l.linkSpec()
		s.Options.OnUnhealthy.Kind = kind
		l.set(s)
		target, e := fixed(at, spec.TCP)
		sick := e.Plain()
		sick.Unhealthy = "its source says so"
		l.fw.cfg.Pool.Set(target, spec.Answer{Endpoints: []spec.Member{sick}, At: time.Now()})
		var first, second pump.Flow
		for _, p := range []*pump.Flow{&first, &second} {
			if len(l.Next(p, pump.Attempt{}).Dial) == 0 {
				t.Fatal("nothing to dial")
			}
		}
		l.Connected(&second, 0)
		if err := l.stats.of(e).fate.isFor(first.Data.(*flow).began); err != nil {
			t.Errorf("on-unhealthy=%q: the first to begin is cut: %v", kind, err)
		}
	}
}
