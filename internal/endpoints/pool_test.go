package endpoints

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"legate/internal/spec"
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

// Links, sources and clients call at once; the race detector looks on.
func TestPool_ConcurrentUse(t *testing.T) {
	inWorld(t, func(w *world) {
		w.refuse(tcp(0), true)
		var busy sync.WaitGroup
		for i := range 4 {
			busy.Go(func() { w.stir(i) })
		}
		busy.Wait()
		w.pool.Keep(nil)
		if got := w.order(0, one, two); len(got) != 0 {
			t.Errorf("left: %v", got)
		}
	})
}

func (w *world) stir(i int) {
	t := []spec.Target{one, two}[i%2]
	for n := range 100 {
		w.set(t, tcp(byte(n%3)), tcp(byte(i)))
		w.pool.Watch(i, *view(one, two), Attention(n%4))
		w.candidates([]spec.Target{one, two}, uint64(n))
		w.pool.Report(tcp(byte(n%3)), []error{nil, errRefused}[n%2])
		time.Sleep(time.Duration(n) * time.Millisecond) //nolint:forbidigo // fake time: lets probes run in between
		if n%10 == 0 {
			w.pool.Keep([]spec.Target{t})
		}
	}
}
