package daemon

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"legate/internal/control"
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
	targets := p.targetsByLink()
	places := map[string]*spec.Place{}
	if d.agent != nil {
		status := d.agent.Status()
		s.Agent, places = &status, d.agent.Places(p.links)
	}
	for i := range s.Links {
		l := &s.Links[i]
		if l.Place = places[l.Name]; l.Place != nil && (l.State == spec.StateError || l.State == spec.StateDrained) {
			l.Place.Opened = nil
		}
		l.Override, l.Mode = get(p.inForce.Swaps, l.Name), get(p.inForce.Modes, l.Name)
		p.markDrained(l.Endpoints)
		d.report(l.Sources, targets[l.Name])
	}
	s.Warnings = append(slices.Clip(s.Warnings), p.drainedInVain(s.Links)...)
	s.Links = append(s.Links, p.refused...)
	return s
}

// callerOf reads who is meant: of a link in a container that container alone
// can be.
func callerOf(l spec.Link, text string) (spec.Caller, error) {
	if l.For == nil {
		return spec.ParseCaller(text)
	}
	if !isCalled(l.For, text) {
		return spec.Caller{}, spec.Errorf("ask for that one: legate why "+l.For.String()+" "+l.Listen.String(),
			"link %s is in container %s, and %q is not that", l.Name, l.For, text)
	}
	return spec.Caller{Container: l.For}, nil
}

// isCalled tells whether a container, if it is one, has that name or short id.
func isCalled(c *spec.Container, text string) bool {
	return c != nil && (c.Name == text || len(text) >= 12 && strings.HasPrefix(c.ID, text))
}

// report says of each target what its source last said, and when: more than
// forwarding needs to know of it.
func (d *Daemon) report(list []spec.SourceStatus, targets []spec.Target) {
	for i, t := range targets {
		if i < len(list) && list[i].Target == t.String() {
			if s, ok := d.discovery.Report(t); ok {
				list[i] = s
			}
		}
	}
}

func (p *plan) targetsByLink() map[string][]spec.Target {
	targets := make(map[string][]spec.Target, len(p.links))
	for _, l := range p.links {
		targets[l.Name] = l.Targets
	}
	return targets
}

func (p *plan) markDrained(list []spec.EndpointStatus) {
	for i := range list {
		list[i].Drained = get(p.inForce.Endpoints, list[i].Address)
	}
}

// drainedInVain names the drained endpoints that no link has.
func (p *plan) drainedInVain(links []spec.LinkStatus) (warnings []string) {
	had := map[string]bool{}
	for _, l := range links {
		for _, e := range l.Endpoints {
			had[e.Address] = true
		}
	}
	for _, address := range slices.Sorted(maps.Keys(p.inForce.Endpoints)) {
		if !had[address] {
			warnings = append(warnings, fmt.Sprintf("endpoint %[1]s is drained, and no link has it; forget it with: legate resume %[1]s", address))
		}
	}
	return warnings
}

// explainRefused says why a link that was asked for is not there.
func explainRefused(s spec.LinkStatus, caller string) spec.Explanation {
	x := spec.Explanation{
		Link: s.Name, Listen: s.Listen, Caller: caller, Target: s.Target,
		Rule:    fmt.Sprintf("none: what its %s ask for cannot be had", s.Origin),
		Sources: []spec.SourceStatus{}, Endpoints: []spec.EndpointStatus{},
	}
	x.Refuse(s.Error, s.Hint)
	return x
}

// Why says where a caller's next connection to a link would go, and tries it
// if that is asked. It implements control.Instance.
func (d *Daemon) Why(ctx context.Context, r control.WhyRequest) (spec.Explanation, error) {
	d.mu.Lock()
	p := d.plan
	d.mu.Unlock()
	l, ok := p.ofContainer(r.Caller, r.Link)
	for _, name := range []string{r.Caller + "/" + r.Link, r.Caller + "/" + spec.BackendName(r.Link), r.Link} {
		if !ok {
			l, ok = p.named(name)
		}
		if ok {
			break
		}
		if s, refused := p.refusedAs(name); refused {
			return explainRefused(s, r.Caller), nil
		}
	}
	if !ok {
		return spec.Explanation{}, control.NoLink(r.Link, p.names())
	}
	caller, err := callerOf(l, r.Caller)
	if err != nil {
		return spec.Explanation{}, err
	}
	e, err := d.forwarder.Explain(l.Name, caller)
	if err != nil {
		return e, err
	}
	e.Override, e.Mode = get(p.inForce.Swaps, l.Name), get(p.inForce.Modes, l.Name)
	p.markDrained(e.Endpoints)
	d.report(e.Sources, p.targetsByLink()[l.Name])
	if r.Connect {
		e.Attempts, err = d.forwarder.Try(ctx, l.Name, caller)
	}
	return e, err
}
