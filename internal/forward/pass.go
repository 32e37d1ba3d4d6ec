package forward

import (
	"errors"
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

// pass is one way through the candidates. Only the pump's calls use it; it
// serves another flow when this one is connected, unless what was tried in vain
// must not be tried again.
type pass struct {
	candidates []*endpoints.Candidate // best first
	tried      int                    // so many of them had their turn
	legs       []pump.Leg
	timeout    time.Duration // of one attempt
	settle     time.Duration
	starting   bool  // the flow was released: whoever is next waits for its connect
	lastErr    error // of the last failed attempt
	closed     error // how the last endpoint closed that did so early
	short      bool  // an attempt failed for want of something of our own
}

// hasOther tells whether another endpoint could make good an early close. The
// last one's close is its answer, and may be half of one: a server that has
// nothing to say may still want to hear.
func (ps *pass) hasOther() bool { return len(ps.candidates)-ps.tried > 1 }

// isFresh tells whether nothing was tried in vain, so that the same pass can be
// made again from what is known of the endpoints.
func (ps *pass) isFresh() bool { return ps.tried == 0 && ps.lastErr == nil }

func (f *flow) lastErr() error {
	if f.pass == nil {
		return nil
	}
	return f.pass.lastErr
}

// tryAll tries the candidates, best first, within attemptsLimit from now.
func (l *link) tryAll(f *flow) pump.Step {
	f.began = l.fw.now()
	return l.tryAgain(f)
}

// tryAgain tries them in the time that is left.
func (l *link) tryAgain(f *flow) pump.Step {
	l.mu.Lock()
	l.startPass(f)
	l.mu.Unlock()
	return l.tryNext(f, l.fw.now())
}

// startPass needs mu.
func (l *link) startPass(f *flow) {
	l.turn++
	f.turn = l.turn
	l.makePass(f)
}

// makePass lists the candidates in the order of the flow's turn. It needs mu.
func (l *link) makePass(f *flow) {
	if f.pass == nil {
		f.pass = l.passes.take()
	}
	o := &l.spec.Options
	ps := f.pass
	*ps = pass{
		candidates: l.order(f, ps.candidates[:0]),
		legs:       ps.legs[:0],
		timeout:    o.ConnectTimeout,
		settle:     o.Settle,
		starting:   f.starting,
	}
	f.generation = l.generation
}

// order appends the candidates of the flow's turn, best first.
func (l *link) order(f *flow, buf []*endpoints.Candidate) []*endpoints.Candidate {
	k := endpoints.Key{Turn: f.turn}
	list := l.candidates()
	first, _ := list.First(k)
	if first == nil {
		return buf
	}
	return list.Rest(k, first, append(buf, first))
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
	if ps.tried >= len(ps.candidates) || now-f.began >= attemptsLimit {
		return l.passFailed(f, now)
	}
	ps.legs = ps.legs[:0]
	first := ps.candidates[ps.tried]
	for _, c := range ps.candidates[ps.tried:] {
		if len(ps.legs) > 0 && !together(first, c) {
			break
		}
		ps.legs = append(ps.legs, l.fw.leg(&c.Endpoint, ps.timeout))
	}
	if ps.starting {
		ps.legs[0].Begin = l.onBegin(f)
	}
	return pump.Step{Dial: ps.legs, Stagger: stagger, Deadline: l.fw.at(f.began + attemptsLimit), Settle: ps.settle, Retry: ps.hasOther()}
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
	return a.From.Source == spec.SourceDNS && (a.State == endpoints.Failing) == (b.State == endpoints.Failing) && a.From == b.From
}

// failed reports the legs that did not connect.
func (l *link) failed(f *flow) {
	ps := f.pass
	for i := range ps.legs {
		l.legFailed(f, ps.candidates[ps.tried+i].Endpoint, ps.legs[i].Err)
	}
	ps.tried += len(ps.legs)
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
	f.pass.lastErr = err
	// A reset that overtakes the end of the connect is an early close, too:
	// the endpoint was reached.
	closed := errors.Is(err, syscall.ECONNRESET)
	l.mu.Lock()
	l.stats.of(e).failed[reason(err)]++
	if closed {
		l.stats.earlyClosed++
	}
	l.mu.Unlock()
	switch {
	case closed:
		f.pass.closed = pump.ErrReset
		l.fw.cfg.Pool.Suspect(e)
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
	e := f.on.endpoint
	l.stats.closedEarly(f.on)
	f.on = nil
	if f.pass == nil {
		l.makePass(f)
	}
	l.mu.Unlock()
	ps := f.pass
	ps.closed, ps.lastErr = err, err
	l.fw.cfg.Pool.Suspect(e)
	kept := ps.candidates[:ps.tried]
	for i, c := range ps.candidates[ps.tried:] {
		if c.Endpoint != e && (i >= len(ps.legs) || errors.Is(ps.legs[i].Err, pump.ErrNotTried)) {
			kept = append(kept, c)
		}
	}
	ps.candidates = kept
}

// passFailed decides when every candidate had its turn.
func (l *link) passFailed(f *flow, now time.Duration) pump.Step {
	ps := f.pass
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
		// The link was swapped, or an endpoint came back, while this flow
		// tried the others.
		l.mu.Unlock()
		return l.tryAgain(f)
	}
	defer l.mu.Unlock()
	if ps.short || l.serves() {
		return l.giveUp(f, ErrNoEndpoint)
	}
	l.goDown(l.fw.at(f.began))
	return l.hold(f)
}
