// Package endpoints knows the live endpoints of every target, what became of
// the last attempts at them and what checks say of them, and in which order a
// connection is to try them. Endpoints are known by identity: links that reach
// the same one share what is known about it, but for what their own options make
// of it (View.Own).
//
// An endpoint that failed is tried last, and a probe looks for its return, so
// that finding out costs no client anything.
package endpoints

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"legate/internal/spec"
)

// Config of a Pool. Dial is required. No callback is called under a lock of the
// pool.
type Config struct {
	// Dial connects to an endpoint and closes the connection, within the
	// given time.
	Dial func(ctx context.Context, e spec.Endpoint, timeout time.Duration) error
	// Connect is Dial without closing, for Probe. Nil: Probe only dials.
	Connect func(ctx context.Context, e spec.Endpoint) (net.Conn, error)
	// Check asks an endpoint for its health until ctx, which has the check's
	// time-out, ends. Nil: no view has checks, whatever it says.
	Check func(ctx context.Context, e spec.Endpoint, c spec.Check) error
	// Changed is told of every target whose endpoints, or what is known of
	// them, changed; changes that come together are told once. It may call
	// the pool. Nil tells nobody.
	Changed func(t spec.Target)
	// Suspect is told of every target with an endpoint that failed or closed
	// early. Nil tells nobody.
	Suspect func(t spec.Target)
	// Room is told of every target with an endpoint that has room again, after
	// List.First found none. Nil tells nobody.
	Room func(t spec.Target)
	// Ours tells whether an error is a lack of something on our own side,
	// which says nothing about the endpoint. Nil: no error is.
	Ours func(error) bool
	// Host is the name of this host, as sources call it; "": not known.
	Host string
	// Local tells whether an address is this host's: endpoints of no named
	// host are near where it is. Nil: loopback addresses are.
	Local func(netip.Addr) bool
	// Rand returns numbers in [0, 1) for jitter; nil: random ones.
	Rand func() float64
	// Log hears of state changes; nil discards.
	Log *slog.Logger
}

// Pool is the set of live endpoints. Its methods may be called from any
// goroutine.
type Pool struct {
	cfg   Config
	ctx   context.Context
	stop  context.CancelFunc
	wg    sync.WaitGroup // the scheduler, the teller, and attempts
	start time.Time      // of the pool's clock
	names atomic.Uint64  // counts the targets that came and went; written under mu
	due   chan struct{}  // wakes the scheduler
	said  chan struct{}  // wakes the teller

	mu        sync.Mutex // guards the following
	targets   map[spec.Target]*target
	endpoints index
	former    map[spec.Endpoint]*Live // of no target, with connections that go on
	sweepAt   int                     // so many former ones are looked through
	watches   map[any]*watch
	checks    map[spec.Check]*health // of the watches and of late Probes
	drained   map[string]time.Time
	tasks     tasks
	running   int       // attempts under way
	news      []*target // of which the teller has to tell
	mark      uint32    // of the last walk over endpoints
}

// target is one that somebody named, with its answer.
type target struct {
	spec.Target
	answer   spec.Answer
	watchers []*watch
	checks   []*health // that the watchers want
	news     news
	version  atomic.Uint64 // of all that a List is made from
}

// New returns an empty pool.
func New(cfg Config) *Pool {
	fill(&cfg)
	p := &Pool{
		cfg: cfg,
		// A moment of zero is never.
		start: time.Now().Add(-time.Second),
		due:   make(chan struct{}, 1), said: make(chan struct{}, 1),
		targets: map[spec.Target]*target{}, endpoints: newIndex(), former: map[spec.Endpoint]*Live{},
		watches: map[any]*watch{}, checks: map[spec.Check]*health{},
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	p.wg.Go(p.schedule)
	p.wg.Go(p.tell)
	return p
}

func fill(cfg *Config) {
	nobody := func(spec.Target) {}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Changed == nil {
		cfg.Changed = nobody
	}
	if cfg.Suspect == nil {
		cfg.Suspect = nobody
	}
	if cfg.Room == nil {
		cfg.Room = nobody
	}
	if cfg.Ours == nil {
		cfg.Ours = func(error) bool { return false }
	}
	if cfg.Local == nil {
		cfg.Local = netip.Addr.IsLoopback
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
}

// Close stops the checks and probes and returns when none runs any more and
// nobody is told of anything.
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
	was := tg.answer
	tg.answer = a
	late := !was.At.IsZero() || len(was.Endpoints) > 0
	p.walk()
	for i := range a.Endpoints {
		p.join(tg, a.Endpoints[i].Endpoint, late)
	}
	for i := range was.Endpoints {
		if e := p.endpoints.find(was.Endpoints[i].Endpoint); e != nil && e.mark != p.mark {
			p.leave(tg, e)
		}
	}
	p.admitAll(tg)
	tg.version.Add(1)
	p.mu.Unlock()
	p.cfg.Changed(t)
}

// Keep forgets every target but these.
func (p *Pool) Keep(targets []spec.Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	keep := make(map[spec.Target]bool, len(targets))
	for _, t := range targets {
		keep[t] = true
	}
	for t, tg := range p.targets {
		if keep[t] {
			continue
		}
		for i := range tg.answer.Endpoints {
			if e := p.endpoints.find(tg.answer.Endpoints[i].Endpoint); e != nil {
				p.leave(tg, e)
			}
		}
		delete(p.targets, t)
		p.names.Add(1)
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

// Drain makes the set, by Endpoint.String and with the time of the wish, the
// endpoints that take no new connections. The map is the pool's from then on.
func (p *Pool) Drain(set map[string]time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drained = set
	for e := range p.endpoints.all() {
		if is := p.isDrained(e); is != e.drained {
			e.drained = is
			p.changed(e)
		}
	}
}

func (p *Pool) isDrained(e *Live) bool {
	if len(p.drained) == 0 {
		return false
	}
	_, is := p.drained[e.String()]
	return is
}

func (p *Pool) target(t spec.Target) *target {
	tg := p.targets[t]
	if tg == nil {
		tg = &target{Target: t}
		p.targets[t] = tg
		p.names.Add(1)
		for _, w := range p.watches {
			if slices.Contains(w.targets, t) {
				tg.watchers = append(tg.watchers, w)
			}
		}
		tg.checks = tg.wanted()
	}
	return tg
}

// walk begins a walk over endpoints: those that it has seen get its mark.
func (p *Pool) walk() {
	if p.mark++; p.mark == 0 {
		for e := range p.endpoints.all() {
			e.mark = 0
		}
		p.mark = 1
	}
}

// join makes e one of the target's. Late ones, which come to others that serve
// already, start slowly.
func (p *Pool) join(tg *target, id spec.Endpoint, late bool) {
	e := p.endpoints.find(id)
	if e == nil {
		e = p.enliven(id)
		if late {
			e.risen = p.now()
		}
	}
	e.mark = p.mark
	if !slices.Contains(e.targets, tg) {
		e.targets = append(e.targets, tg)
		p.settle(e)
	}
}

// enliven returns a Live of which nothing is known but the connections that a
// former life left.
func (p *Pool) enliven(id spec.Endpoint) *Live {
	e := p.former[id]
	if e == nil {
		e = &Live{Endpoint: id, pool: p}
		e.probe = task{live: e}
	}
	delete(p.former, id)
	e.known = known{life: e.life + 1}
	e.drained = p.isDrained(e)
	p.endpoints.add(e)
	return e
}

func (p *Pool) leave(tg *target, e *Live) {
	e.targets = slices.DeleteFunc(e.targets, func(has *target) bool { return has == tg })
	p.settle(e)
	if len(e.targets) > 0 {
		return
	}
	p.endpoints.remove(e)
	e.life++ // what is under way says nothing about another life
	e.settled.Store(false)
	e.against.Store(false)
	p.drop(&e.probe)
	if e.load.Load() > 0 {
		p.former[e.Endpoint] = e
		p.sweep()
	}
}

// sweep forgets former endpoints whose connections are gone.
func (p *Pool) sweep() {
	if len(p.former) <= p.sweepAt {
		return
	}
	for id, e := range p.former {
		if e.load.Load() <= 0 {
			delete(p.former, id)
		}
	}
	p.sweepAt = max(2*len(p.former), 64)
}

func (p *Pool) now() time.Duration { return time.Since(p.start) }

// at is the time of a moment; the zero Time for never.
func (p *Pool) at(moment time.Duration) time.Time {
	if moment == 0 {
		return time.Time{}
	}
	return p.start.Add(moment)
}

// changed says that lists with e are out of date, to everybody.
func (p *Pool) changed(e *Live) {
	for _, tg := range e.targets {
		tg.version.Add(1)
		p.note(tg, newsChanged)
	}
}

// outdate says so only to those who look.
func (p *Pool) outdate(e *Live) {
	for _, tg := range e.targets {
		tg.version.Add(1)
	}
}

func (p *Pool) suspect(e *Live) {
	for _, tg := range e.targets {
		p.note(tg, newsSuspect)
	}
}
