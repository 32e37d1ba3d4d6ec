package pump

import (
	"errors"
	"io"
	"net/netip"
	"os"
	"sync/atomic"
)

// epollFlow is what of a flow has pointers. It is made once per slot.
type epollFlow struct {
	Flow
	l        *loop
	s        *slot
	id       uint32
	acceptor *epollAcceptor // or nil for one that was resumed
	h        Handler
	attempt  *attempt // while legs are under way
	preface  *Preface // that is waited for
	err      error    // of a side that broke, or the handler's
	// prefix is how many bytes of what is held from the client are the leg's
	// prefix, which nobody counts.
	prefix int32
	// backlog is what a resumed flow had read from each side elsewhere.
	backlog [2][]byte
	waking  atomic.Bool // a wake is on its way
	// net has the flow when it is elsewhere.
	net atomic.Pointer[netFlow]
}

func (f *epollFlow) wake() {
	if n := f.net.Load(); n != nil {
		n.wake()
		return
	}
	if !f.waking.Swap(true) {
		f.l.post(command{kind: commandWake, slot: f.id, gen: f.s.gen.Load()})
	}
}

func (f *epollFlow) cut(cause error) {
	if n := f.net.Load(); n != nil {
		n.cut(cause)
		return
	}
	f.l.post(command{kind: commandCut, slot: f.id, gen: f.s.gen.Load(), err: cause})
}

func (f *epollFlow) counters() Counters {
	if n := f.net.Load(); n != nil {
		return n.counters()
	}
	return Counters{In: f.s.side[client].moved.Load(), Out: f.s.side[endpoint].moved.Load()}
}

// local is asked on the loop, by Next, or by the net engine's.
func (f *epollFlow) local() netip.AddrPort {
	if n := f.net.Load(); n != nil {
		return n.local()
	}
	return f.l.k.local(int(f.s.side[client].fd))
}

// begin introduces a client to the handler.
func (l *loop) begin(a *epollAcceptor, c accepted) {
	f := l.newFlow(a.h)
	if f == nil || l.k.watch(c.fd, watched, eventKey{slot: f.id, gen: f.s.gen.Load()}) != 0 {
		l.refuse(f, a, c)
		return
	}
	f.acceptor = a
	f.Client, f.Arrival = c.from, c.arrival
	f.s.side[client].fd = int32(c.fd)
	f.s.side[client].set(writable)
	if a.l.Network == TCP {
		f.s.side[client].set(plainTCP | tended) // by its listener
	}
	l.ask(f, Attempt{})
}

// refuse resets a client for want of a slot, or of memory in the kernel.
func (l *loop) refuse(f *epollFlow, a *epollAcceptor, c accepted) {
	a.warn("the kernel, or the engine, cannot watch more connections")
	l.k.abort(c.fd)
	if f != nil {
		l.slab.put(f.id)
	}
	l.load.Add(-1)
	a.release()
}

// newFlow takes a slot; nil when there are too many.
func (l *loop) newFlow(h Handler) *epollFlow {
	id, ok := l.slab.take()
	if !ok {
		return nil
	}
	for uint32(len(l.flows)) <= id {
		l.flows = append(l.flows, nil)
	}
	f := l.flows[id]
	if f == nil {
		f = &epollFlow{l: l, s: l.slab.at(id), id: id}
		f.engine = f
		l.flows[id] = f
	}
	if l.sweepAt <= l.now { // nothing has been swept while there were no flows
		l.sweepAt = l.now + int64(l.SweepEvery)/sweepParts
	}
	f.h = h
	f.Arrival = 0
	f.s.started = l.now
	return f
}

func (l *loop) wakeFlow(f *epollFlow) {
	switch f.s.phase {
	case phaseParked:
		l.ask(f, Attempt{Kind: Woken})
	case phaseElsewhere:
		f.net.Load().wake()
	default:
		f.s.set(woken)
	}
}

func (l *loop) cutFlow(f *epollFlow, cause error) {
	if f.s.phase == phaseElsewhere {
		f.net.Load().cut(cause)
		return
	}
	if errors.Is(cause, io.EOF) {
		l.part(f, cause)
		return
	}
	if cause == nil {
		cause = os.ErrClosed
	}
	l.end(f, ending{cause: CauseCut, err: cause, reset: true})
}
