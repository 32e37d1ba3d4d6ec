package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"legate/test/bench/machine"
)

// Process is one that we started, and end by its id.
type Process struct {
	cmd   *exec.Cmd
	began time.Time
	said  *bytes.Buffer // its standard error; to be read when done
	done  chan struct{}
}

// Start starts cmd. It is gone when this process is, however that ends.
func Start(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, said: &bytes.Buffer{}, done: make(chan struct{})}
	cmd.Stderr = p.said
	// A group of its own keeps the terminal's Ctrl-C from it: it is stopped in
	// order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// A child that outlives it, as a worker might, shall not hold the pipe.
	cmd.WaitDelay = stopTime
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	// The benchmark says two threads, also where there are more cores.
	cmd.Env = append(cmd.Env, "GOMAXPROCS=2")
	p.began = time.Now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go p.wait()
	return p, nil
}

// wait is the process's goroutine, which Stop waits for.
func (p *Process) wait() {
	_ = p.cmd.Wait() // how it ended matters only while it is needed: see ended
	close(p.done)
}

// PID is its id, as long as it was not stopped.
func (p *Process) PID() int { return p.cmd.Process.Pid }

const stopTime = 2 * time.Second

// Stop ends it and waits until it is gone, and its children with it.
func (p *Process) Stop() {
	family := machine.Family(p.PID())
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	for _, child := range family[1:] {
		// socat's children go on without it. They are of its group, so that an
		// id that was used again is told from one of them.
		if group, err := syscall.Getpgid(child); err == nil && group == p.PID() {
			_ = syscall.Kill(child, syscall.SIGKILL)
		}
	}
}

const readyTime = 10 * time.Second

// Await returns how long it took from the start until addr accepted a
// connection, or for UDP until its port was bound.
func (p *Process) Await(ctx context.Context, addr string, udp bool) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	ready := accepts
	if udp {
		ready = bound
	}
	for {
		if ready(addr) {
			return time.Since(p.began), nil
		}
		select {
		case <-p.done:
			return 0, p.ended()
		case <-ctx.Done():
			return 0, fmt.Errorf("%s does not listen: %w", p.cmd.Path, ctx.Err())
		case <-time.After(500 * time.Microsecond):
		}
	}
}

func (p *Process) ended() error {
	return errors.New(p.cmd.Path + " ended: " + strings.TrimSpace(p.said.String()))
}

func accepts(addr string) bool {
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// bound looks into the table of UDP sockets: a test datagram would open a
// session.
func bound(addr string) bool {
	text, err := os.ReadFile("/proc/self/net/udp")
	if err != nil {
		return false
	}
	a, err := net.ResolveUDPAddr("udp4", addr)
	return err == nil && strings.Contains(string(text), fmt.Sprintf(":%04X 00000000:0000", a.Port))
}

// Bounds of waiting for a proxy to be done with what the load left it.
const (
	quietStep  = 10 * time.Millisecond
	quietShare = 500 * time.Microsecond
	quietTime  = time.Second
)

// SettledCPU returns the CPU time that a process has used, once it does nothing
// any more: closing connections is part of their cost.
func SettledCPU(pid int) (time.Duration, error) {
	limit := time.Now().Add(quietTime)
	last, err := machine.CPUTime(pid)
	for err == nil {
		wait := time.NewTimer(quietStep)
		<-wait.C
		var now time.Duration
		now, err = machine.CPUTime(pid)
		if now-last < quietShare || time.Now().After(limit) {
			return now, err
		}
		last = now
	}
	return 0, err
}

// FreeAddr is a loopback address on which nobody listens.
func FreeAddr() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}
