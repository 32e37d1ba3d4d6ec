package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"legate/internal/daemon"
	"legate/internal/spec"
)

type validateCommand struct {
	process Process
	links   linkFlags
	asks    bool // --resolve
	json    bool

	found map[spec.Target]daemon.Resolved // by --resolve
}

// validLink is a link as validate shows it.
type validLink struct {
	Name    string   `json:"name"`
	Listen  string   `json:"listen"`
	Targets []string `json:"targets"`
	Link    string   `json:"link"` // in full, as written
	// Options are those that differ from their defaults, wherever they were
	// set, in the form that they are written in; a password is "***".
	Options map[string]string `json:"options,omitempty"`
	// Sources and Endpoints are what --resolve found.
	Sources   []spec.SourceStatus `json:"sources,omitempty"`
	Endpoints []validEndpoint     `json:"endpoints,omitempty"`
}

func newValidate(p Process) *cobra.Command {
	v := &validateCommand{process: p, links: newLinkFlags()}
	c := &cobra.Command{
		Use:   "validate [LINK...]",
		Short: "Check links without opening them",
		Long: `Reads links as legate run would, with the same flags and variables, and shows
where each would listen and lead to, and the options that are not the defaults.
Nothing is opened. With no LINK it reads the environment. A bad link is an error
with exit code 2, as it is for run.

With --resolve the sources of targets are asked as well (name servers, Consul,
etcd, Docker, files), and what would be used is shown.`,
		Example: `  legate validate 6379=redis:6379 53/udp=10.0.0.2
  legate validate --resolve 5432=db.example.org:5432
  legate validate --resolve --dns 127.0.0.1:8600 6379=redis.service.consul`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              v.run,
	}
	v.links.add(c)
	addToggle(c.Flags(), toggle{"resolve", &v.asks}, "also ask the sources of targets, and show what would be used; fail when one has no endpoint")
	addToggle(c.Flags(), toggle{"json", &v.json}, "print JSON")
	return c
}

func (v *validateCommand) run(c *cobra.Command, args []string) error {
	if err := applyEnv(c, v.process, v.links.names); err != nil {
		return err
	}
	links, err := v.read(c, args)
	if err != nil {
		return err
	}
	if v.asks {
		v.found = v.resolve(c, links)
	}
	if err := v.print(links); err != nil || !v.asks {
		return err
	}
	return unresolved(links, v.found)
}

func (v *validateCommand) read(c *cobra.Command, args []string) ([]spec.Link, error) {
	if len(args) > 0 {
		v.warn(passedOver(v.process))
		return v.links.parse(c, args)
	}
	links, warnings, err := v.environment()
	if err != nil {
		return nil, usage(err)
	}
	v.warn(warnings)
	if len(links) == 0 {
		return nil, usagef("write legate validate 6379=redis:6379, or set LEGATE_LINKS",
			"no link given, and none in LEGATE_LINKS and in link variables")
	}
	return links, nil
}

func (v *validateCommand) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintf(v.process.Stderr, "warning: %s\n", w)
	}
}

// environment reads what does not need the containers themselves.
func (v *validateCommand) environment() ([]spec.Link, []string, error) {
	if list := v.process.getenv(envLinks); list != "" {
		return spec.LinkList(list, v.links.config())
	}
	return spec.EnvLinks(v.process.Environ, v.links.config())
}

func (v *validateCommand) print(links []spec.Link) error {
	if v.json {
		shown := make([]validLink, len(links))
		for i, l := range links {
			shown[i] = validLink{Name: l.Name, Listen: l.Listen.String(), Link: l.String()}
			for _, t := range l.Targets {
				shown[i].Targets = append(shown[i].Targets, t.String())
			}
			shown[i].Options = setOptions(l.Options)
			if v.asks {
				shown[i].Sources, shown[i].Endpoints = v.resolved(l)
			}
		}
		return v.process.printJSON(shown)
	}
	rows := [][]string{{"LINK", "LISTENS ON", "GOES TO"}}
	for _, l := range links {
		rows = append(rows, []string{l.Name, listensOn(l.Listen), spec.FormatTargets(l.Targets)})
	}
	lines, err := layOut(rows)
	if err != nil {
		return err
	}
	fmt.Fprintln(v.process.Stdout, lines[0])
	for i, l := range links {
		fmt.Fprintln(v.process.Stdout, lines[i+1])
		v.printOptions(l.Options)
		if v.asks {
			v.printResolved(l)
		}
	}
	return nil
}

func (v *validateCommand) printOptions(o spec.Options) {
	set := setOptions(o)
	var words []string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		words = append(words, name+"="+set[name])
	}
	if len(words) == 0 {
		return
	}
	for _, line := range wrapWords(words, textWidth-2) {
		fmt.Fprintln(v.process.Stdout, "  "+line)
	}
}

// setOptions are the options that differ from their defaults.
func setOptions(o spec.Options) map[string]string {
	set := map[string]string{}
	for _, info := range spec.OptionHelp() {
		if value := spec.OptionValue(o, info.Name); value != spec.OptionValue(spec.DefaultOptions(), info.Name) {
			set[info.Name] = value
		}
	}
	return set
}

// listensOn spells out the address that LISTEN may have left open.
func listensOn(l spec.Listen) string {
	switch {
	case l.Protocol == spec.Unix:
		return l.Path
	case l.Host == "":
		return fmt.Sprintf("every address, %s port %d", l.Protocol, l.Port)
	case l.Host == "localhost":
		return fmt.Sprintf("127.0.0.1 and ::1, %s port %d", l.Protocol, l.Port)
	}
	return fmt.Sprintf("%s, %s port %d", l.Host, l.Protocol, l.Port)
}

// resolveTime is how long sources have to answer: longer than two name servers
// of which the first is silent.
const resolveTime = 12 * time.Second

// resolve asks the sources of all targets.
func (v *validateCommand) resolve(c *cobra.Command, links []spec.Link) map[spec.Target]daemon.Resolved {
	ctx, stop := interruptible(c)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	var targets []spec.Target
	for _, l := range links {
		targets = append(targets, l.Targets...)
	}
	return daemon.Resolve(ctx, v.links.sources(v.process), targets)
}

// unresolved names what has no endpoint.
func unresolved(links []spec.Link, found map[spec.Target]daemon.Resolved) error {
	var lost []string
	hinted := false
	hint := "legate run would start all the same, and hold connections until there is an endpoint"
	for _, l := range links {
		for _, t := range l.Targets {
			r := found[t]
			if len(r.Answer.Endpoints) > 0 || slices.Contains(lost, lostText(t, r)) {
				continue
			}
			if u, ok := errors.AsType[*spec.UserError](r.Answer.Err); ok && u.Hint != "" && !hinted {
				hint, hinted = u.Hint+"; "+hint, true
			}
			lost = append(lost, lostText(t, r))
		}
	}
	if lost == nil {
		return nil
	}
	return spec.Errorf(hint, "%s", strings.Join(lost, "; "))
}

func lostText(t spec.Target, r daemon.Resolved) string {
	if r.Answer.Err == nil {
		return fmt.Sprintf("target %s has no endpoints", t)
	}
	return fmt.Sprintf("target %s: %v", t, r.Answer.Err)
}

// printResolved shows what a link would use.
func (v *validateCommand) printResolved(l spec.Link) {
	for _, t := range l.Targets {
		r := v.found[t]
		if t.Source == spec.SourceFixed {
			continue
		}
		fmt.Fprintln(v.process.Stdout, "  "+sourceWords(r.Source, time.Now()))
		for _, m := range r.Answer.Endpoints {
			fmt.Fprintln(v.process.Stdout, "    "+strings.Join(append([]string{m.String()}, memberTraits(m)...), "  "))
		}
	}
}

func memberTraits(m spec.Member) (list []string) {
	if m.Priority != 0 {
		list = append(list, fmt.Sprintf("priority %d", m.Priority))
	}
	if m.Weight != 1 {
		list = append(list, fmt.Sprintf("weight %d", m.Weight))
	}
	if m.Host != "" {
		list = append(list, "host "+m.Host)
	}
	if m.Container != "" {
		list = append(list, "container "+shortID(m.Container))
	}
	if m.Unhealthy != "" {
		list = append(list, m.Unhealthy)
	}
	return list
}

// shortID is a container's id as people know it.
func shortID(id string) string { return id[:min(len(id), 12)] }

// validEndpoint is an endpoint as validate shows it.
type validEndpoint struct {
	Address   string `json:"address"`
	Target    string `json:"target"`
	Weight    uint16 `json:"weight"`
	Priority  uint16 `json:"priority,omitempty"`
	Host      string `json:"host,omitempty"`
	Container string `json:"container,omitempty"`
	Unhealthy string `json:"unhealthy,omitempty"`
}

func (v *validateCommand) resolved(l spec.Link) (sources []spec.SourceStatus, endpoints []validEndpoint) {
	for _, t := range l.Targets {
		r := v.found[t]
		if r.Answer.Err != nil {
			r.Source.Target, r.Source.Source, r.Source.Error = t.String(), t.Source, r.Answer.Err.Error()
		}
		sources = append(sources, r.Source)
		for _, m := range r.Answer.Endpoints {
			endpoints = append(endpoints, validEndpoint{m.Endpoint.String(), t.String(), m.Weight, m.Priority, m.Host, m.Container, m.Unhealthy})
		}
	}
	return sources, endpoints
}
