package discover

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"legate/internal/spec"
)

// weakFor is how long endpoints stay after their source said, without proof,
// that there are none: a name server that was just restarted, or an engine
// that is replacing a container, says so for a few seconds.
const weakFor = 30 * time.Second

// watch is one target that is being watched. Two goroutines of the Discovery
// run it: ask, which sits in the source, and keep, which owns what is known.
type watch struct {
	target  spec.Target
	source  Source
	set     func(spec.Target, spec.Answer)
	log     *slog.Logger
	suspect chan struct{} // capacity one
	results chan Result
	ctx     context.Context
	cancel  context.CancelFunc

	mu      sync.Mutex // held during set
	stopped bool       // under mu; set is not called any more
}

// stop ends the watch. It does not wait for the source, only for a set that is
// under way.
func (w *watch) stop() {
	w.cancel()
	w.mu.Lock()
	w.stopped = true
	w.mu.Unlock()
}

// ask has the source watch the target, again after each of its failures.
func (w *watch) ask() {
	if w.source == nil {
		w.hand(Result{Err: fmt.Errorf("find source %q: there is none of that name", w.target.Source)})
		return
	}
	q := Query{Target: w.target, Suspect: w.suspect}
	pause := floor
	for {
		err := w.source.Watch(w.ctx, q, func(r Result) {
			pause = floor
			w.hand(r)
		})
		if err == nil || w.ctx.Err() != nil {
			return
		}
		w.hand(Result{Err: err})
		if _, err := q.Wait(w.ctx, time.Now(), jitter(pause)); err != nil {
			return
		}
		pause = min(2*pause, ceiling)
	}
}

// hand passes a result on to keep.
func (w *watch) hand(r Result) {
	select {
	case w.results <- r:
	case <-w.ctx.Done():
	}
}

// keep owns what is known of the target and tells when it changed.
func (w *watch) keep() {
	var now known
	var said *spec.Answer
	expiry := time.NewTimer(0)
	expiry.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case r := <-w.results:
			now.learn(r, time.Now())
		case <-expiry.C:
			now.forget(time.Now())
		}
		if at := now.expires(); at.IsZero() {
			expiry.Stop()
		} else {
			expiry.Reset(time.Until(at))
		}
		if answer := now.answer; said == nil || differ(*said, answer) {
			w.tell(answer, said == nil)
			said = &answer
		}
	}
}

// tell passes an answer on, unless the watch was stopped meanwhile.
func (w *watch) tell(a spec.Answer, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	switch {
	case a.Err != nil:
		w.log.Info("no good answer", "error", a.Err, "endpoints", texts(a.Endpoints))
	case first: // as expected: nothing to read at every start
		w.log.Debug("endpoints found", "endpoints", texts(a.Endpoints))
	default:
		w.log.Info("endpoints changed", "endpoints", texts(a.Endpoints))
	}
	w.set(w.target, a)
}

func texts(endpoints []spec.Member) []string {
	list := make([]string, len(endpoints))
	for i, e := range endpoints {
		list[i] = e.String()
	}
	return list
}

// differ tells whether somebody who knows a learns anything from b. A later
// confirmation of the same endpoints is nothing new.
func differ(a, b spec.Answer) bool {
	if (a.Err == nil) != (b.Err == nil) || a.Weak != b.Weak || !slices.Equal(a.Endpoints, b.Endpoints) {
		return true
	}
	return a.Err != nil && a.Err.Error() != b.Err.Error()
}

// known is what is known of one target.
type known struct {
	answer spec.Answer
	weak   time.Time // since when nothing but weak evidence says "none"; zero: it does not
}

// learn takes over a result.
func (k *known) learn(r Result, now time.Time) {
	k.answer.Err = r.Err
	switch {
	case r.Err == nil:
		k.answer.Endpoints, k.answer.At = r.Endpoints, now
		k.weak = time.Time{}
	case !r.Weak:
		// A source that cannot be asked proves nothing: the weak evidence
		// before it must be repeated for its whole time.
		k.weak = time.Time{}
	case k.weak.IsZero():
		k.weak = now
	}
	k.answer.Weak = !k.weak.IsZero() && len(k.answer.Endpoints) > 0
}

// expires returns when the endpoints are given up if nothing else is learned;
// zero: never.
func (k *known) expires() time.Time {
	if k.weak.IsZero() || len(k.answer.Endpoints) == 0 {
		return time.Time{}
	}
	return k.weak.Add(weakFor)
}

// forget believes the weak evidence.
func (k *known) forget(now time.Time) {
	k.answer.Endpoints, k.answer.At, k.answer.Weak = nil, now, false
}

// jitter shortens a pause by up to a tenth, so that many watches do not ask in
// step.
func jitter(pause time.Duration) time.Duration {
	return pause - rand.N(pause/10)
}
