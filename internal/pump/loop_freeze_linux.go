package pump

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func (f *epollFlow) freeze() (s State, err error) {
	if n := f.net.Load(); n != nil {
		return n.freeze()
	}
	gen := f.s.gen.Load()
	err = ErrNotMovable
	f.l.do(func() {
		if f.l.flow(f.id, gen) != nil {
			s, err = f.l.freezeFlow(f)
		}
	})
	return s, err
}

// freezeFlow writes an open flow down and forgets it. What settles or is gated
// counts as begun: the time since the connect is not in the record.
func (l *loop) freezeFlow(f *epollFlow) (State, error) {
	s := f.s
	switch s.phase {
	case phaseOpen, phaseDelivering:
	case phaseParked, phasePreface, phaseConnecting:
		l.end(f, ending{cause: CauseCut, err: ErrNotMovable, reset: true})
		return State{}, ErrNotMovable
	default:
		return State{}, ErrNotMovable
	}
	b, err := l.writeDown(f)
	if err != nil {
		l.end(f, ending{cause: CauseCut, err: err, reset: true}) // its pipe may be half read
		return State{}, errors.Join(ErrNotMovable, err)
	}
	state := State{Client: int(s.side[client].fd), Endpoint: int(s.side[endpoint].fd), Record: b}
	for i := range s.side {
		l.k.unwatch(int(s.side[i].fd))
		s.side[i].fd = none
	}
	l.end(f, ending{cause: CauseMoved})
	return state, nil
}

func (l *loop) writeDown(f *epollFlow) ([]byte, error) {
	r := record{client: f.Client, started: l.k.start.Add(time.Duration(f.s.started)), moved: f.counters(), prefix: uint32(f.prefix)}
	for i := range f.s.side {
		p := &f.s.side[i]
		pending, err := l.takeHeld(p)
		if err != nil {
			return nil, err
		}
		r.sides[i] = recordSide{
			tcp: p.has(plainTCP), ended: p.has(ended), passed: p.has(passed),
			pending: append(pending, f.backlog[i]...),
		}
	}
	return r.encode()
}

// takeHeld returns what is held, read back from the pipe where it is in one.
func (l *loop) takeHeld(p *sideState) ([]byte, error) {
	if p.buffer != none {
		held := append([]byte(nil), l.buffers.at(p.buffer)[p.from:p.from+p.held]...)
		l.letGo(p)
		return held, nil
	}
	held := make([]byte, p.held)
	for n := 0; n < len(held); {
		got, errno := l.k.read(l.pipes.at(p.pipe).r, held[n:])
		if errno != 0 || got == 0 {
			return nil, os.NewSyscallError("read pipe", errno)
		}
		n += got
		p.held -= int32(got)
	}
	l.letGo(p)
	return held, nil
}

// Resume implements Engine.
func (e *epollEngine) Resume(s State, h Handler, data any) (*Flow, error) {
	r, err := decodeRecord(s.Record)
	// One that blocks would stop every flow of its loop.
	if err = errors.Join(err, unix.SetNonblock(s.Client, true), unix.SetNonblock(s.Endpoint, true)); err != nil {
		_ = unix.Close(s.Client) // nobody else will
		_ = unix.Close(s.Endpoint)
		return nil, err
	}
	e.net.fds.release(-2) // they are open already
	l := e.lightest(e.loops[e.next.Add(1)%uint32(len(e.loops))])
	l.load.Add(1)
	var f *Flow
	err = os.ErrClosed
	if !l.do(func() { f, err = l.resume(s, &r, h, data) }) {
		l.load.Add(-1)
		e.net.fds.release(2)
		_ = unix.Close(s.Client)
		_ = unix.Close(s.Endpoint)
	}
	return f, err
}

func (l *loop) resume(s State, r *record, h Handler, data any) (*Flow, error) {
	f := l.newFlow(h)
	if f == nil {
		l.k.abort(s.Client)
		l.k.abort(s.Endpoint)
		l.load.Add(-1)
		l.Budget.release(2)
		return nil, unix.EMFILE
	}
	f.Client, f.Data = r.client, data
	f.s.started = int64(r.started.Sub(l.k.start))
	f.s.since = l.now
	f.s.phase = phaseOpen
	f.prefix = int32(r.prefix)
	f.s.side[client].moved.Store(r.moved.In)
	f.s.side[endpoint].moved.Store(r.moved.Out)
	if errno := l.resumeSides(f, [2]int{s.Client, s.Endpoint}, r); errno != 0 {
		l.closeSides(f, true)
		l.giveBack(f)
		l.forget(f)
		return nil, os.NewSyscallError("epoll_ctl", errno)
	}
	if f.s.side[client].has(passed) && f.s.side[endpoint].has(passed) {
		f.s.phase, f.s.pause = phaseDelivering, 1
		l.again(f, 1, never)
	}
	l.enqueue(f)
	return &f.Flow, nil
}

func (l *loop) resumeSides(f *epollFlow, fds [2]int, r *record) (failure unix.Errno) {
	f.s.tags = f.s.tags%255 + 1
	for i := range fds {
		p := &f.s.side[i]
		p.fd = int32(fds[i])
		p.set(writable | unanswered)
		if r.sides[i].tcp {
			p.set(plainTCP)
		}
		if r.sides[i].ended {
			p.set(ended)
		}
		if r.sides[i].passed {
			p.set(passed)
		}
		f.backlog[i] = r.sides[i].pending
		if i == endpoint {
			p.tag = f.s.tags
		}
		if errno := l.k.watch(fds[i], watched, eventKey{slot: f.id, tag: p.tag, gen: f.s.gen.Load()}); errno != 0 {
			failure = errno
		}
	}
	return failure
}

// refill takes from a resumed flow's backlog, before anything from the socket.
func (l *loop) refill(f *epollFlow, from uint8) {
	src := &f.s.side[from]
	src.buffer = l.buffers.take()
	n := copy(l.buffers.at(src.buffer), f.backlog[from])
	src.from, src.held = 0, int32(n)
	if f.backlog[from] = f.backlog[from][n:]; len(f.backlog[from]) == 0 {
		f.backlog[from] = nil
	}
}
