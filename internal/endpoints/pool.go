// Package endpoints knows the live endpoints of every target and what became
// of the last attempts at them. Endpoints are known by identity: links that
// reach the same one share what is known about it.
//
// An endpoint that failed is tried last, and a probe (connect and close) looks
// for its return, so that finding out costs no client anything.
package endpoints

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
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
	cfg     Config
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup // probes
	start   time.Time
	version atomic.Uint64 // of all that a List is made from; written under mu

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
	targets []spec.Target // that have it now; replaced, never edited
	state   State
	lastErr error
	tried   time.Time
	doubted bool // to be probed once, whatever its state
	probing bool
	poke    chan struct{} // wakes the probe, which looks at everything anew

	// The following need no lock: with every connection somebody says that
	// what is known to serve does so.
	settled atomic.Bool  // one more success changes nothing but served
	served  atomic.Int64 // when it last did, in nanoseconds since the pool's start; 0 is never
}

// Candidate is an endpoint that may serve, with what is known of it.
type Candidate struct {
	spec.Member
	From    spec.Target // the target it belongs to
	State   State
	LastErr error     // of the last failed attempt
	Tried   time.Time // the last attempt; zero for none
	Weak    bool      // none of the targets has it in more than a weak answer

	known *endpoint
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
	p := &Pool{cfg: cfg, start: time.Now(), targets: map[spec.Target]*target{}, endpoints: map[spec.Endpoint]*endpoint{}}
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
	p.version.Add(1)
	tg := p.target(t)
	for _, m := range tg.answer.Endpoints {
		if !slices.ContainsFunc(a.Endpoints, func(n spec.Member) bool { return n.Endpoint == m.Endpoint }) {
			p.leave(t, m.Endpoint)
		}
	}
	tg.answer = a
	for _, m := range a.Endpoints {
		p.join(t, m.Endpoint)
	}
	p.mu.Unlock()
	p.cfg.Changed(t)
}

// Keep forgets every target but these.
func (p *Pool) Keep(targets []spec.Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.version.Add(1)
	for t, tg := range p.targets {
		if slices.Contains(targets, t) {
			continue
		}
		for _, m := range tg.answer.Endpoints {
			p.leave(t, m.Endpoint)
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
		for _, m := range tg.answer.Endpoints {
			p.attend(p.endpoints[m.Endpoint])
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
		ep = &endpoint{Endpoint: e, poke: make(chan struct{}, 1)}
		ep.ctx, ep.forget = context.WithCancel(p.ctx)
		p.endpoints[e] = ep
	}
	if !slices.Contains(ep.targets, t) {
		ep.targets = append(slices.Clip(ep.targets), t)
	}
	p.attend(ep)
}

func (p *Pool) leave(t spec.Target, e spec.Endpoint) {
	ep := p.endpoints[e]
	if ep == nil {
		return
	}
	ep.targets = slices.DeleteFunc(slices.Clone(ep.targets), func(has spec.Target) bool { return has == t })
	if len(ep.targets) == 0 {
		delete(p.endpoints, e)
		ep.settled.Store(false) // what returns is another
		ep.forget()
	}
	ep.wake()
}

// Served is Report of a success at the given time, for every connection: of an
// endpoint that is known to serve it costs next to nothing.
func (p *Pool) Served(c *Candidate, at time.Time) {
	if c.known == nil || !c.known.settled.Load() {
		p.Report(c.Endpoint, nil)
		return
	}
	c.known.served.Store(int64(at.Sub(p.start)))
}

// Report says what became of an attempt at e; nil means that it connected.
func (p *Pool) Report(e spec.Endpoint, err error) {
	p.mu.Lock()
	ep := p.endpoints[e]
	if ep == nil {
		p.mu.Unlock()
		return
	}
	changed, targets := p.record(ep, err), ep.targets
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
	targets := ep.targets
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
		ep.settled.Store(false)
		p.attend(ep)
	}
}

// record notes the outcome and tells whether the state that others see
// changed: a UDP endpoint whose penalty is over fails anew.
func (p *Pool) record(ep *endpoint, err error) bool {
	ep.doubted = false
	defer func() { ep.settled.Store(ep.state == Serving && len(ep.targets) > 0) }()
	if err != nil && p.cfg.Ours(err) {
		return false
	}
	was, seen := ep.state, ep.stateNow()
	ep.tried = time.Now()
	ep.state = Serving
	if err != nil {
		ep.state, ep.lastErr = Failing, err
	}
	if err != nil || was != ep.state { // failing ones are ordered by their last attempt
		p.version.Add(1)
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

func (e *endpoint) wake() {
	select {
	case e.poke <- struct{}{}:
	default:
	}
}
