package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Program returns the path of a server that test/setup/servers.sh built. The error says how to get it.
func Program(name string) (string, error) {
	path, err := exec.LookPath(filepath.Join(servers(), name))
	if err != nil {
		return "", fmt.Errorf("find %s (run test/setup/servers.sh): %w", name, err)
	}
	return path, nil
}

func servers() string { return filepath.Join(cache(), "servers") }

// Exec runs a program of this machine on the host, outside every container, and returns its standard
// output; the error has the other one. What test/setup/servers.sh built is found first.
func (h *Host) Exec(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + h.lab.net.path(h.Name)}, args...)...)
	cmd.Env = h.lab.Engine.environ(servers())
	return output(cmd)
}

// Server is a program that [Host.Serve] started. Its owner must Stop it.
type Server struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has ended
	log    string
}

// Serve starts a program of this machine on the host, outside every container, in an empty folder of
// its own. It does not wait until the program serves. One of each name runs on a host at a time.
func (h *Host) Serve(program string, args ...string) (*Server, error) {
	dir := h.path(program)
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, fmt.Errorf("make folder of %s: %w", program, err)
	}
	s := &Server{exited: make(chan struct{}), log: filepath.Join(dir, "log")}
	log, err := os.Create(s.log)
	if err != nil {
		return nil, fmt.Errorf("create log of %s: %w", program, err)
	}
	defer log.Close()
	// By this mount the next run knows what a crashed one left, as it knows an engine.
	const enter = `mount --bind "$1" "$1" && cd "$1" && shift && exec "$@"`
	argv := append([]string{"--net=" + h.lab.net.path(h.Name), "unshare", "--mount", "sh", "-c", enter, program, dir, program}, args...)
	s.cmd = exec.Command("nsenter", argv...)
	s.cmd.Env = h.lab.Engine.environ(servers())
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// A Ctrl-C is for the test, which then ends its servers in order.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go s.reap()
	return s, nil
}

func (s *Server) reap() {
	_ = s.cmd.Wait()
	close(s.exited)
}

// Ended tells whether the program is gone.
func (s *Server) Ended() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// Log is the end of what it said.
func (s *Server) Log() string {
	text, _ := os.ReadFile(s.log)
	return tail(string(text), 20)
}

// Stop kills it, since nothing of it is to be kept, and waits for its end.
func (s *Server) Stop() {
	_ = s.cmd.Process.Kill()
	<-s.exited
}
