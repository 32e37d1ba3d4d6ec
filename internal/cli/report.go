package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"legate/internal/control"
	"legate/internal/spec"
)

// report writes a snapshot for people.
type report struct {
	w    io.Writer
	now  time.Time
	full bool // with every endpoint
	// where is how the instance was named, which the commands to type next have
	// to do, too.
	where string
}

func (r report) snapshot(s spec.Snapshot) error {
	fmt.Fprintf(r.w, "%s %s, pid %d, started %s ago\n", s.Instance, s.Version, s.PID, age(r.now.Sub(s.Started)))
	if len(s.Links) == 0 {
		fmt.Fprintln(r.w, "no links")
	} else if err := r.links(s.Links); err != nil {
		return err
	}
	if len(s.Warnings) > 0 {
		fmt.Fprintln(r.w)
	}
	for _, w := range s.Warnings {
		fmt.Fprintf(r.w, "warning: %s\n", control.Addressed(r.where, w))
	}
	return nil
}

// links writes a line for each, with its notes below it: the table is laid out
// first, since a note in it would end its columns.
func (r report) links(links []spec.LinkStatus) error {
	rows := [][]string{{"LINK", "STATE", "NOW", "TOTAL", "FAILED", "ENDPOINTS", "TARGET"}}
	for _, l := range links {
		c := l.Counters
		rows = append(rows, []string{l.Name, r.state(l), fmt.Sprint(c.Current), fmt.Sprint(c.Total), fmt.Sprint(sum(c.Failed)), fold(l.Endpoints), l.Target})
	}
	lines, err := layOut(rows)
	if err != nil {
		return err
	}
	fmt.Fprintf(r.w, "\n%s\n", lines[0])
	for i, l := range links {
		fmt.Fprintln(r.w, lines[i+1])
		for _, n := range r.notes(l) {
			fmt.Fprintln(r.w, "  "+control.Addressed(r.where, n))
		}
		if r.full {
			if err := r.endpoints(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// layOut aligns the cells of the rows.
func layOut(rows [][]string) ([]string, error) {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, cells := range rows {
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	if err := t.Flush(); err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return lines, nil
}

// state is a link's condition in words.
func (r report) state(l spec.LinkStatus) string {
	switch {
	case l.State == spec.StateHolding:
		return fmt.Sprintf("holding %d", l.Counters.Held)
	case l.State == spec.StateDown && l.Since != nil:
		return "down " + age(r.now.Sub(*l.Since))
	case (l.State == spec.StatePaused || l.State == spec.StateDrained) && l.Mode != nil:
		return string(l.State) + " " + age(r.now.Sub(l.Mode.When))
	}
	return string(l.State)
}

// fold counts endpoints by their health, the best first.
func fold(list []spec.EndpointStatus) string {
	count := map[spec.Health]int{}
	for _, e := range list {
		count[e.Health]++
	}
	var parts []string
	for _, h := range []spec.Health{
		spec.HealthOK, spec.HealthUnknown, spec.HealthWeak, spec.HealthStandby, spec.HealthClosing, spec.HealthEjected,
		spec.HealthUnhealthy, spec.HealthDenied, spec.HealthDrained, spec.HealthFormer,
	} {
		if n := count[h]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, h))
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// endpoints are a table of their own below their link.
func (r report) endpoints(l spec.LinkStatus) error {
	if len(l.Endpoints) == 0 {
		return nil
	}
	rows := [][]string{{"ENDPOINT", "HEALTH", "NOW", "TOTAL", "FAILED", "IN", "OUT", "CONNECT", ""}}
	for _, e := range l.Endpoints {
		about := traits(e, r.now)
		if e.From != "" && e.From != e.Address && e.From != l.Target {
			about = append([]string{"of " + e.From}, about...)
		}
		rows = append(rows, []string{
			e.Address, healthWords(e, r.now), fmt.Sprint(e.Current), fmt.Sprint(e.Total), fmt.Sprint(sum(e.Failed)),
			size(e.BytesIn), size(e.BytesOut), latency(e.ConnectMS), strings.Join(about, ", "),
		})
	}
	lines, err := layOut(rows)
	if err != nil {
		return err
	}
	for _, line := range lines {
		fmt.Fprintln(r.w, "    "+line)
	}
	return nil
}

// notes are the lines below a link: what a number cannot say.
func (r report) notes(l spec.LinkStatus) []string {
	var notes []string
	note := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if o := l.Override; o != nil {
		note("swapped %s ago, configured: %s", age(r.now.Sub(o.When)), o.Base)
	}
	if o := l.Mode; o != nil {
		note("%s %s ago; end it: legate resume %s", overrideWord(o.Kind), age(r.now.Sub(o.When)), l.Name)
	}
	if l.Since != nil && l.State == spec.StateHolding {
		note("down for %s", age(r.now.Sub(*l.Since)))
	}
	notes = append(notes, r.sources(l)...)
	c := l.Counters
	if text := limitWords(l); text != "" {
		note("%s", text)
	}
	if c.Held > 0 {
		note("%d wait now%s, %d waited so far, %d gave up", c.Held, whyWait(l), c.HeldTotal, c.Abandoned)
	} else if c.Abandoned > 0 {
		note("%d waited so far, %d gave up", c.HeldTotal, c.Abandoned)
	}
	if sum(c.Failed) > 0 {
		note("%s", reasons(c.Failed, isUDP(l)))
	}
	if c.DroppedUDP > 0 {
		note("%d datagrams were dropped", c.DroppedUDP)
	}
	return append(notes, r.sick(l)...)
}

// limitWords say that the link has as many connections as it may, and what
// becomes of others; "": it has not, or accepts none for another reason.
func limitWords(l spec.LinkStatus) string {
	switch {
	case l.Limit <= 0 || l.Counters.Current < int64(l.Limit):
		return ""
	case l.State == spec.StateDrained || l.State == spec.StateError:
		return ""
	case isUDP(l):
		return fmt.Sprintf("the limit of %d sessions is reached; the datagrams of others are dropped", l.Limit)
	case l.State == spec.StateDown: // it may refuse meanwhile
		return fmt.Sprintf("the limit of %d connections is reached", l.Limit)
	}
	return fmt.Sprintf("the limit of %d connections is reached; others wait in the listen queue", l.Limit)
}

func isUDP(l spec.LinkStatus) bool { return strings.HasSuffix(l.Listen, "/udp") }

func whyWait(l spec.LinkStatus) string {
	if l.Full {
		return " since every endpoint has as many as it may (endpoint-connections)"
	}
	return ""
}

// sources tells which targets could not be asked for, and how old what is used
// instead is.
func (r report) sources(l spec.LinkStatus) (notes []string) {
	for _, s := range l.Sources {
		if s.Error != "" || s.Weak > 0 || unanswered(s) || r.full && s.Source != spec.SourceFixed {
			notes = append(notes, sourceWords(s, r.now))
		}
	}
	if notes == nil && l.Error != "" {
		text := l.Error + r.learned(l.Learned)
		if l.Hint != "" {
			text += " (" + l.Hint + ")"
		}
		notes = append(notes, text)
	}
	return notes
}

// unanswered tells whether a source has said nothing yet, good or bad.
func unanswered(s spec.SourceStatus) bool { return s.Learned == nil && s.Error == "" }

// maxSick is how many endpoints are named below a link whose endpoints are
// folded.
const maxSick = 5

// sick names the endpoints that serve no new connections, or serve them last. A
// standby is one of these only where it is missed.
func (r report) sick(l spec.LinkStatus) (notes []string) {
	for _, e := range l.Endpoints {
		switch e.Health {
		case spec.HealthStandby:
			if l.State == spec.StateDown || l.State == spec.StateHolding {
				notes = append(notes, r.suffers(e))
			}
		case spec.HealthDrained:
			notes = append(notes, r.drained(e))
		case spec.HealthDenied:
			notes = append(notes, fmt.Sprintf("%s denied: %s", e.Address, e.LastError))
		case spec.HealthClosing, spec.HealthEjected, spec.HealthUnhealthy:
			notes = append(notes, r.suffers(e))
		case spec.HealthUnknown, spec.HealthOK, spec.HealthWeak, spec.HealthFormer:
		}
	}
	if more := len(notes) - maxSick; more > 0 && !r.full {
		notes = append(notes[:maxSick], fmt.Sprintf("and %d more: legate status %s", more, l.Name))
	}
	return notes
}

func (r report) suffers(e spec.EndpointStatus) string {
	return fmt.Sprintf("%s %s: %s%s", e.Address, healthWords(e, r.now), e.LastError, r.ago(lastAsked(e)))
}

func (r report) drained(e spec.EndpointStatus) string {
	when := ""
	if e.Drained != nil {
		when = " " + age(r.now.Sub(e.Drained.When)) + " ago"
	}
	return fmt.Sprintf("%[1]s drained%[2]s; end it: legate resume %[1]s", e.Address, when)
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
		became := outcome
		if why == "closed" {
			became = "ended" // as the endpoint did it
		}
		if failed[why] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s: %s", failed[why], became, inWords(why)))
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
	case "full", "endpoint-full":
		return "every endpoint had as many as it may"
	case "drained":
		return "the link was drained while they waited"
	case "caller-connections":
		return "the caller had as many as it may"
	case "caller-rate":
		return "the caller opened too many in a second"
	case "denied":
		return "policy forbids every endpoint to the caller"
	case "proxy-header":
		return "no valid PROXY header from a trusted sender"
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
