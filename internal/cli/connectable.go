package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// agentContainer starts an agent with all that it may do and needs.
const agentContainer = `docker run -d --name agent --pid host --network host \
    --cap-drop ALL --cap-add SYS_ADMIN --cap-add SYS_PTRACE --cap-add NET_BIND_SERVICE \
    --security-opt apparmor=unconfined \
    -v /var/run/docker.sock:/var/run/docker.sock \
    -v /var/run/docker/netns:/var/run/docker/netns:ro,rslave legate agent`

// asConnectable is the agent for those who start it as connectable was: the
// image with the engine's socket, and no argument. unlinked says that there is
// nothing else to do for run.
func asConnectable(p Process, run *cobra.Command, unlinked error) error {
	var lacks []string
	h := lookAround(p)
	for _, f := range judgeRights(h, lookRights(h)) {
		if f.Verdict == verdictMissing {
			lacks = append(lacks, f.What)
		}
	}
	if len(lacks) > 0 {
		return usagef("give a link (legate 6379=redis:6379), or start the agent of this host with all that it needs:\n  "+agentContainer,
			"%v; nor can this container be the agent of its host: %s", unlinked, strings.Join(lacks, "; "))
	}
	a := newAgentCommand(p)
	a.notes = []string{"no link is given, and there is none to be found: this is the agent of its host (legate agent)"}
	if err := copyFlags(a.command.Flags(), run.Flags()); err != nil {
		return err
	}
	a.command.SetContext(run.Context())
	return a.run(a.command, nil)
}

// copyFlags sets those that were given and that both have, but for a password: it
// does not show itself, and is sent to no server that a container names.
func copyFlags(to, from *pflag.FlagSet) (err error) {
	from.Visit(func(f *pflag.Flag) {
		if to.Lookup(f.Name) != nil && f.Name != "check-password" && err == nil {
			err = to.Set(f.Name, f.Value.String())
		}
	})
	return err
}
