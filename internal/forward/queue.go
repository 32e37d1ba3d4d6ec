package forward

import (
	"cmp"
	"slices"
)

// Limits of holding.
const (
	// maxHeld connections wait per link; more would only make the outage last
	// longer when the endpoint is back.
	maxHeld = 1024
	// maxConnecting connects of a link are in flight while held connections
	// are released.
	maxConnecting = 64
)

// queue holds the flows of a link that wait, in order of arrival.
type queue struct {
	waiting    []*flow
	connecting int // released flows that have not connected or failed
	starting   int // of those, the ones whose connect is not under way
}

func (q *queue) add(f *flow) {
	i, _ := slices.BinarySearchFunc(q.waiting, f, func(a, b *flow) int { return cmp.Compare(a.arrival, b.arrival) })
	q.waiting = slices.Insert(q.waiting, i, f)
	f.queued = true
}

func (q *queue) remove(f *flow) bool {
	if !f.queued {
		return false
	}
	i := slices.Index(q.waiting, f)
	q.waiting = slices.Delete(q.waiting, i, i+1)
	f.queued = false
	return true
}

// release lets the next waiting flow connect, if the link is up and there is
// room. The one after follows when this one's connect is under way, so that
// the endpoint sees them in order of arrival.
func (l *link) release() {
	q := &l.queue
	if !l.downSince.IsZero() || len(q.waiting) == 0 || q.starting > 0 || q.connecting >= maxConnecting {
		return
	}
	f := q.waiting[0]
	q.remove(f)
	q.connecting++
	q.starting++
	f.released, f.starting = true, true
	f.pump.Wake()
	l.attend()
}

// begun notes that the connect of a released flow is under way.
func (l *link) begun(f *flow) {
	if f.starting {
		f.starting = false
		l.queue.starting--
		l.release()
	}
}

// settleRelease notes that a released flow has connected, failed or gone.
func (l *link) settleRelease(f *flow) {
	if f.released {
		l.begun(f)
		f.released = false
		l.queue.connecting--
		l.release()
	}
}
