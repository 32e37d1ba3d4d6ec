package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"legate/internal/control"
	"legate/internal/daemon"
	"legate/internal/spec"
)

// asked is what the host shall be able to do.
type asked struct {
	links    []spec.Link
	running  []spec.Snapshot
	silent   []error  // of instances that do not answer
	warnings []string // of links that cannot be used
	none     error    // why there are no links; nil when there are, or nobody looked
}

// originPatience is longer than the first look at linked containers takes.
const originPatience = 7 * time.Second

func (d *doctorCommand) asked(c *cobra.Command, args []string) (a asked, err error) {
	a.running, a.silent = d.instances(c.Context())
	if d.agent && len(args) == 0 {
		return a, nil // its links are of containers
	}
	if len(args) == 0 {
		a.fromEnvironment(c.Context(), d)
		return a, nil
	}
	a.warnings = passedOver(d.process)
	a.links, err = d.links.parse(c, args)
	if err != nil {
		err = cmp.Or(a.named(args), err)
	}
	return a, err
}

// named is the error for the name of a running link where what it is written as
// must stand; nil: none is such a name.
func (a asked) named(args []string) error {
	for _, s := range a.running {
		for _, l := range s.Links {
			if slices.Contains(args, l.Name) {
				return usagef(fmt.Sprintf("legate doctor looks at all that run; at this one: legate status %s --control %s", l.Name, s.Instance),
					"%s is the name of a running link, and doctor takes links as legate run does", l.Name)
			}
		}
	}
	return nil
}

// instances asks every running legate, or the one that --control names.
func (d *doctorCommand) instances(ctx context.Context) (all []spec.Snapshot, silent []error) {
	places := control.DefaultPlaces(d.process.getenv)
	names := []string{d.control}
	if d.control == "" {
		names = control.Names(ctx, places)
	}
	for _, name := range names {
		if name == control.Off {
			continue
		}
		found, err := control.Find(ctx, name, places)
		var s spec.Snapshot
		if err == nil {
			s, err = found.Snapshot(ctx)
		}
		if d.control != "" && errors.Is(err, control.ErrNobody) {
			continue // run would make that socket
		}
		if err != nil {
			silent = append(silent, fmt.Errorf("ask legate %s: %w", name, err))
			continue
		}
		if d.control != "" {
			s.Instance = d.control // commands to type next find it by that
		}
		all = append(all, s)
	}
	return all, silent
}

// fromEnvironment takes the links that legate run would take. A running legate
// has done that already where it takes probing.
func (a *asked) fromEnvironment(ctx context.Context, d *doctorCommand) {
	o, err := daemon.ChooseOrigin(ctx, daemon.OriginConfig{Environ: d.process.Environ, Parse: d.links.config()})
	switch {
	case errors.Is(err, daemon.ErrUnlinked): // legate run would be the agent
		d.agent = true
		return
	case err != nil:
		a.none = err
		return
	}
	if _, static := o.(daemon.Static); !static && len(a.running) > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, originPatience)
	defer cancel()
	err = o.Watch(ctx, func(w spec.Wish) {
		if a.links, a.warnings = w.Links, w.Warnings; len(w.Links) > 0 {
			cancel()
		}
	})
	if len(a.links) == 0 {
		a.none = errors.Join(spec.Errorf("see whether the linked containers run and serve: docker ps", "no link was found in %v", originPatience), err)
	}
}

// findings are what is known before anything is looked at.
func (a asked) findings(h host) (found []finding) {
	if a.none != nil && len(a.running) == 0 {
		found = append(found, noLinks(h, a.none))
	}
	for _, w := range a.warnings {
		found = append(found, weak("links", "", "%s", w))
	}
	for _, err := range a.silent {
		found = append(found, weak("running", spec.HintOf(err), "%v", err))
	}
	for _, s := range a.running {
		found = append(found, judgeRunning(s)...)
	}
	return found
}

// noLinks: in a container links are what it was started for, elsewhere nobody
// may have asked for any yet.
func noLinks(h host, none error) finding {
	if h.container {
		return missing("links", spec.HintOf(none), "%v", none)
	}
	return weak("links", "legate doctor 6379=192.168.1.52:6379 (what you want to run)", "no link is given, so only the host itself was looked at")
}

// judgeRunning says what is wrong with the links of a running legate.
func judgeRunning(s spec.Snapshot) (found []finding) {
	for _, l := range s.Links {
		found = append(found, judgeLink(s.Instance, l))
	}
	if s.Agent != nil {
		found = append(found, judgeAgent(s))
	}
	for _, w := range s.Warnings {
		if s.Agent != nil && s.Agent.Late != "" && strings.HasSuffix(w, s.Agent.Late) {
			continue // judgeAgent has said it
		}
		found = append(found, weak("running "+s.Instance, "", "%s", control.Addressed(s.Instance, w)))
	}
	if len(s.Links) == 0 && s.Agent == nil {
		found = append(found, weak("running "+s.Instance, "legate status --control "+s.Instance, "it has no links"))
	}
	return found
}

// judgeLink says of one link of a running instance why it does not serve.
func judgeLink(instance string, l spec.LinkStatus) finding {
	about := fmt.Sprintf("link %s of %s", l.Name, instance)
	look := fmt.Sprintf("legate status %s --control %s", l.Name, instance)
	resume := fmt.Sprintf("legate resume %s --control %s", l.Name, instance)
	switch l.State {
	case spec.StateError:
		return missing(about, cmp.Or(l.Hint, look), "not listening on %s: %s", l.Listen, l.Error)
	case spec.StateDown, spec.StateHolding:
		return missing(about, cmp.Or(resumeDrained(instance, l), look), "down: %s", whyDown(l))
	case spec.StatePaused:
		return weak(about, resume, "an operator paused it: new connections wait")
	case spec.StateDrained:
		return weak(about, resume, "an operator drained it: new clients are refused")
	}
	if text := limitWords(l); text != "" {
		return weak(about, look, "%s, but %s", l.State, text)
	}
	if l.State == spec.StateDegraded {
		return weak(about, look, "degraded: %s", whyDown(l))
	}
	if l.Error != "" {
		return weak(about, look, "%s", l.Error)
	}
	if l.Full {
		return weak(about, look, "%s, but %d connections wait%s", l.State, l.Counters.Held, whyWait(l))
	}
	if slices.ContainsFunc(l.Endpoints, func(e spec.EndpointStatus) bool { return e.Health == spec.HealthClosing }) {
		return weak(about, look, "%s, but %s", l.State, whyDown(l))
	}
	return fine(about, "%s", l.State)
}

// resumeDrained is how to have the endpoints back that operators took; "": they
// took none.
func resumeDrained(instance string, l spec.LinkStatus) string {
	var each []string
	for _, e := range l.Endpoints {
		if e.Health == spec.HealthDrained {
			each = append(each, fmt.Sprintf("legate resume %s --control %s", e.Address, instance))
		}
	}
	return strings.Join(each, " && ")
}

func whyDown(l spec.LinkStatus) string {
	var why []string
	if l.Error != "" {
		why = append(why, l.Error)
	}
	for _, s := range l.Sources {
		if unanswered(s) {
			why = append(why, s.Target+" has no answer yet")
		}
	}
	for _, e := range l.Endpoints {
		switch {
		case e.Health == spec.HealthDrained:
			why = append(why, e.Address+" is drained")
		case e.LastError != "":
			why = append(why, e.Address+": "+e.LastError)
		}
	}
	if len(why) == 0 {
		return "it has no endpoint that serves"
	}
	return strings.Join(why, "; ")
}

// untried are the links of running instances of which nobody knows whether
// anything answers behind them: no client came yet.
func (a asked) untried() (links []spec.Link) {
	known := map[string]bool{}
	for _, l := range a.links {
		known[l.Listen.String()] = true
	}
	for _, s := range a.running {
		for _, l := range s.Links {
			if !known[l.Listen] && l.State == spec.StateUp && neverTried(l) {
				links = append(links, asWritten(l)...)
			}
		}
	}
	return links
}

func neverTried(l spec.LinkStatus) bool {
	return !slices.ContainsFunc(l.Endpoints, func(e spec.EndpointStatus) bool { return e.Health != spec.HealthUnknown })
}

// asWritten reads the link again. What its sources are is not for us to know:
// one that cannot be read is left out.
func asWritten(l spec.LinkStatus) []spec.Link {
	links, err := spec.ParseLink(l.Listen+"="+l.Target, spec.ParseConfig{Options: spec.DefaultOptions()})
	if err != nil {
		return nil
	}
	for i := range links {
		links[i].Name = l.Name
	}
	return links
}
