package endpoints

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func (w *world) wantCalls(what string, list *[]spec.Target, want ...spec.Target) {
	w.t.Helper()
	got := w.calls(list)
	slices.SortFunc(got, func(a, b spec.Target) int { return strings.Compare(a.Host, b.Host) })
	got = slices.Compact(got) // how many calls tell of one change is left open
	if !slices.Equal(got, want) {
		w.t.Errorf("%s told of %v, want %v", what, got, want)
	}
}

// Every callback of this world calls the pool: with the lock held none of
// these tests would end.
func TestReport_TellsTheTargetsConcerned(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.set(two, tcp(1))
		w.set(named("zzz"), tcp(3))
		w.calls(&w.changed)

		w.fail(tcp(1))
		w.wantCalls("changed", &w.changed, one, two)
		w.wantCalls("suspect", &w.suspect, one, two)
		w.fail(tcp(2))
		w.wantCalls("changed", &w.changed, one)
		w.wantCalls("suspect", &w.suspect, one)
		w.fail(tcp(2)) // no news, but the source may have some
		w.wantCalls("changed", &w.changed)
		w.wantCalls("suspect", &w.suspect, one)
		w.pool.Report(tcp(2), nil)
		w.pool.Report(tcp(2), nil)
		w.wantCalls("changed", &w.changed, one)
		w.wantCalls("suspect", &w.suspect)
		w.pool.Report(tcp(3), nil) // unknown before
		w.wantCalls("changed", &w.changed, named("zzz"))
	})
}

func TestProbe_TellsTheTargetsConcerned(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.set(two, tcp(1))
		w.set(named("zzz"), tcp(3))
		w.fail(tcp(1))
		w.calls(&w.changed)
		w.calls(&w.suspect)
		w.until(1500 * time.Millisecond)
		w.wantCalls("changed", &w.changed)
		w.wantCalls("suspect", &w.suspect, one, two)
		w.refuse(tcp(1), false)
		w.until(3500 * time.Millisecond)
		w.wantCalls("changed", &w.changed, one, two)
		w.wantCalls("suspect", &w.suspect)
	})
}

func TestReport_OfAnUnknownEndpointIsHarmless(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.calls(&w.changed)
		for _, e := range []spec.Endpoint{tcp(9), udp(1), {}} {
			w.fail(e)
			w.pool.Report(e, nil)
		}
		w.until(time.Minute)
		w.wantProbes(tcp(9))
		w.wantCalls("changed", &w.changed)
		w.wantCalls("suspect", &w.suspect)
	})
}

func TestState_IsSharedBetweenTargets(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.fail(tcp(1))
		w.set(two, tcp(1)) // joins with what is known
		if w.state(two, tcp(1)) != Failing {
			t.Error("the second target does not know that it fails")
		}
		w.set(one) // the second one keeps it
		if w.state(two, tcp(1)) != Failing {
			t.Error("forgotten, though a target has it")
		}
		w.refuse(tcp(1), false)
		w.until(1500 * time.Millisecond)
		w.wantProbes(tcp(1), 1000)
		if w.state(two, tcp(1)) != Serving {
			t.Error("the probe's success is not known")
		}
	})
}

func TestSet_KeepsTheStateOfWhatStays(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.fail(tcp(1))
		w.pool.Report(tcp(2), nil)
		w.calls(&w.changed)
		w.set(one, tcp(3), tcp(1), tcp(2))
		w.wantCalls("changed", &w.changed, one)
		for e, want := range map[spec.Endpoint]State{tcp(1): Failing, tcp(2): Serving, tcp(3): Unknown} {
			if got := w.state(one, e); got != want {
				t.Errorf("%v is %v, want %v", e, got, want)
			}
		}
		w.until(1500 * time.Millisecond)
		w.wantProbes(tcp(1), 1000) // not disturbed
	})
}

func TestSet_EndpointThatReturnsIsUnknown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.fail(tcp(1))
		w.set(one)
		w.set(one, tcp(1))
		if c := w.candidate(one, tcp(1)); c.State != Unknown || c.LastErr != nil || !c.Tried.IsZero() {
			t.Errorf("something of its former life is left: %+v", c)
		}
		w.until(time.Minute)
		w.wantProbes(tcp(1))
	})
}

func TestSet_AnswerIsRemembered(t *testing.T) {
	inWorld(t, func(w *world) {
		if a := w.pool.Answer(one); a.Endpoints != nil || a.Err != nil || !a.At.IsZero() {
			t.Errorf("before the first: %+v", a)
		}
		lost := errors.New("the resolver does not answer")
		w.pool.Set(one, spec.Answer{Endpoints: spec.Members(tcp(1)), Err: lost, At: w.start})
		if a := w.pool.Answer(one); len(a.Endpoints) != 1 || !errors.Is(a.Err, lost) || !a.At.Equal(w.start) {
			t.Errorf("got %+v", a)
		}
	})
}

func TestKeep_ForgetsTheOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.set(two, tcp(2))
		w.fail(tcp(2))
		w.pool.Watch("link", *view(one, two), Urgent)
		synctest.Wait()
		w.wantProbes(tcp(1), 0)
		w.pool.Keep([]spec.Target{two, named("never seen")})
		w.wantOrder(0, []spec.Target{one, two}, tcp(2))
		if a := w.pool.Answer(one); len(a.Endpoints) != 0 || !a.At.IsZero() {
			t.Errorf("its answer is still %+v", a)
		}
		if w.state(two, tcp(2)) != Failing {
			t.Error("what was kept lost its state")
		}
		w.set(one, tcp(1)) // named again: who watched it still does
		w.until(time.Minute)
		w.wantProbes(tcp(1), 0)
	})
}

func TestLog_SaysStateChangesOnce(t *testing.T) {
	var log bytes.Buffer
	p := New(Config{
		Dial: func(context.Context, spec.Endpoint, time.Duration) error { return errRefused },
		Log:  slog.New(slog.NewTextHandler(&log, nil)),
	})
	defer p.Close()
	p.Set(one, spec.Answer{Endpoints: spec.Members(tcp(1))})
	p.Report(tcp(1), nil) // as expected
	for range 3 {
		p.Report(tcp(1), errRefused)
	}
	p.Report(tcp(1), nil)
	p.Report(tcp(1), nil)
	got := log.String()
	for _, want := range []string{`msg="endpoint fails" endpoint=10.0.0.1:80 error="connection refused"`, `msg="endpoint serves again" endpoint=10.0.0.1:80`} {
		if strings.Count(got, want) != 1 {
			t.Errorf("want one line with %s in\n%s", want, got)
		}
	}
	if strings.Count(got, "\n") != 2 {
		t.Errorf("more than the two changes:\n%s", got)
	}
}

// Links, sources, operators and clients call at once; the race detector looks
// on.
func TestPool_ConcurrentUse(t *testing.T) {
	inWorld(t, func(w *world) {
		w.refuse(tcp(0), true)
		w.answers(tcp(1), errRole)
		var busy sync.WaitGroup
		for i := range 8 {
			busy.Go(func() { w.stir(i) })
		}
		busy.Wait()
		for i := range 8 {
			w.pool.Forget(i)
		}
		w.pool.Drain(nil)
		w.set(one, tcp(0), tcp(1), tcp(2))
		w.until(time.Since(w.start) + time.Minute)
		for _, c := range w.pool.List(view(one), nil).All {
			if c.Live.Load() != 0 || c.Barred {
				t.Errorf("at the end %+v, load %d", c, c.Live.Load())
			}
		}
		w.pool.Keep(nil)
		if got := w.order(0, one, two); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
		if p := w.pool; len(p.endpoints.lives) != 0 || len(p.former) > 64 || len(p.checks) > 2 || len(p.tasks) != 0 || len(p.watches) != 0 || p.running != 0 {
			t.Errorf("left: %+v", p)
		}
	})
}

func (w *world) stir(i int) {
	t := []spec.Target{one, two}[i%2]
	var held []*Live
	for n := range 100 {
		w.set(t, tcp(byte(n%3)), tcp(byte(i)), udp(byte(n%2)))
		v := View{Targets: []spec.Target{one, two}[:1+n%2], Balance: balances()[n%5], Near: n%3 == 0, SlowStart: time.Second, Limit: n % 4}
		if n%3 > 0 {
			v.Check = []spec.Check{redisCheck(), tcpCheck()}[n%2]
		}
		w.pool.Watch(i, v, Attention(n%4))
		w.pool.Drain(map[string]time.Time{tcp(byte(n % 5)).String(): w.start})
		k := Key{Turn: uint64(n), Caller: uint64(i), Release: n%2 == 0}
		if c, _ := w.pool.List(&v, nil).First(k); c != nil {
			c.Live.Begin()
			if w.pool.List(&v, nil).Rest(k, c, nil); n%5 == 0 {
				c.Live.Failed()
			} else {
				c.Live.Connected(time.Millisecond)
				held = append(held, c.Live)
			}
			w.pool.Served(c, time.Now())
			w.pool.Answered(c.Live)
		}
		w.pool.Report(tcp(byte(n%3)), []error{nil, errRefused}[n%2])
		w.pool.ClosedEarly(tcp(byte(n%4)), errRefused)
		w.pool.Doubt(tcp(byte(n % 3)))
		if n%7 == 0 {
			w.pool.Probe(context.Background(), v) //nolint:errcheck // whatever it finds
		}
		time.Sleep(time.Duration(n) * time.Millisecond) //nolint:forbidigo // fake time: lets probes run in between
		if n%10 == 0 {
			w.pool.Keep([]spec.Target{t})
		}
		if n%4 == 0 {
			w.pool.Forget(i)
		}
	}
	for _, live := range held {
		live.Release()
	}
}

// What many endpoints find out at once costs a link no more than a few looks at
// its list: thousands would take seconds.
func TestReport_BurstIsCheap(t *testing.T) {
	const n = 5000
	var p *Pool
	var looks atomic.Int64
	v := view(one)
	p = New(Config{
		Dial: func(context.Context, spec.Endpoint, time.Duration) error { return errRefused },
		Changed: func(spec.Target) {
			looks.Add(1)
			p.List(v, nil)
		},
	})
	defer p.Close()
	all := many(n)
	p.Set(one, spec.Answer{Endpoints: spec.Members(all...)})
	for _, e := range all {
		p.Report(e, errRefused)
	}
	testnet.Eventually(t, 10*time.Second, func() bool { return !p.List(v, nil).Has(Unknown) })
	if n := looks.Load(); n > 1000 {
		t.Errorf("a link looked %d times", n)
	}
}
