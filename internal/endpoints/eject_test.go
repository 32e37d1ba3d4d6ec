package endpoints

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
)

func (w *world) closeEarly(e spec.Endpoint, times int) {
	for range times {
		w.pool.Report(e, nil)
		w.pool.ClosedEarly(e, io.EOF)
	}
}

func TestClosedEarly_ThreeInARowEject(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		both := []spec.Target{one}
		live := w.candidate(one, tcp(1)).Live
		w.closeEarly(tcp(1), 2)
		w.pool.Answered(live)
		w.closeEarly(tcp(1), 2)
		w.wantOrder(0, both, tcp(1), tcp(2))
		w.calls(&w.changed)
		w.closeEarly(tcp(1), 1)
		w.wantCalls("changed", &w.changed, one)
		w.wantCalls("suspect", &w.suspect, one)
		w.wantOrder(0, both, tcp(2), tcp(1))
		c := w.candidate(one, tcp(1))
		if c.State != Serving || c.Health != spec.HealthEjected || c.Barred || !errors.Is(c.LastErr, io.EOF) || time.Until(c.Until) != time.Second {
			t.Errorf("it is %+v", c)
		}
		if line := `msg="endpoint closes early" endpoint=10.0.0.1:80 error=EOF`; strings.Count(w.log.String(), line) != 1 {
			t.Errorf("want one line with %s in\n%s", line, &w.log)
		}
		w.pool.Answered(live) // an old connection is served still
		w.pool.Report(tcp(1), nil)
		w.until(999 * time.Millisecond)
		w.wantOrder(0, both, tcp(2), tcp(1))
		w.until(time.Second)
		w.wantOrder(0, both, tcp(1), tcp(2))
		w.wantProbes(tcp(1)) // a connect would say nothing
		w.wantCalls("changed", &w.changed, one)
	})
}

func TestClosedEarly_OnProbationOneMoreEjectsForLonger(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.closeEarly(tcp(1), 3)
		for _, want := range []time.Duration{2, 4, 8, 16, 30, 30} {
			w.until(time.Since(w.start) + time.Until(w.candidate(one, tcp(1)).Until) + time.Second)
			if c := w.candidate(one, tcp(1)); c.Health != spec.HealthOK || !c.Until.IsZero() {
				t.Fatalf("after its time it is %+v", c)
			}
			w.closeEarly(tcp(1), 1)
			if c := w.candidate(one, tcp(1)); time.Until(c.Until) != want*time.Second {
				t.Errorf("ejected for %v, want %v s", time.Until(c.Until), want)
			}
		}
		w.until(time.Until(w.start)*-1 + time.Minute)
		w.pool.Answered(w.candidate(one, tcp(1)).Live)
		w.closeEarly(tcp(1), 2)
		if c := w.candidate(one, tcp(1)); c.Health != spec.HealthOK {
			t.Errorf("it answered, and is %+v", c)
		}
		w.closeEarly(tcp(1), 1)
		if c := w.candidate(one, tcp(1)); time.Until(c.Until) != time.Second {
			t.Errorf("ejected for %v after it had answered", time.Until(c.Until))
		}
	})
}

// A link whose only endpoint closes early is not down: what the endpoint does is
// its answer.
func TestClosedEarly_LeavesTheEndpointToBeTried(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.closeEarly(tcp(1), 5)
		l := w.pool.List(view(one), nil)
		if c, _ := l.First(Key{}); c == nil || !l.Has(Serving) {
			t.Errorf("nobody to try: %+v", l.All)
		}
		w.pool.Watch("link", *view(one), Urgent)
		w.until(900 * time.Millisecond)
		w.wantProbes(tcp(1))
	})
}

func TestEjection_IsLongerForWhoFailsSoonAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		backoff := func(want time.Duration) {
			t.Helper()
			w.pool.Report(tcp(1), errRefused)
			if c := w.candidate(one, tcp(1)); time.Until(c.Until) != want {
				t.Errorf("ejected for %v, want %v", time.Until(c.Until), want)
			}
		}
		backoff(time.Second)
		w.pool.Report(tcp(1), nil)
		w.until(900 * time.Millisecond)
		backoff(2 * time.Second)
		w.pool.Report(tcp(1), errRefused) // within the back-off: not longer
		w.pool.Report(tcp(1), nil)
		w.until(3 * time.Second)
		backoff(time.Second) // it did well for long enough
		w.pool.Report(tcp(1), errShortage)
		w.until(4 * time.Second) // the probe
		if c := w.candidate(one, tcp(1)); c.Health != spec.HealthOK || !c.Until.IsZero() {
			t.Errorf("it is %+v", c)
		}
	})
}

func TestEjection_Jitters(t *testing.T) {
	for rand, want := range map[float64]time.Duration{0: 900 * time.Millisecond, 0.75: 1050 * time.Millisecond} {
		inWorld(t, func(w *world) {
			w.rand = rand
			w.set(one, tcp(1))
			w.pool.Report(tcp(1), errRefused)
			if c := w.candidate(one, tcp(1)); time.Until(c.Until) != want {
				t.Errorf("ejected for %v, want %v", time.Until(c.Until), want)
			}
		})
	}
}

func TestDrain_BarsEndpoints(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.set(two, tcp(2))
		w.calls(&w.changed)
		w.pool.Drain(map[string]time.Time{"10.0.0.2:80": w.start, "10.0.0.3:80": w.start})
		w.wantCalls("changed", &w.changed, one, two)
		w.wantOrder(0, []spec.Target{one}, tcp(1))
		w.wantOrder(0, []spec.Target{two})
		l := w.pool.List(view(two), nil)
		c := l.All[0]
		if _, full := l.First(Key{}); full || !c.Barred || c.Health != spec.HealthDrained || !c.Since.Equal(w.start) || l.Has(Unknown) {
			t.Errorf("it is %+v", c)
		}
		w.set(two, tcp(2), tcp(3)) // one that comes later is drained, too
		w.wantOrder(0, []spec.Target{two})
		w.pool.Drain(nil)
		w.wantOrder(0, []spec.Target{two}, tcp(2), tcp(3))
		w.calls(&w.changed)
		w.pool.Drain(nil)
		w.wantCalls("changed", &w.changed)
	})
}

// What one owner holds against an endpoint has nobody else try it last, and ends
// by itself.
func TestOwn_EjectsForOneOwnerAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.pool.Report(tcp(1), nil)
		w.pool.Report(tcp(2), nil)
		own := Own{Err: io.EOF, Since: w.start, Until: w.start.Add(time.Second)}
		v := view(one)
		v.Balance = spec.BalanceFirst
		v.Own = func(e spec.Endpoint) Own {
			if e == tcp(1) {
				return own
			}
			return Own{}
		}
		first := func(want spec.Endpoint) *List {
			t.Helper()
			l := w.pool.List(v, nil)
			if c, _ := l.First(Key{}); c.Endpoint != want {
				t.Errorf("%v is first, want %v", c.Endpoint, want)
			}
			return l
		}
		l := first(tcp(2))
		if c := w.seen(v, tcp(1)); c.State != Serving || c.Health != spec.HealthEjected || c.Barred || !errors.Is(c.LastErr, io.EOF) || !c.Until.Equal(own.Until) || !c.Since.Equal(w.start) {
			t.Errorf("it is %+v", c)
		}
		own.Unreached = true
		if c := w.seen(v, tcp(1)); c.State != Failing || c.Barred {
			t.Errorf("it is %+v", c)
		}
		w.wantOrder(0, []spec.Target{one}, tcp(1), tcp(2))
		w.until(999 * time.Millisecond)
		if w.pool.List(v, l) != l {
			t.Error("the list is made anew before it changes")
		}
		w.until(time.Second)
		if w.pool.List(v, l) == l {
			t.Error("the list outlives the ejection")
		}
		first(tcp(1))
		own.Until = w.start.Add(time.Minute)
		w.fail(tcp(1)) // that others know, too, is said first
		if c := w.seen(v, tcp(1)); !errors.Is(c.LastErr, errRefused) || c.State != Failing {
			t.Errorf("it is %+v", c)
		}
	})
}

// Who closes early is tried last for as long as it should be, whatever else is
// wanted of it meanwhile.
func TestEjection_OfEarlyClosesEndsByTimeAlone(t *testing.T) {
	for _, attention := range []Attention{Idle, Down, Urgent, Check} {
		for _, doubted := range []bool{false, true} {
			inWorld(t, func(w *world) {
				w.set(one, tcp(1), tcp(2))
				w.pool.Watch("link", *view(one), attention)
				w.pool.Report(tcp(1), nil)
				for i, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
					for range max(EarlyCloses-i*EarlyCloses, 1) {
						c := w.candidate(one, tcp(1))
						w.pool.Served(&c, time.Now())
						w.pool.ClosedEarly(tcp(1), io.EOF)
					}
					began := time.Now()
					if doubted {
						w.pool.Doubt(tcp(1))
					}
					for w.candidate(one, tcp(1)).Health == spec.HealthEjected {
						w.until(time.Since(w.start) + 10*time.Millisecond)
					}
					if took := time.Since(began).Round(50 * time.Millisecond); took != want {
						t.Errorf("attention %d, doubted %t: ejected for %v, want %v", attention, doubted, took, want)
					}
				}
			})
		}
	}
}

// Connections that live for hours do not say that the endpoint serves again; so
// time does.
func TestEjection_IsForgottenWithoutAnAnswer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.pool.Watch("link", *view(one), Idle)
		w.closeEarly(tcp(1), EarlyCloses)
		ejected := func() bool { return w.candidate(one, tcp(1)).Health == spec.HealthEjected }
		w.until(2 * time.Second)
		if w.closeEarly(tcp(1), 1); !ejected() {
			t.Error("one that closes early again at once is not ejected")
		}
		w.until(time.Minute)
		if w.closeEarly(tcp(1), EarlyCloses-1); ejected() {
			t.Error("after a minute it is ejected for fewer early closes than at first")
		}
		if w.closeEarly(tcp(1), 1); !ejected() {
			t.Errorf("%d early closes in a row do not eject it", EarlyCloses)
		}
	})
}
