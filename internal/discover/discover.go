// Package discover keeps the endpoints of targets known: it asks the source of
// each target, again while it runs and at once when a connect failed, and says
// what changed.
//
// What all sources have in common is here, once: targets that ask the same
// question share one watch; names among the answers are looked up in turn; a
// failed source is asked again after longer and longer pauses, and what it
// last said stays; what is missing without proof stays for a while; changes
// that come together are told once. A source, one package for each dependency,
// does nothing but ask.
package discover

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"legate/internal/spec"
)

// Config of a Discovery.
type Config struct {
	// Set is told what is known of a target: before Apply returns for one that
	// says itself where to connect, soon after it for others, and whenever the
	// endpoints or the error changed. Calls come one at a time for each target,
	// and none after the Apply that dropped it returned. Set must not call
	// Apply or Close. Required.
	Set func(spec.Target, spec.Answer)
	// Sources by the name that targets have of them; spec.SourceFixed needs
	// none. Names among answers are looked up with spec.SourceDNS.
	Sources map[string]Source
	// Log receives changes at info; nil: none.
	Log *slog.Logger
}

// Discovery watches the endpoints of targets. Its methods may be called at the
// same time.
type Discovery struct {
	config  Config
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	news    chan struct{} // wakes the teller
	told    atomic.Int64  // calls of Set

	// applying is held for the whole of an Apply, so that the end of an old
	// binding and the start of a new one for the same target keep their order.
	applying sync.Mutex

	mu       sync.Mutex // guards the following and all that they lead to
	bindings map[spec.Target]*binding
	topics   map[spec.Target]*topic
	dirty    map[*binding]bool // with something to tell
	doubtful map[*topic]bool   // with places that expire
}

// New returns a Discovery that watches nothing yet. The caller ends it with
// Close.
func New(config Config) *Discovery {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	d := &Discovery{
		config:   config,
		news:     make(chan struct{}, 1),
		bindings: map[spec.Target]*binding{},
		topics:   map[spec.Target]*topic{},
		dirty:    map[*binding]bool{},
		doubtful: map[*topic]bool{},
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	d.running.Go(d.tell)
	return d
}

// Apply watches exactly the given targets. Those that were watched before go
// on undisturbed. It waits for no source.
func (d *Discovery) Apply(targets []spec.Target) {
	d.applying.Lock()
	defer d.applying.Unlock()
	gone, ready := d.replace(targets)
	for _, b := range gone {
		b.stop()
	}
	for _, b := range ready {
		d.say(b, b.constant)
	}
}

// replace starts what is missing. It returns the bindings that are no longer
// wanted, and the new ones whose answer is known already: both are dealt with
// after the lock is free, since Set may call Suspect.
func (d *Discovery) replace(targets []spec.Target) (gone, ready []*binding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	left := maps.Clone(d.bindings)
	for _, t := range targets {
		delete(left, t)
		if d.bindings[t] != nil || d.ctx.Err() != nil {
			continue
		}
		b := d.bind(t)
		d.bindings[t] = b
		if b.main == nil {
			ready = append(ready, b)
		}
	}
	for t, b := range left {
		delete(d.bindings, t)
		d.unbind(b)
		gone = append(gone, b)
	}
	return gone, ready
}

// Suspect says that a connect to an endpoint of t failed, so that what is
// known of t may be out of date: its source is asked again at once, but at
// most once a second. It does nothing for a target that is not watched.
func (d *Discovery) Suspect(t spec.Target) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.bindings[t]
	if b == nil || b.main == nil {
		return
	}
	b.main.doubt()
	for _, name := range b.names {
		name.doubt()
	}
}

// Report says what the source of a watched target last said, and when.
func (d *Discovery) Report(t spec.Target) (spec.SourceStatus, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b := d.bindings[t]
	if b == nil {
		return spec.SourceStatus{}, false
	}
	return b.report(), true
}

// Work counts what was done since the start.
type Work struct {
	Told    int64 // calls of Set
	Watches int   // questions that are watched now
}

// Work returns the counts.
func (d *Discovery) Work() Work {
	d.mu.Lock()
	defer d.mu.Unlock()
	return Work{Told: d.told.Load(), Watches: len(d.topics)}
}

// Close ends all watches and returns when nothing of the Discovery runs. A
// later Apply watches nothing.
func (d *Discovery) Close() {
	d.cancel()
	d.Apply(nil)
	d.running.Wait()
}

// quiet is how long after an answer the next one for the same target is told:
// a registry that names fifty instances one after the other is not fifty
// changes. The first change after a pause is told at once.
const quiet = 20 * time.Millisecond

// tell is the one goroutine that tells what sources said.
func (d *Discovery) tell() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, next := d.due(time.Now())
		for _, n := range due {
			d.say(n.binding, n.answer)
		}
		timer.Reset(next)
		select {
		case <-d.ctx.Done():
			return
		case <-d.news:
		case <-timer.C:
		}
	}
}

type news struct {
	binding *binding
	answer  spec.Answer
}

// due returns what is to be told now, and how long there is nothing to do.
func (d *Discovery) due(now time.Time) (due []news, next time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next = time.Hour
	for t := range d.doubtful {
		if left := t.known.expires().Sub(now); left > 0 {
			next = min(next, left)
			continue
		}
		t.known.expire(now)
		d.changed(t)
	}
	for b := range d.dirty {
		for _, a := range b.owed {
			b.said, b.told = &a, now
			due = append(due, news{b, a})
		}
		b.owed = nil
		if left := b.told.Add(quiet).Sub(now); left > 0 {
			next = min(next, left)
			continue
		}
		d.follow(b)
		a, left, ok := b.ready(now)
		if !ok {
			next = min(next, left) // or its names wake us
			continue
		}
		delete(d.dirty, b)
		if b.differs(a) {
			b.said, b.told = &a, now
			due = append(due, news{b, a})
		}
	}
	return due, next
}

// say passes an answer on, unless the binding was dropped meanwhile.
func (d *Discovery) say(b *binding, a spec.Answer) {
	b.telling.Lock()
	defer b.telling.Unlock()
	if b.stopped {
		return
	}
	log := d.config.Log.With("target", b.target.String())
	switch {
	case a.Err != nil:
		log.Info("no good answer", "error", a.Err, "endpoints", texts(a.Endpoints))
	case !b.heard: // as expected: nothing to read at every start
		log.Debug("endpoints found", "endpoints", texts(a.Endpoints))
	case b.last.Err != nil && slices.Equal(b.last.Endpoints, a.Endpoints):
		log.Info("good answers again", "endpoints", texts(a.Endpoints))
	default:
		log.Info("endpoints changed", "endpoints", texts(a.Endpoints))
	}
	b.heard, b.last = true, a
	d.told.Add(1)
	d.config.Set(b.target, a)
}

// textLimit keeps a line of the log readable where a service has thousands of
// endpoints.
const textLimit = 20

func texts(endpoints []spec.Member) []string {
	list := make([]string, 0, min(len(endpoints), textLimit+1))
	for i := range endpoints {
		if i == textLimit {
			return append(list, "...")
		}
		list = append(list, endpoints[i].String())
	}
	return list
}

// learn takes in what a source said of a question.
func (d *Discovery) learn(t *topic, r Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.topics[t.question] != t {
		return
	}
	now, died := time.Now(), t.known.diesIn(r)
	news := t.known.learn(r, now)
	if died {
		for b := range t.users {
			b.owed = append(b.owed, b.answer(now))
		}
	}
	if news {
		d.changed(t)
	}
}

// changed has the teller look at all that depends on the topic.
func (d *Discovery) changed(t *topic) {
	delete(d.doubtful, t)
	if !t.known.expires().IsZero() {
		d.doubtful[t] = true
	}
	for b := range t.users {
		d.dirty[b] = true
	}
	d.wake()
}

func (d *Discovery) wake() {
	select {
	case d.news <- struct{}{}:
	default:
	}
}

// topic returns the watch of a question, which the binding uses from then on.
func (d *Discovery) topic(question spec.Target, b *binding) *topic {
	t := d.topics[question]
	if t == nil {
		t = &topic{question: question, suspect: make(chan struct{}, 1), users: map[*binding]bool{}}
		t.ctx, t.cancel = context.WithCancel(d.ctx)
		d.topics[question] = t
		d.running.Go(func() { t.ask(d.config.Sources[question.Source], d.learn) })
	}
	t.users[b] = true
	return t
}

// release ends a watch that nobody uses any more.
func (d *Discovery) release(t *topic, b *binding) {
	delete(t.users, b)
	if len(t.users) == 0 {
		t.cancel()
		delete(d.topics, t.question)
		delete(d.doubtful, t)
	}
}

func (d *Discovery) bind(target spec.Target) *binding {
	b := &binding{target: target}
	if target.Source == spec.SourceFixed {
		b.constant = fixed(target)
		return b
	}
	b.names = map[string]*topic{}
	b.main = d.topic(target.Question(), b)
	if b.main.known.answered() {
		d.dirty[b] = true // by another target's question
		d.wake()
	}
	return b
}

func (d *Discovery) unbind(b *binding) {
	delete(d.dirty, b)
	if b.main != nil {
		d.release(b.main, b)
	}
	for _, t := range b.names {
		d.release(t, b)
	}
}

// follow looks up the names that the target's source names now, and no others.
func (d *Discovery) follow(b *binding) {
	wanted := b.main.known.hosts()
	for name, t := range b.names {
		if !wanted[name] {
			d.release(t, b)
			delete(b.names, name)
		}
	}
	for name := range wanted {
		if b.names[name] == nil {
			b.names[name] = d.topic(spec.Target{Source: spec.SourceDNS, Host: name}, b)
		}
	}
}
