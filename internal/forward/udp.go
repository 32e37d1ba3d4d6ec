package forward

import (
	"slices"

	"legate/internal/endpoints"
	"legate/internal/pump"
)

// nextUDP names the endpoint of a session: the one it has, as long as that is
// the link's and has not failed, else the best. Without one the datagram is
// dropped, for UDP is never held.
func (l *link) nextUDP(f *flow, a pump.Attempt) pump.Step {
	switch a.Kind {
	case pump.Refused:
		l.legFailed(f, f.endpoint, a.Err)
	case pump.DialFailed:
		l.failed(f)
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !f.connected || a.Kind == pump.Refused {
		l.turn.Add(1)
	}
	f.candidates, f.tried = l.candidates(f.candidates[:0]), 0
	f.candidates = slices.DeleteFunc(f.candidates, func(c endpoints.Candidate) bool { return l.fw.loops.has(c.Endpoint) })
	if a.Kind == pump.DialFailed || len(f.candidates) == 0 {
		return l.giveUp(f, ErrNoEndpoint)
	}
	if i := slices.IndexFunc(f.candidates, f.isOn); i > 0 {
		f.candidates[0], f.candidates[i] = f.candidates[i], f.candidates[0]
	}
	f.legs = f.legs[:0]
	for _, c := range f.candidates {
		f.legs = append(f.legs, l.fw.leg(c.Endpoint, l.spec.Options.ConnectTimeout))
	}
	return pump.Step{Dial: f.legs}
}

// isOn tells whether the session may stay on c.
func (f *flow) isOn(c endpoints.Candidate) bool {
	return f.connected && c.Endpoint == f.endpoint && c.State != endpoints.Failing
}

func (l *link) connectedUDP(f *flow, leg int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := f.candidates[f.tried+leg].Endpoint
	if f.connected && e == f.endpoint {
		return
	}
	if f.connected {
		l.stats.moved++
		l.stats.endpoint(f.endpoint).current--
	}
	f.endpoint, f.connected = e, true
	s := l.stats.endpoint(e)
	s.current++
	s.total++
}

// moveSessions wakes the sessions whose endpoint left or failed.
func (l *link) moveSessions(list []endpoints.Candidate) {
	for f := range l.flows {
		if f.connected && !slices.ContainsFunc(list, f.isOn) {
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
