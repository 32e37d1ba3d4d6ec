package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"legate/internal/docker"
	"legate/internal/intercept"
	"legate/internal/spec"
)

// unfound is a container that runs, and whose namespace was asked for in vain.
type unfound struct {
	tries int
	err   error // of the last one
}

// Asking again is slowed down: what a container lacks at its start comes within
// milliseconds, what the agent itself lacks never does, and each time the
// engine is asked.
const (
	firstPause    = 10 * time.Millisecond
	longestPause  = time.Second
	surelyUnfound = 5 // tries, which are most of a second
)

func (u unfound) pause() time.Duration {
	return min(firstPause<<(2*min(u.tries, 10)), longestPause)
}

// ask finds the namespace of a container that runs, and that nobody saw
// appear, for one that lives there. The engine is slow to answer about one that
// it just starts. Where no link is wanted there, it gives up.
func (w *watch) ask(c *docker.Container, lives string, forLinks bool, wish *spec.Wish) {
	w.mu.Lock()
	before := w.unfound[c.ID]
	w.mu.Unlock()
	surely := before.tries >= surelyUnfound
	if surely && forLinks {
		wish.Warnings = append(wish.Warnings, fmt.Sprintf("container %s has no links: its network namespace was not found: %v", lives, spec.WithHint(before.err)))
	}
	if w.asked[c.ID] || surely && !forLinks {
		return
	}
	w.asked[c.ID] = true
	id := c.ID
	w.running.Go(func() {
		if !hand(w.ctx, w.questions, struct{}{}) {
			return
		}
		f, err := w.locate(w.ctx, id)
		<-w.questions
		if err != nil {
			f = w.miss(id, before, err)
		}
		if !hand(w.ctx, w.found, f) && f.Namespace != nil {
			_ = f.Namespace.Close()
		}
	})
}

func (w *watch) forgetUnfound(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.unfound, id)
}

// miss has the container asked for again, not at once.
func (w *watch) miss(id string, before unfound, err error) intercept.Found {
	select {
	case <-w.ctx.Done():
	case <-time.After(before.pause()):
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for other := range w.unfound { // those that are gone
		if w.cfg.Table.Get(other) == nil {
			delete(w.unfound, other)
		}
	}
	w.unfound[id] = unfound{before.tries + 1, err}
	return intercept.Found{Container: id}
}

var (
	errNotRunning = errors.New("it does not run")
	errOnHost     = errors.New("it lives in the network of this host or of the agent, where everybody could use its links")
)

// inspect asks the engine about one container.
func inspect[T any](w *watch, ctx context.Context, id string, question func(*docker.Client, context.Context, string) (T, error)) (answer T, err error) {
	client, err := docker.NewClient(w.cfg.Engine)
	if err != nil {
		return answer, err
	}
	defer client.Close()
	return question(client, ctx, id)
}

func (w *watch) locate(ctx context.Context, id string) (intercept.Found, error) {
	pid, err := inspect(w, ctx, id, (*docker.Client).PID)
	if err == nil && pid == 0 {
		err = errNotRunning
	}
	if err != nil {
		return intercept.Found{}, err
	}
	f, err := inhabited(id, pid)
	if errors.Is(err, fs.ErrNotExist) {
		err = spec.Errorf("run the agent with --pid host", "its process %d is not seen here", pid)
	}
	if err == nil && f.Host {
		err = errors.Join(errOnHost, f.Namespace.Close())
	}
	return f, err
}

// inhabited returns where a container lives, of which a process is said to be:
// its number may be another's by now, or be counted in another namespace.
func inhabited(id string, pid int) (intercept.Found, error) {
	f, err := intercept.Of(pid)
	if err == nil && f.Container != id {
		_ = f.Namespace.Close()
		err = spec.Errorf("run the agent with --pid host", "process %d is not of container %.12s as the agent sees it", pid, id)
	}
	if err != nil {
		return intercept.Found{}, err
	}
	return f, nil
}
