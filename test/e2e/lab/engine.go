package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// Engine is one version of Docker that hosts can run.
type Engine struct {
	// Label is the version as people say it: "20.10", "29".
	Label string
	// Major is its first number. From 29 on, --link sets no variables.
	Major int

	bin string // folder that comes first in PATH; empty for the machine's own engine
}

// Engines returns what can be run here: the installed engine and the current one that test/setup
// built. missing says for each absent one why, and how to get it.
func Engines(ctx context.Context) (found []Engine, missing []string) {
	if e, err := identify(ctx, ""); err != nil {
		missing = append(missing, fmt.Sprintf("the distribution's engine (run test/setup/packages.sh): %v", err))
	} else {
		found = append(found, e)
	}
	e, err := identify(ctx, filepath.Join(cache(), "engine"))
	switch {
	case err != nil:
		missing = append(missing, fmt.Sprintf("the current engine (run test/setup/engine.sh): %v", err))
	case len(found) == 0 || found[0].Label != e.Label:
		found = append(found, e)
	}
	return found, missing
}

// cache is where test/setup keeps what it built; test/setup/cache.sh has the same rule.
func cache() string {
	if dir := os.Getenv("LEGATE_CACHE"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "legate")
	}
	return filepath.Join(os.Getenv("HOME"), ".cache", "legate")
}

func identify(ctx context.Context, bin string) (Engine, error) {
	dockerd := filepath.Join(bin, "dockerd")
	out, err := run(ctx, dockerd, "--version")
	if err != nil {
		return Engine{}, err
	}
	m := regexp.MustCompile(`version (\d+)\.(\d+)`).FindStringSubmatch(out)
	if m == nil {
		return Engine{}, fmt.Errorf("read version of %s from %q", dockerd, out)
	}
	major, err := strconv.Atoi(m[1])
	if err != nil {
		return Engine{}, fmt.Errorf("read version of %s: %w", dockerd, err)
	}
	label := m[1]
	if major < 23 { // until then the second number told the releases apart
		label += "." + m[2]
	}
	return Engine{Label: label, Major: major, bin: bin}, nil
}

// environ has the engine's own runc and docker-proxy, and the programs in also, found before the
// machine's.
func (e Engine) environ(also ...string) []string {
	path := os.Getenv("PATH") + ":/usr/local/sbin:/usr/sbin:/sbin"
	for _, dir := range append(also, e.bin) {
		if dir != "" {
			path = dir + ":" + path
		}
	}
	return append(os.Environ(), "PATH="+path)
}

// command runs dockerd in a host's network namespace and a mount namespace of its own, the same at every start, as where
// the machine has one. The socket that it is given is descriptor 3.
func (e Engine) command(h *Host, args ...string) *exec.Cmd {
	argv := []string{"--net=" + h.lab.net.path(h.Name)}
	if h.mounts == nil {
		argv = append(argv, "unshare", "--mount", "sh", "-c", furnish+activate, "dockerd", h.path("cgroup"))
	} else {
		argv = append(argv, fmt.Sprintf("--mount=/proc/%d/fd/%d", os.Getpid(), h.mounts.Fd()), "sh", "-c", activate, "dockerd", "")
	}
	cmd := exec.Command("nsenter", append(argv, args...)...)
	cmd.Env = e.environ()
	return cmd
}

// furnish makes what dockerd needs in its new mount namespace. With the machine's /sys the engine waits 20 ms for a port
// state file at every start; `ip netns exec` would hide the cgroups. Its mounts are shared, as they are where systemd
// runs, so that a container can be told of namespaces that the engine mounts. The empty /run/containerd keeps it from
// using a containerd of the machine.
const furnish = `mount --rbind /sys/fs/cgroup "$1" && mount -t sysfs sysfs /sys && mount --rbind "$1" /sys/fs/cgroup &&
	mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd && mount --make-rshared / || exit 1
	`

// activate passes the socket on, as sd_listen_fds(3) has it.
const activate = `shift; LISTEN_PID=$$ LISTEN_FDS=1 exec dockerd "$@"`
