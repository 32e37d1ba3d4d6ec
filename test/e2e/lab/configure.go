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
	return h.reload(ctx, config, "{{range $name, $_ := .Runtimes}}{{$name}} {{end}}", func(known string) bool {
		for _, name := range names {
			if !strings.Contains(" "+known, " "+name+" ") {
				return false
			}
		}
		return true
	})
}

// LiveRestore has the containers outlive the host's engine, or not, which is how it starts.
func (h *Host) LiveRestore(ctx context.Context, on bool) error {
	return h.reload(ctx, fmt.Sprintf(`{"live-restore": %v}`, on), "{{.LiveRestoreEnabled}}", func(says string) bool {
		return strings.TrimSpace(says) == fmt.Sprint(on)
	})
}

// reload has the engine read this configuration, and waits until `docker info` says what it should.
func (h *Host) reload(ctx context.Context, config, format string, done func(info string) bool) error {
	if err := h.configure(config); err != nil {
		return err
	}
	if err := h.dockerd.Process.Signal(syscall.SIGHUP); err != nil {
		return fmt.Errorf("have dockerd read its configuration: %w", err)
	}
	return Poll(ctx, func() (bool, string) {
		info, err := h.Docker(ctx, "info", "--format", format)
		return err == nil && done(info), fmt.Sprintf("docker info --format '%s' says %s (%v)", format, info, err)
	})
}

func (h *Host) configure(config string) error {
	if err := os.WriteFile(h.path("daemon.json"), []byte(config), 0o600); err != nil {
		return fmt.Errorf("write engine configuration: %w", err)
	}
	return nil
}
