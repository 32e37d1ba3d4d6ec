package cli

import (
	"context"
	"errors"
	"strings"

	"legate/internal/spec"
)

// agentContainer starts an agent with all that it may do and needs.
const agentContainer = `docker run -d --name agent --pid host --network host \
    --cap-drop ALL --cap-add SYS_ADMIN --cap-add SYS_PTRACE --cap-add NET_BIND_SERVICE \
    --security-opt apparmor=unconfined \
    -v /var/run/docker.sock:/var/run/docker.sock \
    -v /var/run/docker/netns:/var/run/docker/netns:ro,rslave legate agent`

// asConnectable is the agent for those who start it as connectable was: the
// image with the engine's socket, and no argument. unlinked says that there is
// nothing else to do.
func asConnectable(p Process, unlinked error) error {
	var lacks []string
	h := lookAround(p)
	for _, f := range judgeRights(h, lookRights(h)) {
		if f.Verdict == verdictMissing {
			lacks = append(lacks, f.What)
		}
	}
	if len(lacks) > 0 {
		why := unlinked.Error()
		if u, ok := errors.AsType[*spec.UserError](unlinked); ok {
			why = u.What
		}
		return usagef("give a link (legate 6379=redis:6379), or start the agent of this host with all that it needs:\n  "+agentContainer,
			"%s; nor can this container be the agent of its host: %s", why, strings.Join(lacks, "; "))
	}
	args := p.Args[1:]
	if len(args) > 0 && args[0] == "run" {
		args = args[1:]
	}
	root := Root(p)
	root.SetArgs(append([]string{"agent"}, args...))
	return root.ExecuteContext(context.Background())
}
