package endpoints

import (
	"iter"
	"maps"
	"slices"
	"time"

	"legate/internal/spec"
)

// View is what one link wants of its endpoints.
type View struct {
	Targets      []spec.Target
	Check        spec.Check        // of their health; the zero Check: attempts alone tell of it
	Balance      spec.Balance      // "": round-robin
	Near         bool              // endpoints on this host stand before others
	SlowStart    time.Duration     // how long one that is new or came back takes to get its full share
	AllUnhealthy spec.AllUnhealthy // "": auto
	Limit        int               // of connections at an endpoint; 0: none
	// Admit says why the view's callers may not go to an endpoint; nil: they may
	// go to all. Nor does the pool go there for them, with a check or a probe.
	// It is asked under the pool's lock, and must not call the pool.
	Admit func(*spec.Member) error
	// Own says what the view's owner alone holds against an endpoint; nil:
	// nothing. It is asked as Admit is.
	Own func(spec.Endpoint) Own
}

// Own is why the owner of a view tries an endpoint last that others find good,
// for a time.
type Own struct {
	Err          error // nil: there is nothing
	Unreached    bool  // it could not be connected to: the candidate is Failing
	Since, Until time.Time
}

// holds tells whether an endpoint that its check does not vouch for must not be
// tried.
func (v *View) holds() bool {
	switch v.AllUnhealthy {
	case spec.AllUnhealthyHold:
		return v.Check.Active()
	case spec.AllUnhealthyTry:
		return false
	}
	return v.Check.Meaningful()
}

// Attention says how closely a view's endpoints are watched for whether they
// can be reached.
type Attention uint8

// The degrees of attention, each including the one before.
const (
	Idle   Attention = iota // failing endpoints are probed at the end of each back-off
	Down                    // once a second, and unknown ones, too
	Urgent                  // both every 100 ms, since somebody waits
	Check                   // all of them, once a second
)

// watch is what one owner wants.
type watch struct {
	targets   []spec.Target
	check     *health // nil: none
	attention Attention
	admit     func(*spec.Member) error // nil: all
	denied    map[*Live]bool           // of the endpoints of targets, those that admit is against
}

// Watch sets what owner wants: the checks of its view run, and its endpoints
// are watched with that attention, until Forget or another Watch. The view's
// Admit is asked anew each time.
func (p *Pool) Watch(owner any, v View, a Attention) {
	if p.cfg.Check == nil {
		v.Check = spec.Check{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	check, w := p.intern(v.Check), p.watches[owner]
	if w != nil && w.check == check && slices.Equal(w.targets, v.Targets) {
		w.admit = v.Admit
		other := w.attention != a
		w.attention = a
		switch {
		case p.admit(w):
			p.each(w.targets, p.settle)
		case other:
			p.each(w.targets, p.plan)
		}
		return
	}
	old := p.forget(owner)
	w = &watch{targets: slices.Clone(v.Targets), check: check, attention: a, admit: v.Admit}
	p.watches[owner] = w
	for _, t := range w.targets {
		tg := p.target(t)
		if !slices.Contains(tg.watchers, w) {
			tg.watchers = append(tg.watchers, w)
		}
		tg.checks = tg.wanted()
	}
	p.admit(w)
	p.each(w.targets, p.settle)
	p.each(old, p.settle)
}

// admit asks where the watch's owner may go, and tells whether that is new.
func (p *Pool) admit(w *watch) (changed bool) {
	was := w.denied
	w.denied = nil
	if w.admit != nil {
		for _, t := range w.targets {
			p.admitTo(w, p.targets[t])
		}
	}
	return !maps.Equal(was, w.denied)
}

func (p *Pool) admitTo(w *watch, tg *target) {
	if tg == nil {
		return
	}
	for i := range tg.answer.Endpoints {
		m := &tg.answer.Endpoints[i]
		if w.admit(m) == nil {
			continue
		}
		if w.denied == nil {
			w.denied = map[*Live]bool{}
		}
		w.denied[p.endpoints.find(m.Endpoint)] = true
	}
}

// admitAll is admit for all that watch a target, whose endpoints changed.
func (p *Pool) admitAll(tg *target) {
	seen := map[spec.Target]bool{}
	var news []spec.Target
	for _, w := range tg.watchers {
		if !p.admit(w) {
			continue
		}
		for _, t := range w.targets {
			if !seen[t] {
				seen[t] = true
				news = append(news, t)
			}
		}
	}
	p.each(news, p.settle) // once, however many links watch
}

// watchers are those of its targets whose owners may go to e.
func (e *Live) watchers() iter.Seq[*watch] {
	return func(yield func(*watch) bool) {
		for _, tg := range e.targets {
			for _, w := range tg.watchers {
				if !w.denied[e] && !yield(w) {
					return
				}
			}
		}
	}
}

// isDenied tells whether all that watch e may not go there. For them it must
// not be probed either; without any watcher it is for a swap, which may.
func (e *Live) isDenied() bool {
	for range e.watchers() {
		return false
	}
	return slices.ContainsFunc(e.targets, func(tg *target) bool { return len(tg.watchers) > 0 })
}

// Forget ends what owner wanted.
func (p *Pool) Forget(owner any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.each(p.forget(owner), p.settle)
}

// forget returns the targets whose endpoints are then to be settled.
func (p *Pool) forget(owner any) []spec.Target {
	w := p.watches[owner]
	if w == nil {
		return nil
	}
	delete(p.watches, owner)
	for _, t := range w.targets {
		if tg := p.targets[t]; tg != nil {
			tg.watchers = slices.DeleteFunc(tg.watchers, func(o *watch) bool { return o == w })
			tg.checks = tg.wanted()
		}
	}
	return w.targets
}

// each calls do for the endpoints of the targets.
func (p *Pool) each(targets []spec.Target, do func(*Live)) {
	for _, t := range targets {
		tg := p.targets[t]
		if tg == nil {
			continue
		}
		for i := range tg.answer.Endpoints {
			do(p.endpoints.find(tg.answer.Endpoints[i].Endpoint))
		}
	}
}

// intern returns the one copy of the check; nil for none. A new one is the
// occasion to forget those that nobody has any more, as when passwords change.
func (p *Pool) intern(c spec.Check) *health {
	if !c.Active() {
		return nil
	}
	if p.checks[c] == nil {
		p.forgetChecks()
		p.checks[c] = &health{Check: c}
	}
	return p.checks[c]
}

func (p *Pool) forgetChecks() {
	used := map[*health]bool{}
	for _, w := range p.watches {
		used[w.check] = true
	}
	for c, h := range p.checks {
		if !used[h] && h.proven <= p.now() {
			delete(p.checks, c)
		}
	}
}

// wanted returns the checks that the watchers want, each once.
func (tg *target) wanted() []*health {
	var list []*health
	for _, w := range tg.watchers {
		if w.check != nil && !slices.Contains(list, w.check) {
			list = append(list, w.check)
		}
	}
	return list
}
