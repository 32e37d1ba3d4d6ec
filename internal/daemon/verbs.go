package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"legate/internal/control"
	"legate/internal/spec"
)

// Pause lets new connections of a link wait until it is resumed. It implements
// control.Instance.
func (d *Daemon) Pause(_ context.Context, r control.PauseRequest) (control.OverrideReply, error) {
	d.applying.Lock()
	defer d.applying.Unlock()
	l, ok := d.plan.named(r.Link)
	if !ok {
		return control.OverrideReply{}, d.noLink(r.Link)
	}
	return d.mode(l, spec.OverridePause)
}

// Drain lets a link or an endpoint have no new connections until it is resumed,
// and waits for the live ones if that is asked. The drain holds however the
// waiting ends. It implements control.Instance.
func (d *Daemon) Drain(ctx context.Context, r control.DrainRequest) (control.OverrideReply, error) {
	reply, err := d.startDrain(r)
	if err != nil {
		return reply, err
	}
	if r.Wait {
		if err := d.awaitNone(ctx, time.Duration(r.Timeout), reply); err != nil {
			return reply, err
		}
	}
	live := d.connections(reply)
	if r.Wait {
		reply.Left = live[:min(len(live), control.MaxLeft)]
	}
	return counted(reply, live), nil
}

func (d *Daemon) startDrain(r control.DrainRequest) (control.OverrideReply, error) {
	d.applying.Lock()
	defer d.applying.Unlock()
	endpoint, known := d.endpoint(r.Name)
	if l, ok := d.plan.named(r.Name); ok {
		reply, err := d.mode(l, spec.OverrideDrain)
		if known {
			reply.Notes = append(reply.Notes, fmt.Sprintf("%s is a link and an endpoint; the link is drained", r.Name))
		}
		return reply, err
	}
	if !known {
		return control.OverrideReply{}, d.noSuch(r.Name)
	}
	return d.drainEndpoint(endpoint)
}

// mode pauses or drains a link. Doing so again changes nothing, so that status
// tells since when it holds. The caller holds applying.
func (d *Daemon) mode(l spec.Link, kind spec.OverrideKind) (control.OverrideReply, error) {
	reply := control.OverrideReply{
		Link:   l.Name,
		Former: get(d.plan.inForce.Modes, l.Name),
		UDP:    l.Listen.Protocol == spec.UDP,
		Kept:   d.state.path,
	}
	reply.Override = reply.Former
	switch err := d.failed[l.Name]; {
	case d.stopping:
		return reply, errStopping
	case err != nil:
		return reply, openError(l, err)
	}
	if reply.Former == nil || reply.Former.Kind != kind {
		reply.Override = &spec.Override{Kind: kind, Base: l.Text, When: time.Now()}
		if err := d.edit(func(o overrides) { set(o.Modes, l.Name, reply.Override) }); err != nil {
			return reply, err
		}
	}
	return d.count(reply), d.failed[l.Name]
}

func (d *Daemon) drainEndpoint(address string) (control.OverrideReply, error) {
	reply := control.OverrideReply{
		Endpoint: address,
		Former:   get(d.state.overrides.Endpoints, address),
		Kept:     d.state.path,
	}
	reply.Override = reply.Former
	if d.stopping {
		return reply, errStopping
	}
	if reply.Former == nil {
		reply.Override = &spec.Override{Kind: spec.OverrideDrain, When: time.Now()}
		if err := d.edit(func(o overrides) { set(o.Endpoints, address, reply.Override) }); err != nil {
			return reply, err
		}
	}
	reply.Notes = d.withoutEndpoint(address)
	return d.count(reply), nil
}

// withoutEndpoint names the links that have nothing else that serves.
func (d *Daemon) withoutEndpoint(drained string) (notes []string) {
	for _, l := range d.forwarder.Snapshot() {
		has, others := false, false
		for _, e := range l.Endpoints {
			switch e.Health {
			case spec.HealthDrained:
				has = has || e.Address == drained
			case spec.HealthOK, spec.HealthUnknown, spec.HealthWeak:
				others = true
			case spec.HealthStandby, spec.HealthClosing, spec.HealthUnhealthy, spec.HealthEjected, spec.HealthDenied, spec.HealthFormer:
			}
		}
		if has && !others {
			notes = append(notes, fmt.Sprintf("link %s has no other endpoint that serves: its new connections wait, or are reset", l.Name))
		}
	}
	return notes
}

// Resume ends what a pause or a drain asked for. It implements
// control.Instance.
func (d *Daemon) Resume(_ context.Context, r control.ResumeRequest) (control.OverrideReply, error) {
	d.applying.Lock()
	defer d.applying.Unlock()
	if d.stopping {
		return control.OverrideReply{}, errStopping
	}
	l, isLink := d.plan.named(r.Name)
	name := r.Name
	if isLink {
		name = l.Name
	}
	endpoint, known := d.endpoint(r.Name)
	asked := d.state.overrides
	switch drained := get(asked.Endpoints, endpoint); {
	case get(asked.Modes, name) != nil: // of a link that is gone, too
		return d.resumeLink(name, drained != nil)
	case drained != nil:
		return d.resumeEndpoint(endpoint)
	case isLink:
		return d.count(control.OverrideReply{Link: name}), nil
	case known:
		return d.count(control.OverrideReply{Endpoint: endpoint}), nil
	}
	return control.OverrideReply{}, d.noSuch(r.Name)
}

func (d *Daemon) resumeLink(name string, alsoEndpoint bool) (control.OverrideReply, error) {
	reply := d.count(control.OverrideReply{Link: name, Former: get(d.state.overrides.Modes, name)})
	if alsoEndpoint {
		reply.Notes = append(reply.Notes, fmt.Sprintf("%s is also an endpoint, which is still drained; resume again to end that", name))
	}
	if err := d.edit(func(o overrides) { set(o.Modes, name, nil) }); err != nil {
		return reply, err
	}
	l, ok := d.plan.configured[name]
	if !ok {
		reply.Notes = append(reply.Notes, "there is no such link now")
	}
	reply.UDP = l.Listen.Protocol == spec.UDP
	return reply, d.failed[name]
}

func (d *Daemon) resumeEndpoint(address string) (control.OverrideReply, error) {
	reply := d.count(control.OverrideReply{Endpoint: address, Former: get(d.state.overrides.Endpoints, address)})
	if _, known := d.endpoint(address); !known {
		reply.Notes = append(reply.Notes, "no link has such an endpoint now")
	}
	return reply, d.edit(func(o overrides) { set(o.Endpoints, address, nil) })
}

// awaitNone returns when no live connection is left, or when the time is over.
// 0 is no limit.
func (d *Daemon) awaitNone(ctx context.Context, within time.Duration, r control.OverrideReply) error {
	waiting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if within > 0 {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeoutCause(waiting, within, errWaited)
		defer cancel()
	}
	defer d.whenResumed(r, stop)()
	switch err := d.forwarder.AwaitNone(waiting, r.Link, r.Endpoint); {
	case err == nil, ctx.Err() == nil && errors.Is(context.Cause(waiting), errWaited):
		return nil
	case ctx.Err() == nil && waiting.Err() != nil:
		return context.Cause(waiting)
	default:
		return err
	}
}

var (
	errWaited  = errors.New("waited long enough")
	errResumed = spec.Errorf("see what it is now: legate status", "it was resumed, or paused, by somebody else meanwhile; stopped waiting")
)

// whenResumed calls stop when the drain that r is about no longer holds. What
// it returns ends that.
func (d *Daemon) whenResumed(r control.OverrideReply, stop context.CancelCauseFunc) (end func()) {
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		for {
			holds, edited := d.drains(r)
			if !holds {
				stop(errResumed)
				return
			}
			select {
			case <-edited:
			case <-done:
				return
			}
		}
	}()
	return func() {
		close(done)
		<-gone
	}
}

// drains tells whether a drain still holds, and where to wait for a change.
func (d *Daemon) drains(r control.OverrideReply) (bool, <-chan struct{}) {
	d.applying.Lock()
	defer d.applying.Unlock()
	o := get(d.state.overrides.Modes, r.Link)
	if r.Link == "" {
		o = get(d.state.overrides.Endpoints, r.Endpoint)
	}
	return o != nil && o.Kind == spec.OverrideDrain, d.edited
}

// connections are the live ones that a reply is about, oldest first.
func (d *Daemon) connections(r control.OverrideReply) []spec.ConnectionStatus {
	return d.forwarder.Connections(func(c spec.ConnectionStatus) bool {
		if r.Link != "" {
			return c.Link == r.Link
		}
		return c.Endpoint == r.Endpoint
	})
}

func (d *Daemon) count(r control.OverrideReply) control.OverrideReply {
	return counted(r, d.connections(r))
}

func counted(r control.OverrideReply, live []spec.ConnectionStatus) control.OverrideReply {
	r.Current, r.Held = len(live), 0
	for _, c := range live {
		if c.Held != nil {
			r.Held++
		}
	}
	return r
}

// endpoint finds an endpoint by its address, in any form, and tells whether a
// link has it.
func (d *Daemon) endpoint(name string) (address string, known bool) {
	if a, err := netip.ParseAddrPort(name); err == nil {
		name = netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
	}
	return name, slices.Contains(d.endpoints(), name)
}

// endpoints lists the addresses of all links, those included that only live
// connections go to.
func (d *Daemon) endpoints() (addresses []string) {
	for _, l := range d.forwarder.Snapshot() {
		for _, e := range l.Endpoints {
			addresses = append(addresses, e.Address)
		}
	}
	slices.Sort(addresses)
	return slices.Compact(addresses)
}

// noLink is the error for a name that no link has; an endpoint is told from
// what is misspelt.
func (d *Daemon) noLink(name string) error {
	if endpoint, known := d.endpoint(name); known {
		return spec.Errorf("keep new connections from it: legate drain "+endpoint+"; see whose it is: legate status --endpoints",
			"%s is an endpoint, and not a link", name)
	}
	return control.NoLink(name, d.plan.names())
}

// noSuch is the error for a name that is neither a link nor an endpoint. A
// target, which people know better, is answered with its endpoints.
func (d *Daemon) noSuch(name string) error {
	var of []string
	for _, l := range d.forwarder.Snapshot() {
		for _, e := range l.Endpoints {
			if e.From == name && !slices.Contains(of, e.Address) {
				of = append(of, e.Address)
			}
		}
	}
	if len(of) > 0 {
		return spec.Errorf("name one of its endpoints: "+strings.Join(of[:min(len(of), 10)], ", "), "%s is a target, and neither a link nor an endpoint", name)
	}
	return control.NoLinkOrEndpoint(name, d.plan.names(), d.endpoints())
}
