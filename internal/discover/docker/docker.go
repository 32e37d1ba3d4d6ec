// Package docker finds endpoints among the containers of this host's engine.
package docker

import (
	"context"
	"sync"
	"time"

	"legate/internal/discover"
	"legate/internal/docker"
	"legate/internal/spec"
)

// Config says which engine to ask, and as whom.
type Config struct {
	// Table is the engine's containers. Required.
	Table *docker.Table
	// Own finds the container that this process runs in, whose Compose project
	// and networks are those that names and addresses are chosen for; its zero
	// value looks at this process.
	Own docker.Own
	// Enters tells that connections may start inside the network of the
	// container that they go to, so that no other needs to lead there.
	Enters bool
	// Trust says which labels of images count, where a container's own ones
	// alone say what it serves.
	Trust Trust
}

// Trust is how far labels are believed that a container may have from its
// image, whoever publishes that.
type Trust int

const (
	// TrustOwn believes none of them: names are asked for by whoever starts a
	// container.
	TrustOwn Trust = iota
	// TrustDoubted believes them where the engine does not tell which they are.
	// It is for names that only the operator asks for, who has always got an
	// answer from an engine that tells of containers alone.
	TrustDoubted
	// TrustAll believes them.
	TrustAll
)

// Source answers what leads to containers: docker:NAME. It is a
// discover.Source.
type Source struct {
	table  *docker.Table
	own    string // the id of our container; "": we run in none
	enters bool
	trust  Trust

	mu sync.Mutex // guards what follows
	// memories are what was told, by question. They outlive a watch, so that
	// the next one can tell who died while the engine was lost.
	memories map[spec.Target]*memory
}

// forgetAfter is how long the memory of a question that nobody asks is kept:
// longer than the pause between two watches.
const forgetAfter = 10 * time.Minute

// New returns a source. Nothing is asked before the first Watch.
func New(c Config) *Source {
	s := &Source{table: c.Table, enters: c.Enters, trust: c.Trust, memories: map[spec.Target]*memory{}}
	s.own, _ = c.Own.ID() // outside any container everything of this host can be reached
	return s
}

// Watch implements discover.Source. It returns when the engine is lost, with
// a *spec.UserError.
func (s *Source) Watch(ctx context.Context, q discover.Query, set func(discover.Result)) error {
	m := s.recall(q.Target)
	defer s.keep(q.Target, m)
	words := []string{q.Target.Host}
	if s.own != "" {
		words = append(words, s.own)
	}
	sub := s.table.Subscribe(words...)
	defer sub.Close()
	err := sub.Next(ctx) // the table is complete then
	for ; err == nil; err = m.next(ctx, sub.Next) {
		now := s.scene(q.Target)
		if now.pending && !m.begun {
			continue // or we would first say that nobody has the name
		}
		for _, r := range m.look(now, time.Now()) {
			set(r)
		}
	}
	return err
}

// scene is the engine's state as far as the question is about it.
func (s *Source) scene(t spec.Target) scene {
	c := scene{target: t, get: s.table.Get, all: s.all, enters: s.enters}
	for _, one := range s.table.Named(t.Host) {
		c.add(s.judged(one))
	}
	if s.own != "" {
		own := s.table.Get(s.own)
		if c.stranger = own == nil; own != nil {
			c.own = s.judged(own)
			c.pending = c.pending || own.Pending()
		}
	}
	return c
}

// judged is a container by the labels that count.
func (s *Source) judged(c *docker.Container) *docker.Container {
	if s.trust == TrustAll || s.trust == TrustDoubted && c.Doubt != nil && !c.Judged() {
		return c.Trusting()
	}
	return c
}

func (s *Source) all() []*docker.Container {
	all := s.table.All()
	for i, c := range all {
		all[i] = s.judged(c)
	}
	return all
}

// recall takes the memory of a question, so that two watches of one question
// do not share it.
func (s *Source) recall(t spec.Target) *memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.memories[t]
	delete(s.memories, t)
	if m == nil {
		m = &memory{told: map[string]life{}, dead: map[string]time.Time{}}
	}
	return m
}

func (s *Source) keep(t spec.Target, m *memory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	m.left = now
	s.memories[t] = m
	for old, m := range s.memories {
		if now.Sub(m.left) > forgetAfter {
			delete(s.memories, old)
		}
	}
}
