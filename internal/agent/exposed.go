package agent

import (
	"time"

	"legate/internal/docker"
	"legate/internal/spec"
)

// learnExposed asks for the ports that a container exposes, as soon as it is
// known and for all its lives: no link is to be opened where its application
// listens, and the list has the ports only while it runs. Before its first start
// the answer may come too late, since the engine does not give it while it starts
// the container; then the link closes again when that runs.
func (w *watch) learnExposed(c *docker.Container) {
	if c.Exposed != nil || w.exposing[c.ID] || !w.opens() || !spec.AsksForLinks(c.Labels) {
		return
	}
	w.exposing[c.ID] = true
	w.running.Go(func() {
		for w.cfg.Table.Get(c.ID) != nil && !w.expose(c.ID) {
			select {
			case <-w.ctx.Done():
				return
			case <-time.After(regret):
			}
		}
	})
}

// expose has the table know the ports, and tells whether it does.
func (w *watch) expose(id string) bool {
	if !hand(w.ctx, w.asides, struct{}{}) {
		return false
	}
	defer func() { <-w.asides }()
	ports, err := inspect(w, w.ctx, id, (*docker.Client).Exposed)
	if err == nil {
		w.cfg.Table.Expose(id, ports)
	}
	return err == nil
}
