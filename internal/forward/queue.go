package forward

import (
	"slices"
	"time"
)

// Limits of holding.
const (
	// maxHeld connections wait per link; more would only make the outage last
	// longer when the endpoint is back.
	maxHeld = 1024
	// maxConnecting connects are in flight per endpoint while held
	// connections are released.
	maxConnecting = 64
	// releaseEvery is when the next held connection starts although the one
	// before has not connected yet. On a fast network each connects before
	// that, so that the endpoint sees them in order of arrival.
	releaseEvery = time.Millisecond
)

// queue holds the flows of a link that wait, in order of arrival.
type queue struct {
	waiting    []*flow
	connecting int // released flows that have not connected or failed
	timer      *time.Timer
}

func (q *queue) add(f *flow) {
	i, _ := slices.BinarySearchFunc(q.waiting, f, func(a, b *flow) int { return int(a.arrival) - int(b.arrival) })
	q.waiting = slices.Insert(q.waiting, i, f)
}

func (q *queue) remove(f *flow) bool {
	i := slices.Index(q.waiting, f)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// release lets the next waiting flow connect, if the link is up and its
// endpoint has room. The one after follows when this one has connected or
// failed, or after releaseEvery.
func (l *link) release() {
	if !l.downSince.IsZero() || len(l.queue.waiting) == 0 {
		return
	}
	if l.queue.connecting >= maxConnecting {
		return
	}
	f := l.queue.waiting[0]
	l.queue.remove(f)
	l.queue.connecting++
	f.released = true
	f.pump.Wake()
	l.attend()
	if len(l.queue.waiting) > 0 {
		l.releaseLater()
	}
}

func (l *link) releaseLater() {
	if l.queue.timer == nil {
		l.queue.timer = time.AfterFunc(releaseEvery, l.releaseNow)
		return
	}
	l.queue.timer.Reset(releaseEvery)
}

func (l *link) releaseNow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release()
}

// settleRelease notes that a released flow has connected, failed or gone.
func (l *link) settleRelease(f *flow) {
	if f.released {
		f.released = false
		l.queue.connecting--
		l.release()
	}
}
