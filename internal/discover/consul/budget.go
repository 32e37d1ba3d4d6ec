package consul

import (
	"context"
	"time"
)

// burst of questions that need not wait for one another: a change that follows
// a quiet time is heard of at once, and so are the next few.
const burst = 10

// budget bounds how often a question is asked: a service that flaps, or a
// server that answers without waiting, would otherwise keep both sides busy.
type budget struct {
	floor time.Duration // between two questions in the long run
	due   time.Time     // when a watch that never paused would ask next
}

// wait returns when the next question may be asked, or with an error when ctx
// ends.
func (b *budget) wait(ctx context.Context) error {
	pause := b.take(time.Now())
	if pause <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// take returns how long after now the next question may be asked, and takes it
// as asked.
func (b *budget) take(now time.Time) time.Duration {
	if saved := now.Add(-burst * b.floor); b.due.Before(saved) {
		b.due = saved
	}
	b.due = b.due.Add(b.floor)
	return b.due.Sub(now)
}
