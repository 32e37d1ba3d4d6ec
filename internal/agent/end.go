package agent

import (
	"maps"
	"slices"

	"legate/internal/docker"
	"legate/internal/spec"
)

// Ended tells whether nobody lives any more in a namespace that links were
// opened in. A container may lodge in the network of one that has ended, and has
// its connections there.
func (a *Agent) Ended(namespace string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.spaceOf(namespace) == nil && len(a.former[namespace]) == 0
}

// spaceOf needs mu.
func (a *Agent) spaceOf(namespace string) *space {
	for s := range maps.Values(a.spaces) {
		if s.ns.ID() == namespace {
			return s
		}
	}
	return nil
}

// lodgers are those that live in the network of a container, but for those
// that stayed in the one of its former life. It needs mu.
func (a *Agent) lodgers(id string) []*docker.Container {
	return slices.DeleteFunc(a.cfg.Table.Lodgers(id), func(c *docker.Container) bool { return !c.Runs() || a.stayed(c) })
}

func (a *Agent) stayed(c *docker.Container) bool {
	for list := range maps.Values(a.former) {
		if slices.ContainsFunc(list, func(o *docker.Container) bool { return o.ID == c.ID && o.Start == c.Start }) {
			return true
		}
	}
	return false
}

// forgetFormer lets go of those that ended, or were started anew elsewhere.
func (a *Agent) forgetFormer() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ns, list := range a.former {
		a.former[ns] = slices.DeleteFunc(list, func(c *docker.Container) bool {
			now := a.cfg.Table.Get(c.ID)
			return now == nil || !now.Runs() || now.Start != c.Start
		})
		if len(a.former[ns]) == 0 {
			delete(a.former, ns)
		}
	}
}

// withdraw sets the links without those of namespaces that were let go while
// the engine is lost: a container that ends needs no engine for that.
func (w *watch) withdraw() {
	if w.decided == nil {
		return
	}
	w.mu.Lock()
	links := slices.DeleteFunc(slices.Clone(w.decided.Links), func(l spec.Link) bool {
		return !l.Listen.Switched() && w.spaceOf(l.Listen.Namespace) == nil
	})
	w.mu.Unlock()
	if len(links) == len(w.decided.Links) {
		return
	}
	wish := *w.decided
	wish.Links = links
	w.decided = &wish
	w.setLost()
}

// setLost sets the links as they were decided last, with a word of why
// containers that come get none.
func (w *watch) setLost() {
	wish := *w.decided
	wish.Warnings = append(slices.Clip(wish.Warnings), "the engine is lost, and links stay as they are: "+spec.WithHint(w.lost))
	w.set(wish)
}
