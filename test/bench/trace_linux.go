package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"legate/test/bench/load"
	"legate/test/bench/machine"
	"legate/test/bench/peers"
)

// calls is how many system calls a peer needs.
type calls struct {
	Peer   string             `json:"peer"`
	Of     string             `json:"of"` // a row
	Each   float64            `json:"each"`
	ByName map[string]float64 `json:"byName"`
}

// traced are the loads of the run under strace: slow and alike, so that what is
// ready at once does not depend on how strace slows a proxy down.
func traced(quick bool) []row {
	length := time.Second
	if quick {
		length /= 4
	}
	return []row{
		{Name: "requests", Kind: kindLoad, Shape: load.Shape{Conns: 50, Request: 64, Response: 64, Depth: 1, Units: 1, Rate: 1000, Time: length, Mode: load.Stream}},
		{Name: "churn", Kind: kindLoad, Shape: load.Shape{Conns: 50, Request: 64, Response: 64, Units: 1, Rate: 200, Time: length, Mode: load.Churn}},
	}
}

// trace counts the system calls of every peer. Nothing is timed.
func (r *round) trace(ctx context.Context) error {
	for _, c := range r.list {
		if c.process == nil || c.Name == peers.Socat { // a process per connection: strace -f waits for each
			continue
		}
		for _, w := range r.Rows {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("stopped: %w", err)
			}
			n, err := r.count(c, w)
			if err != nil {
				break // what is wrong with it the rounds will say
			}
			if err := r.say(event{Calls: n}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *round) count(c *contestant, w row) (*calls, error) {
	clients, err := load.Open(c.addr, w.Shape, r.server)
	if err != nil {
		return nil, err
	}
	defer clients.Close()
	file := filepath.Join(r.Dir, "strace-"+c.Name+"-"+w.Name)
	stop, err := attach(c.process.PID(), file)
	if err != nil {
		return nil, err
	}
	result, err := clients.Run()
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	if _, err := peers.SettledCPU(c.process.PID()); err != nil {
		return nil, errors.Join(err, stop())
	}
	if err := stop(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read counts: %w", err)
	}
	n := &calls{Peer: c.Name, Of: w.Name, ByName: map[string]float64{}}
	for name, count := range parseStrace(string(text)) {
		n.ByName[name] = float64(count) / result.Units
		n.Each += n.ByName[name]
	}
	return n, nil
}

const attachTime = 5 * time.Second

// attach runs strace on a process with all threads and children until stop is
// called. It is on when the kernel says that every thread has a tracer.
func attach(pid int, file string) (stop func() error, err error) {
	args := []string{"-c", "-f", "-o", file}
	family := machine.Family(pid)
	for _, p := range family {
		args = append(args, "-p", strconv.Itoa(p))
	}
	cmd := exec.Command("strace", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start strace: %w", err)
	}
	stop = func() error {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			return fmt.Errorf("stop strace: %w", err)
		}
		_ = cmd.Wait() // it passes the signal on in its exit code
		return nil
	}
	for deadline := time.Now().Add(attachTime); !traces(family, cmd.Process.Pid); {
		if time.Now().After(deadline) {
			return nil, errors.Join(errors.New("strace does not attach"), stop())
		}
		wait := time.NewTimer(5 * time.Millisecond)
		<-wait.C
	}
	return stop, nil
}

func traces(family []int, tracer int) bool {
	for _, p := range family {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p)) // the pattern is well-formed
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err == nil && !strings.Contains(string(text), fmt.Sprintf("TracerPid:\t%d\n", tracer)) {
				return false
			}
		}
	}
	return true
}

// parseStrace reads the table of strace -c: its calls stand fourth, a name last.
func parseStrace(text string) map[string]int {
	list := map[string]int{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[len(fields)-1] == "total" {
			continue
		}
		if n, err := strconv.Atoi(fields[3]); err == nil {
			list[fields[len(fields)-1]] += n
		}
	}
	return list
}
