package endpoints

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"legate/internal/spec"
)

var one, two = named("one"), named("two")

func (w *world) order(turn uint64, targets ...spec.Target) []spec.Endpoint {
	var list []spec.Endpoint
	for _, c := range w.candidates(targets, turn) {
		list = append(list, c.Endpoint)
	}
	return list
}

func (w *world) wantOrder(turn uint64, targets []spec.Target, want ...spec.Endpoint) {
	w.t.Helper()
	if got := w.order(turn, targets...); !slices.Equal(got, want) {
		w.t.Errorf("turn %d of %v: %v, want %v", turn, targets, got, want)
	}
}

func TestCandidates_TakeTurns(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2), tcp(3))
		w.pool.Report(tcp(2), nil) // serving is no better than unknown
		w.wantOrder(0, []spec.Target{one}, tcp(1), tcp(2), tcp(3))
		w.wantOrder(1, []spec.Target{one}, tcp(2), tcp(3), tcp(1))
		w.wantOrder(5, []spec.Target{one}, tcp(3), tcp(1), tcp(2))
		w.wantOrder(1<<64-1, []spec.Target{one}, tcp(1), tcp(2), tcp(3))
	})
}

func TestCandidates_OfSeveralTargetsAreTheUnionInOrder(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(3), tcp(1))
		w.set(two, tcp(1), tcp(2), tcp(2))
		w.wantOrder(0, []spec.Target{one, two}, tcp(3), tcp(1), tcp(2))
		w.wantOrder(0, []spec.Target{two, named("nobody"), one}, tcp(1), tcp(2), tcp(3))
		list := w.candidates([]spec.Target{one, two}, 0)
		for i, from := range []spec.Target{one, one, two} {
			if *list[i].From != from {
				t.Errorf("%v comes from %v, want %v", list[i].Endpoint, *list[i].From, from)
			}
		}
	})
}

// A word that is looked up in several sources: what the first has is used as
// long as some of it serves, whatever the others have, and however near.
func TestCandidates_OfAHigherRankServeWhenNoneOfALowerDoes(t *testing.T) {
	inWorld(t, func(w *world) {
		second := two
		second.Rank = 1
		both := []spec.Target{second, one}
		w.set(one, tcp(1), tcp(2))
		w.set(second, tcp(3), tcp(4))
		w.wantOrder(0, both, tcp(1), tcp(2), tcp(3), tcp(4))
		w.wantOrder(1, both, tcp(2), tcp(1), tcp(4), tcp(3))
		w.fail(tcp(2))
		w.wantOrder(1, both, tcp(1), tcp(4), tcp(3), tcp(2))
		w.fail(tcp(1))
		w.wantOrder(0, both, tcp(3), tcp(4), tcp(1), tcp(2))
		w.set(one)
		w.wantOrder(0, both, tcp(3), tcp(4))
	})
}

func TestCandidates_AppendToTheBuffer(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.fail(tcp(1))
		before := &Candidate{Member: tcp(1).Plain()} // the caller's
		l := w.pool.List(view(one), nil)
		first, _ := l.First(Key{Turn: 1})
		list := l.Rest(Key{Turn: 1}, nil, []*Candidate{before})
		if first != list[1] || len(list) != 3 || list[0] != before || list[1].Endpoint != tcp(2) || list[2].Endpoint != tcp(1) {
			t.Errorf("got %v", list)
		}
	})
}

func TestCandidates_FailingOnesComeLastLongestAgoFirst(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2), tcp(3), tcp(4))
		w.until(10 * time.Millisecond)
		w.fail(tcp(3))
		w.until(20 * time.Millisecond)
		w.fail(tcp(1))
		for turn, want := range [][]spec.Endpoint{
			{tcp(2), tcp(4), tcp(3), tcp(1)},
			{tcp(4), tcp(2), tcp(3), tcp(1)},
			{tcp(2), tcp(4), tcp(3), tcp(1)},
		} {
			w.wantOrder(uint64(turn), []spec.Target{one}, want...)
		}
		w.until(30 * time.Millisecond)
		w.fail(tcp(3)) // tried again
		w.wantOrder(0, []spec.Target{one}, tcp(2), tcp(4), tcp(1), tcp(3))
	})
}

// An address whose name is gone may serve somebody else by now.
func TestCandidates_OfWeakAnswersAreALastResort(t *testing.T) {
	inWorld(t, func(w *world) {
		both := []spec.Target{one, two}
		w.set(two, tcp(3), tcp(4), tcp(5))
		w.fail(tcp(5))
		w.weaken(one, tcp(1), tcp(2))
		w.wantOrder(0, both, tcp(3), tcp(4), tcp(1), tcp(2), tcp(5))
		w.wantOrder(1, both, tcp(4), tcp(3), tcp(2), tcp(1), tcp(5))
		w.wantOrder(1, []spec.Target{one}, tcp(2), tcp(1)) // better than all on one

		if c := w.candidate(one, tcp(1)); c.Health != spec.HealthWeak || !c.Weak {
			t.Errorf("it is %+v", c)
		}

		w.until(time.Millisecond)
		w.fail(tcp(1))
		w.wantOrder(0, both, tcp(3), tcp(4), tcp(2), tcp(5), tcp(1))

		w.set(two, tcp(2), tcp(3)) // who vouches for one makes it as good as any
		if c := w.candidates(both, 0)[0]; c.Endpoint != tcp(2) || *c.From != two || c.Weak {
			t.Errorf("first comes %+v, want the one that the other target has, too", c)
		}

		w.set(one, tcp(4))
		w.wantOrder(2, both, tcp(3), tcp(4), tcp(2))
	})
}

// A registry may know more than attempts and checks do: that an instance is in
// maintenance, or that its own health check fails.
func TestCandidates_ThatTheirSourceFindsUnhealthy(t *testing.T) {
	inWorld(t, func(w *world) {
		members := spec.Members(tcp(1), tcp(2))
		members[0].Unhealthy = "Consul: check alive is critical"
		w.pool.Set(one, spec.Answer{Endpoints: members, At: time.Now()})
		if c := w.candidate(one, tcp(1)); c.Health != spec.HealthUnhealthy || c.Barred || c.LastErr == nil || c.LastErr.Error() != members[0].Unhealthy {
			t.Errorf("it is %+v", c)
		}
		w.wantOrder(0, []spec.Target{one}, tcp(2), tcp(1))
		w.wantOrder(1, []spec.Target{one}, tcp(2), tcp(1))

		members[1].Unhealthy = "Consul: the node is in maintenance"
		members = slices.Clone(members)
		w.pool.Set(one, spec.Answer{Endpoints: members, At: time.Now()})
		if n := len(w.candidates([]spec.Target{one}, 0)); n != 2 {
			t.Errorf("%d may be tried when all are unhealthy, want both", n)
		}
		hold := View{Targets: []spec.Target{one}, AllUnhealthy: spec.AllUnhealthyHold}
		for _, c := range w.pool.List(&hold, nil).All {
			if !c.Barred || c.State != Failing {
				t.Errorf("%+v may be tried though all-unhealthy holds", c)
			}
		}
	})
}

// Whatever is known of the endpoints: every one is named once, no failing one
// stands before another, failing ones stand longest ago first, no last resort
// stands before a better one, and of the best each has its turn to be first
// equally often.
func TestCandidates_OrderProperties(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, func(w *world) {
				r := rand.New(rand.NewPCG(seed, 0))
				targets := w.scatter(r)
				all := w.candidates(targets, 0)
				good := best(all)
				rounds := 3 * uint64(max(good, 1))
				first, begin := map[spec.Endpoint]int{}, r.Uint64N(1<<40)
				for turn := begin; turn < begin+rounds; turn++ {
					list := w.candidates(targets, turn)
					checkOrder(t, list, all)
					if len(list) > 0 {
						first[list[0].Endpoint]++
					}
				}
				for _, c := range all[:good] {
					if first[c.Endpoint] != 3 {
						t.Errorf("of %d serving ones %v came first %d times in %d turns", good, c.Endpoint, first[c.Endpoint], rounds)
					}
				}
			})
		})
	}
}

// best counts those that take turns.
func best(all []Candidate) (n int) {
	for n < len(all) && all[n].class() == all[0].class() && all[n].class() != classBad {
		n++
	}
	return n
}

// scatter makes targets whose endpoints overlap, in random states.
func (w *world) scatter(r *rand.Rand) []spec.Target {
	var targets []spec.Target
	for i := range 1 + r.IntN(4) {
		t := named(fmt.Sprint(i))
		var es []spec.Endpoint
		for range r.IntN(6) {
			es = append(es, tcp(byte(r.IntN(8))))
		}
		if r.IntN(3) == 0 {
			w.weaken(t, es...)
		} else {
			w.set(t, es...)
		}
		targets = append(targets, t)
	}
	for i := range r.IntN(20) {
		w.until(time.Duration(i+1) * time.Millisecond)
		if e := tcp(byte(r.IntN(8))); r.IntN(2) == 0 {
			w.fail(e)
		} else {
			w.pool.Report(e, nil)
		}
	}
	return targets
}

func checkOrder(t *testing.T, list, all []Candidate) {
	t.Helper()
	seen := map[spec.Endpoint]bool{}
	for i, c := range list {
		if seen[c.Endpoint] || !slices.Contains(all, c) {
			t.Fatalf("%v twice, or from nowhere: %v", c.Endpoint, list)
		}
		seen[c.Endpoint] = true
		if i == 0 {
			continue
		}
		if list[i-1].State != Failing {
			if list[i-1].Weak && !c.Weak && c.State != Failing {
				t.Fatalf("%v stands behind %v", c, list[i-1])
			}
			continue
		}
		if c.State != Failing || c.Tried.Before(list[i-1].Tried) {
			t.Fatalf("%v stands behind %v", c, list[i-1])
		}
	}
	if len(seen) != len(all) {
		t.Fatalf("%d of %d endpoints", len(seen), len(all))
	}
}

func TestCandidates_TellWhatIsKnown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		if c := w.candidate(one, tcp(1)); c.State != Unknown || c.LastErr != nil || !c.Tried.IsZero() {
			t.Errorf("before the first attempt: %+v", c)
		}
		w.until(5 * time.Millisecond)
		w.fail(tcp(1))
		if c := w.candidate(one, tcp(1)); c.State != Failing || !errors.Is(c.LastErr, errRefused) || !c.Tried.Equal(time.Now()) {
			t.Errorf("after a failure: %+v", c)
		}
		w.until(7 * time.Millisecond)
		w.pool.Report(tcp(1), nil)
		if c := w.candidate(one, tcp(1)); c.State != Serving || !errors.Is(c.LastErr, errRefused) || !c.Tried.Equal(time.Now()) {
			t.Errorf("after a success: %+v", c)
		}
	})
}
