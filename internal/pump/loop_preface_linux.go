package pump

import (
	"errors"

	"golang.org/x/sys/unix"
)

// awaitPreface waits for the client's first bytes, which stay in the kernel
// until it is known how many of them are the preface.
func (l *loop) awaitPreface(f *epollFlow, p *Preface) {
	f.s.phase, f.preface = phasePreface, p
	if p.Timeout > 0 {
		l.at(f, l.now+int64(p.Timeout))
	}
	if f.s.side[client].has(readable | finished | failed) {
		l.enqueue(f)
	}
}

func (p *Preface) most() int {
	if p.Max <= 0 {
		return MaxPreface
	}
	return min(p.Max, MaxPreface)
}

// errUrgentPreface is said at once: no look gets past the mark, so that the rest
// would never be seen (tcp_recvmsg in net/ipv4/tcp.c).
var errUrgentPreface = errors.New("the client sent out-of-band data within its preface")

// lookPreface shows the handler what there is of the preface.
func (l *loop) lookPreface(f *epollFlow) {
	c := &f.s.side[client]
	if c.has(failed) {
		l.end(f, ending{cause: CauseAbandoned, err: l.errorOf(c), reset: true})
		return
	}
	if !c.has(readable) {
		return
	}
	buffer := l.buffers.take()
	b := l.buffers.at(buffer)[:f.preface.most()]
	got, errno := l.k.peek(int(c.fd), b)
	n, err := 0, error(nil)
	if got > 0 {
		n, err = f.preface.Parse(&f.Flow, b[:got])
	}
	if err == nil && n > 0 && !l.skip(c, b[:n]) {
		errno = unix.ECONNRESET
	}
	l.buffers.put(buffer)
	switch {
	case errno != 0 && errno != unix.EAGAIN:
		l.end(f, ending{cause: CauseAbandoned, err: broke(errno), reset: true})
	case err != nil:
		l.badPreface(f, err)
	case n > 0:
		l.prefaced(f, Attempt{Kind: Prefaced})
	case got == len(b):
		l.badPreface(f, ErrLongPreface)
	case c.has(finished) || got == 0 && errno == 0:
		l.badPreface(f, ErrNoPreface)
	case got > 0 && c.has(urgent):
		l.badPreface(f, errUrgentPreface)
	default:
		c.clear(readable) // more is a new event
	}
}

// skip reads what was peeked at. A mark of out-of-band data that came meanwhile
// makes a read stop short.
func (l *loop) skip(c *sideState, p []byte) bool {
	for len(p) > 0 {
		n, errno := l.k.read(int(c.fd), p)
		if errno != 0 || n == 0 {
			return false
		}
		p = p[n:]
	}
	return true
}

func (l *loop) badPreface(f *epollFlow, err error) {
	l.prefaced(f, Attempt{Kind: BadPreface, Err: err})
}

// prefaced asks the handler what to do now. That something can be read must be
// known for sure: it tells whether an endpoint's early close may be made good.
func (l *loop) prefaced(f *epollFlow, a Attempt) {
	c := &f.s.side[client]
	buffer := l.buffers.take()
	_, errno := l.k.peek(int(c.fd), l.buffers.at(buffer)[:1])
	l.buffers.put(buffer)
	f.preface = nil
	switch errno {
	case 0:
		c.set(readable)
	case unix.EAGAIN:
		c.clear(readable)
	default:
		l.end(f, ending{cause: CauseAbandoned, err: broke(errno), reset: true})
		return
	}
	l.ask(f, a)
}
