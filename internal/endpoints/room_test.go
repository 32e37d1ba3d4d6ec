package endpoints

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"legate/internal/spec"
)

func TestRoom_IsToldToWhoFoundNone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.set(two, tcp(3))
		v := View{Targets: []spec.Target{one}, Limit: 2}
		l := w.pool.List(&v, nil)
		begin := func() *Candidate {
			t.Helper()
			c, full := l.First(Key{})
			if c == nil || full {
				t.Fatal("no room")
			}
			c.Live.Begin()
			return c
		}
		a, b := begin(), begin()
		if a.Endpoint != tcp(1) || b.Endpoint != tcp(1) {
			t.Errorf("turn 0 goes to %v and %v", a.Endpoint, b.Endpoint)
		}
		c := begin()
		if c.Endpoint != tcp(2) || len(l.Rest(Key{}, c, nil)) != 0 {
			t.Errorf("beside a full one goes %v", c.Endpoint)
		}
		c.Live.Release()
		w.wantCalls("room", &w.room) // nobody waits
		begin()
		begin()
		if c, full := l.First(Key{}); c != nil || !full {
			t.Errorf("four of four, and %v has room", c.Endpoint)
		}
		a.Live.Connected(time.Millisecond) // its connection goes on
		a.Live.Release()
		w.wantCalls("room", &w.room, one)
		b.Live.Failed()
		w.wantCalls("room", &w.room) // nobody asked since
		if n := b.Live.Load(); n != 0 {
			t.Errorf("load %d", n)
		}
	})
}

func TestRoom_AtReleaseSixtyFourConnectsAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		l := w.pool.List(view(one), nil)
		live := l.All[0].Live
		for range maxReleasing {
			live.Begin()
		}
		if c, full := l.First(Key{Release: true}); c != nil || !full {
			t.Error("another connect at the release")
		}
		if c, _ := l.First(Key{}); c == nil {
			t.Error("one that did not wait has no room")
		}
		live.Connected(time.Millisecond)
		w.wantCalls("room", &w.room, one)
		if c, _ := l.First(Key{Release: true}); c == nil {
			t.Error("no room after a connect")
		}
	})
}

// That the healthy ones are full is no reason to go to one that fails.
func TestRoom_FullOnesAreWaitedFor(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.fail(tcp(2))
		l := w.pool.List(&View{Targets: []spec.Target{one}, Limit: 1}, nil)
		l.All[0].Live.Begin()
		if c, full := l.First(Key{}); c != nil || !full {
			t.Errorf("goes to %+v", c)
		}
	})
}

func TestLive_AddsUp(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		live := w.candidate(one, tcp(1)).Live
		if live.Latency() != 0 {
			t.Errorf("latency %v before the first", live.Latency())
		}
		live.Begin()
		live.Connected(8 * time.Millisecond)
		live.Begin()
		live.Connected(16 * time.Millisecond)
		if got := live.Latency(); got != 9*time.Millisecond {
			t.Errorf("latency %v of 8 and 16 ms", got)
		}
		w.set(one)
		w.set(one, tcp(1)) // returns, with the connections of its former life
		again := w.candidate(one, tcp(1)).Live
		if again.Load() != 2 {
			t.Errorf("load %d", again.Load())
		}
		live.Release()
		live.Release()
		if again.Load() != 0 {
			t.Errorf("load %d at the end", again.Load())
		}
		w.set(one)
		w.set(one, tcp(1))
		if len(w.pool.former) != 0 {
			t.Error("an endpoint without connections is kept for ever")
		}
	})
}

// Whoever waits is never forgotten, and no endpoint has more than its limit.
func TestRoom_Stress(t *testing.T) {
	const limit, clients, each = 3, 16, 300
	room := make(chan struct{}, 1)
	p := New(Config{Room: func(spec.Target) { poke(room) }})
	defer p.Close()
	p.Set(one, spec.Answer{Endpoints: spec.Members(tcp(1), tcp(2))})
	v := View{Targets: []spec.Target{one}, Balance: spec.BalanceLeast, Limit: limit}
	var mu sync.Mutex
	var turn uint64
	var over atomic.Bool
	begin := func() *Live {
		for {
			mu.Lock()
			turn++
			c, full := p.List(&v, nil).First(Key{Turn: turn})
			if c != nil {
				c.Live.Begin()
				over.Store(over.Load() || c.Live.Load() > limit)
				mu.Unlock()
				return c.Live
			}
			mu.Unlock()
			if !full {
				panic("nobody to go to")
			}
			select {
			case <-room:
				poke(room) // the others that wait look, too
			case <-time.After(10 * time.Second):
				return nil
			}
		}
	}
	var busy sync.WaitGroup
	for i := range clients {
		busy.Go(func() {
			for n := range each {
				live := begin()
				if live == nil {
					t.Error("a client waits though there is room")
					return
				}
				if (i+n)%3 == 0 {
					live.Failed()
					continue
				}
				live.Connected(time.Microsecond)
				live.Release()
			}
		})
	}
	busy.Wait()
	for _, c := range p.List(&v, nil).All {
		if c.Live.Load() != 0 || c.Live.connecting.Load() != 0 {
			t.Errorf("%v has a load of %d at the end", c.Endpoint, c.Live.Load())
		}
	}
	if over.Load() {
		t.Error("more connections than the limit")
	}
}
