package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// process is one that we started, and end by its id.
type process struct {
	cmd  *exec.Cmd
	said *bytes.Buffer // its standard error; to be read when done
	done chan struct{}
}

func start(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, said: &bytes.Buffer{}, done: make(chan struct{})}
	cmd.Stderr = p.said
	cmd.SysProcAttr = ownGroup()
	// The benchmark says two cores, also where there are more.
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2")
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	go p.wait()
	return p, nil
}

// wait is the process's goroutine, which stop waits for.
func (p *process) wait() {
	_ = p.cmd.Wait() // how it ended matters only while it is needed: see await
	close(p.done)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

const stopTime = 2 * time.Second

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

const readyTime = 10 * time.Second

// await returns when addr accepts connections.
func (p *process) await(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for {
		c, err := net.Dial("tcp4", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s", p.cmd.Path, strings.TrimSpace(p.said.String()))
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen: %w", p.cmd.Path, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Bounds of waiting for a proxy to be done with what the load left it.
const (
	quietStep  = 20 * time.Millisecond
	quietShare = time.Millisecond
	quietTime  = 2 * time.Second
)

// settledCPU returns the CPU time that the process has used, once it does
// nothing any more: closing connections is part of their cost.
func (p *process) settledCPU(ctx context.Context) (time.Duration, error) {
	limit := time.Now().Add(quietTime)
	last, err := cpuTime(p.pid())
	for err == nil {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(quietStep):
		}
		var now time.Duration
		now, err = cpuTime(p.pid())
		if now-last < quietShare || time.Now().After(limit) {
			return now, err
		}
		last = now
	}
	return 0, err
}

// startServer starts this program as the server.
func (b *bench) startServer() (p *process, addr string, err error) {
	l, err := listen()
	if err != nil {
		return nil, "", err
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		return nil, "", fmt.Errorf("hand over the listener: %w", err)
	}
	defer f.Close()
	cmd := exec.Command(b.self, roleServe)
	cmd.ExtraFiles = []*os.File{f}
	if _, err := cmd.StdinPipe(); err != nil { // ends with us
		return nil, "", err
	}
	p, err = start(cmd)
	return p, l.Addr().String(), err
}

// runLoad puts w on addr from a process of its own and returns what that saw
// and the CPU time that it used.
func (b *bench) runLoad(ctx context.Context, addr string, w workload) (r loadResult, cpu time.Duration, err error) {
	cmd := exec.Command(b.self, loadArgs(addr, w)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	p, err := start(cmd)
	if err != nil {
		return r, 0, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		p.stop()
		return r, 0, ctx.Err()
	}
	state := cmd.ProcessState
	if !state.Success() {
		return r, 0, errors.New(strings.TrimPrefix(strings.TrimSpace(p.said.String()), "error: "))
	}
	return r, state.UserTime() + state.SystemTime(), json.Unmarshal(out.Bytes(), &r)
}
