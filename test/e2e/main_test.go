// Package e2e runs the ambassador where its users do: between containers on two real Docker hosts,
// on the engine that Debian ships and on the current one.
//
// One scenario on one engine: go test ./test/e2e -run 'TestWalkThrough/engine=29'
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"legate/test/e2e/lab"
)

// labs are the Docker hosts of this run, one pair per engine, stood up when a scenario first asks.
type labs struct {
	mu   sync.Mutex
	up   map[string]*lab.Lab // guarded by mu
	errs map[string]error    // guarded by mu: what failed once is not tried again for every scenario
}

var suite = labs{up: map[string]*lab.Lab{}, errs: map[string]error{}}

func TestMain(m *testing.M) {
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-interrupted
		signal.Reset()
		suite.close()
		_ = syscall.Kill(os.Getpid(), s.(syscall.Signal))
	}()
	m.Run()
	suite.close()
}

func (l *labs) get(t *testing.T, engine lab.Engine) *lab.Lab {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.errs[engine.Label] == nil && l.up[engine.Label] == nil {
		l.up[engine.Label], l.errs[engine.Label] = start(context.Background(), engine)
	}
	if err := l.errs[engine.Label]; err != nil {
		t.Fatalf("stand up Docker hosts: %v", err)
	}
	return l.up[engine.Label]
}

func (l *labs) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for label, hosts := range l.up {
		if hosts == nil {
			continue
		}
		if err := hosts.Close(); err != nil {
			fmt.Fprintf(os.Stderr, "take down hosts with engine %s: %v\n", label, err)
		}
		delete(l.up, label)
	}
}

func start(ctx context.Context, engine lab.Engine) (*lab.Lab, error) {
	hosts, err := lab.Start(ctx, engine)
	if err != nil {
		return nil, err
	}
	if err := images(ctx, hosts); err != nil {
		return nil, errors.Join(err, hosts.Close())
	}
	return hosts, nil
}

// images has every host ready for every scenario, Legate by the command that users type.
func images(ctx context.Context, hosts *lab.Lab) error {
	return hosts.Each(func(host *lab.Host) error {
		for _, image := range append(lab.Walkthrough(), tools) {
			if err := host.Import(ctx, image); err != nil {
				return err
			}
		}
		return makeImage(ctx, host)
	})
}

// tools is an image with what the scenarios need besides Redis.
var tools = lab.Image{Name: "legate-e2e/tools", Programs: []string{"dnsmasq", "redis-cli", "redis-server", "socat"}}

func makeImage(ctx context.Context, host *lab.Host) error {
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "-C", filepath.Join("..", ".."), "image")
	cmd.Env = host.Environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make image: %w\n%s", err, out)
	}
	return nil
}
