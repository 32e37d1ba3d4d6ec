package agent

import (
	"context"
	"slices"

	"legate/internal/docker"
	"legate/internal/intercept"
	"legate/internal/spec"
)

// starting is a container that waits for its links before it starts.
type starting struct {
	ctx   context.Context
	id    string
	found intercept.Found // without a namespace: not known, or taken over
	ready chan bool       // capacity one; whether it asks for links
}

// Ready returns when the links of a container are open or in error, and whether
// it asks for any. pid is its first process, or 0 if that is not known. The
// engine may not know yet that the container starts.
func (a *Agent) Ready(ctx context.Context, id string, pid int) (bool, error) {
	if c := a.cfg.Table.Get(id); c != nil && !spec.AsksForLinks(c.Labels) {
		return false, nil
	}
	s := &starting{ctx: ctx, id: id, ready: make(chan bool, 1)}
	if pid != 0 {
		var err error
		if s.found, err = inhabited(id, pid); err != nil {
			return false, err
		}
	}
	if !hand(ctx, a.starting, s) {
		s.release()
		return false, ctx.Err()
	}
	a.mu.Lock()
	a.held++
	a.mu.Unlock()
	select {
	case asks := <-s.ready:
		return asks, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (s *starting) release() {
	if s.found.Namespace != nil {
		_ = s.found.Namespace.Close()
	}
	s.found.Namespace = nil
}

// admit takes over the namespaces of containers that are starting, as far as
// they live in their own. Of others one would be kept alive for a guest.
func (w *watch) admit() {
	w.waiting = slices.DeleteFunc(w.waiting, func(s *starting) bool {
		if s.ctx.Err() != nil {
			s.release()
			return true
		}
		c := w.cfg.Table.Get(s.id)
		switch {
		case c == nil || s.found.Namespace == nil: // the table will tell of it
		case c.Landlord() != "" || s.found.Host:
			s.release()
		default:
			w.enter(s.found)
			s.found.Namespace = nil
		}
		return false
	})
}

// answer lets those containers start whose links were just set.
func (w *watch) answer(decided []*docker.Container) {
	w.waiting = slices.DeleteFunc(w.waiting, func(s *starting) bool {
		i := slices.IndexFunc(decided, func(c *docker.Container) bool { return c.ID == s.id })
		if i < 0 || s.found.Namespace != nil {
			return false
		}
		c := decided[i]
		asks := spec.AsksForLinks(c.Labels)
		if asks && (c.Pending() || c.Mode != "host" && w.home(c) == nil) {
			return false
		}
		s.ready <- asks
		return true
	})
}
