package endpoints

import (
	"errors"
	"slices"
	"testing"
	"time"

	"legate/internal/spec"
)

func TestList_LastsUntilSomethingChanges(t *testing.T) {
	inWorld(t, func(w *world) {
		targets := []spec.Target{one, two, named("later")}
		w.set(one, tcp(1), tcp(2))
		w.set(two, udp(3))
		v := view(targets...)
		l := w.pool.List(v, nil)
		stays := func(what string, do func()) {
			t.Helper()
			do()
			if again := w.pool.List(v, l); again != l {
				t.Errorf("%s makes another list", what)
			}
		}
		changes := func(what string, do func()) {
			t.Helper()
			do()
			again := w.pool.List(v, l)
			if again == l {
				t.Errorf("%s leaves the list as it was", what)
			}
			if want := w.pool.List(v, nil).All; !slices.Equal(again.All, want) {
				t.Errorf("%s: %v, want %v", what, again.All, want)
			}
			l = again
		}
		changes("the first success", func() { w.pool.Report(tcp(1), nil) })
		stays("another success", func() { w.pool.Report(tcp(1), nil) })
		stays("many a success", func() { w.pool.Served(&l.All[0], time.Now()) })
		stays("a lack of our own", func() { w.pool.Report(tcp(1), errShortage) })
		stays("a doubt", func() { w.pool.Doubt(tcp(1)) })
		changes("a failure", func() { w.fail(tcp(2)) })
		changes("the same failure, later", func() { w.until(time.Millisecond); w.fail(tcp(2)) })
		changes("an answer", func() { w.set(one, tcp(2)) })
		changes("the first answer for a target", func() { w.set(named("later"), tcp(9)) })
		changes("a target less", func() { w.pool.Keep([]spec.Target{two}) })
		changes("a refusal", func() { w.pool.Report(udp(3), errRefused) })
		changes("the end of its penalty", func() { w.until(time.Second + firstBackoffUDP) })
		if s := l.All[0].State; s != Unknown {
			t.Errorf("state %v after the penalty", s)
		}
	})
}

func TestServed_IsAReportOfSuccess(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		old := w.pool.List(view(one), nil)
		served := func() { w.pool.Served(&old.All[0], time.Now()) }
		check := func(want State) {
			t.Helper()
			c := w.candidate(one, tcp(1))
			if c.State != want || want == Serving && !c.Tried.Equal(time.Now()) {
				t.Errorf("%v since %v, want %v since %v", c.State, c.Tried, want, time.Now())
			}
		}
		served()
		check(Serving)
		w.until(5 * time.Millisecond)
		served() // the quick way
		check(Serving)
		w.fail(tcp(1))
		check(Failing)
		w.refuse(tcp(1), false)
		served()
		check(Serving)
		w.set(one)
		w.set(one, tcp(1)) // another, of which nothing is known
		check(Unknown)
		served()
		check(Serving)
	})
}

// A probe that looks for what a connection was too impatient to wait for is not
// needed any more when a connection got through.
func TestServed_EndsADoubt(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.pool.Report(tcp(1), nil)
		l := w.pool.List(view(one), nil)
		w.pool.mu.Lock()
		w.pool.running = maxRunning // none starts
		w.pool.mu.Unlock()
		w.pool.Doubt(tcp(1))
		w.pool.Served(&l.All[0], time.Now())
		w.pool.mu.Lock()
		defer w.pool.mu.Unlock()
		if w.pool.endpoints.find(tcp(1)).doubted {
			t.Error("the endpoint is doubted though it serves")
		}
	})
}

func TestList_AndServedAllocateNothing(t *testing.T) {
	p := New(Config{})
	defer p.Close()
	v := view(one, two)
	p.Set(one, spec.Answer{Endpoints: spec.Members(tcp(1), tcp(2))})
	p.Set(two, spec.Answer{Endpoints: weakly(spec.Members(tcp(3))), Err: errors.New("no such name")})
	var l *List
	var turn uint64
	if n := testing.AllocsPerRun(100, func() {
		turn++
		l = p.List(v, l)
		c, _ := l.First(Key{Turn: turn})
		p.Served(c, time.Now())
		p.Answered(c.Live)
		p.Suspect(tcp(1))
	}); n != 0 {
		t.Errorf("%v allocations per connection", n)
	}
}
