package forward

import (
	"errors"
	"net/netip"
	"time"

	"legate/internal/pump"
	"legate/internal/spec"
)

// flow is what a link knows about one connection, and all that it keeps of an
// established one. The memory serves another connection after Done; a ticket
// says which one somebody means.
//
// Only the pump's calls write it, which come one at a time, and but for the
// last group they do so under the link's mutex, so that others may look.
type flow struct {
	pump       *pump.Flow
	on         *endpointStats // of the endpoint that it is connected to; nil while it is not
	arrival    uint64         // its number; 0 when it is nobody's
	generation uint64         // of the link's targets when the pass began; 0: none yet
	place      int            // in the link's flows
	queued     bool
	released   bool // from the queue, and not yet connected or failed
	starting   bool // released, and its connect is not under way
	watched    bool // somebody waits for what becomes of it

	held                 bool
	turn                 uint64
	began, waited, since time.Duration // the pass, the wait if it is held, the connection; as Forwarder.now
	pass                 *pass         // nil before the first, and when the next could be made anew
}

// Next implements pump.Handler.
func (l *link) Next(p *pump.Flow, a pump.Attempt) pump.Step {
	f, ok := p.Data.(*flow)
	switch {
	case l.listen.Protocol == spec.UDP:
		return l.nextUDP(p, a)
	case !ok:
		return l.arrive(p)
	}
	switch a.Kind {
	case pump.Woken:
		return l.woken(f)
	case pump.Expired:
		return l.expired(f)
	case pump.ClosedEarly:
		l.closedEarly(f, a.Err)
	case pump.DialFailed:
		l.failed(f)
	case pump.Accepted, pump.Refused: // of a new flow, and of UDP
	}
	return l.tryNext(f, l.fw.now())
}

// arrive starts the first pass, or joins those that wait already.
func (l *link) arrive(p *pump.Flow) pump.Step {
	now := l.fw.now()
	l.mu.Lock()
	f := l.admit(p)
	if !l.downSince.IsZero() || len(l.queue.waiting) > 0 { // they came first
		defer l.mu.Unlock()
		return l.hold(f)
	}
	f.began = now
	l.startPass(f)
	l.mu.Unlock()
	return l.tryNext(f, now)
}

func (l *link) admit(p *pump.Flow) *flow {
	l.arrivals++
	l.stats.total++
	f := l.flows.add()
	f.pump, f.arrival = p, l.arrivals
	p.Data = f
	return f
}

func (l *link) woken(f *flow) pump.Step {
	l.mu.Lock()
	if !f.released {
		defer l.mu.Unlock()
		l.queue.remove(f)
		return l.hold(f)
	}
	l.mu.Unlock()
	return l.tryAll(f)
}

// expired ends a flow that has waited for too long, and tries one again that
// only paused.
func (l *link) expired(f *flow) pump.Step {
	l.mu.Lock()
	if l.queue.remove(f) {
		defer l.mu.Unlock()
		l.attend()
		return l.giveUp(f, ErrDown)
	}
	l.mu.Unlock()
	if f.pass != nil && f.pass.short {
		return l.tryAgain(f)
	}
	return l.tryAll(f) // released at this very moment
}

// hold lets the flow wait for an endpoint: no longer than the link's time down
// allows, and never for more than the option says, however often the link
// seems to be up meanwhile.
func (l *link) hold(f *flow) pump.Step {
	now := l.fw.now()
	since := l.fw.at(now)
	if f.held {
		since = l.fw.at(f.waited)
	}
	if !l.downSince.IsZero() && l.downSince.Before(since) {
		since = l.downSince
	}
	until := since.Add(l.spec.Options.Hold)
	switch {
	case l.spec.Options.WhenDown == spec.WhenDownRefuse, !l.fw.at(now).Before(until):
		if f.lastErr() != nil {
			return l.giveUp(f, ErrNoEndpoint)
		}
		return l.giveUp(f, ErrDown)
	case len(l.queue.waiting) >= maxHeld:
		return l.giveUp(f, ErrHoldFull)
	}
	if !f.held {
		f.held, f.waited = true, now
		l.stats.heldTotal++
	}
	l.queue.add(f)
	l.tell(f)
	l.attend()
	l.release()
	return pump.Step{Park: until}
}

// giveUp ends a flow that reached no endpoint.
func (l *link) giveUp(f *flow, err error) pump.Step {
	l.settleRelease(f)
	l.stats.failed[failure(f, err)]++
	return pump.Step{End: err}
}

func failure(f *flow, err error) string {
	switch {
	case errors.Is(err, ErrDown):
		return "down"
	case errors.Is(err, ErrHoldFull):
		return "hold-full"
	}
	return reason(f.lastErr())
}

// reason is pump.Reason with the words for what only links know.
func reason(err error) string {
	switch {
	case err == nil:
		return "no-endpoint"
	case errors.Is(err, ErrLoop):
		return "loop"
	}
	return pump.Reason(err)
}

// Connected implements pump.Handler.
func (l *link) Connected(p *pump.Flow, leg int) {
	f, ok := p.Data.(*flow)
	if !ok {
		return
	}
	ps := f.pass
	c := ps.candidates[ps.tried+leg]
	if l.listen.Protocol == spec.UDP {
		l.connectedUDP(f, c.Endpoint)
		return
	}
	for i := range ps.legs {
		if i != leg && ps.legs[i].Err != nil {
			l.legFailed(f, ps.candidates[ps.tried+i].Endpoint, ps.legs[i].Err)
		}
	}
	now := l.fw.now()
	l.mu.Lock()
	f.on, f.since = l.stats.connected(c.Endpoint), now
	l.settleRelease(f)
	l.tell(f)
	if !ps.hasOther() || ps.isFresh() {
		l.dropPass(f)
	}
	l.mu.Unlock()
	l.fw.cfg.Pool.Served(c, l.fw.at(now))
}

// Done implements pump.Handler. Once the flow has left the set it may be
// another connection's.
func (l *link) Done(p *pump.Flow, r pump.Result) {
	f, ok := p.Data.(*flow)
	if !ok {
		return
	}
	p.Data = nil
	if l.fw.cfg.LogConnections {
		l.logEnd(p.Client, f, r)
	}
	on := f.on
	silent := on != nil && r.Counters == pump.Counters{} && l.fw.now()-f.since < pump.EarlyClose
	l.mu.Lock()
	if l.queue.remove(f) {
		l.attend()
	}
	if r.Cause == pump.CauseAbandoned {
		l.stats.abandoned++
	}
	l.stats.ends(on, r.Counters)
	l.settleRelease(f)
	l.tell(f)
	l.dropPass(f)
	l.flows.remove(f)
	if l.closed && len(l.flows.live) == 0 {
		l.fw.cfg.Pool.Forget(l)
		l.tellAll()
	}
	l.mu.Unlock()
	if silent {
		// An endpoint that closes at once may be another than it was.
		l.fw.cfg.Pool.Suspect(on.endpoint)
	}
}

// callerText names a client; one on a unix socket has no address.
func callerText(a netip.AddrPort) string {
	if !a.IsValid() {
		return "unix"
	}
	return a.String()
}

func (l *link) logEnd(client netip.AddrPort, f *flow, r pump.Result) {
	args := []any{"link", l.linkSpec().Name, "caller", callerText(client), "cause", string(r.Cause), "in", r.Counters.In, "out", r.Counters.Out, "duration", r.Duration.Round(time.Microsecond).String()}
	if f.on != nil {
		args = append(args, "endpoint", f.on.endpoint.String())
	}
	if f.held {
		args = append(args, "held", true)
	}
	if r.Err != nil {
		args = append(args, "error", r.Err)
	}
	l.fw.cfg.Log.Info("connection ended", args...)
}
