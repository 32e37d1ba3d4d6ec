package endpoints

import (
	"time"

	"legate/internal/spec"
)

// attend starts a probe where one is called for, or wakes the running one to
// look at its interval anew.
func (p *Pool) attend(ep *endpoint) {
	if ep.probing {
		ep.wake()
		return
	}
	if p.interval(ep) == 0 || ep.ctx.Err() != nil {
		return
	}
	ep.probing = true
	last := p.tried(ep) // zero when nothing is known: the first attempt does not wait
	p.wg.Go(func() { p.probe(ep, last) })
}

// interval returns how often ep is to be probed now; 0 is never.
func (p *Pool) interval(ep *endpoint) time.Duration {
	if ep.Protocol == spec.UDP {
		return 0
	}
	urgent, down, check := p.attention(ep)
	switch {
	case ep.doubted:
		return 1 // at once
	case ep.state == Serving && !check, ep.state == Unknown && !down && !check:
		return 0
	case urgent && ep.state != Serving:
		return probeUrgent
	}
	return probeInterval
}

func (p *Pool) attention(ep *endpoint) (urgent, down, check bool) {
	for _, t := range ep.targets {
		for _, a := range p.targets[t].watchers {
			urgent = urgent || a == Urgent
			down = down || a == Down || a == Urgent
			check = check || a == Check
		}
	}
	return urgent, down, check
}

// probe tries one endpoint, last tried at the given time, until no probing is
// called for.
func (p *Pool) probe(ep *endpoint, last time.Time) {
	for p.waitTurn(ep, last) {
		last = time.Now()
		err := p.cfg.Dial(ep.ctx, ep.Endpoint, probeTimeout)
		p.mu.Lock()
		if ep.ctx.Err() != nil { // it left meanwhile: err says nothing about it
			p.mu.Unlock()
			return
		}
		changed, targets := p.record(ep, err), ep.targets
		p.mu.Unlock()
		p.tell(targets, changed, err)
	}
}

// waitTurn returns true when the next attempt is due and false when none is
// wanted any more; the probe has then ended.
func (p *Pool) waitTurn(ep *endpoint, last time.Time) bool {
	for {
		p.mu.Lock()
		every := p.interval(ep)
		if every == 0 || ep.ctx.Err() != nil {
			ep.probing = false
			p.mu.Unlock()
			return false
		}
		p.mu.Unlock()
		left := time.Until(last.Add(every))
		if left <= 0 {
			return true
		}
		timer := time.NewTimer(left)
		// Whichever it is, look again: an endpoint that was reported to serve at
		// the moment of its turn must not be probed.
		select {
		case <-timer.C:
		case <-ep.poke:
		case <-ep.ctx.Done():
		}
		timer.Stop()
	}
}
