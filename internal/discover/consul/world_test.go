package consul

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"legate/internal/discover"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// environment is the variables of one test, instead of the process's.
type environment map[string]string

func (e environment) source() *Source {
	return New(Config{Getenv: func(name string) string { return e[name] }})
}

// with is the environment with changes; it stays as it is, since a watch may
// read it.
func (e environment) with(changes environment) environment {
	changed := maps.Clone(e)
	maps.Copy(changed, changes)
	return changed
}

// watched is a watch that a test looks at.
type watched struct {
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	results []discover.Result // guarded by mu
	last    time.Time         // of the last result; guarded by mu
	err     error             // guarded by mu; set before done is closed
}

// begin watches until the test ends or the watch fails.
func begin(t testing.TB, s *Source, target spec.Target) *watched {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &watched{t: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		err := s.Watch(ctx, discover.Query{Target: target}, func(r discover.Result) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.results, w.last = append(w.results, r), time.Now()
		})
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err = err
	}()
	t.Cleanup(w.stop)
	return w
}

func (w *watched) stop() {
	w.cancel()
	<-w.done
}

func (w *watched) all() []discover.Result {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]discover.Result(nil), w.results...)
}

// say is a result in one line: weak, the places, what is wrong.
func say(r discover.Result) string {
	var parts []string
	if r.Weak {
		parts = append(parts, "weak")
	}
	for _, p := range r.Places {
		text := fmt.Sprintf("%s:%d*%d", p.Host, p.Port, p.Weight)
		if p.Unhealthy != "" {
			text += " (" + p.Unhealthy + ")"
		}
		parts = append(parts, text)
	}
	if r.Err != nil {
		parts = append(parts, "error: "+r.Err.Error())
	}
	return strings.Join(parts, ", ")
}

// await waits for the last result to be that one.
func (w *watched) await(want string) {
	w.t.Helper()
	last := func() string {
		all := w.all()
		if len(all) == 0 {
			return "nothing"
		}
		return say(all[len(all)-1])
	}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("the last result was: %s (error %v)", last(), w.fate())
		}
	})
	testnet.Await(w.t, want, func() bool { return last() == want })
}

// fate is the error that the watch ended with, nil while it goes on.
func (w *watched) fate() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// fails waits for the end of the watch and checks what it says.
func (w *watched) fails(what, hint string) {
	w.t.Helper()
	testnet.Await(w.t, "the failure: "+what, func() bool { return w.fate() != nil })
	checkError(w.t, w.fate(), what, hint)
}

func checkError(t testing.TB, err error, what, hint string) {
	t.Helper()
	if err == nil || err.Error() != what {
		t.Errorf("the error is\n%v, want\n%s", err, what)
	}
	got := ""
	if user := (*spec.UserError)(nil); errors.As(err, &user) {
		got = user.Hint
	}
	if got != hint {
		t.Errorf("the hint is\n%s, want\n%s", got, hint)
	}
}

func redis() spec.Target { return spec.Target{Source: spec.SourceConsul, Host: "redis"} }

func key(path string) spec.Target { return spec.Target{Source: spec.SourceConsulKV, Path: path} }
