package docker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// afresh is how long a failure is told to new subscribers before the engine is
// asked again: a thousand of them come at the same time.
const afresh = 500 * time.Millisecond

// Table is the containers of one engine as they are now. While somebody is
// subscribed it follows the engine's events, over one connection however many
// they are; without subscribers it does nothing. Its methods may be called at
// the same time.
type Table struct {
	config Config

	mu sync.Mutex // guards what follows
	// all has the containers by id. It outlives the loss of the engine, so
	// that who was started anew meanwhile is seen.
	all map[string]*Container
	// keys has the ids of those that answer to a word, and of those that live
	// in the network of another.
	keys map[string]map[string]bool
	// readers has the subscriptions by word.
	readers map[string]map[*Subscription]bool
	// images has what is known of the containers' images by id, and doubts why
	// nothing is known of others.
	images  map[string]*Image
	doubts  map[string]error
	session *session // nil: the engine is not being asked
	failed  error    // how the last session ended
	at      time.Time
}

// NewTable returns the table of an engine, which is not asked before somebody
// subscribes. A Config that is none is the error of every subscription.
func NewTable(c Config) *Table {
	return &Table{
		config: c, all: map[string]*Container{}, keys: map[string]map[string]bool{}, readers: map[string]map[*Subscription]bool{},
		images: map[string]*Image{}, doubts: map[string]error{},
	}
}

// Subscription tells its one reader of changes. Close ends it.
type Subscription struct {
	table   *Table
	words   []string
	session *session
	wake    chan struct{} // capacity one
}

// Everyone is the word that every container answers to.
const Everyone = "*"

// Subscribe starts to tell of changes of the containers that Named gives for
// one of the words, and of those whose network they live in.
func (t *Table) Subscribe(words ...string) *Subscription {
	s := &Subscription{table: t, words: words, wake: make(chan struct{}, 1)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.session == nil {
		t.session = newSession(t)
		if t.failed != nil && time.Since(t.at) < afresh {
			t.session.end(t.failed)
		} else {
			go t.session.run()
		}
	}
	s.session = t.session
	s.session.readers++
	for _, w := range words {
		if t.readers[w] == nil {
			t.readers[w] = map[*Subscription]bool{}
		}
		t.readers[w][s] = true
	}
	if s.session.synced {
		s.wake <- struct{}{}
	}
	if s.session.over() {
		t.session = nil
	}
	return s
}

// Next waits for something to look at: first for the table to be complete,
// then for changes. An error means that the engine is lost and nothing more
// will come; it is a *spec.UserError, unless ctx ended.
func (s *Subscription) Next(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.session.done:
		return s.session.err
	case <-s.wake:
		return nil
	}
}

// Close ends the subscription. The last one lets go of the engine.
func (s *Subscription) Close() {
	t := s.table
	t.mu.Lock()
	for _, w := range s.words {
		delete(t.readers[w], s)
		if len(t.readers[w]) == 0 {
			delete(t.readers, w)
		}
	}
	s.session.readers--
	last := s.session.readers == 0
	if last && t.session == s.session {
		t.session = nil
	}
	t.mu.Unlock()
	if last {
		s.session.cancel()
		<-s.session.done
	}
}

// Named returns the containers that answer to a word, and those that would if
// labels of their images counted, sorted by name. The caller must not change
// them.
func (t *Table) Named(word string) []*Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := make([]*Container, 0, len(t.keys[word]))
	for id := range t.keys[word] {
		found = append(found, t.all[id])
	}
	slices.SortFunc(found, byName)
	return found
}

// Lodgers returns the containers that live in the network of another, sorted by
// name.
func (t *Table) Lodgers(id string) []*Container { return t.Named(lodgersOf + id) }

// Get returns the container with an id of 12 or 64 digits; nil: there is none.
func (t *Table) Get(id string) *Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	for full := range t.keys[id] {
		if len(id) >= 12 && len(full) >= len(id) && full[:len(id)] == id {
			return t.all[full]
		}
	}
	return nil
}

// Read asks for a container that the table does not have, for who cannot wait
// until its event is heard: while many start, that one is behind all others,
// and on a busy host the engine takes a tenth of a second for each answer.
// Before the table is complete it does nothing.
func (t *Table) Read(ctx context.Context, id string) error {
	t.mu.Lock()
	s := t.session
	complete := s != nil && s.synced
	t.mu.Unlock()
	if !complete {
		return nil
	}
	found, err := s.client.list(ctx, []string{id})
	if err != nil || found[id] == nil {
		return err
	}
	s.change(func(t *Table) {
		if t.all[id] == nil {
			t.put(found[id])
		}
	})
	// It may be gone since, and the session will not hear of that again.
	select {
	case s.seen <- id:
	case <-s.done:
	case <-ctx.Done():
	}
	return nil
}

// Expose records which ports the configuration of a container exposes, which
// never changes, for as long as the container is there.
func (t *Table) Expose(id string, ports []Port) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before := t.all[id]; before != nil {
		now := *before
		now.Exposed = append([]Port{}, ports...) // not nil
		if before.exposes(ports) {
			t.all[id] = &now // no news: a host full of containers is not decided anew for each of them
			return
		}
		t.put(&now)
	}
}

// All returns every container, sorted by name.
func (t *Table) All() []*Container {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Values(t.all), byName)
}

// put records what a container is now. mu is held.
func (t *Table) put(c *Container) {
	before := t.all[c.ID]
	c.inherit(t.image(c.ImageID))
	if before != nil {
		c.Start = before.Start
		if c.Exposed == nil {
			c.Exposed = before.Exposed
		}
		if before.Runs() && (!c.Runs() || restarted(before, c)) {
			c.Start++
		}
		if before.same(c) {
			return
		}
	}
	t.forget(before)
	t.all[c.ID] = c
	for _, k := range c.indexed() {
		if t.keys[k] == nil {
			t.keys[k] = map[string]bool{}
		}
		t.keys[k][c.ID] = true
	}
	t.tell(before)
	t.tell(c)
}

// remove records that a container is gone. mu is held.
func (t *Table) remove(id string) {
	before := t.all[id]
	t.forget(before)
	t.tell(before)
}

func (t *Table) forget(c *Container) {
	if c == nil {
		return
	}
	delete(t.all, c.ID)
	for _, k := range c.indexed() {
		delete(t.keys[k], c.ID)
		if len(t.keys[k]) == 0 {
			delete(t.keys, k)
		}
	}
}

// tell wakes those who want to know of a container, and of those which live in
// its network.
func (t *Table) tell(c *Container) {
	if c == nil {
		return
	}
	t.wake(c)
	for lodger := range t.keys[lodgersOf+c.ID] {
		t.wake(t.all[lodger])
	}
}

func (t *Table) wake(c *Container) {
	for _, k := range append(c.indexed(), Everyone) {
		for s := range t.readers[k] {
			s.poke()
		}
	}
}

// poke wakes the reader, who looks at everything anew: one mark is enough for
// any number of changes.
func (s *Subscription) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func byName(a, b *Container) int {
	if a.Name != b.Name {
		if a.Name < b.Name {
			return -1
		}
		return 1
	}
	if a.ID < b.ID {
		return -1
	}
	return 1
}
