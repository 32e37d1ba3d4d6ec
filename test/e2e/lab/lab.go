// Package lab stands up Docker hosts on one machine: two network namespaces on one bridge, 192.168.1.52
// and .53, each with its own dockerd, and beside them .55 without one, and takes all of it down again,
// also what a crashed run left.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// Lab is two Docker hosts, A (192.168.1.52) and B (192.168.1.53), joined by a cable. On the same wire is R
// (192.168.1.55), for registries: it has no engine, so that only Dial, Exec and Serve are for it.
type Lab struct {
	A, B, R *Host
	Engine  Engine

	dir  string
	lock *os.File
	net  network
}

// Start brings up both hosts on engine and returns when both answer. What an earlier run left behind
// under the same names is removed first. The caller owns the Lab and must Close it; after an error
// nothing is left. Needs root.
func Start(ctx context.Context, engine Engine) (*Lab, error) {
	l := &Lab{Engine: engine, dir: filepath.Join(base(), engine.Label), net: network{prefix: "legate-e2e-" + engine.Label + "-"}}
	l.A = newHost(l, "a", "192.168.1.52")
	l.B = newHost(l, "b", "192.168.1.53")
	l.R = newHost(l, "r", "192.168.1.55")
	if err := l.acquire(); err != nil {
		return nil, err
	}
	if err := l.up(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// base is the same for every run, so that the next one finds what a crash left.
func base() string { return filepath.Join(os.TempDir(), "legate-e2e") }

// acquire waits until no other run has this engine's hosts: two would delete each other's namespaces.
func (l *Lab) acquire() error {
	if err := os.MkdirAll(base(), 0o700); err != nil {
		return fmt.Errorf("make lab folder: %w", err)
	}
	lock, err := os.OpenFile(l.dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open lab lock: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return errors.Join(fmt.Errorf("lock lab: %w", err), lock.Close())
	}
	l.lock = lock
	return nil
}

// hosts are those with an engine.
func (l *Lab) hosts() []*Host { return []*Host{l.A, l.B} }

func (l *Lab) up(ctx context.Context) error {
	if err := l.clear(); err != nil {
		return fmt.Errorf("clear leftovers: %w", err)
	}
	if err := l.net.up(ctx, append(l.hosts(), l.R)); err != nil {
		return err
	}
	return l.Each(func(h *Host) error { return h.startDocker(ctx) })
}

// Close removes containers, engines, namespaces and folders. It may be called after a failed start.
func (l *Lab) Close() error {
	err := l.Each((*Host).stopDocker)
	return errors.Join(err, l.clear(), l.lock.Close())
}

// Reset removes every container, volume and network of both Docker hosts and mends the cable, so that a
// scenario finds the hosts as they were at the start (images stay).
func (l *Lab) Reset(ctx context.Context) error {
	return errors.Join(l.net.plug(ctx, "up", l.A.Name), l.Each(func(h *Host) error { return h.reset(ctx) }))
}

// Cut pulls the cable out of host A: packets between the hosts vanish, nothing is told.
func (l *Lab) Cut(ctx context.Context) error { return l.net.plug(ctx, "down", l.A.Name) }

// Mend plugs the cable of Cut in again.
func (l *Lab) Mend(ctx context.Context) error { return l.net.plug(ctx, "up", l.A.Name) }

// Each calls f for both Docker hosts at once and returns what failed, with the host's name.
func (l *Lab) Each(f func(*Host) error) error {
	hosts := l.hosts()
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			if err := f(h); err != nil {
				errs[i] = fmt.Errorf("host %s: %w", h.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
