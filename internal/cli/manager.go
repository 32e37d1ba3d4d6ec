package cli

import (
	"context"
	"sync"
	"time"

	"legate/internal/systemd"
)

// tell tells the service manager how it goes, from ready to end.
type tell struct {
	manager *systemd.Manager
	stop    context.Context // ends when the service is to end
	drain   time.Duration   // what that may take
	alive   func()          // returns as long as the service does its work

	running sync.WaitGroup
	cancel  context.CancelFunc // nil: it was never ready
}

// ready is called once.
func (t *tell) ready() {
	t.manager.Ready("serving; legate status shows the links")
	var over context.Context
	over, t.cancel = context.WithCancel(context.WithoutCancel(t.stop))
	t.running.Go(func() { t.manager.Watch(over, t.alive) })
	t.running.Go(func() {
		select {
		case <-t.stop.Done():
		case <-over.Done():
		}
		if t.stop.Err() != nil {
			t.manager.Stopping("live connections may end within " + t.drain.String())
		}
	})
}

// end returns when nothing is told any more.
func (t *tell) end() {
	if t.cancel != nil {
		t.cancel()
	}
	t.running.Wait()
}
