package pump

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// netFlow is one stream flow. Its goroutine, run, owns both connections.
type netFlow struct {
	Flow
	a       *streamAcceptor
	client  *side
	started time.Time
	in, out atomic.Uint64
	wakes   chan struct{}
	ctx     context.Context // ends with the cause of a cut
	cancel  context.CancelCauseFunc
	relay   atomic.Pointer[relay] // once an endpoint is connected
}

func newNetFlow(a *streamAcceptor, c net.Conn) *netFlow {
	f := &netFlow{a: a, client: newSide(c), started: time.Now(), wakes: make(chan struct{}, 1)}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	f.Client = streamAddr(c.RemoteAddr())
	f.engine = f
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

func (f *netFlow) run() {
	r := f.serve()
	f.cancel(nil)
	r.Counters = f.counters()
	r.Started = f.started
	r.Duration = time.Since(f.started)
	f.a.e.remove(f)
	f.a.release()
	f.a.h.Done(&f.Flow, r)
}

// serve asks the handler what to do until the flow has ended, and closes both
// sides.
func (f *netFlow) serve() Result {
	step, err := f.introduce()
	if err != nil {
		// The client was reset while it waited in the listen queue.
		abort(f.client.conn)
		return Result{Cause: CauseClientReset, Err: err}
	}
	for {
		var last Attempt
		var end *Result
		switch {
		case step.End != nil:
			end = f.end(step.End)
		case len(step.Dial) > 0:
			last, end = f.attempt(step)
		default:
			last, end = f.park(step.Park)
		}
		if end != nil {
			return *end
		}
		step = f.a.h.Next(&f.Flow, last)
	}
}

// introduce asks the handler for the first time.
func (f *netFlow) introduce() (Step, error) {
	defer f.a.introducing.Done()
	if err := f.client.setOptions(); err != nil {
		return Step{}, err
	}
	return f.a.h.Next(&f.Flow, Attempt{}), nil
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
	f.a.h.Connected(&f.Flow, i)
	r := &relay{f: f, client: f.client, endpoint: s, step: step, connected: time.Now()}
	f.relay.Store(r)
	end, early := r.run()
	if early != nil {
		f.relay.Store(nil)
		return Attempt{Kind: ClosedEarly, Leg: i, Err: early}, end
	}
	return Attempt{}, end
}

// drop resets the client of a flow that has no endpoint.
func (f *netFlow) drop(c Cause, err error) *Result {
	abort(f.client.conn)
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
	f.cancel(cause)
	if r := f.relay.Load(); r != nil {
		r.interrupt()
	}
}

func (f *netFlow) freeze() (State, error) { return nil, ErrNotMovable }

func (f *netFlow) counters() Counters {
	return Counters{In: f.in.Load(), Out: f.out.Load()}
}
