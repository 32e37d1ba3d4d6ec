package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"legate/internal/control"
	"legate/internal/spec"
)

type whyCommand struct {
	process       Process
	control       string
	connect, json bool
}

func newWhy(p Process) *cobra.Command {
	y := &whyCommand{process: p}
	c := &cobra.Command{
		Use:   "why CALLER LINK",
		Short: "Say where a caller's connection goes, and why",
		Long: `Says what the next connection of CALLER to LINK meets: the rule that has it, the
target and what its source last said, every endpoint in the order in which it
would be tried, with its health, last error, load and connect time, and which one
would be chosen. Nothing is opened, unless --connect asks for it: then the
endpoints are tried as for a connection until one connects, which is closed again,
and each attempt is shown with its time.

CALLER is an IP address, IP:PORT, "unix" for clients of a unix socket, or, of an
agent, a container; LINK is then what it connects to: legate why web 6379. Whatever
is found, the exit code is 0; with --connect it is 1 when nothing connected.`,
		Example: `  legate why 192.168.1.7 6379
  legate why 192.168.1.7 6379 --connect`,
		Args:              exactly("CALLER", "LINK"),
		ValidArgsFunction: completeCaller(p, &y.control),
		RunE:              y.run,
	}
	addControl(c, &y.control)
	addToggle(c.Flags(), toggle{"connect", &y.connect}, "try it, and show each attempt with its time")
	addJSON(c, &y.json)
	return c
}

func (y *whyCommand) run(c *cobra.Command, args []string) error {
	if err := applyEnv(c, y.process, []string{"control"}); err != nil {
		return err
	}
	found, err := client(c, y.process, y.control)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e, err := y.ask(ctx, found, args)
	if err != nil {
		return err
	}
	if y.json {
		err = y.process.printJSON(e)
	} else {
		err = explanation{e, time.Now(), y.control}.write(y.process.Stdout)
	}
	if err == nil && y.connect && !connected(e.Attempts) {
		err = spec.Errorf("see what is wrong with each: "+y.process.command(y.control, "status", e.Link), "no endpoint of link %s connected", e.Link)
	}
	return err
}

func (y *whyCommand) ask(ctx context.Context, found *control.Client, args []string) (spec.Explanation, error) {
	return found.Why(ctx, control.WhyRequest{Caller: args[0], Link: args[1], Connect: y.connect})
}

func connected(attempts []spec.AttemptStatus) bool {
	for _, a := range attempts {
		if a.Connected {
			return true
		}
	}
	return false
}

// explanation writes what a person reads.
type explanation struct {
	spec.Explanation
	now   time.Time
	where string // as in report
}

func (e explanation) write(w io.Writer) error {
	e.head(w)
	if err := e.endpoints(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	row(w, "verdict", e.Verdict)
	for _, n := range e.Notes {
		row(w, "note", n)
	}
	return e.attempts(w)
}

func (e explanation) head(w io.Writer) {
	row(w, "caller", e.Caller)
	link := e.Link
	if e.Listen != e.Link {
		link += ", on " + e.Listen
	}
	row(w, "link", link+": "+string(e.State))
	if e.Mode != nil {
		end := control.Addressed(e.where, "legate resume "+e.Link)
		row(w, "", fmt.Sprintf("%s %s ago; end it: %s", overrideWord(e.Mode.Kind), age(e.now.Sub(e.Mode.When)), end))
	}
	row(w, "rule", e.Rule)
	row(w, "target", e.Target)
	if e.Override != nil {
		row(w, "", fmt.Sprintf("swapped %s ago, configured: %s", age(e.now.Sub(e.Override.When)), e.Override.Base))
	}
	for _, s := range e.Sources {
		row(w, "source", sourceWords(s, e.now))
	}
}

// sourceWords says what the source of a target last said.
func sourceWords(s spec.SourceStatus, now time.Time) string {
	text := s.Target
	if s.Source == spec.SourceFixed {
		text += ": fixed, as written"
	} else {
		text += ": " + s.Source
		if s.Detail != "" {
			text += " (" + s.Detail + ")"
		}
		text += ", " + plural(s.Endpoints, "endpoint") + answerWords(s, now)
	}
	if s.Error != "" {
		text += "; " + s.Error
		if s.Failed != nil {
			text += ", for " + age(now.Sub(*s.Failed))
		}
		if s.Hint != "" {
			text += " (" + s.Hint + ")"
		}
	}
	return text + heldWords(s, now)
}

// answerWords says how old the last good answer is, and what it is from.
func answerWords(s spec.SourceStatus, now time.Time) (text string) {
	switch {
	case s.Learned != nil:
		text = ", learned " + age(now.Sub(*s.Learned)) + " ago"
	case s.Error == "":
		return ", no answer yet"
	}
	if s.Answered != nil && (s.Learned == nil || s.Answered.Sub(*s.Learned) >= time.Second) {
		text += ", last answer " + age(now.Sub(*s.Answered)) + " ago"
	}
	if s.TTL > 0 {
		text += ", TTL " + age(time.Duration(s.TTL*float64(time.Second)))
	}
	return text
}

// heldWords says that endpoints are used which the source does not vouch for
// now, and until when.
func heldWords(s spec.SourceStatus, now time.Time) string {
	switch {
	case s.Weak > 0 && s.Until != nil:
		return fmt.Sprintf("; %d of them kept as a last resort, since it no longer names them, without proof: for %s more", s.Weak, age(s.Until.Sub(now)+time.Second-1))
	case s.Weak > 0:
		return fmt.Sprintf("; %d of them in doubt", s.Weak)
	case s.Held:
		return "; held from before, until it answers"
	}
	return ""
}

func plural(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}

// endpoints are a table, with what is wrong below each.
func (e explanation) endpoints(w io.Writer) error {
	fmt.Fprintln(w)
	if len(e.Endpoints) == 0 {
		row(w, "endpoints", "none")
		return nil
	}
	var table strings.Builder
	t := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "    ENDPOINT\tHEALTH\tLOAD\tCONNECT\t")
	for _, ep := range e.Endpoints {
		mark := "    "
		if ep.Address == e.Chosen {
			mark = "->  "
		}
		fmt.Fprintf(t, "%s%s\t%s\t%d\t%s\t%s\n", mark, ep.Address, healthWords(ep, e.now), ep.Load, latency(ep.ConnectMS), strings.Join(traits(ep, e.now), ", "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i, line := range strings.Split(strings.TrimSpace(table.String()), "\n") {
		if i == 0 {
			line = "    " + line
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
		if i > 0 {
			e.lastError(w, e.Endpoints[i-1])
		}
	}
	return nil
}

func (e explanation) lastError(w io.Writer, ep spec.EndpointStatus) {
	if ep.LastError == "" {
		return
	}
	text := "last error"
	if ep.Health == spec.HealthStandby {
		text = "last answer"
	}
	if at := lastAsked(ep); at != nil && (ep.Health == spec.HealthEjected || ep.Health == spec.HealthUnhealthy || ep.Health == spec.HealthStandby) {
		text += " " + age(e.now.Sub(*at)) + " ago" // else something succeeded since
	}
	for _, line := range wrap(text+": "+ep.LastError, textWidth-6) {
		fmt.Fprintln(w, "      "+line)
	}
}

// lastAsked is when an endpoint was last tried or checked.
func lastAsked(ep spec.EndpointStatus) *time.Time {
	if ep.LastTried == nil || ep.CheckedAt != nil && ep.CheckedAt.After(*ep.LastTried) {
		return ep.CheckedAt
	}
	return ep.LastTried
}

// healthWords is the health of an endpoint and since when it is that.
func healthWords(ep spec.EndpointStatus, now time.Time) string {
	if ep.Since == nil {
		return string(ep.Health)
	}
	return string(ep.Health) + " " + age(now.Sub(*ep.Since))
}

func latency(ms float64) string {
	switch {
	case ms <= 0:
		return "-"
	case ms < 9.95:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}

// traits are what sets an endpoint apart from others.
func traits(ep spec.EndpointStatus, now time.Time) (list []string) {
	add := func(on bool, format string, args ...any) {
		if on {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	add(ep.Near, "near")
	add(ep.Priority != 0, "priority %d", ep.Priority)
	add(ep.Weight != 1, "weight %d", ep.Weight)
	add(ep.Host != "", "host %s", ep.Host)
	add(ep.Container != "", "container %s", shortID(ep.Container))
	if ep.Drained != nil {
		add(true, "drained %s ago", age(now.Sub(ep.Drained.When)))
	}
	if ep.Ejected != nil && ep.Ejected.After(now) {
		add(true, "tried last for %s", age(ep.Ejected.Sub(now)+time.Second-1))
	}
	add(ep.Check != "", "check %s", ep.Check)
	return list
}

func (e explanation) attempts(w io.Writer) error {
	if len(e.Attempts) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, a := range e.Attempts {
		came := "connected"
		if !a.Connected {
			came = a.Error
		}
		fmt.Fprintf(t, "attempt   %s\t%s\t%s\n", a.Address, latency(a.Millis), came)
	}
	return t.Flush()
}

// textWidth is what a terminal surely has, and some.
const textWidth = 96

// row is a line with its label, wrapped under itself.
func row(w io.Writer, label, text string) {
	for _, line := range wrap(text, textWidth-10) {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-10s%s", label, line), " "))
		label = ""
	}
}

// wrap breaks a text at spaces into lines of that many bytes; a longer word
// has a line of its own.
func wrap(text string, width int) []string { return wrapWords(strings.Fields(text), width) }

func wrapWords(words []string, width int) (lines []string) {
	line := ""
	for _, word := range words {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
