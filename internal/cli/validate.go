package cli

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"legate/internal/spec"
)

type validateCommand struct {
	process Process
	links   linkFlags
	resolve bool
	json    bool
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
}

func newValidate(p Process) *cobra.Command {
	v := &validateCommand{process: p, links: newLinkFlags()}
	c := &cobra.Command{
		Use:   "validate [LINK...]",
		Short: "Check links without opening them",
		Long: `Reads links as legate run would, with the same flags and variables, and shows
where each would listen and lead to, and the options that are not the defaults.
Nothing is opened. With no LINK it reads
the environment. A bad link is an error with exit code 2, as it is for run.`,
		Example: `  legate validate 6379=redis:6379 53/udp=10.0.0.2
  legate validate --resolve 5432=db.example.org:5432`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE:              v.run,
	}
	v.links.add(c)
	addToggle(c.Flags(), toggle{"resolve", &v.resolve}, "also look up the names of targets; fail when one is not found")
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
	if v.resolve {
		if err := resolve(c.Context(), links); err != nil {
			return err
		}
	}
	return v.print(links)
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

// resolve looks up every name once, and reports all that are not found.
func resolve(ctx context.Context, links []spec.Link) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	seen := map[string]bool{}
	var lost []string
	for _, l := range links {
		for _, t := range l.Targets {
			if t.Source != spec.SourceDNS || seen[t.Host] {
				continue
			}
			seen[t.Host] = true
			if _, err := net.DefaultResolver.LookupNetIP(ctx, "ip", t.Host); err != nil {
				lost = append(lost, err.Error())
			}
		}
	}
	if len(lost) > 0 {
		return spec.Errorf("legate run would start all the same, and hold connections until the name is found",
			"%s", strings.Join(lost, "; "))
	}
	return nil
}
