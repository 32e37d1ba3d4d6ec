package forward

import (
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// answer answers, once it has read something, with a line; or, where it
// rejects it, not at all a header.
func answer(line string, rejects bool, headers *atomic.Int64) func(net.Conn) {
	return func(c net.Conn) {
		b := make([]byte, 200)
		n, _ := c.Read(b)
		if strings.HasPrefix(string(b[:n]), "PROXY") {
			headers.Add(1)
			if rejects {
				return
			}
		}
		testnet.Say(line)(c)
	}
}

// beside serves a second link to the same targets, and returns where.
func (w *world) beside(change func(*spec.Options)) (address string, status func() spec.LinkStatus) {
	w.t.Helper()
	other := w.link
	other.Name = "other"
	other.Listen.Port = uint16(testnet.FreePort(w.t))
	change(&other.Options)
	for _, err := range w.fw.Apply([]spec.Link{w.link, other}) {
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return net.JoinHostPort("127.0.0.1", itoa(int(other.Listen.Port))), func() spec.LinkStatus { return w.fw.Snapshot()[1] }
}

func TestOwn_ServerThatRejectsTheHeaderServesOthers(t *testing.T) {
	var rejected, taken atomic.Int64
	primary := testnet.Serve(t, "tcp4", answer("primary", true, &rejected)).String()
	standby := testnet.Serve(t, "tcp4", answer("standby", false, &taken)).String()
	w := newWorld(t, func(o *spec.Options) { o.Balance = spec.BalanceFirst }, primary, standby)
	other, status := w.beside(sends(spec.ProxyV1))
	const n = 2 * rejections
	for range n {
		if got, err := read(t, testnet.Dial(t, other), soon); got != "standby\n" || err != nil {
			t.Errorf("who sends a header got %q, %v", got, err)
		}
	}
	if rejected.Load() != endpoints.EarlyCloses || taken.Load() != n {
		t.Errorf("%d headers were rejected before the server was left alone, %d taken by the other", rejected.Load(), taken.Load())
	}
	s := status()
	if e := s.Endpoints[1]; s.State != spec.StateDegraded || e.Address != primary || e.Health != spec.HealthEjected || e.Ejected == nil || !strings.Contains(e.LastError, "send-proxy=off") {
		t.Errorf("who sends a header is told %s, %+v", s.State, s.Endpoints)
	}
	c := w.dial()
	exchangeLine(t, c, "primary\n")
	if e := w.status().Endpoints[0]; e.Address != primary || e.Health != spec.HealthOK || e.LastError != "" {
		t.Errorf("who sends none is told %+v", e)
	}
	x, err := w.fw.Explain("other", spec.CallerAt(loopback))
	if err != nil || x.Chosen != standby || !strings.Contains(strings.Join(x.Notes, " "), "may not expect the PROXY protocol header") {
		t.Errorf("explained as %+v, %v", x, err)
	}
}

// exchangeLine says something, and wants that line.
func exchangeLine(t *testing.T, c net.Conn, line string) {
	t.Helper()
	if _, err := io.WriteString(c, "hi"); err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, c, soon); got != line || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, line)
	}
}

// closedAtOnce is a connection that the first endpoint closes early.
func (l *link) closedAtOnce(t *testing.T) {
	t.Helper()
	var p pump.Flow
	l.Next(&p, pump.Attempt{})
	l.Connected(&p, 0)
	l.Next(&p, pump.Attempt{Kind: pump.ClosedEarly, Err: io.EOF})
	l.Done(&p, pump.Result{Cause: pump.CauseCut})
}

func (l *link) firstOne(t *testing.T) endpoints.Candidate {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.candidates().All {
		if c.Addr.String() == "192.0.2.1:80" {
			return c
		}
	}
	t.Fatal("it is no candidate")
	return endpoints.Candidate{}
}

// shared is what every other link is told of the same endpoint.
func (l *link) shared(t *testing.T) endpoints.Candidate {
	t.Helper()
	for _, c := range l.fw.cfg.Pool.List(&endpoints.View{Targets: l.linkSpec().Targets}, nil).All {
		if c.Addr.String() == "192.0.2.1:80" {
			return c
		}
	}
	t.Fatal("it is no candidate")
	return endpoints.Candidate{}
}

// runs lets the bubble's time run.
func runs(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // the bubble's time is fake: nothing waits
}

// with gives the link these options.
func (l *link) with(change func(*spec.Options)) {
	s := l.linkSpec()
	change(&s.Options)
	l.set(s)
}

func TestOwn_EjectsForLongerUntilItAnswersOrTheOptionsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := probing(t, nil, "192.0.2.1:80", "192.0.2.2:80")
		l.with(func(o *spec.Options) { o.SendProxy, o.Balance = spec.ProxyV2, spec.BalanceFirst })
		want := func(d time.Duration) {
			t.Helper()
			c := l.firstOne(t)
			if d == 0 && c.Health != spec.HealthEjected {
				return
			}
			if got := time.Until(c.Until); got != d || c.State != endpoints.Serving || c.Barred {
				t.Errorf("ejected for %v, want %v: %+v", got, d, c)
			}
		}
		for range endpoints.EarlyCloses {
			want(0)
			l.closedAtOnce(t)
		}
		for _, backoff := range []time.Duration{1, 2, 4, 8, 16, 30, 30} {
			want(backoff * time.Second)
			runs(backoff * time.Second)
			want(0)
			l.closedAtOnce(t) // one more is enough now
		}
		if c := l.shared(t); c.Health == spec.HealthEjected || c.LastErr != nil {
			t.Errorf("to others it is %+v", c)
		}
		runs(30 * time.Second)
		var p pump.Flow
		l.connection(&p) // it answers
		l.closedAtOnce(t)
		want(0)
		for range endpoints.EarlyCloses - 1 {
			l.closedAtOnce(t)
		}
		want(time.Second)
		l.with(func(o *spec.Options) { o.SendProxy = spec.ProxyV1 })
		want(0)
	})
}

// A server may well close a connection on which nobody has said anything for a
// while. That it was the link which kept the client's bytes back, others need
// not know.
func TestOwn_CloseDuringALongSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := probing(t, nil, "192.0.2.1:80", "192.0.2.2:80")
		l.with(func(o *spec.Options) { o.Settle, o.Balance = time.Minute, spec.BalanceFirst })
		for range endpoints.EarlyCloses {
			var p pump.Flow
			l.Next(&p, pump.Attempt{})
			l.Connected(&p, 0)
			runs(2 * pump.EarlyClose)
			l.Next(&p, pump.Attempt{Kind: pump.ClosedEarly, Err: io.EOF})
			l.Done(&p, pump.Result{Cause: pump.CauseCut})
		}
		if c := l.firstOne(t); c.Health != spec.HealthEjected {
			t.Errorf("to the link it is %+v", c)
		}
		if c := l.shared(t); c.Health == spec.HealthEjected {
			t.Errorf("to others it is %+v", c)
		}
		for range endpoints.EarlyCloses {
			l.closedAtOnce(t)
		}
		l.with(func(o *spec.Options) { o.Settle = 0 })
		for range endpoints.EarlyCloses {
			l.closedAtOnce(t)
		}
		if c := l.shared(t); c.Health != spec.HealthEjected {
			t.Errorf("it closes at once, and to others it is %+v", c)
		}
	})
}

// hasty has the first attempt of a connection end for want of time, and returns
// what is next.
func (l *link) hasty(t *testing.T, p *pump.Flow) pump.Step {
	t.Helper()
	step := l.Next(p, pump.Attempt{})
	if len(step.Dial) == 0 {
		t.Fatalf("nothing is dialled: %+v", step)
	}
	step.Dial[0].Err = os.ErrDeadlineExceeded
	return l.Next(p, pump.Attempt{Kind: pump.DialFailed})
}

func TestOwn_ShortTimeoutLetsAProbeDecide(t *testing.T) {
	for found, want := range map[error]spec.Health{nil: spec.HealthOK, os.ErrDeadlineExceeded: spec.HealthEjected} {
		synctest.Test(t, func(t *testing.T) {
			l := probing(t, found, "192.0.2.1:80", "192.0.2.2:80")
			l.with(func(o *spec.Options) { o.ConnectTimeout, o.Balance = time.Millisecond, spec.BalanceFirst })
			var p pump.Flow
			if next := l.hasty(t, &p); len(next.Dial) != 1 || next.Dial[0].Addr.String() != "192.0.2.2:80" {
				t.Errorf("next is %+v", next)
			}
			l.Done(&p, pump.Result{Cause: pump.CauseCut})
			synctest.Wait()
			if c := l.shared(t); c.Health != want {
				t.Errorf("to others it is %s, want %s", c.Health, want)
			}
			c := l.firstOne(t)
			if c.Health != spec.HealthEjected || c.State != endpoints.Failing || found == nil && !strings.Contains(c.LastErr.Error(), "connect-timeout=1ms") {
				t.Errorf("to the link it is %+v", c)
			}
			var again pump.Flow
			if first := l.Next(&again, pump.Attempt{}); first.Dial[0].Addr.String() != "192.0.2.2:80" {
				t.Errorf("the next connection goes to %v", first.Dial[0].Addr)
			}
			l.Done(&again, pump.Result{Cause: pump.CauseCut})
			l.close()
		})
	}
}

// Of a time-out that was long enough the pool hears, if the attempts before left
// that much time.
func TestOwn_TimeoutAtTheEndOfAllAttemptsIsShort(t *testing.T) {
	for spent, want := range map[time.Duration]spec.Health{0: spec.HealthEjected, attemptsLimit - time.Second: spec.HealthOK} {
		synctest.Test(t, func(t *testing.T) {
			l := probing(t, nil, "192.0.2.2:80", "192.0.2.1:80")
			l.with(func(o *spec.Options) { o.Balance = spec.BalanceFirst })
			var p pump.Flow
			step := l.Next(&p, pump.Attempt{})
			runs(spent)
			step.Dial[0].Err = os.ErrDeadlineExceeded
			step = l.Next(&p, pump.Attempt{Kind: pump.DialFailed})
			step.Dial[0].Err = os.ErrDeadlineExceeded
			l.Next(&p, pump.Attempt{Kind: pump.DialFailed})
			synctest.Wait()
			if c := l.shared(t); c.Health != want {
				t.Errorf("after %v it is %s to others, want %s", spent, c.Health, want)
			}
			l.Done(&p, pump.Result{Cause: pump.CauseCut})
			l.close()
		})
	}
}

// Nobody but the link knows that its endpoint is down to it, and so nobody says
// that it is to be tried again.
func TestOwn_LinkIsDownForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := probing(t, nil, "192.0.2.1:80")
		l.with(func(o *spec.Options) { o.ConnectTimeout, o.Hold = time.Millisecond, 0 })
		state := func(want spec.LinkState) {
			t.Helper()
			synctest.Wait()
			if s := l.status(); s.State != want {
				t.Errorf("the link is %s, want %s: %+v", s.State, want, s.Endpoints)
			}
		}
		for range 3 {
			var p pump.Flow
			if end := l.hasty(t, &p); end.End == nil {
				t.Errorf("next is %+v", end)
			}
			l.Done(&p, pump.Result{Cause: pump.CauseCut})
			state(spec.StateDown)
			runs(ownBackoff - time.Millisecond)
			state(spec.StateDown)
			runs(time.Millisecond)
			state(spec.StateUp)
		}
		var p pump.Flow
		l.hasty(t, &p)
		l.Done(&p, pump.Result{Cause: pump.CauseCut})
		l.with(func(o *spec.Options) { o.ConnectTimeout = time.Second })
		state(spec.StateUp)
		l.close()
	})
}

// One that closed early to this link, and then does not connect in the time
// that it gives, is not tried for ever.
func TestOwn_ShortTimeoutAfterEarlyClosesHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := probing(t, nil, "192.0.2.1:80")
		l.with(func(o *spec.Options) { o.SendProxy, o.ConnectTimeout = spec.ProxyV2, time.Millisecond })
		for range endpoints.EarlyCloses {
			l.closedAtOnce(t)
		}
		var p pump.Flow
		step := l.Next(&p, pump.Attempt{})
		dials := 0
		for ; len(step.Dial) > 0 && dials < 10; dials++ {
			runs(time.Millisecond)
			step.Dial[0].Err = os.ErrDeadlineExceeded
			step = l.Next(&p, pump.Attempt{Kind: pump.DialFailed})
		}
		if dials != 1 || step.Park.IsZero() {
			t.Errorf("%d dials, then %+v", dials, step)
		}
		l.Done(&p, pump.Result{Cause: pump.CauseCut, Err: io.EOF})
		l.close()
	})
}

// Who waits at a link that is gone waits no longer than at one that serves.
func TestOwn_RetiredLinkIsDownForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := probing(t, nil, "192.0.2.1:80")
		l.with(func(o *spec.Options) { o.ConnectTimeout = time.Millisecond })
		var p pump.Flow
		if step := l.hasty(t, &p); step.Park.IsZero() {
			t.Fatalf("it is not held: %+v", step)
		}
		l.close()
		l.mu.Lock()
		l.queue.starting++ // or it would be woken, and has no engine
		l.mu.Unlock()
		runs(ownBackoff)
		synctest.Wait()
		l.mu.Lock()
		if !l.downSince.IsZero() {
			t.Error("it waits at a link that is down")
		}
		l.mu.Unlock()
		l.Done(&p, pump.Result{Cause: pump.CauseCut})
	})
}
