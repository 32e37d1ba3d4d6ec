package daemon

import (
	"os"
	"slices"

	"legate/internal/spec"
)

// Snapshot reports everything about this instance. It implements
// control.Instance.
func (d *Daemon) Snapshot() spec.Snapshot {
	d.mu.Lock()
	p, stopping := d.plan, d.stopping
	d.mu.Unlock()
	s := spec.Snapshot{
		Instance: d.name,
		Version:  d.cfg.Version,
		PID:      os.Getpid(),
		Started:  d.started,
		Links:    d.forwarder.Snapshot(),
		Warnings: p.warnings,
	}
	if stopping {
		s.Warnings = append(slices.Clip(s.Warnings), "stopping: no link listens any more; live connections may end within "+d.cfg.Drain.String())
	}
	for i := range s.Links {
		if o, ok := p.overrides[s.Links[i].Name]; ok {
			s.Links[i].Override = &o
		}
	}
	s.Links = append(s.Links, p.refused...)
	return s
}
