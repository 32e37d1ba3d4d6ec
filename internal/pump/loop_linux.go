package pump

import (
	"math"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// turnBudget is how many bytes a flow may move in a turn, either way: so a
	// ready flow waits for at most that many of each other one.
	turnBudget = 256 << 10
	// eventBatch is how many events are fetched at a time.
	eventBatch = 256
	// sweepParts is in how many parts a sweep over all flows is done, so that
	// no turn becomes long.
	sweepParts = 16
	// never is a moment that does not come.
	never = math.MaxInt64
)

// watched are the events of a connection. Edge-triggered, a descriptor is
// added once and never changed, and what is not wanted now cannot spin; the
// sides' flags remember what was reported (epoll(7)).
const watched = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET

type loopConfig struct {
	Kernel      kernel
	Budget      *budget // descriptors of the process
	VanishAfter time.Duration
	SweepEvery  time.Duration
	// Elsewhere carries on a flow that a loop cannot: its step has legs with
	// Open. The flow's slot stays taken until done is called.
	Elsewhere func(f *epollFlow, step Step, done func())
}

// waitingTurn is a flow's place in the run queue.
type waitingTurn struct{ id, gen uint32 }

// loop carries flows on one goroutine. Everything in it is that goroutine's
// alone, but for what says otherwise; others post commands.
type loop struct {
	loopConfig
	k       kernel
	now     int64 // of this turn
	slab    slab
	flows   []*epollFlow // by slot; each is used again with it
	timers  timers
	ready   []waitingTurn // flows with something to do, in order
	running []waitingTurn // those of this turn
	events  [eventBatch]unix.EpollEvent
	busy    bool // events are likely to be there already
	turns   uint64

	acceptors map[uint32]*epollAcceptor
	called    []*epollAcceptor // with clients that wait
	retryAt   int64            // when the first acceptor tries again what failed
	buffers   bufferPool
	pipes     pipePool
	attempts  []*attempt // free ones
	sweepAt   int64
	sweepPart uint32
	stopped   bool
	spare     []command // the list that inbox was before, to be used again

	load   atomic.Int32 // flows, also those on their way here
	asleep atomic.Bool  // about to block, or blocking
	mail   atomic.Bool  // there are commands
	mu     sync.Mutex   // guards the following
	inbox  []command
	closed bool // no command is taken any more
}

// command is what another goroutine wants of a loop.
type command struct {
	kind commandKind
	// of a flow
	slot, gen uint32
	err       error
	// of an acceptor
	acceptor *epollAcceptor
	client   accepted
	// anything else
	call func()
}

type commandKind uint8

const (
	commandCall commandKind = iota
	commandWake
	commandCut
	commandAdopt // a client that another loop accepted
	commandAdmit // what an acceptor waited for may be there
)

func newLoop(cfg loopConfig) *loop {
	l := &loop{loopConfig: cfg, k: cfg.Kernel, acceptors: map[uint32]*epollAcceptor{}, retryAt: never}
	l.pipes = pipePool{k: &l.k, fds: cfg.Budget}
	l.now = l.k.now()
	l.sweepAt = l.now
	return l
}

// yieldEvery is a little less than what the scheduler's monitor lets a goroutine
// run without being scheduled anew (forcePreemptNS in runtime/proc.go). One that
// only makes system calls never is: the monitor then interrupts its thread and
// takes its processor away in each wait, every 20 us from then on.
const yieldEvery = 8 * time.Millisecond

// run takes turns until stop is obeyed. It is not locked to its thread: giving
// way would hand the processor to another one and wait to get it back.
func (l *loop) run() {
	yielded := l.now
	for !l.stopped {
		l.turn()
		if l.now-yielded >= int64(yieldEvery) {
			yielded = l.now
			runtime.Gosched()
		}
	}
	l.finish()
}

// turn waits for something to do and does all of it. What events say is noted
// first, for all flows, before any of them moves: so a flow knows of its
// endpoint's close when it looks at its client's bytes.
func (l *loop) turn() {
	n := l.await()
	l.turns++
	l.now = l.k.now()
	l.obey()
	for i := range n {
		l.note(&l.events[i])
	}
	l.fire()
	l.runReady()
	l.acceptCalled()
	l.sweep()
	l.verify()
}

// crowd is how many events at once tell that more are likely to be there
// already when they are handled.
const crowd = 3

// await returns the number of events. While the loop is busy it looks without
// blocking first: that call leaves the scheduler alone. Where it would find
// nothing it is one call too many, so its success decides about the next one.
func (l *loop) await() int {
	timeout := l.timeout()
	if timeout == 0 || l.busy {
		n := l.k.wait(l.events[:], 0)
		l.busy = n > 0
		if n > 0 || timeout == 0 {
			return n
		}
	}
	l.asleep.Store(true)
	defer l.asleep.Store(false)
	if l.mail.Load() {
		return 0
	}
	n := l.k.wait(l.events[:], timeout)
	l.busy = n >= crowd
	return n
}

// timeout is how long the loop may sleep, in milliseconds; -1 is for ever.
func (l *loop) timeout() int {
	if len(l.ready) > 0 || len(l.called) > 0 || l.mail.Load() {
		return 0
	}
	at := int64(never)
	if t, ok := l.timers.next(); ok {
		at = t.at
	}
	if l.slab.used > 0 || len(l.pipes.free) > 1 || len(l.buffers.free) > idleBuffers {
		at = min(at, l.sweepAt)
	}
	if at = min(at, l.retryAt); at == never {
		return -1
	}
	left := max(at-l.k.now(), 0)
	return int(min((left+int64(time.Millisecond)-1)/int64(time.Millisecond), math.MaxInt32))
}

// post hands over a command; false when the loop has stopped. Any goroutine
// may call it.
func (l *loop) post(c command) bool {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	l.inbox = append(l.inbox, c)
	l.mail.Store(true)
	l.mu.Unlock()
	if l.asleep.CompareAndSwap(true, false) {
		l.k.wake()
	}
	return true
}

// do has f called on the loop and waits for it; false when the loop has
// stopped. Not to be called on a loop.
func (l *loop) do(f func()) bool {
	done := make(chan struct{})
	if !l.post(command{kind: commandCall, call: func() { defer close(done); f() }}) {
		return false
	}
	<-done
	return true
}

// mostSpare is how many commands a list may have room for that is used again.
const mostSpare = 1024

func (l *loop) obey() {
	if !l.mail.Load() {
		return
	}
	l.mu.Lock()
	list := l.inbox
	l.inbox, l.spare = l.spare, nil
	l.mail.Store(false)
	l.mu.Unlock()
	for i := range list {
		l.obeyOne(&list[i])
	}
	if cap(list) > mostSpare {
		return // of a burst, whose memory is not kept
	}
	clear(list)
	l.spare = list[:0]
}

func (l *loop) obeyOne(c *command) {
	switch c.kind {
	case commandCall:
		c.call()
	case commandAdopt:
		l.begin(c.acceptor, c.client)
		c.acceptor.introducing.Done()
	case commandAdmit:
		c.acceptor.admitted()
	case commandWake, commandCut:
		if f := l.flow(c.slot, c.gen); f != nil && c.kind == commandWake {
			f.waking.Store(false)
			l.wakeFlow(f)
		} else if f != nil {
			l.cutFlow(f, c.err)
		}
	}
}

// stop makes run return.
func (l *loop) stop() {
	l.post(command{kind: commandCall, call: func() { l.stopped = true }})
}

// finish obeys the last commands, since somebody may wait for them, and ends
// the flows that began after all others were cut.
func (l *loop) finish() {
	l.mu.Lock()
	l.closed = true
	rest := l.inbox
	l.inbox = nil
	l.mu.Unlock()
	for i := range rest {
		l.obeyOne(&rest[i])
	}
	l.cutAll(os.ErrClosed)
}

// flow returns the one that a command or an event is for; nil when that has
// ended.
func (l *loop) flow(id, gen uint32) *epollFlow {
	if id >= uint32(len(l.flows)) || l.flows[id] == nil || l.flows[id].s.gen.Load() != gen || l.flows[id].s.phase == phaseFree {
		return nil
	}
	return l.flows[id]
}

// Keys of what is no flow.
const (
	wakeSlot   = noSlot // the eventfd
	acceptSlot = noSlot - 1
)

// note remembers what an event says.
func (l *loop) note(e *unix.EpollEvent) {
	key := keyOf(e)
	switch key.slot {
	case wakeSlot:
		return
	case acceptSlot:
		l.call(key.gen)
		return
	}
	f := l.flow(key.slot, key.gen)
	if f == nil {
		return // it ended earlier in this batch
	}
	switch {
	case key.tag == f.s.side[client].tag:
		f.s.side[client].note(e.Events)
	case f.s.side[endpoint].fd != none && key.tag == f.s.side[endpoint].tag:
		f.s.side[endpoint].note(e.Events)
	case f.attempt == nil || !f.attempt.note(key.tag, e.Events):
		return // of a leg that was given up
	}
	l.enqueue(f)
}

func (s *sideState) note(events uint32) {
	if events&unix.EPOLLIN != 0 {
		s.set(readable)
	}
	if events&unix.EPOLLOUT != 0 {
		s.set(writable)
	}
	if events&unix.EPOLLPRI != 0 {
		s.set(urgent)
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 {
		s.set(readable | finished)
	}
	if events&unix.EPOLLERR != 0 {
		s.set(readable | writable | finished | failed)
	}
}

// enqueue has the flow run, once, this turn or the next.
func (l *loop) enqueue(f *epollFlow) {
	if !f.s.has(queued) {
		f.s.set(queued)
		l.ready = append(l.ready, waitingTurn{f.id, f.s.gen.Load()})
	}
}

// runReady runs every flow that has something to do, once. A flow that wants
// more is behind all others then.
func (l *loop) runReady() {
	l.running, l.ready = l.ready, l.running[:0]
	for _, t := range l.running {
		f := l.flow(t.id, t.gen)
		if f == nil || !f.s.has(queued) {
			continue // it ended, and its slot may be another's
		}
		f.s.clear(queued)
		l.runFlow(f)
	}
}

func (l *loop) runFlow(f *epollFlow) {
	switch f.s.phase {
	case phaseParked:
		l.lookParked(f)
	case phasePreface:
		l.lookPreface(f)
	case phaseConnecting:
		l.lookLegs(f)
	case phaseOpen, phaseBreaking:
		l.relay(f)
	case phaseDelivering:
		if l.noticeErrors(f); f.s.phase == phaseDelivering {
			l.lookDelivered(f)
		} else if f.s.phase == phaseBreaking {
			l.relay(f)
		}
	case phaseLingering:
		l.discard(f)
	case phaseParting:
		l.lookParting(f)
	case phaseFree, phaseAsking, phaseDraining, phaseElsewhere:
		// Nothing that an event could change.
	}
}

// fire runs the flows whose moment has come.
func (l *loop) fire() {
	for {
		t, ok := l.timers.next()
		if !ok || t.at > l.now {
			return
		}
		l.timers.clear(&l.slab, t.id)
		l.expire(l.flows[t.id])
	}
}

func (l *loop) expire(f *epollFlow) {
	switch f.s.phase {
	case phaseParked:
		l.ask(f, Attempt{Kind: Expired})
	case phasePreface:
		l.badPreface(f, os.ErrDeadlineExceeded)
	case phaseConnecting:
		l.lookLegs(f)
	case phaseOpen:
		f.s.clear(settling)
		l.enqueue(f)
	case phaseDelivering:
		l.lookDelivered(f)
	case phaseBreaking:
		l.drain(f)
	case phaseDraining:
		l.lookDrained(f)
	case phaseLingering:
		l.end(f, f.asAsked())
	case phaseParting:
		if l.now >= f.s.since+int64(lingerTime) {
			l.endParting(f)
		} else {
			l.lookParting(f)
		}
	case phaseFree, phaseAsking, phaseElsewhere:
	}
}

// at sets when the flow is looked at again if nothing happens before.
func (l *loop) at(f *epollFlow, moment int64) {
	if moment == never {
		l.timers.clear(&l.slab, f.id)
		return
	}
	l.timers.set(&l.slab, f.id, moment)
}

// sweep looks, part after part, for peers whose host fell silent while
// something waits for their acknowledgement; see isSilent. It also gives back
// the memory of buffers that a burst needed.
func (l *loop) sweep() {
	if l.now < l.sweepAt {
		return
	}
	l.sweepAt = l.now + int64(l.SweepEvery)/sweepParts
	l.buffers.trim()
	l.pipes.trim()
	l.sweepPart = (l.sweepPart + 1) % sweepParts
	for id := l.sweepPart; id < uint32(len(l.flows)); id += sweepParts {
		f := l.flows[id]
		if f == nil || f.s.phase != phaseOpen && f.s.phase != phaseDelivering {
			continue
		}
		l.tend(&f.s.side[endpoint])
		if !l.vanished(f, client) {
			l.vanished(f, endpoint)
		}
	}
}

// vanished breaks a side that will never say so itself.
func (l *loop) vanished(f *epollFlow, which uint8) bool {
	p := &f.s.side[which]
	if !p.has(plainTCP) || !p.has(unanswered) {
		return false
	}
	if l.k.undelivered(int(p.fd)) == 0 {
		p.clear(unanswered)
		return false
	}
	if !l.k.silent(int(p.fd), l.VanishAfter) {
		return false
	}
	l.breakSide(f, which, errVanished)
	return true
}

// tend has a side probed while it is silent, and bounds what waits in it: once
// it has lived for a sweep, has much to carry or is stalled. Most connections
// end before.
func (l *loop) tend(p *sideState) {
	if p.has(plainTCP) && !p.has(tended) {
		p.set(tended)
		l.k.tend(int(p.fd))
	}
}
