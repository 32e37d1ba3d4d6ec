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
	if p.interval(ep) == 0 || p.ctx.Err() != nil {
		return
	}
	ep.probing = true
	p.wg.Go(func() { p.probe(ep) })
}

// interval returns how often ep is to be probed now; 0 is never.
func (p *Pool) interval(ep *endpoint) time.Duration {
	if ep.Protocol == spec.UDP || len(ep.targets) == 0 {
		return 0
	}
	urgent, down, check := p.attention(ep)
	switch {
	case ep.state == Serving && !check, ep.state == Unknown && !down && !check:
		return 0
	case urgent && ep.state != Serving:
		return probeUrgent
	}
	return probeInterval
}

func (p *Pool) attention(ep *endpoint) (urgent, down, check bool) {
	for t := range ep.targets {
		for _, a := range p.targets[t].watchers {
			urgent = urgent || a == Urgent
			down = down || a == Down || a == Urgent
			check = check || a == Check
		}
	}
	return urgent, down, check
}

// probe tries one endpoint until no probing is called for.
func (p *Pool) probe(ep *endpoint) {
	last := time.Now()
	if ep.tried.IsZero() {
		last = time.Time{} // nothing is known: do not wait
	}
	for p.waitTurn(ep, last) {
		last = time.Now()
		err := p.cfg.Dial(p.ctx, ep.Endpoint, probeTimeout)
		if p.ctx.Err() != nil {
			return
		}
		p.mu.Lock()
		changed, targets := p.record(ep, err), ep.targetList()
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
		if every == 0 || p.ctx.Err() != nil {
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
		select {
		case <-timer.C:
			return true
		case <-ep.poke:
		case <-p.ctx.Done():
		}
		timer.Stop()
	}
}
