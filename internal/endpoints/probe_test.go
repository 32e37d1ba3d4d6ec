package endpoints

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"legate/internal/spec"
)

func (w *world) wantProbes(e spec.Endpoint, want ...int) {
	w.t.Helper()
	if got := w.probes(e); !slices.Equal(got, ms(want...)) {
		w.t.Errorf("%v was probed at %v, want %v", e, got, ms(want...))
	}
}

func TestProbe_FailingEndpointAtTheEndOfEachBackoffUntilItServes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.until(300 * time.Millisecond)
		w.fail(tcp(1))
		w.until(100 * time.Second)
		w.wantProbes(tcp(1), 1300, 3300, 7300, 15300, 31300, 61300, 91300)
		w.refuse(tcp(1), false)
		w.until(time.Hour)
		w.wantProbes(tcp(1), 121300)
		w.wantProbes(tcp(2))
		if w.state(one, tcp(1)) != Serving {
			t.Error("it was found, but does not serve")
		}
	})
}

func TestProbe_EndsWhenAClientFindsItServing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.fail(tcp(1))
		w.until(1500 * time.Millisecond)
		w.wantProbes(tcp(1), 1000)
		w.pool.Report(tcp(1), nil)
		w.until(time.Minute)
		w.wantProbes(tcp(1))
		w.fail(tcp(1)) // and begins anew
		w.until(time.Minute + 1500*time.Millisecond)
		w.wantProbes(tcp(1), 61000)
	})
}

func TestProbe_UnknownEndpointAtOnceWhenTheLinkIsDown(t *testing.T) {
	inWorld(t, func(w *world) {
		w.refuse(tcp(1), true)
		w.set(one, tcp(1))
		w.until(time.Minute)
		w.wantProbes(tcp(1))
		w.pool.Watch("link", *view(one), Down)
		w.until(61500 * time.Millisecond)
		w.wantProbes(tcp(1), 60000, 61000)
		w.set(one, tcp(1), tcp(2)) // one that appears meanwhile
		w.until(61600 * time.Millisecond)
		w.wantProbes(tcp(2), 61500)
	})
}

func TestProbe_Attention(t *testing.T) {
	type want = []int
	for _, c := range []struct {
		name                      string
		attention                 Attention
		unknown, serving, failing want // in the second after the watch, which is at 1 s; the failing one failed at 0.95 s
	}{
		{"idle", Idle, want{}, want{}, want{1950}},
		{"down", Down, want{1000}, want{}, want{1950}},
		{"urgent", Urgent, want{1000, 1100, 1200, 1300, 1400, 1500, 1600, 1700, 1800, 1900}, want{},
			want{1050, 1150, 1250, 1350, 1450, 1550, 1650, 1750, 1850, 1950}},
		{"check", Check, want{1000}, want{1400}, want{1950}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				unknown, serving, failing := tcp(1), tcp(2), tcp(3)
				w.set(one, unknown, serving, failing)
				w.refuse(unknown, true)
				w.until(400 * time.Millisecond)
				w.pool.Report(serving, nil)
				w.until(950 * time.Millisecond)
				w.fail(failing)
				w.until(time.Second)
				w.pool.Watch("link", *view(one), c.attention)
				w.until(1999 * time.Millisecond)
				w.wantProbes(unknown, c.unknown...)
				w.wantProbes(serving, c.serving...)
				w.wantProbes(failing, c.failing...)
			})
		})
	}
}

func TestProbe_CheckSeesAServingEndpointFail(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.pool.Watch("link", *view(one), Check)
		w.until(2500 * time.Millisecond)
		w.wantProbes(tcp(1), 0, 1000, 2000)
		w.refuse(tcp(1), true)
		w.until(3 * time.Second)
		if w.state(one, tcp(1)) != Failing {
			t.Error("its failure went unseen")
		}
		w.refuse(tcp(1), false)
		w.until(5500 * time.Millisecond)
		w.wantProbes(tcp(1), 3000, 4000, 5000)
	})
}

func TestProbe_AttentionIsTheHighestOfAllOwners(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.set(two, tcp(1))
		w.fail(tcp(1))
		w.pool.Watch("a", *view(one), Down)
		w.pool.Watch("b", *view(one, two), Urgent)
		w.pool.Watch("c", *view(two), Check)
		w.until(250 * time.Millisecond)
		w.wantProbes(tcp(1), 100, 200)
		w.pool.Watch("b", *view(two), Urgent)
		w.until(450 * time.Millisecond)
		w.wantProbes(tcp(1), 300, 400)
		w.pool.Watch("b", *view(two), Down)
		w.refuse(tcp(1), false)
		w.until(2500 * time.Millisecond)
		w.wantProbes(tcp(1), 1400, 2400) // c checks what serves
		w.pool.Forget("c")
		w.until(time.Minute)
		w.wantProbes(tcp(1))
	})
}

func TestProbe_OneOwnerLeavesTheOthersTheirAttention(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.refuse(tcp(2), true)
		for owner := range 8 { // more than one, so that none of them is by chance the last one asked
			w.pool.Watch(owner, *view(one), Down)
		}
		w.pool.Watch("check", *view(one), Check)
		w.pool.Watch("urgent", *view(one), Urgent)
		w.until(250 * time.Millisecond)
		w.wantProbes(tcp(1), 0) // urgent is for those that do not serve
		w.wantProbes(tcp(2), 0, 100, 200)
		w.pool.Forget(0)
		w.until(350 * time.Millisecond)
		w.wantProbes(tcp(2), 300)
		w.pool.Forget("urgent")
		w.until(5500 * time.Millisecond)
		w.wantProbes(tcp(1), 1000, 2000, 3000, 4000, 5000)
		w.wantProbes(tcp(2), 1300, 2300, 3300, 4300, 5300)
	})
}

func TestProbe_ChangeOfAttentionTakesEffectAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.fail(tcp(1))
		w.until(1650 * time.Millisecond)
		w.wantProbes(tcp(1), 1000)
		w.pool.Watch("link", *view(one), Urgent) // 100 ms are long over
		w.until(1800 * time.Millisecond)
		w.wantProbes(tcp(1), 1650, 1750)
		w.pool.Watch("link", *view(one), Down) // the next is 1 s after the last
		w.until(3 * time.Second)
		w.wantProbes(tcp(1), 2750)
	})
}

func TestProbe_SilentEndpointHasOneAttemptOfASecondAtATime(t *testing.T) {
	inWorld(t, func(w *world) {
		w.swallow(tcp(1), true)
		w.set(one, tcp(1))
		w.pool.Watch("a", *view(one), Urgent)
		w.pool.Watch("b", *view(one), Urgent)
		w.until(2200 * time.Millisecond)
		w.fail(tcp(1)) // a client's own attempt
		w.until(3500 * time.Millisecond)
		w.wantProbes(tcp(1), 0, 1000, 2000, 3000)
		if w.most != 1 {
			t.Errorf("%d attempts at once", w.most)
		}
	})
}

func TestProbe_SilentEndpointDoesNotDelayOthers(t *testing.T) {
	inWorld(t, func(w *world) {
		w.swallow(tcp(1), true)
		w.refuse(tcp(2), true)
		w.set(one, tcp(1), tcp(2))
		w.pool.Watch("link", *view(one), Urgent)
		w.until(350 * time.Millisecond)
		w.wantProbes(tcp(2), 0, 100, 200, 300)
	})
}

func TestProbe_EndpointThatLeftIsProbedNoMore(t *testing.T) {
	for name, leave := range map[string]func(*world){
		"set":  func(w *world) { w.set(one, tcp(9)) },
		"keep": func(w *world) { w.pool.Keep([]spec.Target{two}) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.set(one, tcp(1), tcp(2))
				w.set(two, tcp(2))
				w.fail(tcp(1))
				w.fail(tcp(2))
				w.until(1500 * time.Millisecond)
				leave(w)
				w.until(3500 * time.Millisecond)
				w.wantProbes(tcp(1), 1000)
				w.wantProbes(tcp(2), 1000, 3000) // the other target has it still
			})
		})
	}
}

// An endpoint that comes back while the attempt at its former life is under
// way is not to suffer from that one's failure, nor to be tried twice at once.
func TestProbe_AttemptUnderWayEndsWhenItsEndpointLeaves(t *testing.T) {
	inWorld(t, func(w *world) {
		w.swallow(tcp(1), true)
		w.set(one, tcp(1))
		w.pool.Watch("link", *view(one), Urgent)
		w.until(500 * time.Millisecond)
		w.set(one)
		synctest.Wait()
		w.swallow(tcp(1), false)
		w.calls(&w.suspect)
		w.calls(&w.changed)
		w.set(one, tcp(1))
		w.until(5 * time.Second)
		w.wantProbes(tcp(1), 0, 500)
		if w.state(one, tcp(1)) != Serving || len(w.calls(&w.suspect)) != 0 || w.most != 1 {
			t.Errorf("it is %+v; %d attempts at once", w.candidate(one, tcp(1)), w.most)
		}
	})
}

// The same, of one whose connections outlive its absence.
func TestProbe_AttemptAtAFormerLifeSaysNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.swallow(tcp(1), true)
		w.set(one, tcp(1))
		live := w.candidate(one, tcp(1)).Live
		live.Begin()
		w.pool.Watch("link", *view(one), Urgent)
		w.until(500 * time.Millisecond)
		w.swallow(tcp(1), false)
		w.set(one)
		w.set(one, tcp(1)) // before the attempt's end is known
		w.until(5 * time.Second)
		if c := w.candidate(one, tcp(1)); c.Live != live || c.State != Serving || c.LastErr != nil || len(w.calls(&w.suspect)) != 0 {
			t.Errorf("it is %+v", c)
		}
	})
}

func TestProbe_NotOfWhatConnectionsFindServing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.pool.Watch("link", *view(one), Check)
		w.until(time.Millisecond)
		l := w.pool.List(view(one), nil)
		for i := range 10 {
			w.until(time.Duration(1+i) * 500 * time.Millisecond)
			w.pool.Served(&l.All[0], time.Now())
		}
		w.until(10 * time.Second)
		w.wantProbes(tcp(1), 0, 6000, 7000, 8000, 9000, 10000)
	})
}

func TestProbe_NeverOfUDP(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, udp(1))
		w.pool.Watch("a", *view(one), Urgent)
		w.pool.Watch("b", *view(one), Check)
		w.fail(udp(1))
		w.until(time.Minute)
		w.wantProbes(udp(1))
	})
}

func TestUDP_PenaltyOfFiveSeconds(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, udp(1), udp(2))
		w.fail(udp(1))
		w.until(5*time.Second - 1)
		w.wantOrder(0, []spec.Target{one}, udp(2), udp(1))
		w.until(5 * time.Second)
		w.wantOrder(0, []spec.Target{one}, udp(1), udp(2))
		// Another refusal is news again: the sessions there must move.
		w.calls(&w.changed)
		w.fail(udp(1))
		if got := w.calls(&w.changed); !slices.Equal(got, []spec.Target{one}) {
			t.Errorf("told of %v", got)
		}
		w.fail(udp(1))
		if got := w.calls(&w.changed); len(got) != 0 {
			t.Errorf("told of %v without news", got)
		}
		w.wantOrder(0, []spec.Target{one}, udp(2), udp(1))
	})
}

func TestClose_WaitsForProbes(t *testing.T) {
	inWorld(t, func(w *world) {
		w.swallow(tcp(1), true)
		w.set(one, tcp(1), tcp(2))
		w.pool.Watch("link", *view(one), Urgent)
		w.fail(tcp(2))
		w.until(10 * time.Millisecond)
		w.pool.Close()
		w.mu.Lock()
		flying := w.flying[tcp(1)]
		w.mu.Unlock()
		if flying != 0 || time.Since(w.start) != 10*time.Millisecond {
			t.Errorf("closed after %v with %d attempts under way", time.Since(w.start), flying)
		}
		if s := w.state(one, tcp(1)); s != Unknown {
			t.Errorf("an attempt that Close ended made it %v", s)
		}
	})
}

func TestClose_IsFinal(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.pool.Close()
		w.pool.Watch("link", *view(one), Urgent)
		w.fail(tcp(1))
		w.set(two, tcp(2))
		w.until(time.Minute)
		w.wantProbes(tcp(1))
		w.wantProbes(tcp(2))
		w.wantOrder(0, []spec.Target{one, two}, tcp(2), tcp(1))
	})
}

func TestProbe_OurOwnShortageIsNobodysFailure(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.pool.Report(tcp(1), nil)
		w.pool.cfg.Dial = func(context.Context, spec.Endpoint, time.Duration) error { return errShortage }
		w.pool.Watch("link", *view(one), Check)
		w.until(5 * time.Second)
		if w.state(one, tcp(1)) != Serving {
			t.Error("the endpoint is blamed for our shortage")
		}
		w.pool.cfg.Dial = func(ctx context.Context, e spec.Endpoint, d time.Duration) error {
			return errors.Join(w.dial(ctx, e, d), errShortage)
		}
		w.pool.Forget("link")
		w.fail(tcp(1))
		w.until(10 * time.Second)
		w.wantProbes(tcp(1), 6000, 7000, 8000, 9000, 10000) // not at once for ever
	})
}

func TestDoubt_IsSettledByOneProbe(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.swallow(tcp(2), true)
		w.pool.Doubt(tcp(1))
		w.pool.Doubt(tcp(2))
		w.until(5 * time.Second)
		w.wantProbes(tcp(1), 0)
		if w.state(one, tcp(1)) != Serving || w.state(one, tcp(2)) != Failing {
			t.Errorf("the slow one is %v, the silent one %v", w.state(one, tcp(1)), w.state(one, tcp(2)))
		}
	})
}

func TestSuspect_AsksTheSourcesWithoutBlame(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.pool.Suspect(tcp(1))
		w.wantCalls("suspect", &w.suspect, one)
		if w.state(one, tcp(1)) != Unknown {
			t.Error("the endpoint is blamed")
		}
	})
}

// lateContext is over, and has not said so yet.
type lateContext struct{ context.Context }

func (lateContext) Deadline() (time.Time, bool) { return time.Now(), true }

// What comes of a question that ended with its time is no fact about the
// endpoint.
func TestProbe_ThatIsCutShortTellsNothing(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.pool.Watch("link", *view(one), Idle)
		w.pool.Report(tcp(1), nil)
		w.pool.cfg.Connect = func(context.Context, spec.Endpoint) (net.Conn, error) { return nil, os.ErrDeadlineExceeded }
		if err := w.pool.Probe(lateContext{context.Background()}, *view(one)); err == nil {
			t.Error("it serves")
		}
		if c := w.candidate(one, tcp(1)); c.State != Serving || c.LastErr != nil {
			t.Errorf("it is %+v", c)
		}
		if err := w.pool.Probe(context.Background(), *view(one)); err == nil {
			t.Error("it serves")
		}
		if c := w.candidate(one, tcp(1)); c.State != Failing {
			t.Errorf("it is %+v", c)
		}
	})
}
