package endpoints

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"legate/internal/spec"
)

// Candidate is an endpoint that may serve, with what is known of it.
type Candidate struct {
	spec.Member
	From *spec.Target // the target it belongs to
	// State is what a connection may expect. It is Unknown or Serving also of
	// an endpoint that is tried last, as Health says: of one that closes early,
	// since it can be reached, and of one that its check finds unhealthy where
	// the view wants such tried when there is no other.
	State   State
	Health  spec.Health
	Since   time.Time // of Health; zero when it was not tried
	Barred  bool      // must not be tried: drained, or not healthy where the view holds then
	Near    bool      // on this host
	Standby bool      // unhealthy only for its role
	LastErr error     // of the last failed attempt or check
	Tried   time.Time // the last attempt; zero for none
	Checked time.Time // the last check's end; zero for none
	Until   time.Time // the end of an ejection; zero for none
	Live    *Live

	slow uint8 // tenths of its share that it does not take yet
}

// IsDenied tells whether policy keeps the view's callers from it, for all that
// is known; not where that is about to be decided.
func (c *Candidate) IsDenied() bool {
	return c.Health == spec.HealthDenied && !errors.Is(c.LastErr, spec.ErrUndecided)
}

// List is the candidates of a view at one moment. It does not change, so many
// connections can share it.
type List struct {
	// All stand as they would be tried with balance first: those that serve or
	// are unknown, then those of weak answers, then those ejected or unhealthy,
	// longest ago first, then those that must not be tried. Of the first two
	// lower ranks of targets stand before higher ones, near ones before others
	// where the view wants that, and lower priorities before higher ones.
	All []Candidate

	groups  []group
	states  [Failing + 1]bool
	ids     []uint64 // of All, for hash
	limit   int64
	names   uint64        // of the pool
	seen    []seen        // the targets that it was made from
	expires time.Duration // when time alone makes another of it; 0: never
}

type seen struct {
	*target
	version uint64
}

// Has tells whether a candidate that may be tried is in that state.
func (l *List) Has(s State) bool { return l.states[s] }

// List returns the candidates of a view: last, which must be the same view's or
// nil, where nothing has changed since. That it only reads a few numbers then
// is what makes it fit for every connection.
func (p *Pool) List(v *View, last *List) *List {
	if last != nil && p.lasts(last) {
		return last
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := &List{limit: int64(v.Limit), names: p.names.Load()}
	l.All = p.candidates(v, l)
	l.arrange(v)
	return l
}

func (p *Pool) lasts(l *List) bool {
	if l.names != p.names.Load() {
		return false
	}
	for i := range l.seen {
		if l.seen[i].version != l.seen[i].target.version.Load() {
			return false
		}
	}
	return l.expires == 0 || p.now() < l.expires
}

// candidates of a view, best first.
func (p *Pool) candidates(v *View, l *List) []Candidate {
	n := 0
	for _, t := range v.Targets {
		if tg := p.targets[t]; tg != nil {
			l.seen = append(l.seen, seen{tg, tg.version.Load()})
			n += len(tg.answer.Endpoints)
		}
	}
	list := make([]Candidate, 0, n)
	var check *health
	if p.cfg.Check != nil && v.Check.Active() {
		check = p.checks[v.Check]
	}
	look := look{view: v, check: check, holds: p.cfg.Check != nil && v.holds(), list: l, now: p.now()}
	p.walk()
	for _, s := range l.seen {
		for i := range s.answer.Endpoints {
			list = p.append(list, &look, s.target, &s.answer.Endpoints[i])
		}
	}
	return sorted(list, v)
}

// append adds the endpoint once, whoever has it.
func (p *Pool) append(list []Candidate, k *look, tg *target, m *spec.Member) []Candidate {
	e := p.endpoints.find(m.Endpoint)
	if e.mark == p.mark {
		if c := &list[e.place]; c.Weak && !m.Weak {
			c.From, c.Member = &tg.Target, *m
			p.describe(c, k)
		}
		return list
	}
	e.mark, e.place = p.mark, int32(len(list))
	list = append(list, Candidate{Member: *m, From: &tg.Target, Live: e})
	p.describe(&list[e.place], k)
	return list
}

// look is how a view sees endpoints.
type look struct {
	view  *View
	check *health // nil: none
	holds bool
	list  *List
	now   time.Duration
}

// describe says all that is known of a candidate.
func (p *Pool) describe(c *Candidate, k *look) {
	e := c.Live
	c.Near = p.isNear(&c.Member)
	c.State, c.LastErr = e.state, e.lastErr
	c.Tried = p.at(e.lastTried())
	c.Health, c.Since = spec.HealthUnknown, p.at(e.since)
	if c.State != Unknown {
		c.Health = spec.HealthOK
	}
	risen := e.risen
	var a *asked
	if k.check != nil {
		a = e.askedWith(k.check)
	}
	if k.view.Check.Active() && e.Protocol != spec.UDP {
		risen = max(risen, p.describeAsked(c, k, a))
	}
	if c.Weak {
		c.Health = spec.HealthWeak
	}
	if e.ejection != notEjected {
		c.Until = p.at(e.until)
		c.Health, c.Since = spec.HealthEjected, p.at(e.ejected)
	}
	if e.ejection == unreached {
		c.State = Failing
	}
	if k.view.Own != nil {
		p.describeOwn(c, k)
	}
	if a != nil && a.verdict == unhealthy {
		c.Health, c.Since, c.LastErr = spec.HealthUnhealthy, p.at(a.since), a.err
		_, c.Standby = errors.AsType[*spec.RoleError](a.err)
	}
	if c.Unhealthy != "" && c.Health != spec.HealthUnhealthy {
		c.describeReported(k)
	}
	if e.drained {
		c.Health, c.Since, c.Barred = spec.HealthDrained, p.drained[e.String()], true
	}
	if k.view.Admit != nil {
		if err := k.view.Admit(&c.Member); err != nil {
			c.Health, c.Since, c.LastErr = spec.HealthDenied, time.Time{}, err
			c.State, c.Barred = Failing, true
		}
	}
	p.slow(c, k, risen)
}

// describeOwn says what the view's owner alone holds against the endpoint.
func (p *Pool) describeOwn(c *Candidate, k *look) {
	o := k.view.Own(c.Endpoint)
	until := o.Until.Sub(p.start)
	if o.Err == nil || until <= k.now {
		return
	}
	k.list.expires = sooner(k.list.expires, until)
	if o.Unreached {
		c.State = Failing
	}
	if c.Health != spec.HealthEjected {
		c.Health, c.Since, c.Until, c.LastErr = spec.HealthEjected, o.Since, o.Until, o.Err
	}
}

// describeReported says that the endpoint's source finds it unhealthy, whatever
// attempts and checks say: it may know more than they do.
func (c *Candidate) describeReported(k *look) {
	c.Health, c.Since, c.LastErr = spec.HealthUnhealthy, time.Time{}, errors.New(c.Unhealthy)
	if k.holds || k.view.AllUnhealthy == spec.AllUnhealthyHold {
		c.State, c.Barred = Failing, true
	}
}

// describeAsked says what the view's check adds, and since when the endpoint is
// healthy again.
func (p *Pool) describeAsked(c *Candidate, k *look, a *asked) (risen time.Duration) {
	found := unasked
	if a != nil {
		found, risen = a.verdict, a.risen
		c.Checked = p.at(a.at)
		if c.LastErr == nil {
			c.LastErr = a.err
		}
	}
	switch {
	case found == healthy:
		c.State, c.Health, c.Since = Serving, spec.HealthOK, p.at(a.since)
	case !k.holds:
	case found == unhealthy:
		c.State, c.Barred = Failing, true
	default:
		// That it can be reached does not say that it is what is wanted, such
		// as the primary.
		c.State, c.Barred = Unknown, true
		c.Health, c.Since = spec.HealthUnknown, time.Time{}
	}
	return risen
}

// slowSteps are those in which a new endpoint gets its share.
const slowSteps = 10

// slow says how much of its share the candidate does not take yet.
func (p *Pool) slow(c *Candidate, k *look, risen time.Duration) {
	step := k.view.SlowStart / slowSteps
	if step <= 0 || risen == 0 {
		return
	}
	done := (k.now - risen) / step
	if done >= slowSteps-1 {
		return
	}
	c.slow = uint8(slowSteps - 1 - done)
	k.list.expires = sooner(k.list.expires, risen+(done+1)*step)
}

// isNear tells whether an endpoint is on this host.
func (p *Pool) isNear(m *spec.Member) bool {
	switch {
	case m.Protocol == spec.Unix:
		return true
	case m.Host != "" && p.cfg.Host != "":
		return m.Host == p.cfg.Host
	}
	return p.cfg.Local(m.Addr.Addr().Unmap())
}

// The classes of candidates: lower ones are tried first. An endpoint of a weak
// answer stands before one that fails: a name server may well be wrong for a
// moment, while the failing one is known to cost an attempt for nothing.
const (
	classGood = iota
	classWeak
	classBad
	classBarred
)

func (c *Candidate) class() int {
	switch {
	case c.Barred:
		return classBarred
	case c.Health == spec.HealthEjected || c.Health == spec.HealthUnhealthy || c.State == Failing:
		return classBad
	case c.Weak:
		return classWeak
	}
	return classGood
}

// sorted returns the candidates best first. They are large: they move once.
func sorted(list []Candidate, v *View) []Candidate {
	compare := func(a, b *Candidate) int { return compare(a, b, v.Near) }
	order := make([]*Candidate, len(list))
	for i := range list {
		order[i] = &list[i]
	}
	if slices.IsSortedFunc(order, compare) {
		return list
	}
	slices.SortStableFunc(order, compare)
	out := make([]Candidate, len(list))
	for i, c := range order {
		out[i] = *c
	}
	return out
}

// compare orders candidates but for the balance.
func compare(a, b *Candidate, near bool) int {
	class := a.class()
	if c := cmp.Compare(class, b.class()); c != 0 {
		return c
	}
	if class == classBad {
		return a.failedAt().Compare(b.failedAt())
	}
	if c := cmp.Compare(a.From.Rank, b.From.Rank); c != 0 {
		return c
	}
	if near && a.Near != b.Near {
		if a.Near {
			return -1
		}
		return 1
	}
	if c := cmp.Compare(a.Priority, b.Priority); c != 0 {
		return c
	}
	return cmp.Compare(heavier(b.Weight), heavier(a.Weight))
}

// heavier sets those of weight 0 apart: they get what others cannot take.
func heavier(weight uint16) int { return min(int(weight), 1) }

// failedAt returns since when nobody tried it.
func (c *Candidate) failedAt() time.Time {
	if c.Health == spec.HealthUnhealthy {
		return c.Since
	}
	return c.Tried
}
