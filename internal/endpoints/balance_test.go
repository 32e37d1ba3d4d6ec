package endpoints

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"legate/internal/spec"
)

// weighted are members of those weights.
func weighted(weights ...uint16) []spec.Member {
	list := make([]spec.Member, len(weights))
	for i, e := range many(len(weights)) {
		list[i] = spec.Member{Endpoint: e, Weight: weights[i]}
	}
	return list
}

// listOf is a list of those members.
func listOf(t testing.TB, v View, members []spec.Member) *List {
	p := New(Config{})
	t.Cleanup(p.Close)
	p.Set(one, spec.Answer{Endpoints: members, At: time.Now()})
	v.Targets = []spec.Target{one}
	return p.List(&v, nil)
}

func balances() []spec.Balance {
	return []spec.Balance{spec.BalanceRoundRobin, spec.BalanceLeast, spec.BalanceRandom, spec.BalanceFirst, spec.BalanceHash}
}

func weightings() map[string][]uint16 {
	uneven := make([]uint16, 50)
	for i := range uneven {
		uneven[i] = uint16(1 + i*i%37)
	}
	return map[string][]uint16{
		"one": {7}, "equal": {1, 1, 1}, "equal, heavy": {300, 300, 300, 300}, "5:1:1": {5, 1, 1},
		"with a common factor": {100, 200, 300}, "primes": {2, 3, 5, 7, 11}, "uneven": uneven, "heavy": {60000, 20000, 20000},
	}
}

// The shares of all modes are those of the weights, within 2 %.
func TestBalance_Shares(t *testing.T) {
	const most = 0.02
	for _, b := range balances() {
		if b == spec.BalanceFirst {
			continue
		}
		for name, weights := range weightings() {
			t.Run(string(b)+"/"+name, func(t *testing.T) {
				l := listOf(t, View{Balance: b}, weighted(weights...))
				shares := map[*Live]float64{}
				const turns = 100_000
				var total float64
				for _, w := range weights {
					total += float64(w)
				}
				for i := range uint64(turns) {
					c, _ := l.First(Key{Turn: i, Caller: i})
					shares[c.Live] += total / turns
					if b == spec.BalanceLeast {
						c.Live.Begin()
					}
				}
				for i := range l.All {
					// Of what chance decides, the error of the sample is allowed for.
					w := float64(weights[i])
					allowed := most*w + 4*math.Sqrt(w*total/turns)
					if b == spec.BalanceRoundRobin || b == spec.BalanceLeast {
						allowed = most * w
					}
					if got := shares[l.All[i].Live]; math.Abs(got-w) > allowed {
						t.Errorf("weight %v gets %.3f", w, got)
					}
				}
			})
		}
	}
}

// With connections that last, two random choices keep loads to the weights, too.
func TestBalance_RandomEvensLoads(t *testing.T) {
	weights := []uint16{4, 2, 1, 1}
	l := listOf(t, View{Balance: spec.BalanceRandom}, weighted(weights...))
	for i := range uint64(8000) {
		c, _ := l.First(Key{Turn: i})
		c.Live.Begin()
		c.Live.Connected(0)
	}
	for i := range l.All {
		if got, want := float64(l.All[i].Live.Load()), float64(weights[i])*1000; math.Abs(got-want) > 0.02*want {
			t.Errorf("weight %d has %v connections", weights[i], got)
		}
	}
}

// In as many turns as the weights sum up to, shares are exact, and no endpoint
// has a run of turns that others could have broken.
func TestBalance_RoundRobinIsExactAndSmooth(t *testing.T) {
	for name, weights := range weightings() {
		t.Run(name, func(t *testing.T) {
			members := weighted(weights...)
			l := listOf(t, View{}, members)
			common, total := uint64(0), uint64(0)
			for _, w := range weights {
				common = gcd(uint64(w), common)
				total += uint64(w)
			}
			total /= common
			got := map[spec.Endpoint]uint64{}
			begin := uint64(math.MaxUint64) / total / 2 * total // anywhere
			for i := range total {
				c, _ := l.First(Key{Turn: begin + i})
				got[c.Endpoint]++
			}
			for i, m := range members {
				if got[m.Endpoint] != uint64(weights[i])/common {
					t.Errorf("weight %d has %d of %d turns", weights[i], got[m.Endpoint], total)
				}
			}
		})
	}
	l := listOf(t, View{}, weighted(3, 1, 1))
	last, run := spec.Endpoint{}, 0
	for i := range uint64(100) {
		c, _ := l.First(Key{Turn: i})
		if run++; c.Endpoint != last {
			last, run = c.Endpoint, 1
		}
		if run > 2 {
			t.Fatal("the heavy one has three turns in a row")
		}
	}
}

func TestBalance_LeastConnections(t *testing.T) {
	l := listOf(t, View{Balance: spec.BalanceLeast}, weighted(1, 1, 2))
	first := func(turn uint64) int {
		c, _ := l.First(Key{Turn: turn})
		return slices.IndexFunc(l.All, func(o Candidate) bool { return o.Live == c.Live })
	}
	load := func(loads ...int64) {
		for i, n := range loads {
			l.All[i].Live.load.Store(n)
		}
	}
	load(3, 2, 6)
	if got := first(0); got != 1 {
		t.Errorf("loads 3, 2 and, at double weight, 6: %d", got)
	}
	load(3, 3, 5)
	if got := first(0); got != 2 {
		t.Errorf("loads 3, 3 and, at double weight, 5: %d", got)
	}
	load(1, 1, 9)
	if a, b := first(0), first(1); a != 0 || b != 1 {
		t.Errorf("equal ones: %d, then %d, want turns", a, b)
	}
	load(5, 3, 1)
	if got := addresses(turnOf(l, 0)); !slices.Equal(got, []spec.Endpoint{l.All[2].Endpoint, l.All[1].Endpoint, l.All[0].Endpoint}) {
		t.Errorf("for a fail-over: %v", got)
	}
}

func TestBalance_FirstIsAsWritten(t *testing.T) {
	members := weighted(1, 5, 3)
	l := listOf(t, View{Balance: spec.BalanceFirst}, members)
	for turn := range uint64(9) {
		if got := addresses(turnOf(l, turn)); !slices.Equal(got, many(3)) {
			t.Errorf("turn %d: %v", turn, got)
		}
	}
}

// What comes or goes moves only the callers that it takes or had: 1/n of them.
func TestBalance_HashMovesFewCallers(t *testing.T) {
	const callers = 5_000
	for name, weights := range map[string][]uint16{"equal": {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, "weighted": {3, 1, 4, 1, 5, 9, 2, 6, 5, 3}} {
		t.Run(name, func(t *testing.T) {
			members := weighted(weights...)
			all := listOf(t, View{Balance: spec.BalanceHash}, members)
			total := 0.0
			for _, w := range weights {
				total += float64(w)
			}
			for gone := range members {
				left := listOf(t, View{Balance: spec.BalanceHash}, slices.Delete(slices.Clone(members), gone, gone+1))
				moved := 0.0
				for caller := range uint64(callers) {
					a, _ := all.First(Key{Turn: caller, Caller: caller})
					b, _ := left.First(Key{Turn: 7, Caller: caller})
					if a.Endpoint == b.Endpoint {
						continue
					}
					moved++
					if a.Endpoint != members[gone].Endpoint {
						t.Fatalf("a caller moved from %v to %v for %v", a.Endpoint, b.Endpoint, members[gone].Endpoint)
					}
					if next := all.Rest(Key{Caller: caller}, a, nil)[0]; next.Endpoint != b.Endpoint {
						t.Fatalf("a caller fails over to %v, and goes to %v then", next.Endpoint, b.Endpoint)
					}
				}
				want := callers * float64(weights[gone]) / total
				if math.Abs(moved-want) > 0.02*want+4*math.Sqrt(want) {
					t.Errorf("%v callers moved, want %v", moved, want)
				}
			}
		})
	}
}

// The same caller goes the same way in another process, too.
func TestBalance_HashIsForEver(t *testing.T) {
	l := listOf(t, View{Balance: spec.BalanceHash}, weighted(1, 1, 1, 1))
	var got []byte
	for caller := range uint64(16) {
		c, _ := l.First(Key{Caller: caller})
		got = append(got, '0'+c.Addr.Addr().As4()[3])
	}
	if want := "3213033112321322"; string(got) != want {
		t.Errorf("callers 0 to 15 go to %s, and went to %s before", got, want)
	}
}

func TestBalance_FailOverOrderIsStable(t *testing.T) {
	for _, b := range balances() {
		for name, weights := range weightings() {
			l := listOf(t, View{Balance: b}, weighted(weights...))
			for k := range uint64(50) {
				key := Key{Turn: k * 7919, Caller: k}
				first, _ := l.First(key)
				rest := l.Rest(key, first, nil)
				if !slices.Equal(rest, l.Rest(key, first, nil)) {
					t.Fatalf("%s, %s: another order for the same connection", b, name)
				}
				seen := map[*Candidate]bool{first: true}
				for _, c := range rest {
					seen[c] = true
				}
				if len(seen) != len(l.All) || len(rest) != len(l.All)-1 {
					t.Fatalf("%s, %s: %d of %d, %d of them once", b, name, len(rest)+1, len(l.All), len(seen))
				}
			}
		}
	}
}

// Health before nearness, nearness before priority, priority before weight.
func TestBalance_PrefixesOfTheOrder(t *testing.T) {
	for seed := range uint64(100) {
		inWorld(t, func(w *world) {
			r := rand.New(rand.NewPCG(seed, 1))
			members := weighted(make([]uint16, 12)...)
			for i := range members {
				m := &members[i]
				m.Weight, m.Priority = uint16(r.IntN(3)), uint16(r.IntN(3))
				m.Host = []string{"", "here", "there"}[r.IntN(3)]
			}
			w.pool.Set(one, spec.Answer{Endpoints: members, At: time.Now()})
			for _, m := range members {
				if r.IntN(4) == 0 {
					w.fail(m.Endpoint)
				}
			}
			for _, b := range balances() {
				v := View{Targets: []spec.Target{one}, Balance: b, Near: r.IntN(2) == 0}
				list := ordered(w.pool.List(&v, nil), Key{Turn: r.Uint64(), Caller: r.Uint64()})
				if len(list) != len(members) {
					t.Fatalf("%d candidates", len(list))
				}
				for i, c := range list[1:] {
					if before := list[i]; precedes(c, before, v.Near) {
						t.Fatalf("%s, near %t: %+v\nstands behind\n%+v", b, v.Near, c, before)
					}
				}
			}
		})
	}
}

// precedes tells whether a must stand before b.
func precedes(a, b *Candidate, near bool) bool {
	rank := func(c *Candidate) []int {
		if c.State == Failing {
			return []int{1}
		}
		far := 0
		if near && c.Host != "here" {
			far = 1
		}
		empty := 0
		if c.Weight == 0 {
			empty = 1
		}
		return []int{0, far, int(c.Priority), empty}
	}
	return slices.Compare(rank(a), rank(b)) < 0
}

func TestNear_IsThisHost(t *testing.T) {
	inWorld(t, func(w *world) {
		members := []spec.Member{tcp(1).Plain(), tcp(77).Plain(), tcp(2).Plain(), tcp(3).Plain(), {Endpoint: spec.Endpoint{Protocol: spec.Unix, Path: "/s"}}}
		members[2].Host, members[3].Host = "here", "there"
		w.pool.Set(one, spec.Answer{Endpoints: members})
		for i, c := range w.pool.List(view(one), nil).All {
			if want := []bool{false, true, true, false, true}[i]; c.Near != want {
				t.Errorf("%v on %q: near %t", c.Endpoint, c.Host, c.Near)
			}
		}
	})
}

func TestSlowStart_RampsFromATenth(t *testing.T) {
	for _, b := range []spec.Balance{spec.BalanceRoundRobin, spec.BalanceRandom} {
		inWorld(t, func(w *world) {
			v := View{Targets: []spec.Target{one}, Balance: b, SlowStart: 10 * time.Second}
			share := func() (n float64) {
				const turns = 20_000
				l := w.pool.List(&v, nil)
				for i := range uint64(turns) {
					if c, _ := l.First(Key{Turn: i}); c.Endpoint == tcp(2) {
						n += 1.0 / turns
					}
				}
				return n
			}
			want := func(what string, tenths float64) {
				t.Helper()
				if got, want := share(), tenths/(10+tenths); math.Abs(got-want) > 0.02 {
					t.Errorf("%s: %s: share %.3f, want %.3f", b, what, got, want)
				}
			}
			w.set(one, tcp(1))
			w.set(one, tcp(1), tcp(2))
			l := w.pool.List(&v, nil)
			want("new", 1)
			w.until(999 * time.Millisecond)
			if w.pool.List(&v, l) != l {
				t.Error("another list within a step")
			}
			w.until(time.Second)
			if w.pool.List(&v, l) == l {
				t.Error("no other list for the next step")
			}
			want("after a second", 2)
			w.until(5 * time.Second)
			want("after five", 6)
			w.until(9 * time.Second)
			want("after nine", 10)
			if l := w.pool.List(&v, nil); l.expires != 0 {
				t.Error("the list expires though nothing is new")
			}
			w.fail(tcp(2))
			w.refuse(tcp(2), false)
			w.until(20 * time.Second) // the probe was at 10 s
			want("ten seconds after its return", 10)
			w.fail(tcp(2))
			w.pool.Report(tcp(2), nil)
			want("after its return", 1)
		})
	}
}

// At the start of the process all are new, and a check's first success is no
// recovery.
func TestSlowStart_NotWhenAllAreNew(t *testing.T) {
	inWorld(t, func(w *world) {
		v := View{Targets: []spec.Target{one}, Check: redisCheck(), SlowStart: time.Minute}
		w.set(one, tcp(1), tcp(2))
		w.pool.Watch("link", v, Idle)
		w.until(time.Millisecond)
		if l := w.pool.List(&v, nil); l.expires != 0 || !l.Has(Serving) {
			t.Errorf("slow at the start: %+v", l.All)
		}
		w.answers(tcp(2), errRole)
		w.until(10 * time.Second)
		w.answers(tcp(2), nil)
		w.until(20 * time.Second)
		l := w.pool.List(&v, nil)
		if c := l.All[1]; c.slow == 0 || l.All[0].slow != 0 {
			t.Errorf("not slow after it recovered: %+v", c)
		}
	})
}

// Choosing must cost nothing: it is done for every connection.
func TestFirst_AllocatesNothing(t *testing.T) {
	uneven := make([]uint16, 1000)
	for i := range uneven {
		uneven[i] = uint16(1 + i%7)
	}
	for _, b := range balances() {
		for name, weights := range map[string][]uint16{"equal": slices.Repeat([]uint16{1}, 1000), "weighted": uneven} {
			for _, limit := range []int{0, 5, 1} {
				t.Run(fmt.Sprint(b, "/", name, "/", limit), func(t *testing.T) {
					l := listOf(t, View{Balance: b, Limit: limit}, weighted(weights...))
					if limit == 1 {
						for i := range l.All {
							l.All[i].Live.Begin()
						}
					}
					var turn uint64
					if n := testing.AllocsPerRun(100, func() {
						turn++
						if c, full := l.First(Key{Turn: turn, Caller: turn, Release: true}); full != (limit == 1) || full != (c == nil) {
							t.Fatal("not chosen by room")
						}
					}); n != 0 {
						t.Errorf("%v allocations", n)
					}
				})
			}
		}
	}
}

func BenchmarkFirst(b *testing.B) {
	for _, balance := range balances() {
		b.Run(string(balance), func(b *testing.B) {
			l := listOf(b, View{Balance: balance}, weighted(slices.Repeat([]uint16{1, 2}, 500)...))
			b.ReportAllocs()
			var turn uint64
			for b.Loop() {
				turn++
				l.First(Key{Turn: turn, Caller: turn})
			}
		})
	}
}

// Of a name with several addresses each connection lists them all.
func TestRest_OfFewAllocatesNothing(t *testing.T) {
	for _, b := range balances() {
		t.Run(string(b), func(t *testing.T) {
			l := listOf(t, View{Balance: b}, weighted(slices.Repeat([]uint16{1, 2, 3, 4}, 8)...))
			buf := make([]*Candidate, 0, len(l.All))
			var turn uint64
			if n := testing.AllocsPerRun(100, func() {
				turn++
				first, _ := l.First(Key{Turn: turn, Caller: turn})
				if rest := l.Rest(Key{Turn: turn, Caller: turn}, first, buf); len(rest) != len(l.All)-1 {
					t.Fatalf("%d are left", len(rest))
				}
			}); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}
