package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"legate/internal/spec"
)

// verdict is what doctor thinks of one thing that it looked at.
type verdict string

const (
	verdictMissing verdict = "missing" // what was asked will not work
	verdictWeak    verdict = "weak"    // it works, but
	verdictOK      verdict = "ok"
)

// finding is one thing that doctor looked at.
type finding struct {
	Verdict verdict `json:"verdict"`
	About   string  `json:"about"`          // "link 6379", "descriptors"
	What    string  `json:"what"`           // lower case, no full stop
	Mend    string  `json:"mend,omitempty"` // what to type
}

func missing(about, mend, format string, args ...any) finding {
	return finding{verdictMissing, about, fmt.Sprintf(format, args...), mend}
}

func weak(about, mend, format string, args ...any) finding {
	return finding{verdictWeak, about, fmt.Sprintf(format, args...), mend}
}

func fine(about, format string, args ...any) finding {
	return finding{verdictOK, about, fmt.Sprintf(format, args...), ""}
}

type doctorCommand struct {
	process  Process
	links    linkFlags
	control  string
	stateDir string
	agent    bool
	all      bool
	json     bool
}

func newDoctor(p Process) *cobra.Command {
	d := &doctorCommand{process: p, links: newLinkFlags()}
	c := &cobra.Command{
		Use:   "doctor [LINK...]",
		Short: "Say what this host lacks, each with the command that mends it",
		Long: `Looks at this host or container with the eyes of legate run, given the same
links, flags and variables: limits, listening addresses, directories, Docker,
names and servers. With no LINK it takes those of the environment. It also asks
the running legate, if there is one, what is wrong with its links. With --agent, or
in the container of an agent, it looks for what legate agent needs, and how soon the
links of a container will be open.

It changes nothing. What it finds is missing (what was asked will not work), or
weak (it works, but), each with what mends it; --all also shows what is ok. The
exit code is 1 when something is missing.`,
		Example: `  legate doctor 6379=192.168.1.52:6379
  legate doctor --max-connections 20000 5432=db.example.org:5432
  docker exec redis_ambassador legate doctor
  docker exec agent legate doctor --all`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              d.run,
	}
	d.links.add(c)
	f := c.Flags()
	f.Var(place{&d.control}, "control", "control socket: of the running legate, or as run would get it")
	f.StringVar(&d.stateDir, "state-dir", "", "`DIRECTORY` that run would keep swaps, pauses and drains in")
	addToggle(f, toggle{"agent", &d.agent}, "look with the eyes of legate agent: what it needs to open links in containers")
	addToggle(f, toggle{"all", &d.all}, "also show what is ok")
	addToggle(f, toggle{"json", &d.json}, "print everything as JSON")
	return c
}

func (d *doctorCommand) run(c *cobra.Command, args []string) error {
	if err := applyEnv(c, d.process, append([]string{"control", "state-dir"}, d.links.names...)); err != nil {
		return err
	}
	asked, err := d.asked(c, args)
	if err != nil {
		return err
	}
	findings := d.examine(c.Context(), asked)
	if err := d.print(findings); err != nil {
		return err
	}
	if n := countOf(findings, verdictMissing); n > 0 {
		return spec.Errorf("do what stands behind \"mend:\", then ask again", "%s missing", things(n, "thing is", "things are"))
	}
	return nil
}

// examine gathers all facts and judges them. What is wrong with the links
// comes first, and within them what is worst.
func (d *doctorCommand) examine(ctx context.Context, a asked) []finding {
	h := lookAround(d.process)
	found := a.findings(h)
	if system, ok := h.forwards(); !ok {
		return append(found, system)
	}
	for _, l := range a.links {
		found = append(found, judgeListening(h, lookListening(l, a.running))...)
	}
	found = append(found, judgeTargets(h, reach(ctx, slices.Concat(a.links, a.untried()), d.links.sources(d.process)))...)
	found = append(found, judgeSystem(h, lookSystem(a.links))...)
	found = append(found, judgeControl(h, lookControl(d.process, d.control), a.running)...)
	if d.stateDir != "" {
		found = append(found, judgeStateDir(h, lookDirectory(d.stateDir)))
	}
	if d.asAgent(h, a) {
		found = append(found, judgeRights(h, lookRights(h))...)
	}
	found = append(found, lookDocker(ctx, d.process, h, a, d.agent)...)
	order := []verdict{verdictMissing, verdictWeak, verdictOK}
	slices.SortStableFunc(found, func(x, y finding) int {
		return slices.Index(order, x.Verdict) - slices.Index(order, y.Verdict)
	})
	return found
}

func countOf(findings []finding, v verdict) (n int) {
	for _, f := range findings {
		if f.Verdict == v {
			n++
		}
	}
	return n
}

// things counts in words: "1 thing is", "3 things are".
func things(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func (d *doctorCommand) print(findings []finding) error {
	if d.json {
		e := json.NewEncoder(d.process.Stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			Missing  int       `json:"missing"`
			Weak     int       `json:"weak"`
			Findings []finding `json:"findings"`
		}{countOf(findings, verdictMissing), countOf(findings, verdictWeak), findings})
	}
	printFindings(d.process.Stdout, findings, d.all)
	return nil
}

// printFindings aligns what was found, with the command below it.
func printFindings(w io.Writer, findings []finding, all bool) {
	shown := slices.DeleteFunc(slices.Clone(findings), func(f finding) bool { return f.Verdict == verdictOK && !all })
	width := 0
	for _, f := range shown {
		width = max(width, len(f.About))
	}
	for _, f := range shown {
		fmt.Fprintf(w, "%-7s  %-*s  %s\n", f.Verdict, width, f.About, f.What)
		if f.Mend != "" {
			fmt.Fprintf(w, "%s  mend: %s\n", strings.Repeat(" ", 9+width), f.Mend)
		}
	}
	if len(shown) > 0 {
		fmt.Fprintln(w)
	}
	rest := ""
	if n := countOf(findings, verdictOK); n > 0 && !all {
		rest = " (--all shows them)"
	}
	fmt.Fprintf(w, "%d missing, %d weak, %d ok%s\n",
		countOf(findings, verdictMissing), countOf(findings, verdictWeak), countOf(findings, verdictOK), rest)
}
