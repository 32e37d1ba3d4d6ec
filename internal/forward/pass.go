package forward

import (
	"errors"
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

// pass is one way through the candidates. Only the pump's calls use it; it
// serves another flow when this one is connected, unless what was tried in vain
// must not be tried again.
type pass struct {
	list       *endpoints.List
	key        endpoints.Key
	candidates []*endpoints.Candidate // best first; but for the first, only when whole
	whole      bool
	others     bool // there are more than the first
	tried      int  // so many of them had their turn
	legs       []pump.Leg
	begun      int           // so many of the next ones have the connect in their load
	dialled    time.Duration // when the legs were named
	left       time.Duration // for all attempts, from then on
	timeout    time.Duration // of one attempt
	settle     time.Duration
	sends      spec.ProxyVersion
	who        *spec.Container // that the header names as the client; nil: none
	prefix     []byte          // that legs begin with
	alone      bool            // one leg at a time: a limit is kept only for an endpoint that was chosen for its room
	retries    bool            // an early close of the last one is to be heard of
	starting   bool            // the flow was released: whoever is next waits for its connect
	lastErr    error           // of the last failed attempt
	closed     error           // how the last endpoint closed that did so early
	short      bool            // an attempt failed for want of something of our own
	stays      bool            // of a UDP session that has its endpoint already
}

// hasOther tells whether another endpoint could make good an early close. The
// last one's close is its answer, and may be half of one: a server that has
// nothing to say may still want to hear.
func (ps *pass) hasOther() bool {
	return len(ps.candidates)-ps.tried > 1 || !ps.whole && ps.others
}

// isFresh tells whether nothing was tried in vain, so that the same pass can be
// made again from what is known of the endpoints.
func (ps *pass) isFresh() bool { return ps.tried == 0 && ps.lastErr == nil }

// complete lists all candidates: not before the first failed, since most
// connections need no more than that.
func (ps *pass) complete() {
	if ps.whole || len(ps.candidates) == 0 {
		return
	}
	ps.whole = true
	ps.candidates = ps.list.Rest(ps.key, ps.candidates[0], ps.candidates)
}

// connect counts the connects of the next legs in their endpoints' loads.
func (ps *pass) connect(legs int) {
	for ; ps.begun < legs; ps.begun++ {
		ps.candidates[ps.tried+ps.begun].Live.Begin()
	}
}

// nothing takes them out again, since nothing came of them.
func (ps *pass) nothing() {
	for i := range ps.begun {
		ps.candidates[ps.tried+i].Live.Failed()
	}
	ps.begun = 0
}

// connected keeps the one that won.
func (ps *pass) connected(leg int, now time.Duration) {
	ps.connect(leg + 1)
	for i := range ps.begun {
		live := ps.candidates[ps.tried+i].Live
		if i != leg {
			live.Failed()
			continue
		}
		// Of one that started later only a part of the time is its own.
		took := now - ps.dialled
		live.Connected(max(took-time.Duration(leg)*stagger, took/time.Duration(leg+1)))
	}
	ps.begun = 0
}

func (f *flow) lastErr() error {
	if f.pass == nil {
		return nil
	}
	return f.pass.lastErr
}

// begin starts a pass in the flow's next turn, or lets it wait for room. It
// needs mu, and unlocks it.
func (l *link) begin(f *flow, now time.Duration) pump.Step {
	l.turn++
	f.turn = l.turn
	if full := l.makePass(f); full {
		defer l.mu.Unlock()
		l.queue.full = true
		l.settleRelease(f)
		return l.hold(f)
	}
	l.mu.Unlock()
	return l.tryNext(f, now)
}

// makePass finds the first candidate of the flow's turn, and tells whether
// there is none for want of room. It needs mu, under which the connect is
// counted, too: else limits would not be kept.
func (l *link) makePass(f *flow) (full bool) {
	if f.pass == nil {
		f.pass = l.passes.take()
	}
	o := &l.spec.Options
	ps := f.pass
	f.generation = l.generation
	list := l.candidates()
	*ps = pass{
		list:       list,
		key:        endpoints.Key{Turn: f.turn, Caller: l.hash(f.caller()), Release: f.released},
		candidates: ps.candidates[:0],
		others:     l.open > 1,
		legs:       ps.legs[:0],
		timeout:    o.ConnectTimeout,
		settle:     o.Settle,
		sends:      l.sendsProxy(),
		who:        l.spec.For,
		prefix:     ps.prefix[:0],
		starting:   f.starting,
		alone:      l.view.Limit > 0,
	}
	first, full := list.First(ps.key)
	if first == nil {
		ps.whole = true
		return full
	}
	ps.candidates = append(ps.candidates, first)
	ps.connect(1)
	ps.retries = ps.sends != "" && l.stats.mistrusts(first.Endpoint)
	return false
}

// dropPass needs mu.
func (l *link) dropPass(f *flow) {
	if f.pass != nil {
		l.passes.give(f.pass)
		f.pass = nil
	}
}

// tryNext names the next candidates to dial, or ends the pass.
func (l *link) tryNext(f *flow, now time.Duration) pump.Step {
	ps := f.pass
	if ps.tried > 0 || len(ps.candidates) > 0 && ps.others && !ps.alone && ps.candidates[0].Name != "" {
		ps.complete()
	}
	if ps.alone && ps.begun == 0 {
		l.takeRoom(ps)
	}
	if ps.tried >= len(ps.candidates) || now-f.began >= attemptsLimit {
		return l.passFailed(f, now)
	}
	if ps.sends != "" && len(ps.prefix) == 0 {
		ps.prefix = l.appendHeader(ps.prefix, f, ps.sends)
	}
	ps.legs = ps.legs[:0]
	first := ps.candidates[ps.tried]
	for _, c := range ps.candidates[ps.tried:] {
		if len(ps.legs) > 0 && (ps.alone || !together(first, c)) {
			break
		}
		leg := l.fw.leg(&c.Endpoint, ps.timeout)
		leg.Prefix = ps.prefix
		ps.legs = append(ps.legs, leg)
	}
	ps.connect(1) // the others stand by, most often for nothing
	ps.dialled, ps.left = now, f.began+attemptsLimit-now
	if ps.starting {
		ps.legs[0].Begin = l.onBegin(f)
	}
	return pump.Step{Dial: ps.legs, Stagger: stagger, Deadline: l.fw.at(f.began + attemptsLimit), Settle: ps.settle, Retry: ps.hasOther() || ps.retries}
}

// takeRoom counts the next connect, at the first candidate that others have not
// filled since the attempt before.
func (l *link) takeRoom(ps *pass) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ps.tried < len(ps.candidates) && !ps.list.HasRoom(ps.candidates[ps.tried], ps.key) {
		ps.tried++
	}
	if ps.tried < len(ps.candidates) {
		ps.connect(1)
	}
}

func (l *link) onBegin(f *flow) func() {
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.begun(f)
	}
}

// together tells whether two candidates are addresses of one name, which start
// staggered instead of one after the other.
func together(a, b *endpoints.Candidate) bool {
	return a.Name != "" && a.Name == b.Name && isBad(a) == isBad(b) && a.From == b.From
}

func isBad(c *endpoints.Candidate) bool {
	return c.State == endpoints.Failing || c.Health == spec.HealthEjected || c.Health == spec.HealthUnhealthy
}

// failed reports the legs that did not connect.
func (l *link) failed(f *flow) {
	ps := f.pass
	ps.nothing()
	for i := range ps.legs {
		l.legFailed(f, ps.candidates[ps.tried+i].Endpoint, ps.legs[i].Err, ps.given(i))
	}
	ps.tried += len(ps.legs)
}

// given is how long a leg may have taken, if not longer.
func (ps *pass) given(leg int) time.Duration {
	return min(ps.timeout, ps.left-time.Duration(leg)*stagger)
}

func (l *link) legFailed(f *flow, e spec.Endpoint, err error, given time.Duration) {
	switch {
	case errors.Is(err, pump.ErrOvertaken):
		// Slow or silent? A probe finds out, or each connection would wait.
		l.fw.cfg.Pool.Doubt(e)
		return
	case errors.Is(err, pump.ErrNotTried):
		return
	}
	f.pass.lastErr = err
	closed, hasty, tell := isReset(err), isHasty(err, given), false
	l.mu.Lock()
	es := l.stats.of(e)
	es.failed[reason(err)]++
	switch {
	case closed: // the endpoint was reached
		l.stats.earlyClosed++
		tell = l.closes(es, 0, pump.ErrReset)
	case hasty:
		l.eject(es, l.hastyError(err), true)
	}
	l.mu.Unlock()
	switch {
	case closed:
		f.pass.closed = pump.ErrReset
		l.tellClosed(e, pump.ErrReset, tell)
	case hasty:
		l.fw.cfg.Pool.Doubt(e)
	case pump.IsShortage(err):
		f.pass.short = true
	default:
		l.fw.cfg.Pool.Report(e, err)
	}
}

// closedEarly takes the endpoint, and the legs that failed beside it, out of
// the pass.
func (l *link) closedEarly(f *flow, err error) {
	l.mu.Lock()
	on, live := f.on, f.live
	l.stats.closedEarly(on)
	f.on, f.live = nil, nil
	tell := l.closes(on, l.fw.now()-f.since, err)
	if f.pass == nil {
		l.makePass(f)
	}
	l.mu.Unlock()
	live.Release()
	ps := f.pass
	ps.nothing()
	ps.complete()
	ps.closed, ps.lastErr = err, err
	l.tellClosed(on.endpoint, err, tell)
	kept := ps.candidates[:ps.tried]
	for i, c := range ps.candidates[ps.tried:] {
		if c.Endpoint != on.endpoint && (i >= len(ps.legs) || errors.Is(ps.legs[i].Err, pump.ErrNotTried)) {
			kept = append(kept, c)
		}
	}
	ps.candidates = kept
	ps.legs = ps.legs[:0]
}

// passFailed decides when every candidate had its turn.
func (l *link) passFailed(f *flow, now time.Duration) pump.Step {
	ps := f.pass
	ps.nothing()
	if ps.closed != nil {
		// The last one could not be reached, the one before closed.
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.giveUp(f, ps.closed)
	}
	again := now-f.began < attemptsLimit
	if ps.short && again {
		return pump.Step{Park: l.fw.at(now + shortageRetry)}
	}
	l.mu.Lock()
	l.settleRelease(f)
	if again && (f.generation != l.generation || l.serves() && !ps.short) {
		// The link was swapped, or an endpoint came back or has no room now,
		// while this flow tried the others.
		return l.begin(f, now)
	}
	defer l.mu.Unlock()
	if ps.short || l.serves() {
		return l.giveUp(f, ErrNoEndpoint)
	}
	l.goDown(l.fw.at(f.began))
	return l.hold(f)
}
