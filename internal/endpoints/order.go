package endpoints

import (
	"cmp"
	"math"
	"math/bits"
	"slices"

	"legate/internal/spec"
)

// maxReleasing connects are in flight at an endpoint while connections that
// waited are released: all at once would overrun its listen queue.
const maxReleasing = 64

// Key is what the order of candidates depends on for one connection.
type Key struct {
	Turn    uint64 // counts the connections of a link
	Caller  uint64 // the same for the same caller
	Release bool   // it waited: no more than 64 connects at an endpoint at once
}

// group is candidates that differ in nothing but the balance.
type group struct {
	balance  spec.Balance
	from, to int // in List.All
	class    int
	sums     []uint64 // of the weights up to and including each one; nil: all are equal
	total    uint64   // of the weights
	stride   uint64   // by which turns walk through total
}

// First returns the candidate that a connection is to try first, nil when there
// is none: because nobody may be tried, or, when full, only for want of room.
// Config.Room then tells when there is some again. The limit is kept exactly
// when callers have one lock around First and Live.Begin.
func (l *List) First(k Key) (c *Candidate, full bool) {
	if len(l.groups) == 0 {
		return nil, false
	}
	if c = l.pick(k); c != nil {
		return c, false
	}
	// A connection that ends from now on tells of it, one that ended before
	// has left its room.
	l.want()
	c = l.pick(k)
	return c, c == nil
}

func (l *List) want() {
	for _, g := range l.groups {
		for i := g.from; i < g.to; i++ {
			l.All[i].Live.wanted.Store(true)
		}
	}
}

// pick looks only among those of the best class: that they are full is no
// reason to send a connection to one that fails.
func (l *List) pick(k Key) *Candidate {
	for i := range l.groups {
		g := &l.groups[i]
		if g.class != l.groups[0].class {
			break
		}
		if at := g.pick(l, k); at >= 0 {
			return &l.All[at]
		}
	}
	return nil
}

// Rest appends to buf the candidates that are to be tried, best first, when
// tried failed: all that may be and have room. They are the list's: not to be
// changed.
func (l *List) Rest(k Key, tried *Candidate, buf []*Candidate) []*Candidate {
	for i := range l.groups {
		buf = l.groups[i].rest(l, k, tried, buf)
	}
	return buf
}

// HasRoom tells whether a candidate of the list may have a connection more.
func (l *List) HasRoom(c *Candidate, k Key) bool { return c.Live.hasRoom(l.limit, k.Release) }

// arrange makes the groups.
func (l *List) arrange(v *View) {
	for i := range l.All {
		c := &l.All[i]
		class := c.class()
		if class == classBarred {
			break
		}
		l.states[c.State] = true
		if n := len(l.groups); n > 0 && l.groups[n-1].class == class && (class == classBad || compare(&l.All[i-1], c, v.Near) == 0) {
			l.groups[n-1].to++
			continue
		}
		balance := cmp.Or(v.Balance, spec.BalanceRoundRobin)
		if class == classBad {
			balance = spec.BalanceFirst
		}
		l.groups = append(l.groups, group{balance: balance, from: i, to: i + 1, class: class})
	}
	for i := range l.groups {
		l.groups[i].weigh(l.All)
	}
	if v.Balance == spec.BalanceHash {
		l.ids = make([]uint64, len(l.All))
		for i := range l.All {
			l.ids[i] = identity(&l.All[i].Endpoint)
		}
	}
}

func (g *group) size() int { return g.to - g.from }

// weigh sums up the weights.
func (g *group) weigh(all []Candidate) {
	list := all[g.from:g.to]
	common, equal := uint64(0), true
	for i := range list {
		w := share(&list[i])
		common = gcd(w, common)
		equal = equal && w == share(&list[0])
	}
	if equal {
		g.total, g.stride = uint64(len(list)), 1
		return
	}
	g.sums = make([]uint64, len(list))
	for i := range list {
		g.total += share(&list[i]) / common
		g.sums[i] = g.total
	}
	g.stride = stride(g.total)
}

// share is a candidate's weight, in tenths, less what it does not take yet.
func share(c *Candidate) uint64 { return uint64(max(c.Weight, 1)) * uint64(slowSteps-c.slow) }

// stride returns a step through total places that meets all of them, and whose
// multiples lie evenly at any time, as those of the golden ratio do
// (Knuth, The Art of Computer Programming, volume 3, section 6.4).
func stride(total uint64) uint64 {
	s := uint64(float64(total) / math.Phi)
	for s = max(s, 1); gcd(s, total) != 1; s++ {
	}
	return s
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// weight of the i-th of the group.
func (g *group) weight(i int) uint64 {
	switch {
	case g.sums == nil:
		return 1
	case i == 0:
		return g.sums[0]
	}
	return g.sums[i] - g.sums[i-1]
}

// at returns who has that place among total.
func (g *group) at(place uint64) int {
	if g.sums == nil {
		return int(place)
	}
	i, _ := slices.BinarySearch(g.sums, place+1)
	return i
}

// start returns from whom on the turn goes round.
func (g *group) start(k Key) int {
	switch g.balance {
	case spec.BalanceRoundRobin:
		hi, lo := bits.Mul64(k.Turn%g.total, g.stride)
		return g.at(bits.Rem64(hi, lo, g.total))
	case spec.BalanceRandom:
		return g.at(draw(mix(k.Turn), g.total))
	case spec.BalanceLeast:
		return int(k.Turn % uint64(g.size()))
	default:
		return 0
	}
}

// draw makes a place among total of a random number.
func draw(random, total uint64) uint64 {
	hi, _ := bits.Mul64(random, total)
	return hi
}

// pick returns the place in the list of the one to try first; -1 when none has
// room.
func (g *group) pick(l *List, k Key) int {
	switch g.balance {
	case spec.BalanceLeast:
		return g.pickBest(l, k, func(i, best int) bool { return g.isLess(l, i, best) })
	case spec.BalanceHash:
		return g.pickHash(l, k)
	}
	i := g.start(k)
	if g.balance == spec.BalanceRandom {
		i = g.lessBusy(l, i, g.second(k, i))
	}
	for range g.size() {
		if l.All[g.from+i].Live.hasRoom(l.limit, k.Release) {
			return g.from + i
		}
		i = (i + 1) % g.size()
	}
	return -1
}
