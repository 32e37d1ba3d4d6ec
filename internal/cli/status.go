package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"legate/internal/control"
	"legate/internal/spec"
)

func newStatus(p Process) *cobra.Command {
	var where string
	var asJSON bool
	c := &cobra.Command{
		Use:   "status [LINK]",
		Short: "Show links, their endpoints and connections",
		Long: `Shows what a running legate does: each link with its state and counters, its
endpoints below it, and what is wrong below that. It succeeds when legate
answers, whatever the state of the links: as a health check it says whether
legate serves, not whether the servers behind it do.

States: up; degraded (some endpoints fail); down (all fail, clients are
refused); holding (all fail, clients wait); error (not listening).`,
		Example: `  legate status
  legate status 6379 --json
  docker exec redis_ambassador legate status`,
		ValidArgsFunction: completeLinks(p, &where),
		RunE: func(c *cobra.Command, args []string) error {
			if err := applyEnv(c, p, []string{"control"}); err != nil {
				return err
			}
			s, err := snapshot(c, p, where)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if s.Links, err = onlyLink(s.Links, args[0]); err != nil {
					return err
				}
			}
			if asJSON {
				e := json.NewEncoder(p.Stdout)
				e.SetEscapeHTML(false)
				e.SetIndent("", "  ")
				return e.Encode(s)
			}
			return report{p.Stdout, time.Now()}.snapshot(s)
		},
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 1 {
			return exactly("one LINK, or none")(c, args)
		}
		return nil
	}
	addControl(c, &where)
	addToggle(c.Flags(), toggle{"json", &asJSON}, "print everything as JSON")
	return c
}

func snapshot(c *cobra.Command, p Process, where string) (spec.Snapshot, error) {
	found, err := client(c, p, where)
	if err != nil {
		return spec.Snapshot{}, err
	}
	return found.Snapshot(c.Context())
}

func onlyLink(links []spec.LinkStatus, name string) ([]spec.LinkStatus, error) {
	var names []string
	for _, l := range links {
		if l.Name == name || l.Listen == name {
			return []spec.LinkStatus{l}, nil
		}
		names = append(names, l.Name)
	}
	return nil, control.NoLink(name, names)
}

// report writes a snapshot for people.
type report struct {
	w   io.Writer
	now time.Time
}

func (r report) snapshot(s spec.Snapshot) error {
	fmt.Fprintf(r.w, "%s %s, pid %d, started %s ago\n", s.Instance, s.Version, s.PID, age(r.now.Sub(s.Started)))
	if len(s.Links) == 0 {
		fmt.Fprintln(r.w, "no links")
	} else if err := r.table(s.Links); err != nil {
		return err
	}
	var notes []string
	for _, l := range s.Links {
		notes = append(notes, r.notes(l)...)
	}
	for _, w := range s.Warnings {
		notes = append(notes, "warning: "+w)
	}
	if len(notes) > 0 {
		fmt.Fprintf(r.w, "\n%s\n", strings.Join(notes, "\n"))
	}
	return nil
}

func (r report) table(links []spec.LinkStatus) error {
	fmt.Fprintln(r.w)
	t := tabwriter.NewWriter(r.w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LINK\tSTATE\tCURRENT\tTOTAL\tFAILED\tIN\tOUT\tTARGET")
	for _, l := range links {
		c := l.Counters
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n",
			l.Name, l.State, c.Current, c.Total, sum(c.Failed), size(c.BytesIn), size(c.BytesOut), l.Target)
		for _, e := range l.Endpoints {
			from := ""
			if e.From != e.Address && e.From != l.Target {
				from = "  " + e.From
			}
			fmt.Fprintf(t, "  %s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n",
				e.Address, e.Health, e.Current, e.Total, sum(e.Failed), size(e.BytesIn), size(e.BytesOut), from)
		}
	}
	return t.Flush()
}

// notes are the lines below the table: what a number cannot say.
func (r report) notes(l spec.LinkStatus) []string {
	var notes []string
	note := func(format string, args ...any) {
		notes = append(notes, l.Name+": "+fmt.Sprintf(format, args...))
	}
	if o := l.Override; o != nil {
		note("swapped %s ago, configured: %s", age(r.now.Sub(o.When)), o.Base)
	}
	if l.Since != nil && l.State != spec.StateUp {
		note("down for %s", age(r.now.Sub(*l.Since)))
	}
	if l.Error != "" {
		note("%s%s", l.Error, r.learned(l.Learned))
	}
	c := l.Counters
	if l.Limit > 0 && c.Current >= int64(l.Limit) {
		note("the limit of %d connections is reached; others wait in the listen queue", l.Limit)
	}
	if c.Held > 0 {
		note("%d wait now, %d waited so far, %d gave up", c.Held, c.HeldTotal, c.Abandoned)
	} else if c.Abandoned > 0 {
		note("%d waited so far, %d gave up", c.HeldTotal, c.Abandoned)
	}
	if sum(c.Failed) > 0 {
		note("%s", reasons(c.Failed, strings.HasSuffix(l.Listen, "/udp")))
	}
	if c.DroppedUDP > 0 {
		note("%d datagrams were dropped", c.DroppedUDP)
	}
	for _, e := range l.Endpoints {
		if e.Health == spec.HealthEjected {
			note("%s: %s%s", e.Address, e.LastError, r.ago(e.LastTried))
		}
	}
	return notes
}

// learned tells how old the endpoints are that are used in spite of an error.
func (r report) learned(t *time.Time) string {
	if t == nil {
		return ""
	}
	return "; the endpoints are those of " + age(r.now.Sub(*t)) + " ago"
}

func (r report) ago(t *time.Time) string {
	if t == nil {
		return ""
	}
	return ", " + age(r.now.Sub(*t)) + " ago"
}

// reasons says why connections reached no endpoint.
func reasons(failed map[string]int64, udp bool) string {
	outcome := "reset"
	if udp {
		outcome = "dropped"
	}
	var parts []string
	for _, why := range slices.Sorted(maps.Keys(failed)) {
		if failed[why] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", failed[why], outcome, inWords(why)))
		}
	}
	return strings.Join(parts, "; ")
}

// inWords explains the short names that counters have.
func inWords(why string) string {
	switch why {
	case "down":
		return "no endpoint in time"
	case "hold-full":
		return "too many waited already"
	case "no-endpoint":
		return "no endpoint is known"
	case "refused":
		return "the endpoint refused it"
	case "timeout":
		return "the endpoint did not answer"
	case "closed":
		return "the endpoint closed it at once"
	case "unreachable":
		return "no route to the endpoint"
	case "missing":
		return "the endpoint's socket is not there"
	case "loop":
		return "the endpoint is our own listener"
	case "shortage":
		return "this machine is short of descriptors, memory or ports"
	case "error":
		return "other errors"
	}
	return why
}

func sum(failed map[string]int64) int64 {
	var n int64
	for _, v := range failed {
		n += v
	}
	return n
}

// age gives a duration in its two largest units, as people say it.
func age(d time.Duration) string {
	units := []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}}
	for i, u := range units {
		n := d / u.of
		if n <= 0 {
			continue
		}
		s := fmt.Sprintf("%d%s", n, u.name)
		if i+1 < len(units) && n < 10 {
			if rest := d % u.of / units[i+1].of; rest > 0 {
				s += fmt.Sprintf(" %d%s", rest, units[i+1].name)
			}
		}
		return s
	}
	return "0s"
}

// size gives bytes with at most three digits before the unit.
func size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB", "PB", "EB"} {
		v /= 1000
		if v < 9.95 {
			return fmt.Sprintf("%.1f %s", v, unit)
		}
		if v < 999.5 {
			return fmt.Sprintf("%.0f %s", v, unit)
		}
	}
	return fmt.Sprintf("%d B", n)
}
