package discovertest

import (
	"slices"
	"strings"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func firstAnswer(t testing.TB, r *rig) {
	f := r.start(t)
	s := f.report()
	if s.Endpoints != 2 || s.Learned == nil || s.Answered == nil || s.Error != "" || s.Held || s.Weak != 0 {
		t.Errorf("reported as %+v", s)
	}
	for _, a := range f.since(0) {
		for _, m := range a.Endpoints {
			if m.Weight != 1 || m.Priority != 0 || m.Unhealthy != "" {
				t.Errorf("found %+v", m)
			}
		}
	}
}

func change(t testing.TB, r *rig) {
	f := r.start(t)
	mark := f.mark()
	r.bench.Set(t, one, three)
	f.finds(one, three)
	f.had(mark, one)
}

// A source that says what is left proves that the rest is gone.
func removal(t testing.TB, r *rig) {
	f := r.start(t)
	mark := f.mark()
	r.bench.Set(t, one)
	f.finds(one)
	f.had(mark, one)
	f.neverDoubted(mark)
}

func removalOfTheLast(t testing.TB, r *rig) {
	f := r.start(t)
	mark := f.mark()
	r.bench.Set(t)
	if r.Doubts == "" {
		f.finds()
		f.neverDoubted(mark)
	} else {
		f.sees("both in doubt", weak(one, two))
		doubts(f, 2)
		f.had(mark, one, two)
	}
	r.bench.Set(t, one, two)
	f.finds(one, two)
}

// Through a server that takes its time for every part of an answer everything
// works, and nobody waits for it.
func slow(t testing.TB, r *rig) {
	network, address := can[Placed](t, r.bench).Address()
	r.bench.Set(t, one, two)
	f := prepare(t, r.bench, delay(t, network, address))
	f.d.Apply([]spec.Target{f.target})
	if f.mark() != 0 {
		t.Error("Apply waited for the answer")
	}
	f.finds(one, two)
	r.bench.Set(t, one, three)
	f.finds(one, three)
}

func killed(t testing.TB, r *rig) {
	f := r.start(t)
	mark := f.mark()
	r.kill(t)
	f.fails(r.Down)
	holds(f)
	f.had(mark, one, two)
	f.neverDoubted(mark)
	r.restart(t)
	r.bench.Set(t, one, two)
	f.finds(one, two)
	if r.Takes == "" {
		f.had(mark, one, two)
	}
	r.bench.Set(t, one, three)
	f.finds(one, three)
}

func restartedWithItsData(t testing.TB, r *rig) {
	f := r.start(t)
	mark := f.mark()
	r.kill(t)
	f.fails(r.Down)
	r.restart(t)
	f.finds(one, two)
	f.neverDoubted(mark)
	if r.Takes == "" {
		f.had(mark, one, two)
	}
}

// What is registered anew one by one must not count as all that there is.
func restartedWithoutItsData(t testing.TB, r *rig) {
	f := r.start(t)
	mark := f.mark()
	r.kill(t)
	can[Forgetful](t, r.bench).Lose(t)
	r.restart(t)
	f.sees("both in doubt", weak(one, two))
	doubts(f, 2)
	r.bench.Set(t, two)
	f.sees("the first one back", func(a spec.Answer) bool { return slices.Equal(shown(a), []string{one + doubt, two}) })
	doubts(f, 1)
	r.bench.Set(t, one, two)
	f.finds(one, two)
	f.had(mark, one, two)
}

func garbage(t testing.TB, r *rig) {
	network, address := can[Placed](t, r.bench).Address()
	for _, kind := range nonsense[network] {
		f := r.start(t)
		mark := f.mark()
		r.kill(t)
		end := babble(t, network, address, kind.text)
		f.sees("an error about "+kind.name, func(a spec.Answer) bool { return a.Err != nil && !strings.Contains(a.Err.Error(), r.Down) })
		holds(f)
		repeats(f) // the first may be the end of what was there before
		since := f.mark()
		repeats(f)
		if news := f.since(since); len(news) > 0 {
			t.Errorf("the same failure in other words: %v", news)
		}
		f.had(mark, one, two)
		f.neverDoubted(mark)
		t.Logf("%s: %s", kind.name, f.report().Error)
		end()
		r.restart(t)
		r.bench.Set(t, one, two)
		f.finds(one, two)
		f.d.Close()
	}
}

func notThereAtTheStart(t testing.TB, r *rig) {
	r.bench.Set(t, one, two)
	r.kill(t)
	f := follow(t, r.bench, "")
	a := f.fails(r.Down)
	if len(a.Endpoints) > 0 || !a.At.IsZero() {
		t.Errorf("told %v at %v", shown(a), a.At)
	}
	if s := f.report(); s.Error == "" || s.Held || s.Failed == nil || s.Answered != nil {
		t.Errorf("reported as %+v", s)
	}
	r.restart(t)
	r.bench.Set(t, one, two)
	f.finds(one, two)
}

func credentialsRefused(t testing.TB, r *rig) { locked(t, r.Credentials, r.bench) }

func certificatesWrong(t testing.TB, r *rig) { locked(t, r.Certificates, r.bench) }

func locked(t testing.TB, lock func(testing.TB, Bench) Lock, b Bench) {
	if lock == nil {
		t.Fatal("the table says neither how nor why not")
	}
	l := lock(t, b)
	l.Set(t, one, two)
	f := follow(t, l, "")
	if a := f.fails(l.Says); len(a.Endpoints) > 0 {
		t.Errorf("told %v", shown(a))
	}
	l.Unlock(t)
	f.finds(one, two)
	for _, a := range f.since(0) {
		if a.Err != nil && !strings.Contains(a.Err.Error(), l.Says) {
			t.Errorf("it said %v, too", a.Err)
		}
	}
}

// Nobody can see that nothing happens. That somebody who asks the same server
// meanwhile is told that it does not answer is what happens last.
func paused(t testing.TB, r *rig) {
	server := can[Pausable](t, r.bench)
	f := r.start(t)
	mark := f.mark()
	server.Freeze()
	t.Cleanup(server.Thaw)
	other := follow(t, r.bench, "")
	if a := other.fails(r.Paused); len(a.Endpoints) > 0 {
		t.Errorf("told %v", shown(a))
	}
	f.had(mark, one, two)
	f.neverDoubted(mark)
	server.Thaw()
	r.bench.Set(t, one, three)
	f.finds(one, three)
	other.finds(one, three)
	f.had(mark, one)
	testnet.Await(t, "the end of the error", func() bool { return f.report().Error == "" })
}
