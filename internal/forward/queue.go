package forward

import (
	"cmp"
	"slices"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// maxHeld connections wait per link; more would only make an outage last
// longer when the endpoint is back.
const maxHeld = 1024

// noLimit is how long a flow waits for which nobody set an end.
const noLimit = 365 * 24 * time.Hour

// turnWait is how soon a flow that only waits for those before it is asked
// again whether that is still so, when its time is over.
const turnWait = 100 * time.Millisecond

// queue holds the flows of a link that wait, for whatever reason, in order of
// arrival.
type queue struct {
	waiting  []*flow
	starting int  // released flows whose connect is not under way
	full     bool // there was no room at any endpoint, and no news since
}

func (q *queue) add(f *flow) {
	i, _ := slices.BinarySearchFunc(q.waiting, f, func(a, b *flow) int { return cmp.Compare(a.pump.Arrival, b.pump.Arrival) })
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

// mustWait tells whether a new connection may not try endpoints now. Where
// others wait already, they came first.
func (l *link) mustWait() bool {
	return !l.downSince.IsZero() || l.spec.Mode == spec.ModePause || len(l.queue.waiting) > 0 || l.queue.starting > 0
}

// hold lets the flow wait: for an endpoint no longer than the link's time down
// allows, for room no longer than the option says, however often the link
// seems to be up or to have room meanwhile; as long as the link is paused; and
// until those before it have gone. It needs mu.
func (l *link) hold(f *flow) pump.Step {
	if !f.held {
		f.waited = l.fw.now()
	}
	list := l.candidates().All
	if len(list) == 0 {
		l.fw.cfg.Pool.Miss(l.spec.Targets)
	}
	if l.denied(list) {
		return l.giveUp(f, ErrDenied) // who may not go there waits in vain
	}
	until, err := l.patience(f)
	if err != nil {
		return l.giveUp(f, err)
	}
	if !f.held {
		f.held = true
		l.stats.heldTotal++
	}
	l.queue.add(f)
	f.generation = 0 // nobody is to take it for one on its way to a former endpoint
	l.tell(f)
	l.attend()
	l.release()
	return pump.Step{Park: until}
}

// denied tells whether policy leaves the link's callers none of its endpoints.
func (l *link) denied(list []endpoints.Candidate) bool {
	return l.view.Admit != nil && len(list) > 0 && !slices.ContainsFunc(list, func(c endpoints.Candidate) bool { return !c.IsDenied() })
}

// patience returns until when the flow may wait now, or why it may not.
func (l *link) patience(f *flow) (time.Time, error) {
	now := l.fw.now()
	why := ErrEndpointsFull
	since := l.fw.at(f.waited)
	if !l.downSince.IsZero() {
		why = ErrDown
		if down := l.outage(); down.Before(since) {
			since = down
		}
	}
	until := since.Add(l.spec.Options.Hold)
	switch {
	case l.spec.Mode == spec.ModePause:
		until = l.fw.at(now + noLimit)
	case l.moves() && until.Before(l.fw.at(now+turnWait)):
		until = l.fw.at(now + turnWait)
	}
	// Who was let wait, by a pause or for room, has the time of hold all the same.
	refuse := !f.held && l.spec.Options.WhenDown == spec.WhenDownRefuse && !l.downSince.IsZero() && l.spec.Mode != spec.ModePause
	switch {
	case l.spec.Mode == spec.ModeDrain:
		return until, ErrDrained
	case !refuse && l.fw.at(now).Before(until):
	case f.lastErr() != nil:
		return until, ErrNoEndpoint
	default:
		return until, why
	}
	if len(l.queue.waiting) >= maxHeld && !f.held {
		return until, ErrHoldFull
	}
	return until, nil
}

// moves tells whether the queue waits for nothing but its own order: hold is
// the time for an endpoint to come, and one is there.
func (l *link) moves() bool {
	full := l.queue.full && l.view.Limit > 0 // else of connects under way, which end soon
	return l.spec.Mode == spec.ModeServe && l.downSince.IsZero() && !full
}

// outage is from when the time of hold counts while the link is down: who was
// let wait by a pause is not to pay for what happened meanwhile.
func (l *link) outage() time.Time {
	if l.downSince.Before(l.resumed) {
		return l.resumed
	}
	return l.downSince
}

// woken lets a released flow connect. Another that waits is asked how long it
// still may.
func (l *link) woken(f *flow) pump.Step {
	l.mu.Lock()
	if step, waits := l.waitsOn(f); waits {
		defer l.mu.Unlock()
		return step
	}
	f.began = l.fw.now()
	return l.begin(f, f.began)
}

// expired ends a flow that has waited for too long, and tries one again that
// only paused.
func (l *link) expired(f *flow) pump.Step {
	l.mu.Lock()
	if step, waits := l.waitsOn(f); waits {
		defer l.mu.Unlock()
		return step
	}
	if f.pass == nil || !f.pass.short {
		f.began = l.fw.now() // released at this very moment
	}
	return l.begin(f, l.fw.now())
}

// waitsOn asks how long a flow of the queue still may wait; false: it is not in
// the queue. It needs mu.
func (l *link) waitsOn(f *flow) (pump.Step, bool) {
	if !l.queue.remove(f) {
		return pump.Step{}, false
	}
	defer l.attend() // it may have been the last
	return l.hold(f), true
}

// wakeAll asks every waiting flow anew how long it may wait.
func (l *link) wakeAll() {
	now := l.fw.now()
	for _, f := range l.queue.waiting {
		f.waited = now
		f.pump.Wake()
	}
}

// release lets the next waiting flow connect, if the link is up and there is
// room. The one after follows when this one's connect is under way, so that
// the endpoint sees them in order of arrival. It needs mu.
func (l *link) release() {
	q := &l.queue
	if len(q.waiting) == 0 || q.starting > 0 || q.full || l.spec.Mode != spec.ModeServe || !l.downSince.IsZero() {
		return
	}
	f := q.waiting[0]
	key := endpoints.Key{Turn: l.turn + 1, Caller: l.hash(f.caller()), Release: true}
	if _, q.full = l.candidates().First(key); q.full {
		return
	}
	q.remove(f)
	q.starting++
	f.released, f.starting = true, true
	f.pump.Wake()
	l.attend()
}

// room has those that wait for room look again. It needs mu.
func (l *link) room() {
	l.queue.full = false
	l.release()
}

// Room tells that an endpoint of t has room again.
func (fw *Forwarder) Room(t spec.Target) {
	for _, l := range fw.all() {
		l.mu.Lock()
		if l.queue.full && slices.Contains(l.spec.Targets, t) {
			l.room()
		}
		l.mu.Unlock()
	}
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
		f.released = false
		l.begun(f)
	}
}
