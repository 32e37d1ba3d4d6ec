package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"legate/internal/control"
	"legate/internal/endpoints"
	"legate/internal/forward"
	"legate/internal/pump"
	"legate/internal/spec"
)

// Swap points a link elsewhere, or back where it is configured to go, and
// returns when its live connections are as asked. It implements
// control.Instance.
func (d *Daemon) Swap(ctx context.Context, r control.SwapRequest) (control.SwapReply, error) {
	reply, err := d.override(r)
	if err != nil || reply.Target == "" {
		return reply, err
	}
	var looking sync.WaitGroup
	var warnings []string
	targets := d.targetsOf(reply.Link)
	looking.Go(func() { warnings = d.look(ctx, targets) })
	ended, err := d.endFormer(ctx, r, reply)
	looking.Wait()
	reply.Warnings, reply.Ended, reply.Cut = warnings, ended.Ended, ended.Cut
	return reply, err
}

func (d *Daemon) endFormer(ctx context.Context, r control.SwapRequest, reply control.SwapReply) (n forward.Ended, err error) {
	if r.Live == control.LiveKeep || reply.UDP {
		return n, nil
	}
	within := time.Duration(0)
	if r.Live == control.LiveDrain {
		within = time.Duration(r.Within)
	}
	if n, err = d.forwarder.EndFormer(ctx, reply.Link, within); err != nil {
		err = fmt.Errorf("link %s goes to %s, but ending its former connections failed: %w", reply.Link, reply.Target, err)
	}
	return n, err
}

// lookTime is how long somebody who typed a target waits to hear that nobody
// is there.
const lookTime = time.Second

// look tries every endpoint of the targets once and says what is wrong. It
// holds nothing up: a swap to a server that is yet to come is a fair wish, and
// so is one that was mistyped an hour before anybody notices.
func (d *Daemon) look(ctx context.Context, targets []spec.Target) (warnings []string) {
	var found []spec.Endpoint
	for _, t := range targets {
		switch a := d.pool.Answer(t); {
		case a.Err != nil:
			warnings = append(warnings, a.Err.Error())
		case a.At.IsZero():
			warnings = append(warnings, fmt.Sprintf("%s: nothing is known of it yet", t))
		}
	}
	for _, c := range d.pool.List(&endpoints.View{Targets: targets}, nil).All {
		if c.Protocol != spec.UDP { // which does not tell whether somebody is there
			found = append(found, c.Endpoint)
		}
	}
	return append(warnings, d.dialAll(ctx, found)...)
}

// dialAll tells which endpoints did not answer, in their order.
func (d *Daemon) dialAll(ctx context.Context, list []spec.Endpoint) (warnings []string) {
	errs := make([]error, len(list))
	var dialing sync.WaitGroup
	for i, e := range list {
		dialing.Go(func() { errs[i] = d.forwarder.Dial(ctx, e, lookTime) })
	}
	dialing.Wait()
	for i, err := range errs {
		if err != nil && !pump.IsShortage(err) {
			warnings = append(warnings, fmt.Sprintf("%s does not answer: %v", list[i], err))
		}
	}
	return warnings
}

// override writes what the request asks for beside the link and applies it.
func (d *Daemon) override(r control.SwapRequest) (control.SwapReply, error) {
	d.applying.Lock()
	defer d.applying.Unlock()
	if d.stopping {
		return control.SwapReply{}, spec.Errorf("", "legate is stopping")
	}
	l, ok := d.plan.named(r.Link)
	if !ok {
		return d.forget(r)
	}
	reply := control.SwapReply{Link: l.Name, Former: d.targetOf(l.Name), UDP: l.Listen.Protocol == spec.UDP}
	if err := d.failed[l.Name]; err != nil {
		return reply, openError(l, err)
	}
	o, err := newOverride(r, l)
	if err != nil {
		return reply, err
	}
	if err := d.state.set(l.Name, o); err != nil {
		return reply, err
	}
	d.lookAhead(o, l)
	d.apply()
	reply.Target, reply.Override, reply.Kept = d.targetOf(l.Name), o, d.state.path
	return reply, d.failed[l.Name]
}

// lookAhead gives a name the time to be found before the link goes there: a
// link that does not hold would refuse connections meanwhile.
func (d *Daemon) lookAhead(o *spec.Override, l spec.Link) {
	targets := l.Targets
	if o != nil {
		targets, _ = spec.ParseTargets(o.Target, l) // it was parsed to make o
	}
	d.discovery.Apply(append(d.plan.targets(), targets...))
	ctx, cancel := context.WithTimeout(d.cutting, 2*time.Second)
	defer cancel()
	d.answers.wait(ctx, targets)
}

// newOverride is nil when the link shall go where it is configured to.
func newOverride(r control.SwapRequest, l spec.Link) (*spec.Override, error) {
	if r.Undo {
		return nil, nil
	}
	targets, err := spec.ParseTargets(r.Target, l)
	if err != nil {
		return nil, err
	}
	if spec.FormatTargets(targets) == spec.FormatTargets(l.Targets) {
		return nil, nil
	}
	return &spec.Override{Target: r.Target, Base: l.Text, When: time.Now()}, nil
}

// forget undoes a swap whose link is gone; for any other request there must be
// a link.
func (d *Daemon) forget(r control.SwapRequest) (control.SwapReply, error) {
	o, ok := d.state.overrides[r.Link]
	if !ok || !r.Undo {
		return control.SwapReply{}, control.NoLink(r.Link, d.plan.names())
	}
	if err := d.state.set(r.Link, nil); err != nil {
		return control.SwapReply{}, err
	}
	d.apply()
	return control.SwapReply{Link: r.Link, Former: o.Target, Kept: d.state.path}, nil
}

// targetOf is where a link goes now, overrides included.
func (d *Daemon) targetOf(link string) string { return spec.FormatTargets(d.targetsOf(link)) }

func (d *Daemon) targetsOf(link string) []spec.Target {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.plan.links {
		if l.Name == link {
			return l.Targets
		}
	}
	return nil
}

// openError says which link an address could not be opened for, and keeps the
// hint.
func openError(l spec.Link, err error) error {
	hint := ""
	if u, ok := errors.AsType[*spec.UserError](err); ok {
		hint = u.Hint
	}
	return spec.Errorf(hint, "open link %s: %v", l.Name, err)
}
