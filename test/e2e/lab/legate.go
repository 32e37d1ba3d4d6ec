package lab

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// MakeImage builds the image legate by the command that users type, from a clone of the repository.
// One at a time: it builds in the tree.
func (h *Host) MakeImage(ctx context.Context, repository string) error {
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "-C", repository, "image")
	cmd.Env = h.Environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make image: %w\n%s", err, out)
	}
	return nil
}

// Agent is the docker command that gives a container of the image legate all that an agent needs, as the README does, with
// the directories of this host's engine.
func (h *Host) Agent(name string, command ...string) []string {
	run := "run -d --name " + name + " --pid host --network host --cap-drop ALL --cap-add SYS_ADMIN --cap-add SYS_PTRACE --cap-add NET_BIND_SERVICE" +
		" --security-opt apparmor=unconfined -v " + h.Socket + ":/var/run/docker.sock -v " + h.Namespaces() + ":/var/run/docker/netns:ro,rslave legate"
	return append(strings.Fields(run), command...)
}
