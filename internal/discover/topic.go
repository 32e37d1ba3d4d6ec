package discover

import (
	"context"
	"fmt"
	"time"

	"legate/internal/spec"
)

// backoff is the longest pause between two questions to a source that fails:
// short enough that a registry which comes back is not missed for long.
const backoff = 15 * time.Second

// topic is one question that is watched, for all targets that have it.
type topic struct {
	question spec.Target
	suspect  chan struct{} // capacity one
	ctx      context.Context
	cancel   context.CancelFunc

	// The Discovery's mutex guards the following.
	users map[*binding]bool
	known known
}

// doubt has the source asked again.
func (t *topic) doubt() {
	select {
	case t.suspect <- struct{}{}:
	default: // one that nobody acted on yet is enough
	}
}

// ask has the source watch the question, again after each of its failures.
func (t *topic) ask(source Source, learn func(*topic, Result)) {
	if source == nil {
		learn(t, Result{Err: fmt.Errorf("find source %q: there is none of that name", t.question.Source)})
		return
	}
	q := Query{Target: t.question, Suspect: t.suspect}
	pause := Floor
	for {
		err := source.Watch(t.ctx, q, func(r Result) {
			if r.Err == nil {
				pause = Floor
			}
			learn(t, r)
		})
		if err == nil || t.ctx.Err() != nil {
			return
		}
		learn(t, Result{Err: err})
		suspected, err := q.wait(t.ctx, time.Now(), Jitter(pause))
		if err != nil {
			return
		}
		if pause = min(2*pause, backoff); suspected {
			pause = Floor // somebody needs it, so that it is asked often for a while
		}
	}
}
