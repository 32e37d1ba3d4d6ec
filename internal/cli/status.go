package cli

import (
	"time"

	"github.com/spf13/cobra"

	"legate/internal/control"
	"legate/internal/spec"
)

func newStatus(p Process) *cobra.Command {
	var where string
	var asJSON, endpoints bool
	c := &cobra.Command{
		Use:   "status [LINK]",
		Short: "Show links, their endpoints and connections",
		Long: `Shows what a running legate does: a line for each link with its state, counters
and the health of its endpoints, and below it what is wrong and what an operator
asked for. The endpoints themselves are shown for one LINK, or with --endpoints.
It succeeds when legate answers, whatever the state of the links: as a health
check it says whether legate serves, not whether the servers behind it do.

States: up; degraded (some endpoints fail); holding (none serves, clients wait);
down (none serves, clients are reset); paused and drained (by an operator: clients
wait, or are refused); error (not listening).`,
		Example: `  legate status
  legate status --endpoints
  legate status 6379 --json
  docker exec redis_ambassador legate status`,
		ValidArgsFunction: completeLinks(p, &where, 0),
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
				return p.printJSON(s)
			}
			return report{p.Stdout, time.Now(), endpoints || len(args) == 1, where}.snapshot(s)
		},
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) > 1 {
			return exactly("one LINK, or none")(c, args)
		}
		return nil
	}
	addControl(c, &where)
	addToggle(c.Flags(), toggle{"endpoints", &endpoints}, "show the endpoints of every link")
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
