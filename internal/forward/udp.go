package forward

import (
	"slices"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// nextUDP names the endpoint of a session: the one it has, as long as that is
// the link's and has not failed, else the best. Without one the datagram is
// dropped, for UDP is never held.
func (l *link) nextUDP(p *pump.Flow, a pump.Attempt) pump.Step {
	f := l.session(p)
	switch a.Kind {
	case pump.Refused:
		if f.on != nil {
			l.legFailed(f, f.on.endpoint, a.Err)
		}
	case pump.DialFailed:
		l.failed(f)
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.on == nil || a.Kind == pump.Refused {
		l.turn++
	}
	f.turn = l.turn
	why := f.pass.lastErr
	l.makePass(f)
	ps := f.pass
	ps.lastErr = why
	ps.candidates = slices.DeleteFunc(ps.candidates, func(c *endpoints.Candidate) bool { return l.fw.loops.has(&c.Endpoint) })
	if a.Kind == pump.DialFailed || len(ps.candidates) == 0 {
		return l.giveUp(f, ErrNoEndpoint)
	}
	if i := slices.IndexFunc(ps.candidates, f.isOn); i > 0 {
		ps.candidates[0], ps.candidates[i] = ps.candidates[i], ps.candidates[0]
	}
	for _, c := range ps.candidates {
		ps.legs = append(ps.legs, l.fw.leg(&c.Endpoint, ps.timeout))
	}
	return pump.Step{Dial: ps.legs}
}

// session returns the flow of p with a pass to work on.
func (l *link) session(p *pump.Flow) *flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := p.Data.(*flow)
	if !ok {
		f = l.admit(p)
	}
	if f.pass == nil {
		f.pass = l.passes.take()
		*f.pass = pass{candidates: f.pass.candidates[:0], legs: f.pass.legs[:0]}
	}
	return f
}

// isOn tells whether the session may stay on c.
func (f *flow) isOn(c *endpoints.Candidate) bool {
	return f.on != nil && c.Endpoint == f.on.endpoint && c.State != endpoints.Failing
}

func (l *link) connectedUDP(f *flow, e spec.Endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropPass(f)
	l.tell(f)
	if f.on != nil {
		if e == f.on.endpoint {
			return
		}
		l.stats.moved++
		f.on.current--
	}
	f.on = l.stats.connected(e)
}

// moveSessions wakes the sessions whose endpoint left or failed.
func (l *link) moveSessions(list []endpoints.Candidate) {
	for _, f := range l.flows.live {
		if f.on != nil && !slices.ContainsFunc(list, func(c endpoints.Candidate) bool { return f.isOn(&c) }) {
			f.pump.Wake()
		}
	}
}

func (l *link) droppedUDP() (n int64) {
	for _, a := range l.acceptors {
		if c, ok := a.(pump.DropCounter); ok {
			n += c.DroppedUDP()
		}
	}
	return n
}
