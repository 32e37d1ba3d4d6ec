// Package e2e runs the ambassador where its users do: between containers on two real Docker hosts,
// on the engine that Debian ships and on the current one.
//
// One scenario on one engine: go test ./test/e2e -run 'TestWalkThrough/engine=29'
//
// What takes a person's patience, with -v -timeout 60m:
//
//	LEGATE_STORM=200 go test ./test/e2e -run TestAgentStorm      containers that come and go at random
//	LEGATE_STARTS=100 go test ./test/e2e -run TestAgentImpatient starts whose first act is to connect
//	LEGATE_STARTS=100 go test ./test/e2e -run TestRuntime        the same with the runtime, the agent frozen meanwhile
package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"legate/test/e2e/lab"
)

// labs are the Docker hosts of this run, one pair per engine, stood up when a scenario first asks.
type labs struct {
	mu     sync.Mutex
	engine map[string]*standing // guarded by mu

	building sync.Mutex // `make image` builds in the tree, so one at a time
}

// standing is the outcome of standing up: what failed once is not tried again for every scenario.
type standing struct {
	once  sync.Once
	hosts *lab.Lab
	err   error
}

var suite = labs{engine: map[string]*standing{}}

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
	s := l.engine[engine.Label]
	if s == nil {
		s = new(standing)
		l.engine[engine.Label] = s
	}
	l.mu.Unlock()
	s.once.Do(func() { s.hosts, s.err = l.start(context.Background(), engine) })
	if s.err != nil {
		t.Fatalf("stand up Docker hosts: %v", s.err)
	}
	return s.hosts
}

func (l *labs) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for label, s := range l.engine {
		if s.hosts == nil {
			continue
		}
		if err := s.hosts.Close(); err != nil {
			fmt.Fprintf(os.Stderr, "take down hosts with engine %s: %v\n", label, err)
		}
		delete(l.engine, label)
	}
}

func (l *labs) start(ctx context.Context, engine lab.Engine) (*lab.Lab, error) {
	hosts, err := lab.Start(ctx, engine)
	if err != nil {
		return nil, err
	}
	if err := l.images(ctx, hosts); err != nil {
		return nil, errors.Join(err, hosts.Close())
	}
	return hosts, nil
}

// images has every host ready for every scenario, Legate by the command that users type.
func (l *labs) images(ctx context.Context, hosts *lab.Lab) error {
	postgres, err := lab.Postgres()
	if err != nil {
		return err
	}
	err = hosts.Each(func(host *lab.Host) error {
		for _, image := range append(lab.Walkthrough(), tools, postgres) {
			if err := host.Import(ctx, image); err != nil {
				return err
			}
		}
		return nil
	})
	l.building.Lock()
	defer l.building.Unlock()
	repository := filepath.Join("..", "..")
	return errors.Join(err, hosts.A.MakeImage(ctx, repository), hosts.B.MakeImage(ctx, repository))
}

// tools is an image with what the scenarios need besides Redis.
var tools = lab.Image{Name: "legate-e2e/tools", Programs: []string{"dnsmasq", "redis-cli", "redis-server", "socat"}}
