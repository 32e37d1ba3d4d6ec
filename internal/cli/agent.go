package cli

import (
	"context"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"legate/internal/daemon"
	"legate/internal/spec"
)

// agentCommand is `legate agent`.
type agentCommand struct {
	process Process
	command *cobra.Command
	notes   []string // to be logged once

	links      linkFlags
	serving    servingFlags
	sources    []string
	allow      []string
	trust      bool
	omni       omniFlags
	namespaces string
	audit      bool
	json       bool
}

func newAgent(p Process) *cobra.Command { return newAgentCommand(p).command }

func newAgentCommand(p Process) *agentCommand {
	a := &agentCommand{process: p, links: newLinkFlags()}
	c := &cobra.Command{
		Use:   "agent",
		Short: "Open links inside the containers of this host that ask for them by labels",
		Long: `Runs once per host. A container says what it uses by labels, and finds it on its own
localhost:

  docker run -d --label connect.6379=redis IMAGE

Its application connects to localhost:6379 and talks to the container, Compose
service or legate.service label "redis". Options are suffixes: connect.6379.hold=30s.
The listening sockets are opened inside the container's network namespace, before
its first instruction where the engine's namespace directory can be watched; there
is no NAT and nothing to clean up.

A word without a dot, colon or slash is looked up in the sources of --source, whose
endpoints are used in that order: those of the registry when Docker's do not serve. A
dotted name is one of DNS, and any TARGET of legate run will do (legate run --help),
but what only this host may reach (unix:, file:, an own consul:// or etcd:// server,
loopback and link-local addresses, addresses of this host) needs --allow-target.

A server accepts callers of its own Compose project or of a network that it shares;
its label legate.allow names others. Labels that a container has from its image are
ignored unless --trust-image-labels.`,
		Example: `  legate agent
  legate agent --source docker,consul --allow-target 192.168.1.52:6379
  docker exec agent legate agent --audit
  ` + agentContainer,
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	c.RunE = a.run
	a.links.add(c)
	f := c.Flags()
	a.sources = []string{spec.SourceDocker}
	f.Var(listFlag{"SOURCE", &a.sources, func(text string) error { _, err := spec.ParseSources(text); return err }}, "source", "where a target that is one word is looked up: docker, consul, dns, a place in a key-value store (etcd:///services, consul:///services), or several in the order in which their endpoints are used")
	f.Var(listFlag{"TARGET", &a.allow, checkAllowed}, "allow-target", "targets that containers may name though they are reserved to this host, with commas between them")
	addToggle(f, toggle{"trust-image-labels", &a.trust}, "also follow labels that a container has from its image")
	f.StringVar(&a.namespaces, "netns", "", "`DIRECTORY` in which the engine keeps network namespaces (default /var/run/docker/netns)")
	addToggle(f, toggle{"audit", &a.audit}, "start nothing: print what the running agent has opened in which container")
	addToggle(f, toggle{"json", &a.json}, "with --audit: print JSON")
	a.omni.add(f)
	a.serving.add(f)
	a.command = c
	return a
}

func checkAllowed(text string) error {
	for _, one := range strings.Split(text, ",") {
		if err := spec.CheckAllowTarget(one); err != nil {
			return err
		}
	}
	return nil
}

// listFlag is a list with commas.
type listFlag struct {
	kind  string
	list  *[]string
	check func(string) error
}

func (l listFlag) String() string {
	if l.list == nil {
		return ""
	}
	return strings.Join(*l.list, ",")
}

// Type is what help shows as the flag's value.
func (l listFlag) Type() string { return l.kind + "[,...]" }

// Set takes the whole list.
func (l listFlag) Set(s string) error {
	if err := l.check(s); err != nil {
		return err
	}
	*l.list = strings.Split(s, ",")
	return nil
}

func (a *agentCommand) run(c *cobra.Command, _ []string) error {
	if a.audit {
		return a.tellOpened(c)
	}
	if a.json {
		return usagef("legate agent --audit --json", "--json belongs to --audit")
	}
	if err := applyEnv(c, a.process, flagNames(c.Flags())); err != nil {
		return err
	}
	if done, err := a.omni.once(c, a.process); done {
		return err
	}
	signal.Ignore(syscall.SIGPIPE) // see runCommand.start
	return untilSignals(c.Context(), func(first, second context.Context) error {
		return a.serving.serve(first, second, serve{
			process: a.process, flags: c.Flags(), notes: a.notes,
			config: daemon.Config{
				Sources: a.links.sources(a.process),
				Agent: &daemon.AgentConfig{
					Namespaces: a.namespaces,
					Omni:       a.omni.mode,
					Labels: spec.LabelConfig{
						Options: *a.links.options, Sources: a.sources, TrustImageLabels: a.trust,
						Policy: spec.Policy{AllowTargets: a.allow},
					},
				},
			},
		})
	})
}
