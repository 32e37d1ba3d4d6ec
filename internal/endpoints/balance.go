package endpoints

import (
	"cmp"
	"math"
	"slices"

	"legate/internal/spec"
)

// pickBest goes round the group once and returns the best that has room.
func (g *group) pickBest(l *List, k Key, isBetter func(i, best int) bool) int {
	best, first := -1, g.start(k)
	for j := range g.size() {
		i := (first + j) % g.size()
		if l.All[g.from+i].Live.hasRoom(l.limit, k.Release) && (best < 0 || isBetter(i, best)) {
			best = i
		}
	}
	if best < 0 {
		return -1
	}
	return g.from + best
}

// isLess tells whether one more connection is less of a burden to i than to j.
func (g *group) isLess(l *List, i, j int) bool {
	return g.burden(l, i) < g.burden(l, j)
}

func (g *group) burden(l *List, i int) float64 {
	return float64(l.All[g.from+i].Live.Load()+1) / float64(g.weight(i))
}

// second draws another one than i.
func (g *group) second(k Key, i int) int {
	if g.size() == 1 {
		return i
	}
	w := g.weight(i)
	place := draw(mix(^k.Turn), g.total-w)
	before := uint64(i)
	if g.sums != nil {
		before = g.sums[i] - w
	}
	if place >= before {
		place += w
	}
	return g.at(place)
}

// lessBusy returns the one that has fewer connections for its weight, the first
// when they have as many.
func (g *group) lessBusy(l *List, i, j int) int {
	a, b := l.All[g.from+i].Live.Load(), l.All[g.from+j].Live.Load()
	if float64(b)*float64(g.weight(i)) < float64(a)*float64(g.weight(j)) {
		return j
	}
	return i
}

// pickHash returns the one with the highest score for the caller. Without
// weights the logarithm changes nothing.
func (g *group) pickHash(l *List, k Key) int {
	caller := mix(k.Caller)
	best, most, highest := -1, math.Inf(-1), uint64(0)
	for i := g.from; i < g.to; i++ {
		if !l.All[i].Live.hasRoom(l.limit, k.Release) {
			continue
		}
		h := mix(caller ^ l.ids[i])
		if g.sums == nil {
			if best < 0 || h > highest {
				best, highest = i, h
			}
			continue
		}
		if s := score(h, g.weight(i-g.from)); s > most {
			best, most = i, s
		}
	}
	return best
}

// score of weighted rendezvous hashing (Schindelhauer and Schomaker, Weighted
// distributed hash tables, 2005): a change moves only those callers whose best
// one came or went.
func score(hash, weight uint64) float64 {
	const places = 1 << 53
	u := (float64(hash>>11) + 0.5) / places
	return -float64(weight) / math.Log(u)
}

// ranked is a candidate with what orders it among its group for one fail-over.
// It is kept, since loads change meanwhile.
type ranked struct {
	*Candidate
	rank float64 // lower ones first
}

// rest appends the group's part of List.Rest.
func (g *group) rest(l *List, k Key, tried *Candidate, buf []*Candidate) []*Candidate {
	var few [64]ranked // of a name with several addresses every connection asks for them all
	list := few[:0]
	sorts := g.balance == spec.BalanceLeast || g.balance == spec.BalanceRandom || g.balance == spec.BalanceHash
	first := g.start(k)
	for j := range g.size() {
		i := (first + j) % g.size()
		c := &l.All[g.from+i]
		switch {
		case tried != nil && c.Live == tried.Live || !c.Live.hasRoom(l.limit, k.Release):
		case sorts:
			list = append(list, ranked{c, g.rank(l, k, i)})
		default:
			buf = append(buf, c)
		}
	}
	slices.SortStableFunc(list, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	for _, r := range list {
		buf = append(buf, r.Candidate)
	}
	return buf
}

func (g *group) rank(l *List, k Key, i int) float64 {
	if g.balance == spec.BalanceHash {
		return -score(mix(mix(k.Caller)^l.ids[g.from+i]), g.weight(i))
	}
	return g.burden(l, i)
}

// identity is a number for the endpoint's address, the same in every process:
// ambassadors side by side are to agree on where a caller goes. (FNV-1a.)
func identity(e *spec.Endpoint) uint64 {
	h := uint64(0xcbf29ce484222325)
	add := func(b byte) { h = (h ^ uint64(b)) * 0x100000001b3 }
	for i := range len(e.Path) {
		add(e.Path[i])
	}
	for _, b := range e.Addr.Addr().As16() {
		add(b)
	}
	add(byte(e.Addr.Port() >> 8))
	add(byte(e.Addr.Port()))
	return mix(h)
}

// mix makes each bit of a number depend on all of them (SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
