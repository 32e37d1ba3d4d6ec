package pump

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// attempt is the legs of one step while they are under way.
type attempt struct {
	step      Step
	legs      []legState
	next      int   // the leg that has not had its turn
	pending   int   // legs under way
	staggerAt int64 // when the next leg starts though none has failed
}

// legState is one leg under way; fd is none before and after.
type legState struct {
	fd       int
	tag      uint8
	events   uint32 // not yet looked at
	started  int64
	deadline int64
}

// note tells whether the events are of a leg that is under way.
func (a *attempt) note(tag uint8, events uint32) bool {
	for i := range a.legs {
		if leg := &a.legs[i]; leg.fd != none && leg.tag == tag {
			leg.events |= events
			return true
		}
	}
	return false
}

func (l *loop) takeAttempt(step Step) *attempt {
	var a *attempt
	if last := len(l.attempts) - 1; last >= 0 {
		a, l.attempts = l.attempts[last], l.attempts[:last]
	} else {
		a = &attempt{}
	}
	a.step, a.next, a.pending, a.staggerAt = step, 0, 0, never
	a.legs = a.legs[:0]
	for i := range step.Dial {
		step.Dial[i].Err = ErrNotTried
		a.legs = append(a.legs, legState{fd: none})
	}
	return a
}

func (l *loop) putAttempt(f *epollFlow) {
	a := f.attempt
	f.attempt = nil
	a.step = Step{}
	l.attempts = append(l.attempts, a)
}

// ask has the handler say what to do, and does it; what fails at once is asked
// about at once.
func (l *loop) ask(f *epollFlow, last Attempt) {
	for {
		l.at(f, never)
		f.s.phase = phaseAsking
		step := f.h.Next(&f.Flow, last)
		switch {
		case step.End != nil:
			l.giveUp(f, step.End)
			return
		case step.Preface != nil:
			l.awaitPreface(f, step.Preface)
			return
		case len(step.Dial) == 0:
			if !f.s.has(woken) {
				l.park(f, step.Park)
				return
			}
			f.s.clear(woken)
			last = Attempt{Kind: Woken}
		case opens(step):
			l.handOver(f, step)
			return
		default:
			if l.dial(f, step) {
				return
			}
			last = Attempt{Kind: DialFailed}
		}
	}
}

// opens tells whether some leg wants a connection that is no socket of ours.
func opens(step Step) bool {
	for i := range step.Dial {
		if step.Dial[i].Open != nil {
			return true
		}
	}
	return false
}

// handOver gives the flow to the net engine, whose clients are net.Conns.
func (l *loop) handOver(f *epollFlow, step Step) {
	l.k.unwatch(int(f.s.side[client].fd))
	f.s.phase = phaseElsewhere
	id, gen := f.id, f.s.gen.Load()
	l.Elsewhere(f, step, func() {
		l.post(command{kind: commandCall, call: func() {
			if f := l.flow(id, gen); f != nil {
				l.forget(f)
			}
		}})
	})
}

// park waits without reading: the client's bytes stay in the kernel.
func (l *loop) park(f *epollFlow, until time.Time) {
	f.s.phase = phaseParked
	l.at(f, max(l.moment(until), l.now+1)) // not in this turn, which then might not end
	if f.s.side[client].has(finished | failed) {
		l.enqueue(f)
	}
}

func (l *loop) moment(t time.Time) int64 { return int64(t.Sub(l.k.start)) }

// lookParked finds out whether the client has given up: it was reset, or said
// FIN without leaving anything to be served. One that sent its request and
// closed its sending side still wants the answer.
func (l *loop) lookParked(f *epollFlow) {
	c := &f.s.side[client]
	switch {
	case c.has(failed):
		l.end(f, ending{cause: CauseAbandoned, err: l.errorOf(c), reset: true})
	case c.has(finished) && l.k.unread(int(c.fd)) == 0:
		l.end(f, ending{cause: CauseAbandoned, reset: true})
	}
}

// dial starts the legs; false when every one has failed already.
func (l *loop) dial(f *epollFlow, step Step) bool {
	f.attempt = l.takeAttempt(step)
	f.s.phase = phaseConnecting
	f.s.deadline = never
	if !step.Deadline.IsZero() {
		f.s.deadline = l.moment(step.Deadline)
	}
	l.startLegs(f)
	return l.wonOrPending(f)
}

// wonOrPending tells whether legs are under way, or one has won; else it ends
// the attempt.
func (l *loop) wonOrPending(f *epollFlow) bool {
	switch {
	case f.s.phase != phaseConnecting:
		return true
	case f.attempt.pending > 0:
		l.at(f, f.attempt.nextMoment(f.s.deadline))
		return true
	}
	l.putAttempt(f)
	return false
}

func (a *attempt) nextMoment(deadline int64) int64 {
	at := deadline
	if a.next < len(a.legs) {
		at = min(at, a.staggerAt)
	}
	for i := range a.legs {
		if a.legs[i].fd != none {
			at = min(at, a.legs[i].deadline)
		}
	}
	return at
}

// startLegs gives legs their turn until one is under way.
func (l *loop) startLegs(f *epollFlow) {
	a := f.attempt
	for a.next < len(a.legs) && l.now < f.s.deadline {
		i := a.next
		a.next++
		leg := &a.step.Dial[i]
		done, err := l.startLeg(f, i)
		if leg.Err = err; err != nil {
			continue
		}
		a.pending++
		a.staggerAt = never
		if a.step.Stagger > 0 {
			a.staggerAt = l.now + int64(a.step.Stagger)
		}
		if !done || l.legConnected(f, i) {
			return
		}
	}
}

// startLeg starts one connect; done says that it has succeeded already.
func (l *loop) startLeg(f *epollFlow, i int) (done bool, err error) {
	leg, state := &f.attempt.step.Dial[i], &f.attempt.legs[i]
	if leg.Refuse != nil {
		leg.begin()
		return false, leg.Refuse
	}
	own, err := leg.ownSocket()
	if err != nil {
		leg.begin()
		return false, err
	}
	fd, errno := l.k.dial(leg, own)
	leg.begin()
	if errno != 0 && errno != unix.EINPROGRESS {
		return false, os.NewSyscallError("connect", errno)
	}
	f.s.tags = f.s.tags%255 + 1
	*state = legState{fd: fd, tag: f.s.tags, started: l.now, deadline: never}
	if leg.Timeout > 0 {
		state.deadline = l.now + int64(leg.Timeout)
	}
	// After the connect: a socket without one reports a hang-up.
	if watchErr := l.k.watch(fd, watched, eventKey{slot: f.id, tag: state.tag, gen: f.s.gen.Load()}); watchErr != 0 {
		l.k.abort(fd)
		state.fd = none
		return false, os.NewSyscallError("epoll_ctl", watchErr)
	}
	return errno == 0, nil
}

// lookLegs looks at what became of the legs under way.
func (l *loop) lookLegs(f *epollFlow) {
	a := f.attempt
	lost := false
	for i := range a.legs {
		if a.legs[i].fd == none {
			continue
		}
		connected, err := l.lookLeg(f, i)
		switch {
		case err != nil:
			l.loseLeg(f, i, err)
			lost = true
		case connected && l.legConnected(f, i):
			return
		case connected:
			lost = true
		}
	}
	if lost || a.pending == 0 || l.now >= a.staggerAt {
		l.startLegs(f)
	}
	if !l.wonOrPending(f) {
		l.ask(f, Attempt{Kind: DialFailed})
	}
}

func (l *loop) lookLeg(f *epollFlow, i int) (connected bool, err error) {
	leg := &f.attempt.legs[i]
	events := leg.events
	leg.events = 0
	switch {
	case events&(unix.EPOLLERR|unix.EPOLLHUP) != 0:
		if errno := l.k.takeError(leg.fd); errno != 0 {
			return false, os.NewSyscallError("connect", errno)
		}
		leg.events = events &^ unix.EPOLLERR // connected, and over already
		return true, nil
	case events&unix.EPOLLOUT != 0:
		leg.events = events
		return true, nil
	case l.now >= min(leg.deadline, f.s.deadline):
		took := time.Duration(l.now - leg.started).Round(10 * time.Millisecond)
		return false, fmt.Errorf("connect: no answer within %v: %w", took, os.ErrDeadlineExceeded)
	}
	return false, nil
}

func (l *loop) loseLeg(f *epollFlow, i int, err error) {
	leg := &f.attempt.legs[i]
	l.k.close(leg.fd)
	leg.fd = none
	f.attempt.pending--
	f.attempt.step.Dial[i].Err = err
}

// legConnected makes leg i the flow's endpoint; false when that cannot be.
func (l *loop) legConnected(f *epollFlow, i int) bool {
	a := f.attempt
	leg, state := &a.step.Dial[i], &a.legs[i]
	if l.k.meetsItself(state.fd, leg) {
		l.loseLeg(f, i, ErrSelfConnect)
		return false
	}
	e := &f.s.side[endpoint]
	e.reset()
	e.fd, e.tag = int32(state.fd), state.tag
	e.set(writable)
	e.note(state.events)
	if leg.Network == TCP {
		e.set(plainTCP)
	}
	if errno := l.writePrefix(f, leg.Prefix); errno != 0 {
		e.fd = none
		l.loseLeg(f, i, fmt.Errorf("write prefix: %w", os.NewSyscallError("write", errno)))
		return false
	}
	state.fd = none
	a.pending--
	l.dropLegs(f, ErrOvertaken)
	leg.Err = nil
	l.open(f, i)
	return true
}

// dropLegs closes the legs that are under way.
func (l *loop) dropLegs(f *epollFlow, why error) {
	for i := range f.attempt.legs {
		if f.attempt.legs[i].fd != none {
			l.loseLeg(f, i, why)
		}
	}
}

// open begins to move bytes.
func (l *loop) open(f *epollFlow, leg int) {
	s, step := f.s, &f.attempt.step
	s.phase = phaseOpen
	s.since = l.now
	s.leg = uint16(leg)
	s.clear(gated | settling | early)
	s.set(fresh)
	l.at(f, never)
	if step.Retry {
		s.set(gated)
	}
	if step.Settle > 0 {
		s.set(settling)
		l.at(f, l.now+int64(step.Settle))
	}
	l.putAttempt(f)
	f.h.Connected(&f.Flow, leg)
	l.enqueue(f)
}

// writePrefix keeps what the socket does not take: it goes before the client's
// bytes.
func (l *loop) writePrefix(f *epollFlow, prefix []byte) unix.Errno {
	if len(prefix) == 0 {
		return 0
	}
	e, c := &f.s.side[endpoint], &f.s.side[client]
	n, errno := l.k.write(int(e.fd), prefix)
	if errno != 0 && errno != unix.EAGAIN {
		return errno
	}
	e.set(unanswered)
	rest := prefix[n:]
	if len(rest) > bufferSize {
		return unix.EMSGSIZE
	}
	if len(rest) > 0 {
		e.clear(writable)
		c.buffer = l.buffers.take()
		c.from, c.held = 0, int32(copy(l.buffers.at(c.buffer), rest))
		f.prefix = c.held
	}
	return 0
}

// errorOf takes a side's pending error.
func (l *loop) errorOf(p *sideState) error {
	p.clear(failed)
	return broke(l.k.takeError(int(p.fd)))
}

// broke is what an errno of an established connection means: the kernel's
// verdict that the peer's host is gone, or a reset.
func broke(errno unix.Errno) error {
	if vanished(errno) {
		return errno
	}
	return ErrReset
}
