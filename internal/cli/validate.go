package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"text/tabwriter"
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
	Link    string   `json:"link"` // in full, with its options
}

func newValidate(p Process) *cobra.Command {
	v := &validateCommand{process: p, links: newLinkFlags()}
	c := &cobra.Command{
		Use:   "validate [LINK...]",
		Short: "Check links without opening them",
		Long: `Reads links as legate run would, with the same flags and variables, and shows
where each would listen and lead to. Nothing is opened. With no LINK it reads
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
		}
		e := json.NewEncoder(v.process.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(shown)
	}
	t := tabwriter.NewWriter(v.process.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LINK\tLISTENS ON\tGOES TO")
	for _, l := range links {
		fmt.Fprintf(t, "%s\t%s\t%s\n", l.Name, listensOn(l.Listen), spec.FormatTargets(l.Targets))
	}
	return t.Flush()
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
