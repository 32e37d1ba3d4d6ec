package pump

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// netFlow is one stream flow. Its goroutine owns both connections.
type netFlow struct {
	flow    *Flow
	e       *netEngine
	h       Handler
	release func() // gives back what the flow took, when its sockets are closed
	after   func() // when set, is called after Done
	client  *side
	started time.Time
	in, out atomic.Uint64
	wakes   chan struct{}
	ctx     context.Context // ends with the cause of a cut
	cancel  context.CancelCauseFunc
	hard    atomic.Pointer[error] // the cause of a cut that resets
	relay   atomic.Pointer[relay] // once an endpoint is connected
}

func newNetFlow(e *netEngine, h Handler, c net.Conn) *netFlow {
	f := &netFlow{e: e, h: h, client: newSide(c), started: time.Now(), wakes: make(chan struct{}, 1)}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	f.flow = &Flow{Client: streamAddr(c.RemoteAddr()), engine: f}
	return f
}

func streamAddr(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := t.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// introduce asks the handler for the first time and carries the flow to its
// end.
func (f *netFlow) introduce(introducing *sync.WaitGroup) {
	if err := f.client.setOptions(); err != nil {
		// The client was reset while it waited in the listen queue.
		introducing.Done()
		abort(f.client.conn)
		f.finish(Result{Cause: CauseClientReset, Err: err})
		return
	}
	step := f.h.Next(f.flow, Attempt{})
	introducing.Done()
	f.carryOn(step)
}

// carryOn does what the handler says until the flow has ended.
func (f *netFlow) carryOn(step Step) { f.finish(f.serve(step)) }

func (f *netFlow) finish(r Result) {
	f.cancel(nil)
	r.Counters = f.counters()
	r.Started = f.started
	r.Duration = time.Since(f.started)
	f.e.remove(f)
	f.release()
	f.h.Done(f.flow, r)
	if f.after != nil {
		f.after()
	}
}

// serve returns when both sides are closed.
func (f *netFlow) serve(step Step) Result {
	for {
		var last Attempt
		var end *Result
		switch {
		case step.End != nil:
			end = f.end(step.End)
		case len(step.Dial) > 0:
			last, end = f.attempt(step)
		case step.Preface != nil:
			last, end = f.readPreface(step.Preface)
		default:
			last, end = f.park(step.Park)
		}
		if end != nil {
			return *end
		}
		step = f.h.Next(f.flow, last)
	}
}

func (f *netFlow) end(err error) *Result {
	if errors.Is(err, io.EOF) {
		closeGently(f.client)
	} else {
		abort(f.client.conn)
	}
	return &Result{Cause: CauseEnded, Err: err}
}

func (f *netFlow) attempt(step Step) (Attempt, *Result) {
	i, s := f.dial(step)
	if err := context.Cause(f.ctx); err != nil {
		if s != nil {
			abort(s.conn)
		}
		return Attempt{}, f.drop(CauseCut, err)
	}
	if s == nil {
		return Attempt{Kind: DialFailed}, nil
	}
	f.h.Connected(f.flow, i)
	r := &relay{f: f, client: f.client, endpoint: s, step: step, connected: time.Now()}
	f.relay.Store(r)
	end, early := r.run()
	if early != nil {
		f.relay.Store(nil)
		return Attempt{Kind: ClosedEarly, Leg: i, Err: early}, end
	}
	end.Early = r.early.Load()
	return Attempt{}, end
}

// drop ends a flow that has no endpoint: it resets the client unless a cut
// wanted an orderly end.
func (f *netFlow) drop(c Cause, err error) *Result {
	if c == CauseCut && errors.Is(err, io.EOF) {
		closeGently(f.client)
	} else {
		abort(f.client.conn)
	}
	return &Result{Cause: c, Err: err}
}

// park waits without reading: the client's bytes stay in the kernel.
func (f *netFlow) park(until time.Time) (Attempt, *Result) {
	left := make(chan error, 1)
	go func() { left <- f.client.await(hasLeft) }()
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	var a Attempt
	select {
	case <-f.wakes:
		a.Kind = Woken
	case <-timer.C:
		a.Kind = Expired
	case <-f.ctx.Done():
		f.client.interrupt()
		_ = <-left // only that it has ended matters
		return a, f.drop(CauseCut, context.Cause(f.ctx))
	case err := <-left:
		return a, f.drop(CauseAbandoned, err)
	}
	f.client.interrupt()
	if err := <-left; err == nil {
		return a, f.drop(CauseAbandoned, nil)
	}
	return a, f.reopen()
}

// reopen lets the client's connection block again after an interrupt, unless
// the interrupt was a cut.
func (f *netFlow) reopen() *Result {
	_ = f.client.conn.SetDeadline(time.Time{}) // fails only on a closed connection; the next read says so
	if err := context.Cause(f.ctx); err != nil {
		return f.drop(CauseCut, err)
	}
	return nil
}

func (f *netFlow) wake() {
	select {
	case f.wakes <- struct{}{}:
	default: // one is on its way
	}
}

func (f *netFlow) cut(cause error) {
	if cause == nil {
		cause = os.ErrClosed
	}
	gentle := errors.Is(cause, io.EOF)
	if !gentle {
		f.hard.CompareAndSwap(nil, &cause)
	}
	f.cancel(cause)
	switch r := f.relay.Load(); {
	case r == nil:
	case gentle:
		r.part()
	default:
		r.interrupt()
	}
}

// cutBy is the cause of the cut, of two that which resets; nil for none.
func (f *netFlow) cutBy() error {
	if err := f.hard.Load(); err != nil {
		return *err
	}
	return context.Cause(f.ctx)
}

func (f *netFlow) freeze() (State, error) { return State{}, ErrNotMovable }

func (f *netFlow) local() netip.AddrPort { return streamAddr(f.client.conn.LocalAddr()) }

func (f *netFlow) counters() Counters {
	return Counters{In: f.in.Load(), Out: f.out.Load()}
}
