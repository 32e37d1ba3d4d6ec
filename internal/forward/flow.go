package forward

import (
	"errors"
	"net/netip"
	"time"

	"legate/internal/endpoints"
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
	on         *endpointStats  // of the endpoint that it is connected to; nil while it is not
	live       *endpoints.Live // of the same, which counts the connection
	told       *proxyHeader    // what the client's header says, once it entered; nil: it sends none
	arrival    uint64          // its number; 0 when it is nobody's
	generation uint64          // of the link's targets when the pass began; 0: none yet
	place      int             // in the link's flows
	since      time.Duration   // the accept, or when it was connected; as Forwarder.now
	began      time.Duration   // the pass
	waited     time.Duration   // the wait if it is held
	before     pump.Counters   // what a UDP session carried at the endpoints that it was at before
	entered    bool            // it is known who the caller is
	counted    bool            // among its caller's connections
	queued     bool
	held       bool
	released   bool // from the queue, and not yet connected or failed
	starting   bool // released, and its connect is not under way
	leaving    bool // it is to end, or ends, gently
	watched    bool // somebody waits for what becomes of it

	turn uint64
	pass *pass // nil before the first, and when the next could be made anew
}

// caller is who the client is: whom its header names, if it sends one, else
// the socket's peer. It is zero for a client on a unix socket.
func (f *flow) caller() netip.AddrPort {
	if f.entered && f.told != nil && f.told.source.IsValid() {
		return f.told.source
	}
	return f.pump.Client
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
	case pump.Prefaced:
		l.mu.Lock()
		return l.enter(f)
	case pump.BadPreface:
		return l.badHeader(f, a.Err)
	case pump.ClosedEarly:
		l.closedEarly(f, a.Err)
	case pump.DialFailed:
		l.failed(f)
	case pump.Accepted, pump.Refused: // of a new flow, and of UDP
	}
	return l.tryNext(f, l.fw.now())
}

// arrive asks a trusted sender for its header, and lets all others in.
func (l *link) arrive(p *pump.Flow) pump.Step {
	l.mu.Lock()
	f := l.admit(p)
	if !l.senders.has(p.Client.Addr()) {
		return l.enter(f)
	}
	f.told = l.headers.take()
	l.mu.Unlock()
	return pump.Step{Preface: l.preface}
}

func (l *link) admit(p *pump.Flow) *flow {
	l.arrivals++
	l.stats.total++
	f := l.flows.add()
	f.pump, f.arrival, f.since = p, l.arrivals, l.fw.now()
	p.Data = f
	return f
}

// enter starts the first pass, or joins those that wait already. It needs mu,
// and unlocks it.
func (l *link) enter(f *flow) pump.Step {
	f.entered = true
	now := l.fw.now()
	if err := l.limit(f, now); err != nil {
		defer l.mu.Unlock()
		return l.giveUp(f, err)
	}
	if l.mustWait() {
		defer l.mu.Unlock()
		return l.hold(f)
	}
	f.began = now
	return l.begin(f, now)
}

// limit counts the connection for its caller, unless there may be none. A
// listener that was opened drained accepts for a moment before it is suspended.
func (l *link) limit(f *flow, now time.Duration) (err error) {
	if l.shut {
		return ErrDrained
	}
	f.counted, err = l.callers.admit(f.caller().Addr(), &l.spec.Options, now)
	return err
}

// giveUp ends a flow that reached no endpoint. It needs mu.
func (l *link) giveUp(f *flow, err error) pump.Step {
	l.settleRelease(f)
	l.stats.failed[failure(f, err)]++
	return pump.Step{End: err}
}

// failures are the words for what only links know.
var failures = []struct {
	err  error
	word string
}{
	{ErrDown, "down"},
	{ErrHoldFull, "hold-full"},
	{ErrEndpointsFull, "endpoint-full"},
	{ErrDrained, "drained"},
	{ErrPaused, "paused"},
	{ErrCallerConnections, "caller-connections"},
	{ErrCallerRate, "caller-rate"},
	{ErrProxyHeader, "proxy-header"},
	{ErrDenied, "denied"},
}

func failure(f *flow, err error) string {
	for _, w := range failures {
		if errors.Is(err, w.err) {
			return w.word
		}
	}
	return reason(f.lastErr())
}

// reason is pump.Reason with the words for attempts that links refuse.
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
	now := l.fw.now()
	ps.connected(leg, now)
	if l.listen.Protocol == spec.UDP {
		l.connectedUDP(p, f, c)
		return
	}
	for i := range ps.legs {
		if i != leg && ps.legs[i].Err != nil {
			l.legFailed(f, ps.candidates[ps.tried+i].Endpoint, ps.legs[i].Err, ps.given(i))
		}
	}
	l.mu.Lock()
	f.on, f.live, f.since = l.stats.connected(c), c.Live, now
	l.settleRelease(f)
	l.tell(f)
	if f.on.own != nil && f.on.own.unreached {
		l.readmit(f.on)
	}
	l.joinFate(f, c)
	late := f.on.fate.isFor(f.began)
	if !ps.hasOther() || ps.isFresh() {
		l.dropPass(f)
	}
	l.mu.Unlock()
	l.fw.cfg.Pool.Served(c, l.fw.at(now))
	if late != nil {
		p.Cut(late)
	}
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
		l.logEnd(f, r)
	}
	on, live := f.on, f.live
	quick := l.fw.now()-f.since < pump.EarlyClose
	if f.pass != nil {
		f.pass.nothing()
	}
	l.mu.Lock()
	if l.queue.remove(f) {
		l.attend()
	}
	if r.Cause == pump.CauseAbandoned {
		l.stats.abandoned++
	}
	if f.counted {
		l.callers.leave(f.caller().Addr())
	}
	closed, tell := l.hear(f, r, quick)
	l.stats.ends(f, r.Counters)
	l.settleRelease(f)
	l.tell(f)
	l.dropPass(f)
	l.headers.give(f.told)
	l.flows.remove(f)
	gone := l.stopped && len(l.flows.live) == 0
	if gone {
		l.fw.cfg.Pool.Forget(l)
		l.tellAll()
	}
	l.mu.Unlock()
	if gone {
		l.fw.forget(l)
	}
	if on == nil {
		return
	}
	live.Release()
	switch {
	case r.Counters.Out > 0:
		l.fw.cfg.Pool.Answered(live)
	case closed != nil:
		l.tellClosed(on.endpoint, closed, tell)
	case quick && r.Counters.In == 0:
		// An endpoint that closes at once may be another than it was.
		l.fw.cfg.Pool.Suspect(on.endpoint)
	}
}

// hear takes in what the end of a connection says of its endpoint: why, where it
// closed at once, and whether the pool is to know of that. It needs mu.
func (l *link) hear(f *flow, r pump.Result, quick bool) (closed error, tell bool) {
	on := f.on
	if on == nil {
		return nil, false
	}
	if closed, tell = l.closedOnClient(on, r); closed == nil {
		on.heard(r, quick, l.sendsProxy())
	}
	if r.Counters.Out > 0 && on.own != nil && f.since > on.own.since {
		l.readmit(on) // what an older connection says does not end an ejection
	}
	return closed, tell
}

// callerOf names who opened a connection: the container that the link is for,
// or an address.
func callerOf(s *spec.Link, a netip.AddrPort) string {
	if s.For != nil {
		return s.For.String()
	}
	return callerText(a)
}

// callerText names a client; one on a unix socket has no address.
func callerText(a netip.AddrPort) string {
	if !a.IsValid() {
		return spec.UnixCaller
	}
	return a.String()
}

func (l *link) logEnd(f *flow, r pump.Result) {
	s := l.linkSpec()
	args := []any{"link", s.Name, "caller", callerOf(&s, f.caller()), "cause", string(r.Cause), "in", r.Counters.In, "out", r.Counters.Out, "duration", r.Duration.Round(time.Microsecond).String()}
	if f.on != nil {
		args = append(args, "endpoint", f.on.endpoint.String())
	}
	if f.held {
		args = append(args, "held", true)
	}
	if id := l.shownID(f, &s.Options); id != "" {
		args = append(args, "id", id)
	}
	if r.Err != nil {
		args = append(args, "error", r.Err)
	}
	l.fw.cfg.Log.Info("connection ended", args...)
}
