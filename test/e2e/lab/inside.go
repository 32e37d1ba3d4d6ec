package lab

import (
	"context"
	"fmt"
	"net"
	"os/exec"
)

// Inside is a command as a program of this host that is in no container: it sees the host's network and what its
// engine mounts. The program is the process that is started.
func (h *Host) Inside(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{fmt.Sprintf("--target=%d", h.dockerd.Process.Pid), "--mount", "--net"}, args...)...)
	cmd.Env = h.Environ()
	return cmd
}

// DialIn connects from where the process with this number is, as the application of a container would. address must be
// numeric.
func (h *Host) DialIn(ctx context.Context, pid, network, address string) (net.Conn, error) {
	return dialInside(ctx, "/proc/"+pid+"/ns/net", network, address)
}
