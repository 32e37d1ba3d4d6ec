package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"legate/internal/control"
	"legate/internal/endpoints"
	"legate/internal/forward"
	"legate/internal/spec"
)

// askTime is how long a new target has to show that it serves, when the
// request does not say. lookTime is that of a forced swap, which waits for
// nothing but warns of what does not answer. learnTime is the part of it that
// a name has to be found.
const (
	askTime   = 10 * time.Second
	lookTime  = time.Second
	learnTime = 2 * time.Second
)

// trial is a swap on its way: what was asked for, and what held when it was.
type trial struct {
	request  control.SwapRequest
	link     spec.Link      // as configured
	override *spec.Override // to be; nil: as configured
	former   *spec.Override // when it was asked for
	targets  []spec.Target  // where the link would go
	from     string         // where it went
}

// Swap points a link elsewhere, or back where it is configured to go, once the
// target is healthy, and returns when its live connections are as asked. It
// implements control.Instance.
func (d *Daemon) Swap(ctx context.Context, r control.SwapRequest) (control.SwapReply, error) {
	t, err := d.beginSwap(r)
	if errors.Is(err, errNoLink) {
		return d.forget(r)
	}
	if err != nil {
		return control.SwapReply{}, err
	}
	defer d.endTrial(t)
	warnings, err := d.question(ctx, t)
	if err != nil {
		return control.SwapReply{Link: t.link.Name, Former: t.from}, err
	}
	reply, err := d.commit(t)
	if err != nil {
		return reply, err
	}
	reply.Warnings = warnings
	ended, err := d.endFormer(ctx, r, reply)
	reply.Ended, reply.Cut = ended.Ended, ended.Cut
	return reply, err
}

func (d *Daemon) endFormer(ctx context.Context, r control.SwapRequest, reply control.SwapReply) (n forward.Ended, err error) {
	if r.Live == "" || r.Live == control.LiveKeep || reply.UDP {
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

// beginSwap reads the request and has the target watched.
func (d *Daemon) beginSwap(r control.SwapRequest) (*trial, error) {
	d.applying.Lock()
	defer d.applying.Unlock()
	if d.stopping {
		return nil, errStopping
	}
	l, ok := d.plan.named(r.Link)
	if !ok {
		return nil, errNoLink
	}
	if err := d.failed[l.Name]; err != nil {
		return nil, openError(l, err)
	}
	t := &trial{request: r, link: l, targets: l.Targets, from: d.targetOf(l.Name), former: get(d.state.overrides.Swaps, l.Name)}
	if err := t.read(d.parse); err != nil {
		return nil, err
	}
	d.trials[t] = t.targets
	d.discovery.Apply(append(d.plan.targets(), d.tried()...))
	return t, nil
}

// read makes the override that the request asks for: none when the link shall
// go where it is configured to.
func (t *trial) read(parse parseTargets) error {
	if t.request.Undo {
		return nil
	}
	targets, err := parse(t.request.Target, t.link)
	if err != nil {
		return err
	}
	t.targets = targets
	if spec.FormatTargets(targets) != spec.FormatTargets(t.link.Targets) {
		t.override = &spec.Override{Kind: spec.OverrideSwap, Target: t.request.Target, Base: t.link.Text, When: time.Now()}
	}
	return nil
}

// tried lists the targets of all trials. The caller holds applying.
func (d *Daemon) tried() (targets []spec.Target) {
	for _, of := range d.trials {
		targets = append(targets, of...)
	}
	return targets
}

func (d *Daemon) endTrial(t *trial) {
	d.applying.Lock()
	defer d.applying.Unlock()
	delete(d.trials, t)
	if !d.stopping {
		d.keep()
	}
}

// question asks the new target whether it serves, while the link goes where it
// did. A forced swap only learns what does not answer.
func (d *Daemon) question(ctx context.Context, t *trial) (warnings []string, err error) {
	within := askTime
	switch {
	case t.request.Force:
		within = lookTime
	case t.request.Timeout > 0:
		within = time.Duration(t.request.Timeout)
	}
	limit, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	defer context.AfterFunc(d.cutting, cancel)()
	d.awaitNames(limit, t.targets)
	if spec.FormatTargets(t.targets) == t.from {
		return d.sourceErrors(t.targets), nil
	}
	there := t.link
	there.Targets = t.targets
	view := d.forwarder.View(there)
	switch {
	case t.link.Listen.Protocol == spec.UDP:
		warnings, err = d.sourceErrors(t.targets), d.hopeless(view)
	case t.request.Force:
		err = d.pool.Probe(limit, view)
	default:
		err = d.awaitServing(limit, view)
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err == nil:
		return warnings, nil
	case t.request.Force:
		return append(warnings, err.Error()), nil
	}
	return nil, t.refusal(err, spec.HintOf(d.hopeless(view)))
}

// askAgain is how long a target that does not serve yet is left alone.
const askAgain = 250 * time.Millisecond

// hopeless says why no answer could make an endpoint serve, and what would; nil:
// one might. To go there by force would be an outage for certain.
func (d *Daemon) hopeless(v endpoints.View) error {
	if err := d.pool.Denied(v); err != nil {
		return err
	}
	all := d.pool.List(&v, nil).All
	hint := ""
	why := make([]string, len(all))
	for i := range all {
		switch c := &all[i]; {
		case c.Health == spec.HealthDrained:
			why[i] = fmt.Sprintf("%s is drained", c.Endpoint)
			hint = cmp.Or(hint, fmt.Sprintf("legate resume %s", c.Endpoint))
		case c.IsDenied():
			why[i] = fmt.Sprintf("%s: %v", c.Endpoint, c.LastErr)
		case d.forwarder.Loops(c.Endpoint):
			why[i] = fmt.Sprintf("%s: %v", c.Endpoint, forward.ErrLoop)
		default:
			return nil
		}
	}
	if len(all) == 0 {
		return nil
	}
	return spec.Errorf(cmp.Or(hint, "write where the server itself listens"), "%s", strings.Join(why, "; "))
}

// awaitServing asks again until an endpoint serves, none can, or ctx ends, since
// the server may be on its way up. The error is what the last complete question
// brought: one that ctx cut short says nothing about the server.
func (d *Daemon) awaitServing(ctx context.Context, v endpoints.View) error {
	var last error
	for {
		if err := d.hopeless(v); err != nil {
			return err
		}
		err := d.pool.Probe(ctx, v)
		if err == nil {
			return nil
		}
		if last == nil || !endpoints.CutShort(ctx) {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(askAgain):
		}
	}
}

// refusal says why the link goes where it went. Where there is no other hint it
// may be forced; that gives nobody the right to go where the policy forbids it.
func (t *trial) refusal(err error, hint string) error {
	again := fmt.Sprintf("legate swap %s %s --force", t.link.Name, t.request.Target)
	if t.request.Undo {
		again = fmt.Sprintf("legate swap %s --undo --force", t.link.Name)
	}
	to := spec.FormatTargets(t.targets)
	why := strings.TrimPrefix(err.Error(), to+": ") // of the one endpoint that it is
	return spec.Errorf(cmp.Or(hint, "go there all the same: "+again), "%s does not serve: %s; link %s still goes to %s", to, why, t.link.Name, t.from)
}

// awaitNames gives names the time to be found before the link goes there: a
// link that does not hold would refuse connections meanwhile.
func (d *Daemon) awaitNames(ctx context.Context, targets []spec.Target) {
	ctx, cancel := context.WithTimeout(ctx, learnTime)
	defer cancel()
	d.answers.wait(ctx, targets)
}

func (d *Daemon) sourceErrors(targets []spec.Target) (warnings []string) {
	for _, t := range targets {
		switch a := d.pool.Answer(t); {
		case a.Err != nil:
			warnings = append(warnings, a.Err.Error())
		case a.At.IsZero():
			warnings = append(warnings, fmt.Sprintf("%s: nothing is known of it yet", t))
		}
	}
	return warnings
}

// commit writes the override beside the link and applies it, unless somebody
// else did so while the target was asked.
func (d *Daemon) commit(t *trial) (control.SwapReply, error) {
	d.applying.Lock()
	defer d.applying.Unlock()
	reply := control.SwapReply{Link: t.link.Name, Former: d.targetOf(t.link.Name), UDP: t.link.Listen.Protocol == spec.UDP}
	if d.stopping {
		return reply, errStopping
	}
	l, ok := d.plan.named(t.link.Name)
	if !ok || l.Text != t.link.Text || !same(t.former, get(d.state.overrides.Swaps, l.Name)) {
		return reply, spec.Errorf("see what it is now: legate status "+t.link.Name,
			"link %s was changed by somebody else while %s was asked; nothing was changed", t.link.Name, spec.FormatTargets(t.targets))
	}
	if err := d.edit(func(o overrides) { set(o.Swaps, l.Name, t.override) }); err != nil {
		return reply, err
	}
	reply.Target, reply.Override, reply.Kept = d.targetOf(l.Name), t.override, d.state.path
	if t.former != nil && t.former.Base != l.Text {
		reply.Forgotten = t.former
	}
	return reply, d.failed[l.Name]
}

func same(a, b *spec.Override) bool { return a == b || a != nil && b != nil && *a == *b }

// edit changes the overrides and applies them. The caller holds applying.
func (d *Daemon) edit(change func(o overrides)) error {
	if err := d.state.edit(change); err != nil {
		return err
	}
	d.apply()
	close(d.edited)
	d.edited = make(chan struct{})
	return nil
}

// forget undoes a swap whose link is gone; for any other request there must be
// a link.
func (d *Daemon) forget(r control.SwapRequest) (control.SwapReply, error) {
	d.applying.Lock()
	defer d.applying.Unlock()
	o := get(d.state.overrides.Swaps, r.Link)
	if o == nil || !r.Undo {
		return control.SwapReply{}, d.noLink(r.Link)
	}
	if err := d.edit(func(o overrides) { set(o.Swaps, r.Link, nil) }); err != nil {
		return control.SwapReply{}, err
	}
	return control.SwapReply{Link: r.Link, Former: o.Target, Kept: d.state.path}, nil
}

// targetOf is where a link goes now, overrides included.
func (d *Daemon) targetOf(link string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.plan.links {
		if l.Name == link {
			return spec.FormatTargets(l.Targets)
		}
	}
	return ""
}

var (
	errStopping = errors.New("legate is stopping")
	errNoLink   = errors.New("no such link")
)

// openError says which link an address could not be opened for, and keeps the
// hint.
func openError(l spec.Link, err error) error {
	hint := spec.HintOf(err)
	if errors.Is(err, syscall.EMFILE) {
		hint = "the limit of open descriptors is too low for so many links; " + hintDescriptors
	}
	return spec.Errorf(hint, "open link %s: %v", l.Name, err)
}
