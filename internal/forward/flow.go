package forward

import (
	"errors"
	"net/netip"
	"syscall"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// Times of a connection's way to an endpoint.
const (
	// attemptsLimit bounds all attempts of one pass over the candidates.
	attemptsLimit = 10 * time.Second
	// stagger is the pause between addresses of one name (RFC 8305, section 5).
	stagger = 250 * time.Millisecond
	// shortageRetry is the pause after attempts that failed for want of
	// something of our own, such as descriptors.
	shortageRetry = 100 * time.Millisecond
)

// flow is what a link knows about one connection. The link's mutex guards the
// second half; the rest belongs to the pump's calls, which come one at a time.
type flow struct {
	pump    *pump.Flow
	arrival uint64
	began   time.Time // the present pass
	waited  time.Time // when it began to wait; zero if it never did
	done    chan struct{}

	candidates []endpoints.Candidate // of the present pass, best first
	tried      int                   // so many of them had their turn
	legs       []pump.Leg
	lastErr    error // of the last failed attempt
	closed     error // how the last endpoint closed that did so early
	short      bool  // an attempt failed for want of something of our own

	generation uint64 // of the link's targets when the pass began; 0: none yet
	connected  bool
	since      time.Time     // when it was connected
	released   bool          // from the queue, and not yet connected or failed
	starting   bool          // released, and its connect is not under way
	endpoint   spec.Endpoint // the last that it was connected to; written by the pump's calls only
	news       chan struct{} // closed when it is connected; nil while nobody asks
}

// Next implements pump.Handler.
func (l *link) Next(p *pump.Flow, a pump.Attempt) pump.Step {
	f, ok := p.Data.(*flow)
	if !ok {
		f = l.admit(p)
	}
	if l.listen.Protocol == spec.UDP {
		return l.nextUDP(f, a)
	}
	switch a.Kind {
	case pump.Accepted:
		return l.arrive(f)
	case pump.Woken:
		return l.woken(f)
	case pump.Expired:
		return l.expired(f)
	case pump.ClosedEarly:
		l.closedEarly(f, a.Err)
	case pump.DialFailed:
		l.failed(f)
	case pump.Refused: // UDP only
	}
	return l.tryNext(f)
}

func (l *link) admit(p *pump.Flow) *flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arrivals++
	f := &flow{pump: p, arrival: l.arrivals, done: make(chan struct{})}
	p.Data = f
	l.flows[f] = struct{}{}
	l.stats.total++
	return f
}

// arrive starts the first pass, or joins those that wait already.
func (l *link) arrive(f *flow) pump.Step {
	l.mu.Lock()
	if !l.downSince.IsZero() || len(l.queue.waiting) > 0 { // they came first
		defer l.mu.Unlock()
		return l.hold(f)
	}
	l.mu.Unlock()
	return l.startPass(f)
}

func (l *link) woken(f *flow) pump.Step {
	l.mu.Lock()
	if !f.released {
		defer l.mu.Unlock()
		l.queue.remove(f)
		return l.hold(f)
	}
	l.mu.Unlock()
	return l.startPass(f)
}

// expired ends a flow that has waited for too long, and tries one again that
// only paused.
func (l *link) expired(f *flow) pump.Step {
	l.mu.Lock()
	waited := l.queue.remove(f)
	if waited {
		l.attend()
		defer l.mu.Unlock()
		return l.giveUp(f, ErrDown)
	}
	l.mu.Unlock()
	if f.short {
		return l.pass(f)
	}
	return l.startPass(f) // released at this very moment
}

// startPass tries the candidates, best first, within attemptsLimit from now.
func (l *link) startPass(f *flow) pump.Step {
	f.began = time.Now()
	return l.pass(f)
}

func (l *link) pass(f *flow) pump.Step {
	l.mu.Lock()
	l.turn.Add(1)
	f.generation = l.generation
	f.candidates = l.candidates(f.candidates[:0])
	l.mu.Unlock()
	f.tried, f.closed, f.lastErr, f.short = 0, nil, nil, false
	return l.tryNext(f)
}

// tryNext names the next candidates to dial, or ends the pass.
func (l *link) tryNext(f *flow) pump.Step {
	if f.tried >= len(f.candidates) || time.Since(f.began) >= attemptsLimit {
		return l.passFailed(f)
	}
	l.mu.Lock()
	o, starting := l.spec.Options, f.starting
	l.mu.Unlock()
	f.legs = f.legs[:0]
	first := f.candidates[f.tried]
	for _, c := range f.candidates[f.tried:] {
		if len(f.legs) > 0 && !together(first, c) {
			break
		}
		f.legs = append(f.legs, l.fw.leg(c.Endpoint, o.ConnectTimeout))
	}
	if starting {
		f.legs[0].Begin = func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.begun(f)
		}
	}
	return pump.Step{Dial: f.legs, Stagger: stagger, Deadline: f.began.Add(attemptsLimit), Settle: o.Settle, Retry: f.hasOther()}
}

// hasOther tells whether another endpoint could make good an early close. The
// last one's close is its answer, and may be half of one: a server that has
// nothing to say may still want to hear.
func (f *flow) hasOther() bool { return len(f.candidates)-f.tried > 1 }

// together tells whether two candidates are addresses of one name, which start
// staggered instead of one after the other.
func together(a, b endpoints.Candidate) bool {
	return a.From == b.From && a.From.Source == spec.SourceDNS && (a.State == endpoints.Failing) == (b.State == endpoints.Failing)
}

// failed reports the legs that did not connect.
func (l *link) failed(f *flow) {
	for i := range f.legs {
		l.legFailed(f, f.candidates[f.tried+i].Endpoint, f.legs[i].Err)
	}
	f.tried += len(f.legs)
}

func (l *link) legFailed(f *flow, e spec.Endpoint, err error) {
	switch {
	case errors.Is(err, pump.ErrOvertaken):
		// Slow or silent? A probe finds out, or each connection would wait.
		l.fw.cfg.Pool.Doubt(e)
		return
	case errors.Is(err, pump.ErrNotTried):
		return
	}
	f.lastErr = err
	// A reset that overtakes the end of the connect is an early close, too:
	// the endpoint was reached.
	closed := errors.Is(err, syscall.ECONNRESET)
	l.mu.Lock()
	l.stats.endpoint(e).failed[reason(err)]++
	if closed {
		l.stats.earlyClosed++
	}
	l.mu.Unlock()
	switch {
	case closed:
		f.closed = pump.ErrReset
		l.fw.cfg.Pool.Suspect(e)
	case pump.IsShortage(err):
		f.short = true
	default:
		l.fw.cfg.Pool.Report(e, err)
	}
}

// closedEarly takes the endpoint, and the legs that failed beside it, out of
// the pass.
func (l *link) closedEarly(f *flow, err error) {
	l.mu.Lock()
	e := f.endpoint
	f.connected = false
	l.stats.earlyClosed++
	s := l.stats.endpoint(e)
	s.current--
	s.failed["closed"]++
	l.mu.Unlock()
	f.closed, f.lastErr = err, err
	l.fw.cfg.Pool.Suspect(e)
	kept := f.candidates[:f.tried]
	for i, c := range f.candidates[f.tried:] {
		if c.Endpoint != e && (i >= len(f.legs) || errors.Is(f.legs[i].Err, pump.ErrNotTried)) {
			kept = append(kept, c)
		}
	}
	f.candidates = kept
}

// passFailed decides when every candidate had its turn.
func (l *link) passFailed(f *flow) pump.Step {
	if f.closed != nil {
		// The last one could not be reached, the one before closed.
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.giveUp(f, f.closed)
	}
	again := time.Since(f.began) < attemptsLimit
	if f.short && again {
		return pump.Step{Park: time.Now().Add(shortageRetry)}
	}
	l.mu.Lock()
	l.settleRelease(f)
	if again && (f.generation != l.generation || l.serves() && !f.short) {
		// The link was swapped, or an endpoint came back, while this flow
		// tried the others.
		l.mu.Unlock()
		return l.pass(f)
	}
	defer l.mu.Unlock()
	if f.short || l.serves() {
		return l.giveUp(f, ErrNoEndpoint)
	}
	l.goDown(f.began)
	return l.hold(f)
}

// hold lets the flow wait for an endpoint: no longer than the link's time down
// allows, and never for more than the option says, however often the link
// seems to be up meanwhile.
func (l *link) hold(f *flow) pump.Step {
	now, since := time.Now(), f.waited
	if since.IsZero() {
		since = now
	}
	if !l.downSince.IsZero() && l.downSince.Before(since) {
		since = l.downSince
	}
	until := since.Add(l.spec.Options.Hold)
	switch {
	case l.spec.Options.WhenDown == spec.WhenDownRefuse, !now.Before(until):
		if f.lastErr != nil {
			return l.giveUp(f, ErrNoEndpoint)
		}
		return l.giveUp(f, ErrDown)
	case len(l.queue.waiting) >= maxHeld:
		return l.giveUp(f, ErrHoldFull)
	}
	if f.waited.IsZero() {
		f.waited = now
		l.stats.heldTotal++
	}
	l.queue.add(f)
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
	return reason(f.lastErr)
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
	if l.listen.Protocol == spec.UDP {
		l.connectedUDP(f, leg)
		return
	}
	e := f.candidates[f.tried+leg].Endpoint
	for i := range f.legs {
		if i != leg && f.legs[i].Err != nil {
			l.legFailed(f, f.candidates[f.tried+i].Endpoint, f.legs[i].Err)
		}
	}
	l.mu.Lock()
	f.endpoint, f.connected, f.since = e, true, time.Now()
	s := l.stats.endpoint(e)
	s.current++
	s.total++
	l.settleRelease(f)
	f.tell()
	l.mu.Unlock()
	l.fw.cfg.Pool.Report(e, nil)
}

// Done implements pump.Handler.
func (l *link) Done(p *pump.Flow, r pump.Result) {
	f, ok := p.Data.(*flow)
	if !ok {
		return
	}
	l.mu.Lock()
	delete(l.flows, f)
	if l.queue.remove(f) {
		l.attend()
	}
	if r.Cause == pump.CauseAbandoned {
		l.stats.abandoned++
	}
	l.stats.add(f, r.Counters)
	l.settleRelease(f)
	name := l.spec.Name
	if l.closed && len(l.flows) == 0 {
		l.fw.cfg.Pool.Watch(l, l.spec.Targets, endpoints.Idle)
	}
	silent := f.connected && r.Counters == pump.Counters{} && time.Since(f.since) < pump.EarlyClose
	l.mu.Unlock()
	if silent {
		// An endpoint that closes at once may be another than it was.
		l.fw.cfg.Pool.Suspect(f.endpoint)
	}
	if l.fw.cfg.LogConnections {
		l.fw.logEnd(name, f, r)
	}
	close(f.done)
}

// callerText names a client; one on a unix socket has no address.
func callerText(a netip.AddrPort) string {
	if !a.IsValid() {
		return "unix"
	}
	return a.String()
}

func (fw *Forwarder) logEnd(name string, f *flow, r pump.Result) {
	args := []any{"link", name, "caller", callerText(f.pump.Client), "cause", string(r.Cause), "in", r.Counters.In, "out", r.Counters.Out, "duration", r.Duration.Round(time.Microsecond).String()}
	if f.connected {
		args = append(args, "endpoint", f.endpoint.String())
	}
	if !f.waited.IsZero() {
		args = append(args, "held", true)
	}
	if r.Err != nil {
		args = append(args, "error", r.Err)
	}
	fw.cfg.Log.Info("connection ended", args...)
}
