package pump

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ends are both of our ends of an established flow, the client's first.
func (f *simFlow) ends() [2]*simEnd {
	if f.way == nil {
		return [2]*simEnd{f.client, nil}
	}
	return [2]*simEnd{f.client, f.way.ours}
}

// payload is how many bytes of the other side's stream were written to an end.
func (e *simEnd) payload() int64 { return max(e.written-int64(len(e.out.prefix)), 0) }

func (f *simFlow) checkCounters(r Result) {
	var want Counters
	if f.way != nil {
		want = Counters{In: uint64(f.way.ours.payload()), Out: uint64(f.client.payload())}
	}
	if r.Counters != want {
		f.w.fail("counters", "%s: counted %+v, written %+v", f.name, r.Counters, want)
	}
}

// carried is how many bytes were read to be passed on.
func (e *simEnd) carried() int64 { return e.position - e.skipped }

// dead tells whether the kernel knows that a connection was broken.
func (e *simEnd) dead() bool {
	return e != nil && (e.reset || e.err != 0 || e.died || e.unix && e.other.orphan)
}

// broken tells whether the loop was told, or can see, that it is.
func (e *simEnd) broken() bool { return e.reset || e.err != 0 || e.died }

// checkDone tells whether the end of a flow is what became of its connections.
func (f *simFlow) checkDone(r Result) {
	w := f.w
	bad := func(why string) { w.fail("cause", "%s: %s (%v) when %v: %s", f.name, r.Cause, r.Err, f.phase, why) }
	ends := f.ends()
	for _, e := range ends {
		if e != nil && e.file != nil {
			bad("descriptor of " + e.name + " is open")
		}
	}
	c, s := ends[client], ends[endpoint]
	switch r.Cause {
	case CauseEOF:
		if f.phase != simOpen || !c.rcvFF || !s.rcvFF {
			bad("not both sides have finished")
		}
	case CauseClientReset:
		if f.phase != simOpen || !c.dead() {
			bad("the client has not broken")
		}
		f.checkReset(s, bad)
	case CauseEndpointReset:
		if f.phase != simOpen || !s.dead() {
			bad("the endpoint has not broken")
		}
		f.checkReset(c, bad)
	case CauseAbandoned:
		broken := c.reset || c.died || c.unix && c.other.orphan
		if !broken && (f.phase != simParked || !c.rcvFF || c.unreadAtClose > 0) || f.phase != simParked && f.phase != simPrefacing {
			bad("the client has not left")
		}
	case CausePeerVanished:
		if c.other.goneAt == 0 && (s == nil || s.other.goneAt == 0) {
			bad("nobody has vanished")
		}
	case CauseEnded:
		if f.phase != simGivenUp || !errors.Is(r.Err, f.step.End) {
			bad("the handler did not end it so")
		}
	case CauseCut:
		if errors.Is(r.Err, io.EOF) {
			f.checkParted(bad)
			break
		}
		if (f.cutErr == nil || !errors.Is(r.Err, f.cutErr)) && !f.freezes && (w.cutAll == 0 || !errors.Is(r.Err, os.ErrClosed)) {
			bad("nobody cut it so")
		}
		f.checkReset(c, bad)
		f.checkReset(s, bad)
	default:
		bad("that is no cause")
	}
	if d := time.Duration(w.now - int64(r.Started.Sub(simStart()))); r.Duration != d && f.moves == 0 && (r.Duration > d || d-r.Duration > 2*simTick) {
		bad("it lasted " + d.String() + " and not " + r.Duration.String())
	}
}

// checkReset wants the other side of a broken flow to be reset.
func (f *simFlow) checkReset(e *simEnd, bad func(string)) {
	if e != nil && !e.unix && !e.closedByReset {
		bad(e.name + " was closed in order")
	}
}

// opposite is the end whose bytes are written to e.
func (f *simFlow) opposite(e *simEnd) *simEnd {
	ends := f.ends()
	if e == ends[client] {
		return ends[endpoint]
	}
	return ends[client]
}

// checkEnd is asked when FIN is about to be said on e: only after the FIN of
// the other side, and after all that it sent.
func (w *simWorld) checkEnd(e *simEnd) {
	f := e.flow
	if f.phase != simOpen {
		return
	}
	src := f.opposite(e)
	switch {
	case src == nil || src == e || e.sndShut || e.dead():
	case f.partedAt != never:
		f.checkLast(e, src)
		return
	case !src.rcvFF:
		w.fail("fin", "FIN is said to %s, but %s has sent none (reset: %v)", e.name, src.name, src.reset)
	case src.queue > 0 || e.payload() != src.carried():
		w.fail("fin", "FIN is said to %s after %d bytes; %s has sent %d, of which %d are unread", e.name, e.payload(), src.name, src.carried()+int64(src.queue), src.queue)
	}
	if e == f.client && src != nil {
		f.checkMissedRetry()
	}
}

// checkMissedRetry is asked when the endpoint's end is passed on: had it closed
// early, the handler should have been asked.
func (f *simFlow) checkMissedRetry() {
	y := f.way
	if f.moves == 0 && f.decision.retry && f.w.now-f.openAt < int64(EarlyClose) && y.ours.position == 0 && y.ours.queue == 0 && y.ours.payload() == 0 &&
		f.client.carried() == 0 && f.client.queue == 0 && !f.client.rcvShut {
		f.w.fail("retry", "%s: the end of an endpoint that closed early is passed on", f.name)
	}
}

// closing is asked when the loop closes one of its ends.
func (w *simWorld) closing(e *simEnd, reset bool) {
	f := e.flow
	e.closedByReset = reset
	e.unreadAtClose = e.queue
	if reset {
		f.checkGrace(e)
	}
	if f.phase == simComing && reset && e.unwatched {
		f.phase = simDone // it could not be watched
		return
	}
	if f.partedAt != never {
		return // checkParted looks at it
	}
	if f.phase != simOpen || reset || f.opposite(e) == nil {
		if f.phase == simGivenUp && !reset && e.queue > 0 && w.now < f.stepAt+int64(lingerTime-simTick) && !e.dead() {
			w.fail("close", "%s is closed with %d bytes unread", e.name, e.queue)
		}
		return
	}
	y := f.way
	early := y != nil && e == y.ours && f.decision.retry && e.position == 0 && e.payload() == 0 && f.client.written == 0 && f.client.carried() == 0
	if early || e.dead() || f.opposite(e).dead() {
		return
	}
	w.checkEnd(e)
	if e.queue > 0 {
		w.fail("close", "%s is closed with %d bytes unread", e.name, e.queue)
	}
	if n := e.flight; n > 0 && !e.gone {
		w.fail("close", "%s is closed with %d bytes not delivered", e.name, n)
	}
}

// ate and noted by every read: an end whose error was reported is broken.
func (e *simEnd) ate(n int, errno unix.Errno) {
	if errno != 0 && errno != unix.EAGAIN {
		e.dies()
	}
}

// dies notes when an end was first known to be broken.
func (e *simEnd) dies() {
	if !e.died {
		e.died, e.diedAt = true, e.w.now
	}
}

// checkGrace is asked when an end is reset because the other side broke: what
// that had sent before has a second to arrive.
func (f *simFlow) checkGrace(e *simEnd) {
	w, src := f.w, f.opposite(e)
	if f.phase != simOpen || src == nil || e.dead() || !src.broken() || f.cutErr != nil || f.freezes || w.cutAll > 0 || e.gone || src.gone || e.other.orphan {
		return
	}
	if w.now > max(src.resetAt, src.diedAt, f.openAt)+int64(lingerTime-simTick)-w.longestTurn {
		return
	}
	held := src.carried() + int64(len(e.out.prefix)) - e.written
	unread := max(src.queue, src.unreadAtClose)
	if n := e.flight; !e.unix && n > 0 || held > 0 || unread > 0 {
		w.fail("grace", "%s is reset with %d bytes not delivered, %d held and %d unread", e.name, e.flight, held, unread)
	}
}

// checkTurn is asked when a leg is dialled: its turn comes when the one before
// has failed, or after the stagger, and never after the deadline.
func (f *simFlow) checkTurn(y *simWay) {
	w := f.w
	if f.decision.deadline > 0 && w.epolls[f.loop].slept > f.stepAt+int64(f.decision.deadline) {
		w.fail("legs", "%s is dialled after the deadline", y.name)
	}
	var last *simWay
	for i, o := range f.decision.ways {
		if o == y {
			break
		}
		if f.step.Dial[i].Refuse != nil || o.ours == nil || o.ours.file == nil {
			return // one has failed; which turn that gave is not told
		}
		last = o
	}
	if last != nil && (f.decision.stagger == 0 || w.now < last.dialledAt+int64(f.decision.stagger-simTick)) {
		w.fail("legs", "%s is dialled while %s is under way", y.name, last.name)
	}
}

// onServed is called when a loop moves bytes of an end.
func (w *simWorld) onServed(e *simEnd) {
	if e.flow != nil {
		e.flow.served = true
	}
}

// onRead counts what a flow may have at the cost of others.
func (w *simWorld) onRead(e *simEnd, n int) {
	if e.turn != w.turn {
		e.turn, e.turnBytes = w.turn, 0
	}
	// Reads of whole buffers may exceed the budget: the last one, and that of an
	// endpoint whose first word was waited for.
	if e.turnBytes += n; e.turnBytes > turnBudget+2*bufferSize {
		w.fail("fair", "%d bytes of %s are read in one turn", e.turnBytes, e.name)
	}
}

// checkAsleep is asked when a loop is about to sleep with nothing to look at:
// whatever could move now was lost.
func (w *simWorld) checkAsleep(loop int) {
	for _, f := range w.flows {
		if f.loop != loop || !f.accepted || f.phase == simDone || f.phase == simFrozen {
			continue
		}
		f.checkWaiting()
	}
}

func (f *simFlow) checkWaiting() {
	w := f.w
	lost := func(format string, args ...any) { w.fail("lost", f.name+" ("+f.phase.String()+"): "+format, args...) }
	if f.cutErr != nil && !f.cutGently() && w.now > f.cutAt+int64(simTick) {
		lost("it was cut %v ago", time.Duration(w.now-f.cutAt))
	}
	c := f.client
	if f.partedAt != never {
		f.checkParting(lost)
		return
	}
	switch f.phase {
	case simPrefacing:
		f.checkPrefacing(lost)
	case simParked:
		switch {
		case f.wakes > f.answered:
			lost("a wake is not answered")
		case c.err != 0:
			lost("the client was reset")
		case c.rcvShut && c.queue == 0:
			lost("the client has left")
		case w.now > f.until+int64(simTick):
			lost("it is parked too long")
		}
	case simConnecting:
		f.checkConnecting(lost)
	case simOpen:
		f.checkOpen(lost)
	case simGivenUp:
		if w.now > f.stepAt+int64(lingerTime+simTick) {
			lost("it was given up %v ago", time.Duration(w.now-f.stepAt))
		}
		if errors.Is(f.step.End, io.EOF) && (c.rcvShut && c.queue == 0) {
			lost("it was given up, and the client has left")
		}
	}
}

func (f *simFlow) checkConnecting(lost func(string, ...any)) {
	w := f.w
	if f.decision.deadline > 0 && w.now > f.stepAt+int64(f.decision.deadline+simTick) {
		lost("the deadline was %v ago", time.Duration(w.now-f.stepAt)-f.decision.deadline)
	}
	pending := 0
	for i, y := range f.decision.ways {
		if y.ours == nil || y.ours.file == nil {
			continue
		}
		pending++
		switch {
		case y.connected:
			lost("leg %d is connected", i)
		case y.ours.err != 0:
			lost("leg %d has failed", i)
		case f.step.Dial[i].Timeout > 0 && w.now > y.dialledAt+int64(f.step.Dial[i].Timeout+simTick):
			lost("leg %d is past its time-out", i)
		}
	}
	if pending == 0 {
		lost("no leg is under way")
	}
}

func (f *simFlow) checkOpen(lost func(string, ...any)) {
	w := f.w
	ends := f.ends()
	c, s := ends[client], ends[endpoint]
	for _, e := range ends {
		if e.gone && !e.closed && e.outstanding() > 0 && w.now > max(e.goneAt, e.sentAt)+int64(simVanishAfter+2*simSweep) {
			lost("the host of %s has vanished", e.name)
		}
	}
	if c.dead() || s.dead() {
		if f.troubleAt == never && (c.broken() || s.broken()) {
			f.troubleAt = max(w.now, f.openAt+int64(f.decision.settle))
		}
		if f.troubleAt != never && w.now > f.troubleAt+int64(lingerTime+4*simTick) {
			lost("a side broke %v ago", time.Duration(w.now-f.troubleAt))
		}
		return
	}
	settling := f.moves == 0 && f.decision.settle > 0 && w.now < f.openAt+int64(f.decision.settle+simTick)
	for i := range ends {
		src, dst := ends[i], ends[1-i]
		if i == client && settling {
			continue
		}
		held := src.carried() + int64(len(dst.out.prefix)) - dst.written
		switch {
		case dst.sndShut && !dst.unix:
		case (src.queue > 0 || held > 0) && dst.spacious() && dst.free() > 0:
			lost("%s has %d bytes unread, %d are held, and there is room", src.name, src.queue, held)
		case src.queue == 0 && held == 0 && src.rcvFF && !dst.sndShut:
			lost("%s has finished, and %s was not told", src.name, dst.name)
		}
	}
	if c.sndShut && s.sndShut && c.rcvFF && s.rcvFF && c.flight == 0 && s.flight == 0 {
		if f.bothAt == never {
			f.bothAt = w.now
		}
		if w.now > f.bothAt+int64(time.Second+simTick) {
			lost("both sides finished %v ago", time.Duration(w.now-f.bothAt))
		}
	}
}
