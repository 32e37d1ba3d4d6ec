package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"legate/internal/control"
	"legate/internal/spec"
)

// drainWhenBare is what --drain means without a value.
const drainWhenBare = 30 * time.Second

type swapCommand struct {
	process         Process
	control         string
	keep, cut, undo bool
	force, json     bool
	drain, timeout  time.Duration
}

func newSwap(p Process) *cobra.Command {
	s := &swapCommand{process: p}
	c := &cobra.Command{
		Use:   "swap LINK TARGET",
		Short: "Point a running link elsewhere",
		Long: `Asks TARGET whether it serves, with the link's check or by connecting, until one of
its endpoints does; then it sends the new connections of the link there. Where none
does within 10 seconds (--timeout), the link goes where it went, and the command
fails and says what is wrong. --force does not ask.

Live connections stay where they are (--keep), may end within a time (--drain), or
are cut (--cut); the command returns when they are as asked.

The link itself is not changed: the new target stands beside it, is shown by
legate status, and ends with --undo, or when the link is configured anew. It
survives a restart where legate runs with --state-dir.`,
		Example: `  legate swap 6379 192.168.1.53:6379
  legate swap 6379 192.168.1.53:6379 --drain=10s
  legate swap 6379 192.168.1.53:6379 --force
  legate swap 6379 --undo`,
		Args:              s.checkArgs,
		ValidArgsFunction: completeLinks(p, &s.control, 0),
		RunE:              s.run,
	}
	addControl(c, &s.control)
	f := c.Flags()
	addToggle(f, toggle{"keep", &s.keep}, "let live connections stay where they are (the default)")
	f.Var(duration{"drain", &s.drain, 0}, "drain", "let live connections end, and cut those that did not within this time")
	f.Lookup("drain").NoOptDefVal = drainWhenBare.String()
	addToggle(f, toggle{"cut", &s.cut}, "cut live connections")
	addToggle(f, toggle{"undo", &s.undo}, "go back to the target that the link is configured with")
	addToggle(f, toggle{"force", &s.force}, "go there without asking whether it serves")
	f.Var(duration{"timeout", &s.timeout, time.Millisecond}, "timeout", "how long the target may take to show that it serves (default 10s)")
	addJSON(c, &s.json)
	return c
}

func (s *swapCommand) checkArgs(c *cobra.Command, args []string) error {
	ways := 0
	for _, name := range []string{"keep", "drain", "cut"} {
		if c.Flags().Changed(name) {
			ways++
		}
	}
	if ways > 1 {
		return usagef("live connections are kept, drained or cut", "only one of --keep, --drain and --cut can be given")
	}
	if s.force && c.Flags().Changed("timeout") {
		return usagef("leave out one of them", "--force does not ask, so --timeout has no meaning")
	}
	if n := len(args); n > 0 && c.Flags().Changed("drain") {
		if _, err := time.ParseDuration(args[n-1]); err == nil {
			return usagef("write --drain="+args[n-1], "%q is not a target", args[n-1])
		}
		if _, err := strconv.Atoi(args[n-1]); err == nil {
			return usagef("write --drain="+args[n-1]+"s", "%q is not a target", args[n-1])
		}
	}
	if s.undo {
		return exactly("LINK")(c, args)
	}
	return exactly("LINK", "TARGET")(c, args)
}

func (s *swapCommand) run(c *cobra.Command, args []string) error {
	if err := applyEnv(c, s.process, []string{"control"}); err != nil {
		return err
	}
	r := control.SwapRequest{Link: args[0], Undo: s.undo, Live: control.LiveKeep, Force: s.force, Timeout: control.Duration(s.timeout)}
	if !s.undo {
		r.Target = args[1]
	}
	switch {
	case s.cut:
		r.Live = control.LiveCut
	case c.Flags().Changed("drain"):
		r.Live, r.Within = control.LiveDrain, control.Duration(s.drain)
	}
	found, err := client(c, s.process, s.control)
	if err != nil {
		return err
	}
	ctx, stop := interruptible(c)
	defer stop()
	done, err := found.Swap(ctx, r)
	if errors.Is(err, context.Canceled) {
		stop() // the next Ctrl-C ends the command
		err = s.interrupted(c.Context(), found, r.Link)
	}
	if err != nil {
		return err
	}
	if s.json {
		return s.process.printJSON(done)
	}
	s.tell(r, done)
	return nil
}

// interrupted says what holds after Ctrl-C, of which the swap itself knows
// nothing: it may have been asking still, or waiting for live connections.
func (s *swapCommand) interrupted(ctx context.Context, found *control.Client, link string) error {
	hint := "see where it goes: " + s.process.command(s.control, "status", link)
	now, err := found.Snapshot(ctx)
	if err != nil {
		return err
	}
	of, err := onlyLink(now.Links, link)
	if err != nil {
		return err
	}
	return spec.Errorf(hint, "stopped waiting; link %s goes to %s, and live connections go on", of[0].Name, of[0].Target)
}

// tell says what holds now, and for how long.
func (s *swapCommand) tell(r control.SwapRequest, done control.SwapReply) {
	w := s.process.Stdout
	switch {
	case done.Target == "":
		fmt.Fprintf(w, "%s: forgot the swap to %s; there is no such link now\n", done.Link, done.Former)
		return
	case done.Target == done.Former && done.Override == nil && done.Forgotten != nil:
		fmt.Fprintf(w, "%s goes to %s, as configured; forgot the swap to %s\n", done.Link, done.Target, done.Forgotten.Target)
		return
	case done.Target == done.Former && done.Override == nil:
		fmt.Fprintf(w, "%s goes to %s, as configured; nothing to change\n", done.Link, done.Target)
		return
	}
	if done.Target == done.Former {
		fmt.Fprintf(w, "%s goes to %s already\n", done.Link, done.Target)
	} else {
		fmt.Fprintf(w, "%s goes to %s now, before: %s\n", done.Link, done.Target, done.Former)
	}
	switch {
	case done.UDP:
		fmt.Fprintln(w, "sessions go there with their next datagram")
	case r.Live == control.LiveKeep:
		fmt.Fprintln(w, "live connections stay where they are")
	default:
		fmt.Fprintf(w, "former connections: %s\n", outcome(done))
	}
	for _, text := range done.Warnings {
		fmt.Fprintf(s.process.Stderr, "warning: %s\n", text)
	}
	if done.Override == nil {
		fmt.Fprintln(w, "that is as configured")
		return
	}
	tellKept(w, done.Kept)
	fmt.Fprintf(w, "undo: %s\n", s.process.command(s.control, "swap", done.Link, "--undo"))
}

// outcome tells what became of the former connections.
func outcome(done control.SwapReply) string {
	switch {
	case done.Ended == 0 && done.Cut == 0:
		return "there were none"
	case done.Ended == 0:
		return fmt.Sprintf("%d cut", done.Cut)
	case done.Cut == 0:
		return fmt.Sprintf("%d ended", done.Ended)
	}
	return fmt.Sprintf("%d ended, %d cut", done.Ended, done.Cut)
}
