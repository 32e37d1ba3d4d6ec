package endpoints

import (
	"errors"
	"slices"
	"time"

	"legate/internal/spec"
)

// asked is an endpoint with one of its checks, for all links that have that
// check. The pool's mutex guards it.
type asked struct {
	task
	check   *health
	verdict verdict
	extra   bool          // the one that is under way came before its time, in a probe's stead
	row     int32         // results in a row that contradict the verdict
	next    time.Duration // when the check is due
	at      time.Duration // when the last one ended; 0: none did
	since   time.Duration // of the verdict
	risen   time.Duration // since when it is healthy after it was not; 0: it always was
	err     error         // of the last that failed
}

// health is a check that links have, or that Probe used: one of each.
type health struct {
	spec.Check
	proven time.Duration // what Probe found out is kept until then though nobody wants it
}

type verdict uint8

const (
	unasked verdict = iota
	healthy
	unhealthy
)

// settle makes the checks of e those that its targets want.
func (p *Pool) settle(e *Live) {
	if e.Protocol != spec.UDP {
		for _, tg := range e.targets {
			for _, c := range tg.checks {
				if e.askedWith(c) == nil && e.wants(c) {
					e.asked = append(e.asked, newAsked(e, c))
				}
			}
		}
	}
	e.asked = slices.DeleteFunc(e.asked, func(a *asked) bool {
		switch {
		case e.wants(a.check):
			a.next = max(a.next, atOnce) // that, if a link has it for the first time
			return false
		case len(e.targets) > 0 && p.now() < a.check.proven:
			a.next = 0
			return false
		}
		p.drop(&a.task)
		return true
	})
	p.plan(e)
}

func newAsked(e *Live, c *health) *asked {
	a := &asked{check: c}
	a.task = task{live: e, asked: a}
	return a
}

func (e *Live) askedWith(c *health) *asked {
	for _, a := range e.asked {
		if a.check == c {
			return a
		}
	}
	return nil
}

// wants tells whether somebody has that check who may go to e.
func (e *Live) wants(c *health) bool {
	for w := range e.watchers() {
		if w.check == c {
			return true
		}
	}
	return false
}

// isAskedAlike tells whether nobody wants anything but that check.
func (e *Live) isAskedAlike(c *health) bool {
	for w := range e.watchers() {
		if w.check != c {
			return false
		}
	}
	return true
}

// begin sets when the check after this one is due: after a random part of the
// interval when this is the first one, so that those which began together
// spread.
func (a *asked) begin(p *Pool) {
	if a.extra = p.now() < a.next; a.extra {
		return
	}
	wait := p.jitter(a.check.Interval)
	if a.at == 0 {
		wait = time.Duration(float64(a.check.Interval) * p.cfg.Rand())
	}
	// Those of about the same moment begin together: to wake up for each of
	// them would cost more than most checks do.
	a.next = p.now() + max(wait, minInterval)
	a.next -= a.next % min(max(a.check.Interval/20, 1), slot)
}

// slot is how far apart the moments are at which checks begin.
const slot = 100 * time.Millisecond

// minInterval keeps a check without one from taking the whole machine.
const minInterval = 10 * time.Millisecond

// judge notes the outcome of a check.
func (p *Pool) judge(a *asked, err error) {
	e := a.live
	doubted := e.doubted
	e.doubted = false
	if err == nil || !p.cfg.Ours(err) {
		// Failures that were looked for ten times a second say no more than
		// one does.
		if err == nil || !a.extra || a.verdict == unasked {
			p.weigh(a, err)
		}
		p.learn(a, err, doubted)
	}
	p.plan(e)
}

// weigh changes the verdict when enough was seen.
func (p *Pool) weigh(a *asked, err error) {
	first := a.at == 0
	a.at = p.now()
	found, enough := healthy, a.check.Rise
	if err != nil {
		a.err = err
		found, enough = unhealthy, a.check.Fall
		// What a server says of itself is no accident. To wait for more of it
		// would leave a former primary in use beside the one that is so now.
		if _, is := errors.AsType[*spec.RoleError](err); is {
			enough = 1
		}
	}
	if found == a.verdict {
		a.row = 0
		return
	}
	if a.row++; !first && int(a.row) < enough {
		return
	}
	e := a.live
	if found == healthy && a.verdict == unhealthy {
		a.risen = a.at
	}
	was := a.verdict
	a.verdict, a.row, a.since = found, 0, a.at
	switch {
	case found == unhealthy:
		p.suspect(e)
		p.cfg.Log.Info("endpoint is unhealthy", "endpoint", e.Endpoint, "check", string(a.check.Kind), "error", err)
	case was == unhealthy:
		p.cfg.Log.Info("endpoint is healthy again", "endpoint", e.Endpoint, "check", string(a.check.Kind))
	}
	p.changed(e)
}

// learn takes the outcome of a check for that of an attempt where one is due. A
// failure is one only where everybody has that check: what one link asks for in
// vain must not keep an endpoint from the others.
func (p *Pool) learn(a *asked, err error, doubted bool) {
	e := a.live
	_, down, refuses := e.attention()
	if err != nil && down {
		p.suspect(e) // its source may know where it is by now
	}
	if err != nil && !e.isAskedAlike(a.check) {
		return
	}
	ends := e.ejection == unreached && (down || p.now() >= e.until)
	probes := refuses && a.check.Kind == spec.CheckTCP // in place of the probes that such a link would have without checks
	if ends || doubted || probes || err == nil && e.state == Unknown {
		p.record(e, err)
	}
}
