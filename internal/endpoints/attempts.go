package endpoints

import (
	"fmt"
	"time"

	"legate/internal/spec"
)

// Ejections of this pool.
const (
	firstBackoff = time.Second
	// firstBackoffUDP is longer: no probe can tell of an endpoint's return, so
	// that sessions pay for trying too soon.
	firstBackoffUDP = 5 * time.Second
	maxBackoff      = 30 * time.Second
)

// EarlyCloses in a row eject an endpoint: fewer happen to servers that restart.
const EarlyCloses = 3

// Served is Report of a success at the given time, for every connection: of an
// endpoint that is known to serve it costs next to nothing.
func (p *Pool) Served(c *Candidate, at time.Time) {
	if c.Live == nil || !c.Live.settled.Load() {
		p.Report(c.Endpoint, nil)
		return
	}
	c.Live.served.Store(int64(at.Sub(p.start)))
}

// Report says what became of an attempt at e; nil means that it connected.
func (p *Pool) Report(e spec.Endpoint, err error) {
	p.with(e, func(e *Live) {
		was := e.state
		p.record(e, err)
		if e.state != was {
			e.began = e.tried // the next attempt of our own can wait
		}
		p.plan(e)
	})
}

// Miss says that somebody wants to connect, and the targets have no endpoint:
// a source that failed and is back again would tell so only at the end of a
// long pause.
func (p *Pool) Miss(targets []spec.Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range targets {
		if tg := p.targets[t]; tg != nil {
			p.note(tg, newsSuspect)
		}
	}
}

// Suspect says that e gave reason to ask its sources again, though no attempt
// failed.
func (p *Pool) Suspect(e spec.Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if live := p.endpoints.find(e); live != nil {
		p.suspect(live)
	}
}

// Doubt has e probed once, now: an attempt at it took so long that another
// endpoint was quicker.
func (p *Pool) Doubt(e spec.Endpoint) {
	p.with(e, func(e *Live) {
		if e.state != Failing {
			e.doubted = true
			e.settled.Store(false)
			p.plan(e)
		}
	})
}

// ClosedEarly says that e closed a connection with err before a byte was moved
// either way. Several in a row without a byte from it (Answered) eject it.
func (p *Pool) ClosedEarly(e spec.Endpoint, err error) {
	p.with(e, func(e *Live) {
		p.suspect(e)
		e.lastErr = fmt.Errorf("closed early: %w", err)
		e.against.Store(true)
		e.early = min(e.early+1, EarlyCloses)
		if e.ejection == notEjected && (p.isOnProbation(e) || e.early == EarlyCloses) {
			e.early = 0
			p.eject(e, closing)
			p.cfg.Log.Info("endpoint closes early", "endpoint", e.Endpoint, "error", err)
			p.changed(e)
			p.plan(e)
		}
	})
}

// Answered says that bytes came from e on a new connection. It costs next to
// nothing when nothing was against e.
func (p *Pool) Answered(e *Live) {
	if !e.against.Load() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// What an old connection says does not end an ejection: a server that has
	// all the connections it wants goes on serving those.
	if e.ejection != closing {
		e.early, e.probation = 0, false
		e.against.Store(false)
	}
}

func (p *Pool) with(e spec.Endpoint, do func(*Live)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if live := p.endpoints.find(e); live != nil {
		do(live)
	}
}

// record notes the outcome of an attempt; the caller plans what is next.
func (p *Pool) record(e *Live, err error) {
	e.doubted = false
	switch {
	case err == nil:
		p.reached(e)
	case !p.cfg.Ours(err):
		p.failed(e, err)
	}
	e.settled.Store(e.state == Serving && len(e.targets) > 0)
}

func (p *Pool) reached(e *Live) {
	was := e.state
	e.tried = p.now()
	if was == Serving {
		return
	}
	e.state, e.since = Serving, e.tried
	if e.ejection == unreached {
		p.readmit(e)
	}
	if was == Failing {
		p.cfg.Log.Info("endpoint serves again", "endpoint", e.Endpoint)
	}
	p.changed(e)
}

func (p *Pool) failed(e *Live, err error) {
	was := e.state
	e.tried, e.lastErr = p.now(), err
	if e.ejection != unreached || e.tried >= e.until {
		p.eject(e, unreached)
	}
	e.state = Failing
	p.suspect(e)
	if was == Failing {
		p.outdate(e) // failing ones are ordered by their last attempt
		return
	}
	e.since = e.tried
	p.cfg.Log.Info("endpoint fails", "endpoint", e.Endpoint, "error", err)
	p.changed(e)
}

// eject has e tried last for a while, for longer when it did not do well after
// the last time.
func (p *Pool) eject(e *Live, why ejection) {
	now := p.now()
	if e.ejection == notEjected {
		e.ejected = now
	}
	again := e.ejection != notEjected || p.isOnProbation(e) || e.returned > 0 && now-e.returned < e.backoff
	switch {
	case again:
		e.backoff = min(2*e.backoff, maxBackoff)
	case e.Protocol == spec.UDP:
		e.backoff = firstBackoffUDP
	default:
		e.backoff = firstBackoff
	}
	e.ejection = why
	e.until = now + p.jitter(e.backoff)
}

// isOnProbation tells whether one more early close ejects e. That has an end: of
// connections that live for hours none says that the endpoint serves again.
func (p *Pool) isOnProbation(e *Live) bool {
	return e.probation && p.now()-e.returned < maxBackoff
}

// readmit ends an ejection.
func (p *Pool) readmit(e *Live) {
	e.ejection = notEjected
	e.returned = p.now()
	e.risen = e.returned
}

// serveTime ends an ejection whose time is over.
func (p *Pool) serveTime(e *Live) {
	e.probation = e.ejection == closing
	p.readmit(e)
	if e.state == Failing {
		e.state, e.since = Unknown, e.returned
	}
	p.cfg.Log.Info("endpoint is tried again", "endpoint", e.Endpoint)
	p.changed(e)
}

// jitter returns about d, so that what began together does not stay so.
func (p *Pool) jitter(d time.Duration) time.Duration {
	const most = 0.1
	return time.Duration(float64(d) * (1 - most + 2*most*p.cfg.Rand()))
}
