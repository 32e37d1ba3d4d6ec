package daemon

import (
	"maps"
	"slices"

	"legate/internal/spec"
)

// logChanges tells what the parts below cannot: they see addresses, not what
// became of a link.
func (d *Daemon) logChanges(before plan) {
	was := map[string]spec.Link{}
	for _, l := range before.links {
		was[l.Name] = l
	}
	for _, l := range d.plan.links {
		former, known := was[l.Name]
		delete(was, l.Name)
		d.logChange(l, former, known)
	}
	d.logDrains(before)
	for name := range was {
		d.cfg.Log.Info("no longer listening", "link", name)
	}
	for _, r := range d.plan.refused {
		same := func(o spec.LinkStatus) bool { return o.Name == r.Name && o.Error == r.Error }
		if slices.ContainsFunc(before.refused, same) {
			continue // of a hundred changes of other links it was said once
		}
		if d.opened || r.Origin != spec.OriginArguments {
			d.cfg.Log.Error("not listening", "link", r.Name, "on", r.Listen, "error", r.Error, "hint", r.Hint)
		}
	}
}

// logChange tells what became of one link, which was known or not.
func (d *Daemon) logChange(l, was spec.Link, known bool) {
	to, former := spec.FormatTargets(l.Targets), spec.FormatTargets(was.Targets)
	log := d.cfg.Log.With("link", l.Name, "target", to)
	o, overridden := d.plan.inForce.Swaps[l.Name]
	if overridden {
		log = log.With("configured", o.Base)
	}
	switch err := d.failed[l.Name]; {
	case err != nil && !d.opened && l.Origin == spec.OriginArguments:
		// Nothing starts, and the error of the command says it.
	case err != nil:
		log.Error("not listening", "on", l.Listen.String(), "error", err)
	case known && to != former:
		log.Info("target changed", "former", former)
	case !known && overridden:
		log.Info("target is that of a swap", "swapped", o.When)
	}
}

func (d *Daemon) logDrains(before plan) {
	is, was := d.plan.inForce.Endpoints, before.inForce.Endpoints
	for _, address := range slices.Sorted(maps.Keys(is)) {
		if _, known := was[address]; !known {
			d.cfg.Log.Info("drained: no new connections", "endpoint", address, "since", is[address].When)
		}
	}
	for _, address := range slices.Sorted(maps.Keys(was)) {
		if _, still := is[address]; !still {
			d.cfg.Log.Info("resumed", "endpoint", address)
		}
	}
}
