// Package endpoints knows the live endpoints of every target and what became
// of the last attempts at them. Endpoints are known by identity: links that
// reach the same one share what is known about it.
//
// An endpoint that failed is tried last, and a probe (connect and close) looks
// for its return, so that finding out costs no client anything.
package endpoints

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"legate/internal/spec"
)

// Config of a Pool. Dial is required.
type Config struct {
	// Dial connects to an endpoint and closes the connection, within the
	// given time.
	Dial func(ctx context.Context, e spec.Endpoint, timeout time.Duration) error
	// Changed is told of every target whose endpoints, or their states,
	// changed. It may call the pool. Nil tells nobody.
	Changed func(t spec.Target)
	// Suspect is told of every target with an endpoint that failed or closed
	// early. Nil tells nobody.
	Suspect func(t spec.Target)
	// Ours tells whether an error is a lack of something on our own side,
	// which says nothing about the endpoint. Nil: no error is.
	Ours func(error) bool
	// Log hears of state changes; nil discards.
	Log *slog.Logger
}

// State of an endpoint.
type State uint8

// The states: nothing is known before the first attempt.
const (
	Unknown State = iota
	Serving
	Failing
)

// Attention says how closely a target's endpoints are watched.
type Attention uint8

// The degrees of attention, each including the one before.
const (
	Idle   Attention = iota // failing endpoints are probed once a second
	Down                    // unknown ones, too
	Urgent                  // both every 100 ms, since somebody waits
	Check                   // all of them, once a second
)

// Probes of this pool.
const (
	probeTimeout  = time.Second
	probeInterval = time.Second
	probeUrgent   = 100 * time.Millisecond
	// udpPenalty is how long a UDP endpoint that refused is tried last: there
	// is no connect that could tell of its return.
	udpPenalty = 5 * time.Second
)

// Pool is the set of live endpoints. Its methods may be called from any
// goroutine.
type Pool struct {
	cfg  Config
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup // probes

	mu        sync.Mutex // guards the following
	targets   map[spec.Target]*target
	endpoints map[spec.Endpoint]*endpoint
}

type target struct {
	answer   spec.Answer
	watchers map[any]Attention
}

type endpoint struct {
	spec.Endpoint
	ctx     context.Context // ends with the pool, or when no target has it any more
	forget  context.CancelFunc
	targets map[spec.Target]struct{} // that have it now
	state   State
	lastErr error
	tried   time.Time
	doubted bool // to be probed once, whatever its state
	probing bool
	poke    chan struct{} // wakes the probe, which looks at everything anew
}

// Candidate is an endpoint that may serve, with what is known of it.
type Candidate struct {
	spec.Endpoint
	From    spec.Target // the target it belongs to
	State   State
	LastErr error     // of the last failed attempt
	Tried   time.Time // the last attempt; zero for none
	Weak    bool      // none of the targets has it in more than a weak answer
}

// New returns an empty pool.
func New(cfg Config) *Pool {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Changed == nil {
		cfg.Changed = func(spec.Target) {}
	}
	if cfg.Ours == nil {
		cfg.Ours = func(error) bool { return false }
	}
	if cfg.Suspect == nil {
		cfg.Suspect = func(spec.Target) {}
	}
	p := &Pool{cfg: cfg, targets: map[spec.Target]*target{}, endpoints: map[spec.Endpoint]*endpoint{}}
	p.ctx, p.stop = context.WithCancel(context.Background())
	return p
}

// Close stops the probes and returns when none runs any more.
func (p *Pool) Close() {
	p.mu.Lock()
	p.stop()
	p.mu.Unlock()
	p.wg.Wait()
}

// Set makes a the answer for t. Endpoints that stay keep their state.
func (p *Pool) Set(t spec.Target, a spec.Answer) {
	p.mu.Lock()
	tg := p.target(t)
	for _, e := range tg.answer.Endpoints {
		if !slices.Contains(a.Endpoints, e) {
			p.leave(t, e)
		}
	}
	tg.answer = a
	for _, e := range a.Endpoints {
		p.join(t, e)
	}
	p.mu.Unlock()
	p.cfg.Changed(t)
}

// Keep forgets every target but these.
func (p *Pool) Keep(targets []spec.Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t, tg := range p.targets {
		if slices.Contains(targets, t) {
			continue
		}
		for _, e := range tg.answer.Endpoints {
			p.leave(t, e)
		}
		delete(p.targets, t)
	}
}

// Answer returns what the source last said of t.
func (p *Pool) Answer(t spec.Target) spec.Answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if tg := p.targets[t]; tg != nil {
		return tg.answer
	}
	return spec.Answer{}
}

// Watch sets how closely owner wants the targets watched.
func (p *Pool) Watch(owner any, targets []spec.Target, a Attention) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range targets {
		tg := p.target(t)
		if a == Idle {
			delete(tg.watchers, owner)
		} else {
			tg.watchers[owner] = a
		}
		for _, e := range tg.answer.Endpoints {
			p.attend(p.endpoints[e])
		}
	}
}

func (p *Pool) target(t spec.Target) *target {
	tg := p.targets[t]
	if tg == nil {
		tg = &target{watchers: map[any]Attention{}}
		p.targets[t] = tg
	}
	return tg
}

func (p *Pool) join(t spec.Target, e spec.Endpoint) {
	ep := p.endpoints[e]
	if ep == nil {
		ep = &endpoint{Endpoint: e, targets: map[spec.Target]struct{}{}, poke: make(chan struct{}, 1)}
		ep.ctx, ep.forget = context.WithCancel(p.ctx)
		p.endpoints[e] = ep
	}
	ep.targets[t] = struct{}{}
	p.attend(ep)
}

func (p *Pool) leave(t spec.Target, e spec.Endpoint) {
	ep := p.endpoints[e]
	if ep == nil {
		return
	}
	delete(ep.targets, t)
	if len(ep.targets) == 0 {
		delete(p.endpoints, e)
		ep.forget()
	}
	ep.wake()
}

// Candidates appends the endpoints of the targets to buf, best first: those
// that serve or are unknown in round-robin order by turn, then those of weak
// answers, then the failing ones, longest ago first. Where only weak answers
// are left, their endpoints take the turns.
func (p *Pool) Candidates(targets []spec.Target, turn uint64, buf []Candidate) []Candidate {
	p.mu.Lock()
	defer p.mu.Unlock()
	start := len(buf)
	for _, t := range targets {
		buf = p.appendCandidates(t, buf, start)
	}
	list := buf[start:]
	slices.SortStableFunc(list, later)
	// Only what may serve takes turns: were the failing ones rotated, too, the
	// endpoint behind one of them would get its turns as well.
	if n := uint64(healthy(list)); n > 1 {
		rotate(list[:n], int(turn%n))
	}
	return buf
}

// healthy counts the candidates that take turns: those at the front that are
// as good as the first, unless it fails.
func healthy(list []Candidate) int {
	n := 0
	for n < len(list) && list[n].State != Failing && list[n].rank() == list[0].rank() {
		n++
	}
	return n
}

func (p *Pool) appendCandidates(t spec.Target, buf []Candidate, start int) []Candidate {
	tg := p.targets[t]
	if tg == nil {
		return buf
	}
	for _, e := range tg.answer.Endpoints {
		if i := slices.IndexFunc(buf[start:], func(c Candidate) bool { return c.Endpoint == e }); i >= 0 {
			if c := &buf[start+i]; c.Weak && !tg.answer.Weak {
				c.From, c.Weak = t, false
			}
			continue
		}
		ep := p.endpoints[e]
		buf = append(buf, Candidate{Endpoint: e, From: t, State: ep.stateNow(), LastErr: ep.lastErr, Tried: ep.tried, Weak: tg.answer.Weak})
	}
	return buf
}

func (e *endpoint) stateNow() State {
	if e.Protocol == spec.UDP && e.state == Failing && time.Since(e.tried) > udpPenalty {
		return Unknown
	}
	return e.state
}

func rotate(list []Candidate, n int) {
	slices.Reverse(list[:n])
	slices.Reverse(list[n:])
	slices.Reverse(list)
}

// later orders candidates by rank, and failing ones by their last attempt.
func later(a, b Candidate) int {
	if c := cmp.Compare(a.rank(), b.rank()); c != 0 || a.State != Failing {
		return c
	}
	return a.Tried.Compare(b.Tried)
}

// rank is lower for what is tried first. An endpoint of a weak answer stands
// before one that fails: a name server may well be wrong for a moment, while
// the failing one is known to cost an attempt for nothing.
func (c Candidate) rank() int {
	switch {
	case c.State == Failing:
		return 2
	case c.Weak:
		return 1
	}
	return 0
}

// Report says what became of an attempt at e; nil means that it connected.
func (p *Pool) Report(e spec.Endpoint, err error) {
	p.mu.Lock()
	ep := p.endpoints[e]
	if ep == nil {
		p.mu.Unlock()
		return
	}
	changed, targets := p.record(ep, err), ep.targetList()
	p.mu.Unlock()
	p.tell(targets, changed, err)
}

// Suspect says that e gave reason to ask its sources again, though no attempt
// failed.
func (p *Pool) Suspect(e spec.Endpoint) {
	p.mu.Lock()
	ep := p.endpoints[e]
	if ep == nil {
		p.mu.Unlock()
		return
	}
	targets := ep.targetList()
	p.mu.Unlock()
	for _, t := range targets {
		p.cfg.Suspect(t)
	}
}

// Doubt has e probed once, now: an attempt at it took so long that another
// endpoint was quicker.
func (p *Pool) Doubt(e spec.Endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ep := p.endpoints[e]; ep != nil && ep.state != Failing {
		ep.doubted = true
		p.attend(ep)
	}
}

// record notes the outcome and tells whether the state that others see
// changed: a UDP endpoint whose penalty is over fails anew.
func (p *Pool) record(ep *endpoint, err error) bool {
	ep.doubted = false
	if err != nil && p.cfg.Ours(err) {
		return false
	}
	was, seen := ep.state, ep.stateNow()
	ep.tried = time.Now()
	ep.state = Serving
	if err != nil {
		ep.state, ep.lastErr = Failing, err
	}
	if was != ep.state {
		p.logState(ep, was)
		p.attend(ep)
	}
	return seen != ep.state
}

func (p *Pool) logState(ep *endpoint, was State) {
	switch {
	case ep.state == Failing:
		p.cfg.Log.Info("endpoint fails", "endpoint", ep, "error", ep.lastErr)
	case was == Failing:
		p.cfg.Log.Info("endpoint serves again", "endpoint", ep)
	}
}

func (p *Pool) tell(targets []spec.Target, changed bool, err error) {
	for _, t := range targets {
		if err != nil {
			p.cfg.Suspect(t)
		}
		if changed {
			p.cfg.Changed(t)
		}
	}
}

func (e *endpoint) targetList() []spec.Target {
	list := make([]spec.Target, 0, len(e.targets))
	for t := range e.targets {
		list = append(list, t)
	}
	return list
}

func (e *endpoint) wake() {
	select {
	case e.poke <- struct{}{}:
	default:
	}
}
