package endpoints

import (
	"cmp"
	"slices"
	"time"

	"legate/internal/spec"
)

// List is the candidates of some targets at one moment, best first: those that
// serve or are unknown, which take turns, then those of weak answers, then the
// failing ones, longest ago first. Where only weak answers are left, their
// endpoints take the turns. It does not change, so many connections can share
// it.
type List struct {
	All []Candidate // in the order of turn 0

	turns   int    // so many of the first take turns
	version uint64 // of the pool
	fading  bool   // time alone makes another of it
}

// List returns the candidates of the targets: last, which must be the same
// targets' or nil, where nothing has changed since. That it only reads one
// number then is what makes it fit for every connection.
func (p *Pool) List(targets []spec.Target, last *List) *List {
	if last != nil && !last.fading && last.version == p.version.Load() {
		return last
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &List{version: p.version.Load()}
	for _, t := range targets {
		l.All = p.appendCandidates(t, l.All)
	}
	slices.SortStableFunc(l.All, later)
	l.turns = healthy(l.All)
	l.fading = slices.ContainsFunc(l.All, func(c Candidate) bool { return c.Protocol == spec.UDP && c.State == Failing })
	return l
}

// Turn appends the candidates to buf in the order of that turn. They are the
// list's: not to be changed.
func (l *List) Turn(turn uint64, buf []*Candidate) []*Candidate {
	first := 0
	if l.turns > 1 {
		first = int(turn % uint64(l.turns))
	}
	for i := range l.All {
		at := i
		if i < l.turns {
			at = (first + i) % l.turns
		}
		buf = append(buf, &l.All[at])
	}
	return buf
}

// healthy counts the candidates that take turns: those at the front that are
// as good as the first, unless it fails. Were the failing ones rotated, too, the
// endpoint behind one of them would get its turns as well.
func healthy(list []Candidate) int {
	n := 0
	for n < len(list) && list[n].State != Failing && list[n].rank() == list[0].rank() {
		n++
	}
	return n
}

func (p *Pool) appendCandidates(t spec.Target, buf []Candidate) []Candidate {
	tg := p.targets[t]
	if tg == nil {
		return buf
	}
	for _, m := range tg.answer.Endpoints {
		if i := slices.IndexFunc(buf, func(c Candidate) bool { return c.Endpoint == m.Endpoint }); i >= 0 {
			if c := &buf[i]; c.Weak && !tg.answer.Weak {
				c.From, c.Weak = t, false
			}
			continue
		}
		ep := p.endpoints[m.Endpoint]
		buf = append(buf, Candidate{Member: m, From: t, State: ep.stateNow(), LastErr: ep.lastErr, Tried: p.tried(ep), Weak: tg.answer.Weak, known: ep})
	}
	return buf
}

// tried returns when the last attempt at ep was, be it one that only Served
// knows of.
func (p *Pool) tried(ep *endpoint) time.Time {
	if n := ep.served.Load(); n > 0 && p.start.Add(time.Duration(n)).After(ep.tried) {
		return p.start.Add(time.Duration(n))
	}
	return ep.tried
}

func (e *endpoint) stateNow() State {
	if e.Protocol == spec.UDP && e.state == Failing && time.Since(e.tried) > udpPenalty {
		return Unknown
	}
	return e.state
}

// later orders candidates by rank, and failing ones by their last attempt.
func later(a, b Candidate) int {
	if c := cmp.Compare(a.rank(), b.rank()); c != 0 || a.State != Failing {
		return c
	}
	return a.Tried.Compare(b.Tried)
}

// rank is lower for what is tried first. An endpoint of a weak answer stands
// before one that fails: a name server may well be wrong for a moment, while
// the failing one is known to cost an attempt for nothing.
func (c Candidate) rank() int {
	switch {
	case c.State == Failing:
		return 2
	case c.Weak:
		return 1
	}
	return 0
}
