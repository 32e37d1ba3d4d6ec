package lab

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Runtimes has the host's engine know these container runtimes beside its own, as daemon.json has them, and waits until it does.
func (h *Host) Runtimes(ctx context.Context, config string, names ...string) error {
	if err := os.WriteFile(h.path("daemon.json"), []byte(config), 0o600); err != nil {
		return fmt.Errorf("write engine configuration: %w", err)
	}
	if err := h.dockerd.Process.Signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("have dockerd read its configuration: %w", err)
	}
	return Poll(ctx, func() (bool, string) {
		known, err := h.Docker(ctx, "info", "--format", "{{range $name, $_ := .Runtimes}}{{$name}} {{end}}")
		for _, name := range names {
			if !strings.Contains(" "+known, " "+name+" ") {
				return false, fmt.Sprintf("the engine has the runtimes %s (%v)", known, err)
			}
		}
		return true, ""
	})
}
