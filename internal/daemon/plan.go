package daemon

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"legate/internal/spec"
)

// plan is the desired state: what every origin asked for, with the overrides
// laid over it.
type plan struct {
	parse      parseTargets
	links      []spec.Link          // to serve, in the order of the origins
	configured map[string]spec.Link // by name, as their origin wrote them
	inForce    overrides
	refused    []spec.LinkStatus // that cannot be had
	warnings   []string
}

// parseTargets reads the targets that a link is swapped to.
type parseTargets func(text string, l spec.Link) ([]spec.Target, error)

// makePlan unites the links of the origins. Of two that want one address or
// one name the first has it. An override holds while the text of its link is
// the one that it was made for; that of an endpoint holds in any case.
func makePlan(origins [][]spec.Link, asked overrides, parse parseTargets) plan {
	p := plan{parse: parse, configured: map[string]spec.Link{}, inForce: noOverrides()}
	maps.Copy(p.inForce.Endpoints, asked.Endpoints)
	taken := map[spec.Listen]spec.Link{}
	for _, links := range origins {
		for _, l := range links {
			first, clash := taken[l.Listen]
			if !clash {
				first, clash = p.configured[l.Name]
			}
			if clash {
				p.refuse(l, first)
				continue
			}
			taken[l.Listen] = l
			p.configured[l.Name] = l
			p.links = append(p.links, p.override(l, asked))
		}
	}
	p.warnOfLost(asked)
	return p
}

// warnOfLost names the overrides whose link is gone.
func (p *plan) warnOfLost(asked overrides) {
	for _, name := range slices.Sorted(maps.Keys(asked.Swaps)) {
		if _, ok := p.configured[name]; !ok {
			p.warn("no link is named %s, whose target was swapped to %s; forget it with: legate swap %s --undo",
				name, asked.Swaps[name].Target, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(asked.Modes)) {
		if _, ok := p.configured[name]; !ok {
			p.warn("no link is named %s, which was %s; forget it with: legate resume %s", name, did(asked.Modes[name].Kind), name)
		}
	}
}

func (p *plan) refuse(l, first spec.Link) {
	why := fmt.Sprintf("link %s already listens on %s", first.Name, first.Listen)
	if l.Listen != first.Listen {
		why = fmt.Sprintf("link %s already has that name", first.Listen)
	}
	p.refused = append(p.refused, spec.LinkStatus{
		Name:   l.Name,
		Listen: l.Listen.String(),
		Target: spec.FormatTargets(l.Targets),
		Origin: l.Origin,
		State:  spec.StateError,
		Error:  why,
	})
}

// refuseAll takes in what is wrong with single links of origins.
func (p *plan) refuseAll(problems []spec.LinkProblem) {
	for _, f := range problems {
		if f.Ignored {
			continue
		}
		s := spec.LinkStatus{Name: f.Name, Listen: f.Listen.String(), Target: f.Text, Origin: spec.OriginLabels, State: spec.StateError, Error: f.Err.Error(), Hint: spec.HintOf(f.Err)}
		if f.Listen == (spec.Listen{}) {
			s.Listen = ""
		}
		p.refused = append(p.refused, s)
	}
}

// override returns the link as it shall be served.
func (p *plan) override(l spec.Link, asked overrides) spec.Link {
	l.Targets = p.swapped(l, get(asked.Swaps, l.Name))
	o := get(asked.Modes, l.Name)
	if o != nil && o.Base != l.Text {
		p.warn("link %s is now configured as %s: that it was %s, as %s, no longer holds; forget it with: legate resume %s",
			l.Name, l.Text, did(o.Kind), o.Base, l.Name)
		return l
	}
	set(p.inForce.Modes, l.Name, o)
	l.Mode = modeOf(o)
	return l
}

// swapped returns the targets that the link shall go to.
func (p *plan) swapped(l spec.Link, o *spec.Override) []spec.Target {
	if o == nil {
		return l.Targets
	}
	if o.Base != l.Text {
		p.warn("link %s is now configured as %s: the swap to %s, made for %s, no longer holds; swap again or forget it with: legate swap %s --undo",
			l.Name, l.Text, o.Target, o.Base, l.Name)
		return l.Targets
	}
	targets, err := p.parse(o.Target, l)
	if err != nil {
		p.warn("link %s was swapped to %s, which is not a target: %v", l.Name, o.Target, err)
		return l.Targets
	}
	set(p.inForce.Swaps, l.Name, o)
	return targets
}

func (p *plan) warn(format string, args ...any) {
	p.warnings = append(p.warnings, fmt.Sprintf(format, args...))
}

// targets returns the targets of all links, each once.
func (p *plan) targets() []spec.Target {
	seen := map[spec.Target]bool{}
	var all []spec.Target
	for _, l := range p.links {
		for _, t := range l.Targets {
			if !seen[t] {
				seen[t] = true
				all = append(all, t)
			}
		}
	}
	return all
}

// drained is what the pool needs to know: which endpoints, and since when.
func (p *plan) drained() map[string]time.Time {
	since := map[string]time.Time{}
	for address, o := range p.inForce.Endpoints {
		since[address] = o.When
	}
	return since
}

// named finds a configured link by its name, or by how it listens here: in
// containers many listen alike.
func (p *plan) named(name string) (spec.Link, bool) {
	if l, ok := p.configured[name]; ok {
		return l, true
	}
	for _, l := range p.configured {
		if l.For == nil && l.Listen.String() == name {
			return l, true
		}
	}
	return spec.Link{}, false
}

// ofContainer finds a container's link by how it listens there.
func (p *plan) ofContainer(container, listen string) (spec.Link, bool) {
	for _, l := range p.configured {
		if isCalled(l.For, container) && l.Listen.String() == listen {
			return l, true
		}
	}
	return spec.Link{}, false
}

// refusedAs finds a link that cannot be had.
func (p *plan) refusedAs(name string) (spec.LinkStatus, bool) {
	i := slices.IndexFunc(p.refused, func(s spec.LinkStatus) bool { return s.Name == name })
	if i < 0 {
		return spec.LinkStatus{}, false
	}
	return p.refused[i], true
}

func (p *plan) names() []string {
	var names []string
	for _, l := range p.links {
		names = append(names, l.Name)
	}
	return names
}
