package endpoints

import (
	"container/heap"
	"context"
	"slices"
	"time"

	"legate/internal/spec"
)

// Probes and checks of this pool.
const (
	probeTimeout  = time.Second
	probeInterval = time.Second
	probeUrgent   = 100 * time.Millisecond
	// maxRunning attempts are under way at once: enough that a hundred silent
	// endpoints delay nobody, and few enough for the descriptors of a small
	// container.
	maxRunning = 256
)

// task is something to do for an endpoint at its time. It is in the schedule,
// or under way, or neither; a goroutine or timer of its own would make an idle
// endpoint dear.
type task struct {
	live   *Live
	asked  *asked // the check to run; nil: a probe, or the end of an ejection
	at     time.Duration
	place  int                // in the schedule, from 1; 0: not there
	cancel context.CancelFunc // while it is under way
}

// tasks are a heap by time.
type tasks []*task

func (s tasks) Len() int           { return len(s) }
func (s tasks) Less(i, j int) bool { return s[i].at < s[j].at }
func (s tasks) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].place, s[j].place = i+1, j+1
}
func (s *tasks) Push(x any) {
	t := x.(*task)
	*s = append(*s, t)
	t.place = len(*s)
}
func (s *tasks) Pop() any {
	n := len(*s) - 1
	t := (*s)[n]
	(*s)[n] = nil
	*s = (*s)[:n]
	t.place = 0
	return t
}

// put schedules the task for a moment; 0 is never. One that is under way is
// planned anew when it ends.
func (p *Pool) put(t *task, at time.Duration) {
	switch {
	case t.cancel != nil || at == t.at && t.place > 0:
		return
	case at == 0:
		if t.place > 0 {
			heap.Remove(&p.tasks, t.place-1)
		}
		return
	}
	t.at = at
	if t.place > 0 {
		heap.Fix(&p.tasks, t.place-1)
	} else {
		heap.Push(&p.tasks, t)
	}
	if t.place == 1 {
		poke(p.due)
	}
}

// drop ends the task for good, though it is under way.
func (p *Pool) drop(t *task) {
	if t.cancel != nil {
		t.cancel()
		return
	}
	p.put(t, 0)
}

// schedule starts what is due until the pool is closed.
func (p *Pool) schedule() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-p.due:
		case <-p.ctx.Done():
			return
		}
		p.mu.Lock()
		next := p.startDue()
		p.mu.Unlock()
		if next > 0 {
			timer.Reset(next - p.now())
		} else {
			timer.Stop()
		}
	}
}

// startDue starts what is due, and returns when something will be; 0 for not
// before somebody says so.
func (p *Pool) startDue() time.Duration {
	for len(p.tasks) > 0 && p.running < maxRunning && p.ctx.Err() == nil {
		t := p.tasks[0]
		now := p.now()
		if t.at > now {
			return t.at
		}
		heap.Pop(&p.tasks)
		// What was reported meanwhile may have put it off.
		switch at := p.dueAt(t); {
		case at == 0 || at > now:
			p.put(t, at)
		case t.asked == nil && t.live.timed():
			p.serveTime(t.live)
			p.plan(t.live)
		default:
			p.begin(t)
		}
	}
	return 0
}

// begin starts one attempt.
func (p *Pool) begin(t *task) {
	timeout := probeTimeout
	if a := t.asked; a != nil {
		timeout = a.check.Timeout
		a.begin(p)
	}
	ctx, cancel := context.WithTimeout(p.ctx, timeout)
	t.cancel = cancel
	t.live.began = p.now()
	p.running++
	life := t.live.life
	p.wg.Go(func() {
		err := p.ask(ctx, t)
		cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		t.cancel = nil
		if p.running--; p.running == maxRunning-1 {
			poke(p.due) // others may wait for this
		}
		switch {
		case p.ctx.Err() != nil:
		case t.live.life != life, t.asked != nil && !slices.Contains(t.live.asked, t.asked):
			p.plan(t.live) // err says nothing about what is there now
		case t.asked != nil:
			p.judge(t.asked, err)
		default:
			p.record(t.live, err)
			p.plan(t.live)
		}
	})
}

func (p *Pool) ask(ctx context.Context, t *task) error {
	if t.asked != nil {
		return p.cfg.Check(ctx, t.live.Endpoint, t.asked.check.Check)
	}
	return p.cfg.Dial(ctx, t.live.Endpoint, probeTimeout)
}

// plan schedules what is to be done for e now that something has changed.
func (p *Pool) plan(e *Live) {
	p.put(&e.probe, p.dueAt(&e.probe))
	for _, a := range e.asked {
		p.put(&a.task, p.dueAt(&a.task))
	}
}

// dueAt returns when a task is to be done as things are; 0 is never.
func (p *Pool) dueAt(t *task) time.Duration {
	e := t.live
	if len(e.targets) == 0 {
		return 0
	}
	at := time.Duration(0)
	switch {
	case t.asked != nil:
		at = t.asked.next
	case e.timed():
		at = e.until
	}
	if e.Protocol != spec.UDP && t.recovers() {
		at = sooner(at, p.recovery(e, t.asked))
	}
	return at
}

// recovers tells whether the task is what an endpoint is tried again by. Who
// waits for a check to succeed waits for it beside links without one, too, and
// who closes early is let off by time alone.
func (t *task) recovers() bool {
	if t.asked == nil {
		return !t.live.isAsked() && !t.live.timed()
	}
	return t.live.isAsked() || t.asked.verdict == unhealthy
}

func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// isAsked tells whether checks do what probes do for other endpoints: whoever
// has a check has reason not to have connections made that say nothing. A
// MySQL server, for one, refuses hosts that make too many of those.
func (e *Live) isAsked() bool {
	for w := range e.watchers() {
		if w.check == nil {
			return false
		}
	}
	return len(e.asked) > 0
}

// recovery returns when e is to be tried, with that check if there is one, be it
// to see it return. A former primary can be reached all the time: what is waited
// for then is its check.
func (p *Pool) recovery(e *Live, a *asked) time.Duration {
	urgent, down, check := e.attention()
	waits := (e.state != Serving || a != nil && a.verdict == unhealthy) && !e.timed()
	last := max(e.began, time.Duration(e.served.Load()))
	switch {
	case e.isDenied():
		return 0
	case e.doubted:
		return atOnce
	case (!down || !waits) && !check && e.ejection != unreached:
		return 0
	case last == 0:
		return atOnce
	case urgent && waits:
		return last + probeUrgent
	case down && waits, check, last >= e.until: // an attempt after the back-off said nothing
		return last + probeInterval
	}
	return e.until
}

// atOnce is a moment in the past.
const atOnce = time.Duration(1)

func (e *Live) attention() (urgent, down, check bool) {
	for w := range e.watchers() {
		urgent = urgent || w.attention == Urgent
		down = down || w.attention == Down || w.attention == Urgent
		check = check || w.attention == Check
	}
	return urgent, down, check
}
