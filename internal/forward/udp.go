package forward

import (
	"slices"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// nextUDP names the endpoint of a session: the one it has, as long as that is
// the link's and may be used, else the best. Without one the datagram is
// dropped, for UDP is never held.
func (l *link) nextUDP(p *pump.Flow, a pump.Attempt) pump.Step {
	f, err := l.session(p)
	switch {
	case err != nil:
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.giveUp(f, err)
	case a.Kind == pump.Refused && f.on != nil:
		l.legFailed(f, f.on.endpoint, a.Err, f.pass.timeout)
	case a.Kind == pump.DialFailed:
		l.failed(f)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	failed := a.Kind == pump.DialFailed && !f.pass.stays
	stay := l.stays(f)
	if stay == nil {
		l.turn++
	}
	f.turn = l.turn
	why := f.pass.lastErr
	full := false
	if stay != nil {
		l.passTo(f, stay)
	} else {
		full = l.makePass(f)
		f.pass.complete()
	}
	ps := f.pass
	ps.lastErr = why
	if len(ps.candidates) > 0 && l.fw.loopsAt(&ps.candidates[0].Endpoint) {
		ps.nothing()
	}
	ps.candidates = slices.DeleteFunc(ps.candidates, func(c *endpoints.Candidate) bool { return l.fw.loopsAt(&c.Endpoint) })
	switch {
	case full:
		return l.giveUp(f, ErrEndpointsFull)
	case failed || len(ps.candidates) == 0:
		return l.giveUp(f, ErrNoEndpoint)
	}
	for _, c := range ps.candidates {
		ps.legs = append(ps.legs, l.fw.leg(&c.Endpoint, ps.timeout))
	}
	ps.dialled = l.fw.now()
	return pump.Step{Dial: ps.legs}
}

// session returns the flow of p with a pass to work on, or why a new one may
// not be.
func (l *link) session(p *pump.Flow) (f *flow, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := p.Data.(*flow)
	if !ok {
		f = l.admit(p)
		f.entered = true
		switch l.spec.Mode {
		case spec.ModePause:
			return f, ErrPaused
		case spec.ModeDrain:
			return f, ErrDrained
		}
		if err := l.limit(f, l.fw.now()); err != nil {
			return f, err
		}
	}
	if f.pass == nil {
		f.pass = l.passes.take()
		*f.pass = pass{candidates: f.pass.candidates[:0], legs: f.pass.legs[:0], prefix: f.pass.prefix[:0]}
	}
	return f, nil
}

// stays returns the candidate that the session has already, if it may stay.
func (l *link) stays(f *flow) *endpoints.Candidate {
	if f.on == nil {
		return nil
	}
	c := l.find(f.on.endpoint)
	if c == nil || c.Barred || c.State == endpoints.Failing || c.Health == spec.HealthUnhealthy {
		return nil
	}
	return c
}

// passTo makes a pass to that candidate alone.
func (l *link) passTo(f *flow, c *endpoints.Candidate) {
	ps := f.pass
	*ps = pass{list: l.list, candidates: append(ps.candidates[:0], c), whole: true, stays: true, legs: ps.legs[:0], prefix: ps.prefix[:0], timeout: l.spec.Options.ConnectTimeout}
	f.generation = l.generation
}

func (l *link) connectedUDP(p *pump.Flow, f *flow, c *endpoints.Candidate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropPass(f)
	l.tell(f)
	if f.on != nil {
		f.live.Release() // this connect was counted anew
		if c.Endpoint == f.on.endpoint {
			f.live = c.Live
			return
		}
		l.stats.moved++
		f.on.current--
		carried := p.Counters()
		f.on.ended = sum(f.on.ended, less(carried, f.before))
		f.before = carried
	}
	f.on, f.live, f.since = l.stats.connected(c), c.Live, l.fw.now()
}

// moveSessions wakes the sessions whose endpoint left or must not be used.
func (l *link) moveSessions() {
	for _, f := range l.flows.live {
		if f.on != nil && l.stays(f) == nil {
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

// index finds candidates by endpoint.
type index struct {
	list   *endpoints.List
	places map[spec.Endpoint]int
}

// few candidates are found faster without an index.
const few = 8

// find returns what the link knows of an endpoint; nil when it is none of its
// own. It needs mu.
func (l *link) find(e spec.Endpoint) *endpoints.Candidate {
	list := l.candidates()
	if len(list.All) <= few {
		i := slices.IndexFunc(list.All, func(c endpoints.Candidate) bool { return c.Endpoint == e })
		if i < 0 {
			return nil
		}
		return &list.All[i]
	}
	if l.index.list != list {
		l.index = index{list: list, places: make(map[spec.Endpoint]int, len(list.All))}
		for i := range list.All {
			l.index.places[list.All[i].Endpoint] = i
		}
	}
	i, ok := l.index.places[e]
	if !ok {
		return nil
	}
	return &list.All[i]
}
