// Package runc is `legate runc`: it stands where a container engine expects its
// OCI runtime, and is that runtime in everything but one thing. A container
// that asks for links starts when the agent has opened them.
//
// It is a package of its own so that a program can have it without all that
// the other commands need: engines run their runtime several times for each
// container.
package runc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"legate/internal/control"
	"legate/internal/spec"
)

// The settings, as flags before those of runc, and where they stand in the
// environment. A flag wins.
const (
	flagRunc    = "--legate-runc"
	flagControl = "--legate-control"
	flagWait    = "--legate-wait"
	flagClosed  = "--legate-closed"

	envRunc    = "LEGATE_RUNC"
	envControl = "LEGATE_RUNC_CONTROL"
	envWait    = "LEGATE_RUNC_WAIT"
	envClosed  = "LEGATE_RUNC_CLOSED"
)

const (
	// DefaultControl is the agent's control socket. An agent in a container
	// has it there for us where the directory is mounted.
	DefaultControl = "/run/legate/legate.sock"
	// DefaultWait is for how long a container waits at most.
	DefaultWait = 2 * time.Second
)

// Process is what the runtime has from its process.
type Process struct {
	Args    []string // without the program
	Environ []string
	Stderr  io.Writer
	// Exec becomes another program; nil: execve(2). It returns only an error.
	Exec func(path string, args, environ []string) error
}

// Main is the real runc with the same arguments, and waits for the agent before
// a container with links starts. It returns only when that failed, with the
// exit code.
func Main(p Process) int {
	w, err := read(p)
	if err != nil {
		return w.fail(p, err)
	}
	real, err := w.find(p)
	if err != nil {
		return w.fail(p, err)
	}
	if err := w.wait(context.Background(), real); err != nil {
		w.log("warning", err)
		if w.closed {
			return w.fail(p, err)
		}
	}
	become := p.Exec
	if become == nil {
		become = syscall.Exec
	}
	return w.fail(p, fmt.Errorf("run %s: %w", real, become(real, append([]string{real}, w.args...), p.Environ)))
}

// wrapper is one call.
type wrapper struct {
	path, control string
	patience      time.Duration
	closed        bool

	args []string // of runc
	call call
}

// read takes the settings. It returns what can be used also with an error,
// which is for the log that runc's own arguments name.
func read(p Process) (*wrapper, error) {
	w := &wrapper{path: getenv(p.Environ, envRunc), control: DefaultControl, patience: DefaultWait, args: p.Args}
	var errs []error
	for _, v := range []struct{ name, flag string }{{envControl, flagControl}, {envWait, flagWait}, {envClosed, flagClosed}} {
		if text := getenv(p.Environ, v.name); text != "" {
			errs = append(errs, about("variable "+v.name, w.set(v.flag, text)))
		}
	}
	for len(w.args) > 0 && strings.HasPrefix(w.args[0], "--legate-") {
		name, value, has := strings.Cut(w.args[0], "=")
		w.args = w.args[1:]
		switch {
		case has:
		case name == flagClosed:
			value = "true"
		case len(w.args) > 0 && slices.Contains([]string{flagRunc, flagControl, flagWait}, name):
			value, w.args = w.args[0], w.args[1:]
		}
		errs = append(errs, about(name, w.set(name, value)))
	}
	w.call = parse(w.args)
	return w, errors.Join(errs...)
}

func about(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (w *wrapper) set(name, value string) (err error) {
	switch name {
	case flagRunc:
		w.path = value
	case flagControl:
		if !strings.ContainsAny(value, "/@") { // it would be taken for a file here
			return fmt.Errorf("%q is no path of a socket", value)
		}
		w.control = value
	case flagWait:
		if w.patience, err = time.ParseDuration(value); err != nil || w.patience < 0 {
			return fmt.Errorf("%q must be a duration, as 2s", value)
		}
	case flagClosed:
		if w.closed, err = strconv.ParseBool(value); err != nil {
			return fmt.Errorf("%q must be true or false", value)
		}
	default:
		return fmt.Errorf("it must be one of %s, %s, %s and %s", flagRunc, flagControl, flagWait, flagClosed)
	}
	return nil
}

func getenv(environ []string, name string) (value string) {
	for _, v := range environ {
		if text, ok := strings.CutPrefix(v, name+"="); ok {
			value = text
		}
	}
	return value
}

// find returns the real runc: the one that was named, or the first that is
// not this very program.
func (w *wrapper) find(p Process) (string, error) {
	const hint = "name the real runc: " + flagRunc + " /usr/bin/runc"
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("look at this program: %w", err)
	}
	dirs := append(filepath.SplitList(getenv(p.Environ, "PATH")), "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
	candidates := []string{w.path}
	if w.path == "" {
		candidates = nil
		for _, dir := range dirs {
			candidates = append(candidates, filepath.Join(dir, "runc"))
		}
	}
	for _, path := range candidates {
		found, err := exec.LookPath(path) // with a slash it looks nowhere else
		if err != nil || !filepath.IsAbs(found) {
			continue
		}
		if it, err := os.Stat(found); err == nil && !os.SameFile(it, self) {
			return found, nil
		}
	}
	if w.path != "" {
		return "", spec.Errorf(hint, "%s is no runc that could be run", w.path)
	}
	return "", spec.Errorf(hint, "no runc was found")
}

// wait returns when the links of the container that is about to start are
// open. An error says why nobody knows; nil where there is nothing to wait for.
//
// It is start that waits, not create: by then the engine has set up the
// container's network, and its first process sleeps in the namespace until it
// is told to go on.
func (w *wrapper) wait(ctx context.Context, real string) error {
	if w.call.command != "start" || w.call.id == "" {
		return nil
	}
	c, err := w.look(real)
	if err != nil || c.known && !spec.AsksForLinks(c.labels) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, w.patience)
	defer cancel()
	_, err = control.NewClient(w.control).Ready(ctx, control.ReadyRequest{Container: w.call.id, PID: c.pid})
	switch {
	case err == nil || !c.known: // then it may have no links, and be the agent's own
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("legate: the agent did not open the links of the container within %v", w.patience)
	}
	return fmt.Errorf("legate: wait for the links of the container: %w", err)
}

// fail says what happened where the engine looks for it, and where people do.
func (w *wrapper) fail(p Process, err error) int {
	w.log("error", err)
	fmt.Fprintf(p.Stderr, "error: %v\n", err)
	if hint := spec.HintOf(err); hint != "" {
		fmt.Fprintf(p.Stderr, "hint: %s\n", hint)
	}
	return 1
}
