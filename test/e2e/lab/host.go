package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Host is one Docker host.
type Host struct {
	Name string // "a"
	IP   string // its address on the wire
	// Socket is the path of its engine's API socket, for mounting into containers, too.
	Socket string

	lab     *Lab
	dir     string
	dockerd *exec.Cmd
	exited  chan struct{} // closed when dockerd has ended
}

func newHost(l *Lab, name, ip string) *Host {
	h := &Host{Name: name, IP: ip, lab: l, dir: filepath.Join(l.dir, name)}
	h.Socket = h.path("docker.sock")
	return h
}

// Namespaces is where its engine keeps the network namespaces of containers.
func (h *Host) Namespaces() string { return h.path("exec/netns") }

func (h *Host) path(name string) string { return filepath.Join(h.dir, name) }

// Command is a docker command against this host's engine, for callers that need its streams.
func (h *Host) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = h.Environ()
	return cmd
}

// Environ makes any program that talks to Docker talk to this host. The user's own configuration
// (contexts, credential helpers) is left out.
func (h *Host) Environ() []string {
	return append(os.Environ(), "DOCKER_HOST=unix://"+h.Socket, "DOCKER_CONFIG="+h.path("client"), "DOCKER_CONTEXT=", "DOCKER_BUILDKIT=0")
}

// Docker runs a docker command and returns its standard output; the error has the other one.
func (h *Host) Docker(ctx context.Context, args ...string) (string, error) {
	return output(h.Command(ctx, args...))
}

// Shell has a shell type text on this host, in the folder dir and with more variables, and returns what appears
// on its screen.
func (h *Host) Shell(ctx context.Context, dir, text string, variables ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nsenter", "--net="+h.lab.net.path(h.Name), "sh", "-c", text)
	cmd.Dir, cmd.Env = dir, append(h.Environ(), variables...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// Dial connects from this host, as a process outside every container would. address must be numeric.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return dialInside(ctx, h.lab.net.path(h.Name), network, address)
}

func (h *Host) startDocker(ctx context.Context) error {
	for _, dir := range []string{h.path("cgroup"), h.path("client")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make host folder: %w", err)
		}
	}
	// Without one of its own the engine reads the machine's /etc/docker/daemon.json.
	if err := os.WriteFile(h.path("daemon.json"), []byte("{}\n"), 0o600); err != nil {
		return fmt.Errorf("write engine configuration: %w", err)
	}
	log, err := os.Create(h.path("log"))
	if err != nil {
		return fmt.Errorf("create engine log: %w", err)
	}
	defer log.Close()
	h.dockerd = h.lab.Engine.command(h, "--config-file", h.path("daemon.json"), "--data-root", h.path("data"),
		"--exec-root", h.path("exec"), "--pidfile", h.path("dockerd.pid"), "-H", "unix://"+h.Socket, "--bip", "172.17.0.1/16")
	h.dockerd.Stdout, h.dockerd.Stderr = log, log
	// A Ctrl-C is for the test, which then ends its engines in order.
	h.dockerd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := h.dockerd.Start(); err != nil {
		return fmt.Errorf("start dockerd: %w", err)
	}
	h.exited = make(chan struct{})
	go h.reap()
	return h.awaitDocker(ctx)
}

func (h *Host) reap() {
	_ = h.dockerd.Wait()
	close(h.exited)
}

func (h *Host) awaitDocker(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ctx, gone := context.WithCancelCause(ctx)
	defer gone(nil)
	err := Poll(ctx, func() (bool, string) {
		select {
		case <-h.exited:
			gone(errors.New("dockerd ended"))
		default:
		}
		err := h.ping(ctx)
		return err == nil, fmt.Sprint(err)
	})
	if err != nil {
		log, _ := os.ReadFile(h.path("log"))
		return fmt.Errorf("wait for dockerd: %w\n%s", err, tail(string(log), 20))
	}
	return nil
}

func (h *Host) ping(ctx context.Context) error {
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.Socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		return fmt.Errorf("make ping: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ping dockerd: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ping dockerd: %s", resp.Status)
	}
	return nil
}

// stopDocker ends containers first: an engine that is told to stop gives each of them 10 s.
func (h *Host) stopDocker() error {
	if h.dockerd == nil || h.dockerd.Process == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := h.removeAll(ctx, "ps -aq", "rm -f -v")
	_ = h.dockerd.Process.Signal(syscall.SIGTERM)
	select {
	case <-h.exited:
	case <-ctx.Done():
		err = errors.Join(err, errors.New("dockerd did not end within 30 s of SIGTERM"))
		_ = h.dockerd.Process.Kill()
		<-h.exited
	}
	return err
}

func (h *Host) reset(ctx context.Context) error {
	return errors.Join(
		h.removeAll(ctx, "ps -aq", "rm -f -v"),
		h.removeAll(ctx, "volume ls -q", "volume rm -f"),
		h.removeAll(ctx, "network ls -q --filter type=custom", "network rm"),
	)
}

func (h *Host) removeAll(ctx context.Context, list, remove string) error {
	out, err := h.Docker(ctx, strings.Fields(list)...)
	if err != nil || out == "" {
		return err
	}
	remover := append(strings.Fields(remove), strings.Fields(out)...)
	_, err = h.Docker(ctx, remover...)
	if err == nil || !strings.Contains(err.Error(), "is zombie") {
		return err
	}
	// Engine 29 says so of a container in the host's pid namespace whose process has ended and is not yet
	// waited for; a moment later it removes it.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return Poll(ctx, func() (bool, string) {
		left, err := h.Docker(ctx, strings.Fields(list)...)
		if err == nil && left != "" {
			_, err = h.Docker(ctx, append(strings.Fields(remove), strings.Fields(left)...)...)
		}
		return err == nil, fmt.Sprint(err)
	})
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
