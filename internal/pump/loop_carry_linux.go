package pump

import (
	"io"

	"golang.org/x/sys/unix"
)

// relay moves what there is, both ways, at most one budget each.
func (l *loop) relay(f *epollFlow) {
	s := f.s
	if s.has(gated) && !l.openGate(f) {
		return
	}
	l.noticeErrors(f)
	if s.side[endpoint].has(finished) {
		s.clear(settling) // pointless
	}
	more := false
	if !s.has(settling) {
		more = l.carry(f, client)
	}
	if s.phase == phaseOpen || s.phase == phaseBreaking {
		more = l.carry(f, endpoint) || more
	}
	switch {
	case s.phase == phaseBreaking && l.nothingComes(f):
		l.drain(f)
	case more && (s.phase == phaseOpen || s.phase == phaseBreaking):
		l.enqueue(f)
	}
}

// openGate decides who comes first: a client byte, or end, that is about to be
// forwarded, or an endpoint that closes early. Only one of them may happen,
// since bytes once sent are never sent again. It returns false while neither
// has, and when the flow has ended or has another step.
func (l *loop) openGate(f *epollFlow) bool {
	s, e, c := f.s, &f.s.side[endpoint], &f.s.side[client]
	if e.has(readable) {
		n, errno := l.read(e)
		switch {
		case n > 0 || e.has(ended) || errno != 0 && errno != unix.EAGAIN:
			if n == 0 && l.isEarly(f) {
				l.closedEarly(f, e.has(ended) && !e.has(failed))
				return false
			}
			s.clear(gated | settling)
			if errno != 0 {
				l.breakSide(f, endpoint, broke(errno))
			}
		}
	}
	if s.has(gated) && c.held > 0 && !l.sendPrefix(f) {
		return false
	}
	if c.has(readable) && !s.has(settling) {
		s.clear(gated)
	}
	return !s.has(gated)
}

// isEarly tells whether another endpoint may make good that this one closes, no
// byte having moved.
func (l *loop) isEarly(f *epollFlow) bool {
	return l.now-f.s.since <= int64(EarlyClose) && !f.s.side[client].has(finished|failed)
}

// noteEnd keeps in mind that an endpoint's end, which is about to be passed on,
// was an early close.
func (l *loop) noteEnd(f *epollFlow) {
	s, c := f.s, &f.s.side[client]
	nothing := s.side[endpoint].moved.Load() == 0 && c.moved.Load() == 0
	if s.phase == phaseOpen && s.has(fresh) && nothing && !c.has(ended) && l.isEarly(f) {
		s.set(early)
	}
}

// sendPrefix writes what is left of the leg's prefix, which waits for no byte
// of the client's: the endpoint may wait for it before it speaks. It returns
// false when the flow has another step.
func (l *loop) sendPrefix(f *epollFlow) bool {
	c, e := &f.s.side[client], &f.s.side[endpoint]
	for c.held > 0 && e.has(writable) {
		n, errno := l.flushSome(c, e)
		switch {
		case errno == unix.EAGAIN:
			e.clear(writable)
		case errno != 0 && l.isEarly(f):
			// A unix socket says EPIPE after an orderly close, too.
			l.closedEarly(f, errno == unix.EPIPE && !e.has(plainTCP) && l.k.takeError(int(e.fd)) == 0)
			return false
		case errno != 0:
			f.s.clear(gated | settling)
			l.breakSide(f, endpoint, broke(errno))
			return true
		}
		c.held -= int32(n)
		l.count(f, client, n)
	}
	if c.held == 0 {
		l.letGo(c)
	}
	return true
}

// closedEarly asks the handler about an endpoint that closed before a byte
// moved either way.
func (l *loop) closedEarly(f *epollFlow, inOrder bool) {
	e := &f.s.side[endpoint]
	l.k.close(int(e.fd))
	e.reset()
	l.letGo(&f.s.side[client]) // the rest of a prefix
	f.prefix = 0
	f.s.clear(gated | settling)
	why := ErrReset
	if inOrder {
		why = io.EOF
	}
	l.ask(f, Attempt{Kind: ClosedEarly, Leg: int(f.s.leg), Err: why})
}

// noticeErrors breaks a side that has reported an error.
func (l *loop) noticeErrors(f *epollFlow) {
	for which := range uint8(2) {
		p := &f.s.side[which]
		if !p.has(failed) {
			continue
		}
		p.clear(failed)
		// 0: a read or a write has taken it, and acted on it.
		if errno := l.k.takeError(int(p.fd)); errno != 0 {
			l.breakSide(f, which, broke(errno))
		}
	}
}

// carry moves bytes from one side to the other until there are none, the other
// takes no more or the budget is spent; true says that it was the budget.
func (l *loop) carry(f *epollFlow, from uint8) bool {
	s, src, dst := f.s, &f.s.side[from], &f.s.side[1-from]
	for left := turnBudget; !dst.has(broken); {
		switch {
		case src.held > 0:
			if !dst.has(writable) || !l.flush(f, from) {
				return false
			}
		case len(f.backlog[from]) > 0:
			l.refill(f, from)
		case src.has(ended):
			if !src.has(passed | broken) {
				l.passEnd(f, from)
			}
			return false
		case !src.has(readable):
			return false
		case left <= 0:
			return true
		default:
			n := l.fill(f, from, left)
			if n < 0 {
				return false
			}
			left -= n
		}
		if s.phase != phaseOpen && s.phase != phaseBreaking {
			return false
		}
	}
	return false
}

// fill takes from src what one call finds, where it splices at most so many
// bytes; negative says that the flow, or this direction, is over.
func (l *loop) fill(f *epollFlow, from uint8, most int) int {
	src := &f.s.side[from]
	var n int
	var errno unix.Errno
	// A splice stops before out-of-band data, with EAGAIN, for as long as no
	// read has passed them (tcp_read_sock in net/ipv4/tcp.c).
	if src.has(streaming) && !src.has(urgent) {
		n, errno = l.fillPipe(src, &f.s.side[1-from], most)
	} else {
		n, errno = l.read(src)
	}
	if errno == 0 || errno == unix.EAGAIN {
		return n
	}
	if src.has(broken) {
		src.set(ended) // nothing more comes from it
		return n
	}
	l.breakSide(f, from, broke(errno))
	return -1
}

// fullReads in a row, each of a whole buffer, mark a stream.
const fullReads = 2

// read takes what there is, or the end of the file, and keeps it as held.
func (l *loop) read(src *sideState) (int, unix.Errno) {
	b := l.buffers.take()
	p := l.buffers.at(b)
	n, errno := l.k.read(int(src.fd), p)
	if n > 0 {
		src.buffer, src.from, src.held = b, 0, int32(n)
	} else {
		l.buffers.put(b)
	}
	switch {
	case errno == unix.EAGAIN:
		src.clear(readable)
		if src.has(broken) {
			src.set(ended)
		}
	case errno != 0:
	case n == 0:
		src.set(ended)
	case n == len(p):
		if src.full++; src.full >= fullReads && !src.has(unspliced) {
			src.full, src.thin = 0, 0
			src.set(streaming)
		}
	default:
		src.full = 0
		src.clear(streaming)
		// TCP hands out all that it has (tcp_recvmsg in net/ipv4/tcp.c), up to
		// an urgent mark: a short read has emptied the queue, and what comes
		// later is a new event, the end being one that was reported. A unix
		// socket also stops where the sender's credentials change.
		if src.has(plainTCP) && !src.has(finished|urgent) {
			src.clear(readable)
		}
	}
	return n, errno
}

// fillPipe splices into an empty pipe; without one it copies.
func (l *loop) fillPipe(src, dst *sideState, most int) (int, unix.Errno) {
	l.tend(dst)
	p, ok := int32(none), false
	if dst.has(plainTCP) {
		p, ok = l.pipes.take()
	}
	if !ok {
		return l.read(src)
	}
	n, errno := l.k.splice(int(src.fd), l.pipes.at(p).w, min(spliceSize, most))
	if n > 0 {
		src.pipe, src.held = p, int32(n)
	} else {
		l.pipes.put(p, true)
	}
	switch {
	case errno == unix.EAGAIN: // the pipe was empty, so it is the socket that has nothing
		src.clear(readable)
		if src.has(broken) {
			src.set(ended)
		}
	case errno == unix.EINVAL: // a socket that cannot be spliced; nothing was read
		src.clear(streaming)
		src.set(unspliced)
		return 0, 0
	case errno != 0:
	case n == 0:
		src.set(ended)
	case n >= min(thinPiece, most):
		src.thin = 0
	default:
		if src.thin++; src.thin >= thinPieces {
			src.clear(streaming)
		}
	}
	return n, errno
}

// flush writes what is held; true when all of it is written.
func (l *loop) flush(f *epollFlow, from uint8) bool {
	src, dst := &f.s.side[from], &f.s.side[1-from]
	for src.held > 0 {
		n, errno := l.flushSome(src, dst)
		if errno != 0 {
			if errno == unix.EAGAIN {
				dst.clear(writable)
				l.tend(dst)
			} else {
				l.breakSide(f, 1-from, broke(errno))
			}
			return false
		}
		dst.set(unanswered)
		src.held -= int32(n)
		l.count(f, from, n)
	}
	l.letGo(src)
	return true
}

func (l *loop) flushSome(src, dst *sideState) (int, unix.Errno) {
	if src.pipe != none {
		return l.k.splice(l.pipes.at(src.pipe).r, int(dst.fd), int(src.held))
	}
	p := l.buffers.at(src.buffer)[src.from : src.from+src.held]
	n, errno := l.k.write(int(dst.fd), p)
	src.from += int32(n)
	return n, errno
}

// count adds to the flow's counters all but the leg's prefix.
func (l *loop) count(f *epollFlow, from uint8, n int) {
	if from == client && f.prefix > 0 {
		own := min(int32(n), f.prefix)
		f.prefix -= own
		n -= int(own)
	}
	moved := &f.s.side[from].moved
	moved.Store(moved.Load() + uint64(n)) // nobody else stores
}

// letGo gives back the buffer or the pipe, with what is in it.
func (l *loop) letGo(src *sideState) {
	if src.buffer != none {
		l.buffers.put(src.buffer)
		src.buffer = none
	}
	if src.pipe != none {
		l.pipes.put(src.pipe, src.held == 0)
		src.pipe = none
	}
	src.held = 0
}

// passEnd says to the other side that this one has finished. When both have,
// and each has all of the other's bytes, closing says it: one call less.
func (l *loop) passEnd(f *epollFlow, from uint8) {
	if from == endpoint {
		l.noteEnd(f)
	}
	src, dst := &f.s.side[from], &f.s.side[1-from]
	last := dst.has(passed) && l.allDelivered(f)
	src.set(passed)
	if last {
		l.endDelivered(f)
		return
	}
	dst.set(unanswered)
	if l.k.shut(int(dst.fd)) != 0 { // not connected any more
		l.breakSide(f, 1-from, l.errorOf(dst))
		return
	}
	if dst.has(passed) {
		f.s.pause = 1
		f.s.phase = phaseDelivering
		l.lookDelivered(f)
	}
}

// bufferPool lends the buffers of a loop. A slot holds the number of one, since
// it has no pointers, and only while bytes wait in it.
type bufferPool struct {
	all  []*[bufferSize]byte
	free []int32 // numbers with a buffer
	bare []int32 // numbers without
	used int
}

func (b *bufferPool) at(i int32) []byte { return b.all[i][:] }

func (b *bufferPool) take() int32 {
	b.used++
	if last := len(b.free) - 1; last >= 0 {
		i := b.free[last]
		b.free = b.free[:last]
		return i
	}
	if last := len(b.bare) - 1; last >= 0 {
		i := b.bare[last]
		b.bare = b.bare[:last]
		b.all[i] = new([bufferSize]byte)
		return i
	}
	b.all = append(b.all, new([bufferSize]byte))
	return int32(len(b.all) - 1)
}

func (b *bufferPool) put(i int32) {
	b.used--
	b.free = append(b.free, i)
}

// idleBuffers are kept by a loop that rests.
const idleBuffers = 4

// trim gives the memory of half of the idle buffers to the collector.
func (b *bufferPool) trim() {
	for n := len(b.free); n > idleBuffers && len(b.free) > n/2; {
		last := len(b.free) - 1
		i := b.free[last]
		b.free = b.free[:last]
		b.all[i] = nil
		b.bare = append(b.bare, i)
	}
}

// pipePool lends pipes for the time in which bytes wait in them.
type pipePool struct {
	k    *kernel
	fds  *budget // of which each pipe takes two while it is lent
	all  []pipe
	free []int32 // numbers with an empty pipe
	bare []int32 // numbers without
	used int
}

func (p *pipePool) at(i int32) *pipe { return &p.all[i] }

// take returns false when descriptors, or the user's pages for pipes, are
// short: then bytes are copied.
func (p *pipePool) take() (int32, bool) {
	last := len(p.free) - 1
	if last < 1 && !p.fds.tryAcquire(2) {
		return none, false
	}
	if last >= 0 {
		i := p.free[last]
		p.free = p.free[:last]
		p.used++
		return i, true
	}
	x, errno := p.k.pipe()
	if errno != 0 {
		p.fds.release(2)
		return none, false
	}
	p.used++
	if last := len(p.bare) - 1; last >= 0 {
		i := p.bare[last]
		p.bare = p.bare[:last]
		p.all[i] = x
		return i, true
	}
	p.all = append(p.all, x)
	return int32(len(p.all) - 1), true
}

// put takes a pipe back; one that is not empty must not meet another stream.
// The first that is kept has descriptors of its own, the others keep theirs
// until the next sweep.
func (p *pipePool) put(i int32, empty bool) {
	p.used--
	switch kept := len(p.free); {
	case empty && kept == 0:
		p.free = append(p.free, i)
		p.fds.release(2)
	case empty && kept < idlePipes:
		p.free = append(p.free, i)
	default:
		p.drop(i)
		p.fds.release(2)
	}
}

// trim closes all idle pipes but one.
func (p *pipePool) trim() {
	for last := len(p.free) - 1; last > 0; last-- {
		i := p.free[last]
		p.free = p.free[:last]
		p.drop(i)
		p.fds.release(2)
	}
}

func (p *pipePool) drop(i int32) {
	p.k.close(p.all[i].r)
	p.k.close(p.all[i].w)
	p.all[i] = pipe{r: none, w: none}
	p.bare = append(p.bare, i)
}

func (p *pipePool) close() {
	p.trim()
	for _, i := range p.free {
		p.drop(i)
	}
	p.free = nil
}
