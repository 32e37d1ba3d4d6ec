package pump

import (
	"errors"
	"io"
	"net/netip"
	"time"
)

// nothingComes tells whether the side that broke has no more to give, or the
// other nothing to take it with.
func (l *loop) nothingComes(f *epollFlow) bool {
	src := &f.s.side[f.s.brokeSide]
	return src.held == 0 && len(f.backlog[f.s.brokeSide]) == 0 && (src.has(ended) || f.s.has(vanish) || f.s.side[1-f.s.brokeSide].has(broken))
}

// breakSide begins the end of a flow one of whose sides was reset or vanished.
// What that side had sent before may still be delivered for a second; the other
// direction has nowhere to go.
func (l *loop) breakSide(f *epollFlow, which uint8, err error) {
	s := f.s
	p, other := &s.side[which], &s.side[1-which]
	if s.phase == phaseParting {
		l.losePart(f, which)
		return
	}
	if which == endpoint {
		l.noteEnd(f)
	}
	p.set(broken | readable)
	p.clear(failed)
	l.letGo(other)
	f.backlog[1-which] = nil
	other.clear(streaming)
	if s.phase == phaseBreaking {
		return // the first to break is the cause
	}
	s.phase, s.brokeSide, s.since = phaseBreaking, which, l.now
	s.clear(gated | settling)
	f.err = err
	if vanished(err) || errors.Is(err, errVanished) {
		s.set(vanish)
	}
	if p.has(ended) {
		p.set(passed) // whatever was said to the other side, a reset follows
	}
	l.at(f, l.now+int64(lingerTime))
	l.enqueue(f)
}

// drain waits, at most until a second has passed since the break, for the
// other side to acknowledge what was written: an abort throws away what is
// queued (SO_LINGER, socket(7)).
func (l *loop) drain(f *epollFlow) {
	f.s.phase, f.s.pause = phaseDraining, 1
	l.lookDrained(f)
}

func (l *loop) lookDrained(f *epollFlow) {
	const longest = 20 // milliseconds
	s := f.s
	other := &s.side[1-s.brokeSide]
	until := s.since + int64(lingerTime)
	if l.now >= until || !other.has(plainTCP) || other.has(broken) || l.k.undelivered(int(other.fd)) == 0 {
		l.end(f, ending{cause: f.brokeCause(), err: f.err, reset: true})
		return
	}
	l.again(f, longest, until)
}

// again looks once more after a pause that doubles: nothing reports that a
// queue has become empty.
func (l *loop) again(f *epollFlow, longest int32, until int64) {
	l.at(f, min(l.now+int64(f.s.pause)*int64(time.Millisecond), until))
	f.s.pause = min(2*f.s.pause, longest)
}

func (f *epollFlow) brokeCause() Cause {
	switch {
	case f.s.has(vanish):
		return CausePeerVanished
	case f.s.brokeSide == client:
		return CauseClientReset
	}
	return CauseEndpointReset
}

// allDelivered tells whether each side has acknowledged everything but our
// FIN. On a unix socket what was written has arrived.
func (l *loop) allDelivered(f *epollFlow) bool {
	for i := range f.s.side {
		p, fin := &f.s.side[i], 0
		if f.s.side[1-i].has(passed) {
			fin = 1
		}
		if p.has(plainTCP) && l.k.undelivered(int(p.fd)) > fin {
			return false
		}
	}
	return true
}

// lookDelivered ends a flow whose sides have both finished once they have taken
// all that was written to them, however long that is: of a closed socket the
// kernel throws the rest away when the reader has stopped for minutes
// (tcp_probe_timer in net/ipv4/tcp_timer.c).
func (l *loop) lookDelivered(f *epollFlow) {
	const longest = 1000 // milliseconds
	if l.allDelivered(f) {
		l.endDelivered(f)
		return
	}
	l.again(f, longest, never)
}

// endDelivered ends a flow whose queues are empty, unless it is a reset that has
// emptied them: no event may have reported it yet.
func (l *loop) endDelivered(f *epollFlow) {
	for i := range f.s.side {
		if p := &f.s.side[i]; p.has(plainTCP) {
			p.set(failed)
		}
	}
	if l.noticeErrors(f); f.s.phase != phaseBreaking {
		l.end(f, ending{cause: CauseEOF})
	}
}

// giveUp ends a flow as the handler wants it.
func (l *loop) giveUp(f *epollFlow, err error) {
	f.err = err
	c := &f.s.side[client]
	if !errors.Is(err, io.EOF) {
		l.end(f, ending{cause: CauseEnded, err: err, reset: true})
		return
	}
	if l.k.shut(int(c.fd)) != 0 {
		l.end(f, f.asAsked())
		return
	}
	// Closing with unread input would send RST and drop what we sent
	// (RFC 2525, 2.17).
	f.s.phase = phaseLingering
	c.set(readable)
	l.at(f, l.now+int64(lingerTime))
	l.enqueue(f)
}

// asAsked is the orderly end of a flow that the handler or a cut wanted.
func (f *epollFlow) asAsked() ending {
	if f.s.has(parted) {
		return ending{cause: CauseCut, err: f.err}
	}
	return ending{cause: CauseEnded, err: f.err}
}

// discard reads to the client's end, a budget at a time.
func (l *loop) discard(f *epollFlow) {
	c := &f.s.side[client]
	for left := turnBudget; left > 0; {
		n, errno := l.read(c)
		l.letGo(c)
		switch {
		case c.has(ended) || errno != 0 && c.has(readable):
			l.end(f, f.asAsked())
			return
		case !c.has(readable):
			return
		}
		left -= n
	}
	l.enqueue(f)
}

// ending is how a flow ends.
type ending struct {
	cause Cause
	err   error
	reset bool // the sockets, instead of closing them in order
}

// end closes what the flow has, reports it and gives its slot back.
func (l *loop) end(f *epollFlow, e ending) {
	if f.attempt != nil {
		l.dropLegs(f, ErrNotTried)
		l.putAttempt(f)
	}
	l.closeSides(f, e.reset)
	l.report(f, e)
}

// closeSides closes the sockets, with RST where they are to be reset, and
// drops what is held from them.
func (l *loop) closeSides(f *epollFlow, reset bool) {
	for i := range f.s.side {
		p := &f.s.side[i]
		l.letGo(p)
		switch {
		case p.fd == none:
			continue
		case reset:
			l.k.abort(int(p.fd))
		default:
			l.k.close(int(p.fd))
		}
		p.fd = none
	}
}

func (l *loop) report(f *epollFlow, e ending) {
	l.giveBack(f)
	started := l.k.start.Add(time.Duration(f.s.started))
	f.h.Done(&f.Flow, Result{Cause: e.cause, Err: e.err, Early: f.s.has(early), Counters: f.counters(), Started: started, Duration: time.Duration(l.now - f.s.started)})
	l.forget(f)
}

func (l *loop) giveBack(f *epollFlow) {
	if f.acceptor != nil {
		f.acceptor.release()
	} else {
		l.Budget.release(2)
	}
}

// forget makes the slot free; whoever still names it is late.
func (l *loop) forget(f *epollFlow) {
	l.timers.clear(&l.slab, f.id)
	f.Client, f.Data = netip.AddrPort{}, nil
	f.h, f.acceptor, f.preface, f.err, f.prefix, f.backlog = nil, nil, nil, nil, 0, [2][]byte{}
	f.net.Store(nil)
	f.waking.Store(false)
	f.s.clear(queued)
	l.slab.put(f.id)
	l.load.Add(-1)
}
