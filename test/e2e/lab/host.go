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
	api     *os.File // the API socket, listening
	mounts  *os.File // the mount namespace of the first dockerd, for those that come after it; nil: none ran
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

// prepare makes what the engine finds at each of its starts: its folders, a configuration, and its API socket, which
// stays while it is down, as it does where systemd has it for Docker's own unit (docker.socket).
func (h *Host) prepare() error {
	for _, dir := range []string{h.path("cgroup"), h.path("client")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make host folder: %w", err)
		}
	}
	// Without one of its own the engine reads the machine's /etc/docker/daemon.json.
	if err := h.configure("{}\n"); err != nil {
		return err
	}
	return h.RenewSocket()
}

// RenewSocket makes the API socket of an engine that does not run, anew as one does by itself where there is no systemd.
func (h *Host) RenewSocket() error {
	_ = h.api.Close() // of nil, too
	_ = os.Remove(h.Socket)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.Socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("make API socket: %w", err)
	}
	defer listener.Close()
	listener.SetUnlinkOnClose(false)
	if h.api, err = listener.File(); err == nil {
		err = os.Chmod(h.Socket, 0o660)
	}
	if err != nil {
		return fmt.Errorf("make API socket: %w", err)
	}
	return nil
}

func (h *Host) startDocker(ctx context.Context) error {
	if err := h.prepare(); err != nil {
		return err
	}
	if err := h.StartEngine(ctx); err != nil {
		return err
	}
	mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", h.dockerd.Process.Pid))
	if err != nil {
		return fmt.Errorf("keep mounts of dockerd: %w", err)
	}
	h.mounts = mounts
	return nil
}

// StartEngine starts the engine, the first time or after StopEngine, and waits until it answers.
func (h *Host) StartEngine(ctx context.Context) error {
	log, err := os.OpenFile(h.path("log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open engine log: %w", err)
	}
	defer log.Close()
	h.dockerd = h.lab.Engine.command(h, "--config-file", h.path("daemon.json"), "--data-root", h.path("data"),
		"--exec-root", h.path("exec"), "--pidfile", h.path("dockerd.pid"), "-H", "fd://", "--bip", "172.17.0.1/16")
	h.dockerd.Stdout, h.dockerd.Stderr = log, log
	h.dockerd.ExtraFiles = []*os.File{h.api}
	// A Ctrl-C is for the test, which then ends its engines in order.
	h.dockerd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := h.dockerd.Start(); err != nil {
		return fmt.Errorf("start dockerd: %w", err)
	}
	h.exited = make(chan struct{})
	go reap(h.dockerd, h.exited)
	return h.awaitDocker(ctx)
}

func reap(dockerd *exec.Cmd, exited chan struct{}) {
	_ = dockerd.Wait()
	close(exited)
}

// Runs tells whether the engine does.
func (h *Host) Runs() bool {
	select {
	case <-h.exited:
		return false
	default:
		return true
	}
}

// StopEngine ends the engine as systemctl stop does, and its containers unless it has live-restore. It may be called
// where it has ended.
func (h *Host) StopEngine(ctx context.Context) error {
	_ = h.dockerd.Process.Signal(syscall.SIGTERM)
	select {
	case <-h.exited:
		return nil
	case <-ctx.Done():
		_ = h.dockerd.Process.Kill()
		<-h.exited
		return errors.New("dockerd did not end in time after SIGTERM")
	}
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
	err := errors.Join(h.removeAll(ctx, "ps -aq", "rm -f -v"), h.StopEngine(ctx))
	for _, f := range []*os.File{h.api, h.mounts} {
		_ = f.Close() // of nil, too
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
