package discover

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"legate/internal/spec"
)

// notebook collects what a Discovery says.
type notebook struct {
	mu      sync.Mutex
	answers map[spec.Target][]spec.Answer
}

func (n *notebook) set(t spec.Target, a spec.Answer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.answers == nil {
		n.answers = map[spec.Target][]spec.Answer{}
	}
	n.answers[t] = append(n.answers[t], a)
}

func (n *notebook) all(t spec.Target) []spec.Answer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.answers[t])
}

// last returns the latest answer; the zero answer and false before the first.
func (n *notebook) last(t spec.Target) (spec.Answer, bool) {
	all := n.all(t)
	if len(all) == 0 {
		return spec.Answer{}, false
	}
	return all[len(all)-1], true
}

// registry is a source in memory that is told what to say. Whoever asks it is
// told at once, and again at each change.
type registry struct {
	mu      sync.Mutex // guards the following
	says    map[string]Result
	down    error // what every watch fails with
	changed chan struct{}
	began   []time.Time // of watches
	doubts  int
}

func newRegistry() *registry {
	return &registry{says: map[string]Result{}, changed: make(chan struct{})}
}

func (r *registry) Watch(ctx context.Context, q Query, set func(Result)) error {
	r.mu.Lock()
	r.began = append(r.began, time.Now())
	r.mu.Unlock()
	for {
		r.mu.Lock()
		result, ok := r.says[q.Target.Host]
		down, changed := r.down, r.changed
		r.mu.Unlock()
		if down != nil {
			return down
		}
		if ok {
			set(result)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-q.Suspect:
			r.mu.Lock()
			r.doubts++
			r.mu.Unlock()
		}
	}
}

func (r *registry) change(f func()) {
	r.mu.Lock()
	f()
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	synctest.Wait()
}

// say sets what the registry has under a name.
func (r *registry) say(name string, result Result) {
	r.change(func() { r.says[name] = result })
}

func (r *registry) fail(err error) { r.change(func() { r.down = err }) }

func (r *registry) watches() []time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.began)
}

// at are places at these hosts, on port 80.
func at(hosts ...string) Result {
	var r Result
	for _, h := range hosts {
		r.Places = append(r.Places, Place{Host: h, Port: 80, Weight: 1})
	}
	return r
}

// weakly is a result in which what is missing proves nothing.
func weakly(r Result) Result {
	r.Weak = true
	return r
}

var (
	errDown = errors.New("ask the registry: connection refused")
	errNone = errors.New("ask the registry: there is no such service")
)

// service is a target in the registry.
func service(name string) spec.Target {
	return spec.Target{Source: spec.SourceConsul, Protocol: spec.TCP, Host: name}
}

// bench is a Discovery over a registry and a name server, on the clock of a
// synctest bubble.
type bench struct {
	*Discovery
	t *testing.T
	notebook
	services, names *registry
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, services: newRegistry(), names: newRegistry()}
	b.Discovery = New(Config{Set: b.set, Sources: map[string]Source{spec.SourceConsul: b.services, spec.SourceDNS: b.names}})
	t.Cleanup(b.Close)
	return b
}

// watch applies the targets.
func (b *bench) watch(targets ...spec.Target) {
	b.Apply(targets)
	synctest.Wait()
}

// now returns the endpoints of a target, those in doubt with a ?.
func (b *bench) now(t spec.Target) (list []string) {
	a, _ := b.last(t)
	for _, m := range a.Endpoints {
		text := m.String()
		if m.Weak {
			text += "?"
		}
		list = append(list, text)
	}
	return list
}

func (b *bench) want(t spec.Target, endpoints ...string) {
	b.t.Helper()
	if got := b.now(t); !slices.Equal(got, endpoints) {
		b.t.Errorf("%v: endpoints %v, want %v", t, got, endpoints)
	}
}

// pass lets time pass on the clock of the bubble, and what is due happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func in(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newBench(t)) })
}

// each runs cases in the order of their names.
func each[T any](t *testing.T, cases map[string]T, test func(t *testing.T, b *bench, c T)) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			in(t, func(t *testing.T, b *bench) { test(t, b, cases[name]) })
		})
	}
}
