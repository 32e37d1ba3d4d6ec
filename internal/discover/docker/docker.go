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
}

// Source answers what leads to containers: docker:NAME. It is a
// discover.Source.
type Source struct {
	table  *docker.Table
	own    string // the id of our container; "": we run in none
	enters bool

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
	s := &Source{table: c.Table, enters: c.Enters, memories: map[spec.Target]*memory{}}
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
	for {
		if err := sub.Next(ctx); err != nil {
			return err
		}
		for _, r := range m.look(s.scene(q.Target), time.Now()) {
			set(r)
		}
	}
}

// scene is the engine's state as far as the question is about it.
func (s *Source) scene(t spec.Target) scene {
	c := scene{target: t, named: s.table.Named(t.Host), get: s.table.Get, all: s.table.All, enters: s.enters}
	if s.own != "" {
		c.own = s.table.Get(s.own)
		c.stranger = c.own == nil
	}
	return c
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
