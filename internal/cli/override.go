package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"legate/internal/control"
	"legate/internal/spec"
)

// overrideCommand is pause, drain or resume.
type overrideCommand struct {
	process Process
	control string
	json    bool
	wait    bool
	timeout time.Duration
}

func newPause(p Process) *cobra.Command {
	o := &overrideCommand{process: p}
	c := &cobra.Command{
		Use:   "pause LINK",
		Short: "Let new connections of a link wait",
		Long: `Accepts the new connections of a link and lets them wait, with what they send,
until legate resume LINK; then they go on in the order in which they came. There
is no limit of time, and 1024 may wait. Live connections go on. UDP does not wait:
datagrams of new sessions are dropped.

A pause survives a restart where legate runs with --state-dir.`,
		Example: `  legate pause 5432
  legate resume 5432`,
		Args:              exactly("LINK"),
		ValidArgsFunction: completeLinks(p, &o.control, 0),
		RunE: o.verb(func(ctx context.Context, found *control.Client, link string) (control.OverrideReply, error) {
			return found.Pause(ctx, control.PauseRequest{Link: link})
		}, o.tellPause),
	}
	addControl(c, &o.control)
	addJSON(c, &o.json)
	return c
}

func newResume(p Process) *cobra.Command {
	o := &overrideCommand{process: p}
	c := &cobra.Command{
		Use:   "resume LINK|ENDPOINT",
		Short: "End a pause or a drain",
		Long: `Ends what legate pause or legate drain asked of a link or an endpoint. Connections
that waited go on in the order in which they came.`,
		Example: `  legate resume 5432
  legate resume 192.168.1.52:5432`,
		Args:              exactly("LINK or ENDPOINT"),
		ValidArgsFunction: completeNames(p, &o.control),
		RunE: o.verb(func(ctx context.Context, found *control.Client, name string) (control.OverrideReply, error) {
			return found.Resume(ctx, control.ResumeRequest{Name: name})
		}, o.tellResume),
	}
	addControl(c, &o.control)
	addJSON(c, &o.json)
	return c
}

func newDrain(p Process) *cobra.Command {
	o := &overrideCommand{process: p}
	c := &cobra.Command{
		Use:   "drain LINK|ENDPOINT",
		Short: "Let live connections end, and have no new ones",
		Long: `A LINK stops listening: new clients are refused. An ENDPOINT, by its address as
legate status --endpoints shows it, gets no new connections from any link; they go
to the other endpoints. Live connections go on in both cases. A word that is both
means the link.

It returns at once, or with --wait when the last live connection has ended. Those
that are left after --timeout are listed, and the exit code is 1. The drain holds
in any case, until legate resume, and survives a restart where legate runs with
--state-dir.`,
		Example: `  legate drain 192.168.1.52:5432 --wait --timeout 5m
  legate resume 192.168.1.52:5432`,
		Args:              o.checkDrain,
		ValidArgsFunction: completeNames(p, &o.control),
		RunE: o.verb(func(ctx context.Context, found *control.Client, name string) (control.OverrideReply, error) {
			return found.Drain(ctx, control.DrainRequest{Name: name, Wait: o.wait, Timeout: control.Duration(o.timeout)})
		}, o.tellDrain),
	}
	addControl(c, &o.control)
	addToggle(c.Flags(), toggle{"wait", &o.wait}, "return when the last live connection has ended")
	c.Flags().Var(duration{"timeout", &o.timeout, 0}, "timeout", "how long to wait; then say which connections are left (default 0: no limit)")
	addJSON(c, &o.json)
	return c
}

func (o *overrideCommand) checkDrain(c *cobra.Command, args []string) error {
	if o.timeout != 0 && !o.wait {
		return usagef("write --wait --timeout "+o.timeout.String(), "--timeout has no meaning without --wait")
	}
	return exactly("LINK or ENDPOINT")(c, args)
}

// verb is what the three commands have in common. Ctrl-C ends the asking, so
// that the command can say what holds all the same.
func (o *overrideCommand) verb(
	ask func(context.Context, *control.Client, string) (control.OverrideReply, error),
	tell func(control.OverrideReply) error,
) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		if err := applyEnv(c, o.process, []string{"control"}); err != nil {
			return err
		}
		found, err := client(c, o.process, o.control)
		if err != nil {
			return err
		}
		ctx, stop := interruptible(c)
		defer stop()
		done, err := ask(ctx, found, args[0])
		if errors.Is(err, context.Canceled) {
			stop() // the next Ctrl-C ends the command
			err = o.interrupted(c.Context(), found, args[0])
		}
		if err != nil {
			return err
		}
		if !o.json {
			return tell(done)
		}
		if err := o.process.printJSON(done); err != nil {
			return err
		}
		return o.left(done)
	}
}

// interrupted says what holds after Ctrl-C: the verb itself had no answer.
func (o *overrideCommand) interrupted(ctx context.Context, found *control.Client, name string) error {
	now, err := found.Snapshot(ctx)
	if err != nil {
		return err
	}
	if as := overrideOf(now.Links, name); as != nil {
		return spec.Errorf("end it: "+o.process.command(o.control, "resume", name), "stopped waiting; %s is still %s", name, overrideWord(as.Kind))
	}
	return spec.Errorf("see what holds: "+o.process.command(o.control, "status"), "stopped waiting")
}

// overrideOf is what an operator asked of a link or an endpoint; nil: nothing.
func overrideOf(links []spec.LinkStatus, name string) *spec.Override {
	if of, err := onlyLink(links, name); err == nil {
		return of[0].Mode
	}
	for _, l := range links {
		for _, e := range l.Endpoints {
			if e.Address == name {
				return e.Drained
			}
		}
	}
	return nil
}

func (o *overrideCommand) tellPause(done control.OverrideReply) error {
	w := o.process.Stdout
	fmt.Fprintf(w, "%s is paused%s: ", done.Link, o.since(done))
	if done.UDP {
		fmt.Fprintln(w, "datagrams of new sessions are dropped")
	} else {
		fmt.Fprintf(w, "new connections wait (%d now)\n", done.Held)
	}
	fmt.Fprintf(w, "live connections go on: %d\n", done.Current-done.Held)
	o.tellHolding(done, done.Link)
	return nil
}

func (o *overrideCommand) tellDrain(done control.OverrideReply) error {
	w, name := o.process.Stdout, done.Link
	what := "it does not listen"
	switch {
	case name == "":
		name, what = done.Endpoint, "it gets no new connections"
	case done.UDP:
		what = "datagrams of new sessions are dropped"
	}
	fmt.Fprintf(w, "%s is drained%s: %s\n", name, o.since(done), what)
	switch {
	case len(done.Left) > 0:
		// They are listed with the error.
	case done.Current == 0:
		fmt.Fprintln(w, "no live connection is left")
	default:
		fmt.Fprintf(w, "live connections: %d; wait for their end: %s\n", done.Current, o.process.command(o.control, "drain", name, "--wait"))
	}
	o.tellHolding(done, name)
	if len(done.Left) > 0 {
		if err := o.list(done.Left, done.Current); err != nil {
			return err
		}
	}
	return o.left(done)
}

// since tells that nothing changed, because it was so before.
func (o *overrideCommand) since(done control.OverrideReply) string {
	if done.Former == nil || done.Override == nil {
		return ""
	}
	if done.Former.Kind != done.Override.Kind {
		return fmt.Sprintf(" (it was %s before)", overrideWord(done.Former.Kind))
	}
	return fmt.Sprintf(", since %s ago", age(time.Since(done.Override.When)))
}

func overrideWord(k spec.OverrideKind) string {
	switch k {
	case spec.OverridePause:
		return "paused"
	case spec.OverrideDrain:
		return "drained"
	}
	return "swapped"
}

func (o *overrideCommand) tellHolding(done control.OverrideReply, name string) {
	w := o.process.Stdout
	o.tellNotes(done)
	tellKept(w, done.Kept)
	fmt.Fprintf(w, "end it: %s\n", o.process.command(o.control, "resume", name))
}

func (o *overrideCommand) tellNotes(done control.OverrideReply) {
	for _, n := range done.Notes {
		fmt.Fprintf(o.process.Stderr, "note: %s\n", n)
	}
}

func (o *overrideCommand) tellResume(done control.OverrideReply) error {
	w, name := o.process.Stdout, done.Link
	if name == "" {
		name = done.Endpoint
	}
	switch {
	case done.Former == nil:
		fmt.Fprintf(w, "%s is neither paused nor drained; nothing to change\n", name)
	case done.Endpoint != "":
		fmt.Fprintf(w, "%s gets new connections again, after %s\n", name, age(time.Since(done.Former.When)))
	case done.Former.Kind == spec.OverridePause:
		fmt.Fprintf(w, "%s serves again, after %s; %s waited\n", name, age(time.Since(done.Former.When)), plural(done.Held, "connection"))
	default:
		fmt.Fprintf(w, "%s listens again, after %s\n", name, age(time.Since(done.Former.When)))
	}
	o.tellNotes(done)
	return nil
}

// list shows the connections that a drain waited for in vain, which are the
// oldest of all.
func (o *overrideCommand) list(left []spec.ConnectionStatus, total int) error {
	now := time.Now()
	fmt.Fprintln(o.process.Stdout)
	t := tabwriter.NewWriter(o.process.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CALLER\tLINK\tENDPOINT\tFOR\tIN\tOUT")
	for _, c := range left {
		endpoint := c.Endpoint
		if endpoint == "" {
			endpoint = "waits"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Caller, c.Link, endpoint, age(now.Sub(c.Since)), size(c.BytesIn), size(c.BytesOut))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if more := total - len(left); more > 0 {
		fmt.Fprintf(o.process.Stdout, "and %d more\n", more)
	}
	return nil
}

// left is the error of a drain that waited in vain.
func (o *overrideCommand) left(done control.OverrideReply) error {
	if len(done.Left) == 0 {
		return nil
	}
	name := done.Link + done.Endpoint
	are := "are"
	if done.Current == 1 {
		are = "is"
	}
	return spec.Errorf(strings.Join([]string{
		"wait on: " + o.process.command(o.control, "drain", name, "--wait"),
		"end the drain: " + o.process.command(o.control, "resume", name),
	}, "; "), "%s %s left after %s; %s is still drained", plural(done.Current, "connection"), are, o.timeout, name)
}
