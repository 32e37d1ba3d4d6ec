package daemon

import (
	"context"
	"sync"

	"legate/internal/spec"
)

// answers remembers which targets have had an answer, good or bad.
type answers struct {
	mu      sync.Mutex // guards the following
	known   map[spec.Target]bool
	changed chan struct{} // closed at the next addition
}

func newAnswers() *answers {
	return &answers{known: map[spec.Target]bool{}, changed: make(chan struct{})}
}

func (a *answers) add(t spec.Target) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known[t] {
		return
	}
	a.known[t] = true
	close(a.changed)
	a.changed = make(chan struct{})
}

// keep forgets all others: a target that is watched again later starts anew.
func (a *answers) keep(targets []spec.Target) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known := map[spec.Target]bool{}
	for _, t := range targets {
		if a.known[t] {
			known[t] = true
		}
	}
	a.known = known
}

// wait returns when all targets have had an answer, or when ctx ends.
func (a *answers) wait(ctx context.Context, targets []spec.Target) {
	for {
		missing, changed := a.missing(targets)
		if !missing {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (a *answers) missing(targets []spec.Target) (bool, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, t := range targets {
		if !a.known[t] {
			return true, a.changed
		}
	}
	return false, a.changed
}
