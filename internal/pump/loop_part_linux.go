package pump

import "golang.org/x/sys/unix"

// part ends a flow in an orderly way.
func (l *loop) part(f *epollFlow, cause error) {
	switch f.s.phase {
	case phaseParked, phasePreface, phaseConnecting:
		if f.attempt != nil {
			l.dropLegs(f, ErrNotTried)
			l.putAttempt(f)
		}
		f.s.set(parted)
		l.giveUp(f, cause)
	case phaseOpen, phaseDelivering:
		f.err = cause
		f.s.phase, f.s.since, f.s.pause = phaseParting, l.now, 1
		f.s.set(parted)
		f.s.clear(gated | settling)
		for i := range f.s.side {
			p := &f.s.side[i]
			p.owed = int32(l.k.unread(int(p.fd)))
			p.set(readable)
			p.clear(streaming)
		}
		l.at(f, l.now+int64(lingerTime))
		l.enqueue(f)
	default: // it is about to end
	}
}

// lookParting takes a flow that is parting further. Once both sides have
// finished it waits for them to have taken all; nothing reports that.
func (l *loop) lookParting(f *epollFlow) {
	const longest = 20 // milliseconds
	l.noticeErrors(f)
	more := l.partFrom(f, client)
	more = l.partFrom(f, endpoint) || more
	switch until := f.s.since + int64(lingerTime); {
	case more:
		l.enqueue(f)
	case !f.hasParted(client) || !f.hasParted(endpoint):
	case l.allDelivered(f):
		l.endParting(f)
	default:
		l.again(f, longest, until)
	}
}

// hasParted tells whether a side has said its last word and heard ours.
func (f *epollFlow) hasParted(which uint8) bool {
	p := &f.s.side[which]
	return p.has(broken) || p.has(ended) && f.s.side[1-which].has(passed)
}

// partFrom delivers what is owed of one side to the other, says FIN there, and
// then reads on to the side's end: closing with unread input would reset it
// (RFC 2525, 2.17). True says that the budget was spent.
func (l *loop) partFrom(f *epollFlow, from uint8) bool {
	src, dst := &f.s.side[from], &f.s.side[1-from]
	for left := turnBudget; left > 0; {
		switch {
		case src.has(passed) && src.has(ended|broken):
			return false
		case !src.has(passed) && src.held > 0:
			if dst.has(writable) {
				l.flush(f, from)
			}
			if src.held > 0 {
				return false
			}
			continue
		case !src.has(passed) && len(f.backlog[from]) > 0:
			l.refill(f, from)
			continue
		case !src.has(passed) && (src.owed <= 0 || src.has(ended)):
			l.sayLast(f, from)
			continue
		}
		n := l.readLast(f, from)
		if n < 0 {
			return false
		}
		left -= n
	}
	return true
}

// sayLast says FIN to the other side, after which nothing goes there.
func (l *loop) sayLast(f *epollFlow, from uint8) {
	f.s.side[from].set(passed)
	if l.k.shut(int(f.s.side[1-from].fd)) != 0 { // not connected any more
		l.losePart(f, 1-from)
	}
}

// readLast reads what is owed, or throws away what is not; negative says that
// there is nothing for now.
func (l *loop) readLast(f *epollFlow, from uint8) int {
	src := &f.s.side[from]
	if !src.has(readable) {
		return -1
	}
	n, errno := l.read(src)
	if errno != 0 && errno != unix.EAGAIN {
		src.set(broken | ended)
	}
	if src.owed -= int32(n); !src.has(readable) || src.has(ended) {
		src.owed = 0 // that was all
	}
	if src.has(passed) {
		l.letGo(src)
	}
	return n
}

// losePart is a side that broke while its flow was parting: the other one may
// still end in order.
func (l *loop) losePart(f *epollFlow, which uint8) {
	p, other := &f.s.side[which], &f.s.side[1-which]
	p.set(broken | readable) // what it sent before is still owed
	p.clear(failed)
	l.letGo(other)
	f.backlog[1-which] = nil
	other.set(passed) // to nobody
}

// endParting closes the sides that have finished, and resets the others.
func (l *loop) endParting(f *epollFlow) {
	for which := range uint8(2) {
		if p := &f.s.side[which]; !f.hasParted(which) {
			l.k.abort(int(p.fd))
			p.fd = none
		}
	}
	l.end(f, f.asAsked())
}
