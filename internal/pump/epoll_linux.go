package pump

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// epollEngine carries flows on loops, one goroutine each. What is not bytes
// between two sockets of ours is the net engine's: UDP, probes, and flows whose
// legs open something else.
type epollEngine struct {
	cfg        Config
	net        *netEngine
	loops      []*loop
	running    sync.WaitGroup // the loops
	next       atomic.Uint32  // loop for the next listener
	acceptorID atomic.Uint32
	arrivals   atomic.Uint64

	mu        sync.Mutex // guards the following
	closed    bool
	acceptors map[*epollAcceptor]struct{}
}

// ofLoop is what a loop has for itself: an epoll set, an eventfd and one pipe.
const ofLoop = 4

// NewEpoll returns the engine that runs on epoll loops.
func NewEpoll(cfg Config) (Engine, error) {
	cfg = cfg.withDefaults()
	n, err := newNetEngine(cfg, 0, cfg.Loops*ofLoop)
	if err != nil {
		return nil, err
	}
	e := &epollEngine{cfg: cfg, net: n, acceptors: map[*epollAcceptor]struct{}{}}
	var frees []func()
	for range e.cfg.Loops {
		k, free, err := newKernel()
		if err != nil {
			for _, free := range frees {
				free()
			}
			return nil, errors.Join(fmt.Errorf("make an epoll set: %w", err), n.Close())
		}
		frees = append(frees, free)
		e.loops = append(e.loops, newLoop(loopConfig{
			Kernel: k, Budget: n.fds,
			VanishAfter: e.cfg.VanishAfter, SweepEvery: e.cfg.SweepEvery, Elsewhere: e.elsewhere,
		}))
	}
	for i, l := range e.loops {
		e.running.Go(func() {
			l.run()
			l.pipes.close()
			frees[i]()
		})
	}
	return e, nil
}

// Serve implements Engine.
func (e *epollEngine) Serve(l Listener, h Handler) (Acceptor, error) {
	if l.Network == UDP {
		return e.net.Serve(l, h)
	}
	home := e.loops[e.next.Add(1)%uint32(len(e.loops))]
	a, err := newEpollAcceptor(e, home, l, h)
	if err != nil {
		return nil, fmt.Errorf("serve %s listener: %w", l.Network, err)
	}
	e.mu.Lock()
	closed := e.closed
	if !closed {
		e.acceptors[a] = struct{}{}
	}
	e.mu.Unlock()
	if closed {
		return nil, errors.Join(os.ErrClosed, a.Close())
	}
	return a, nil
}

func (e *epollEngine) forget(a *epollAcceptor) {
	e.mu.Lock()
	delete(e.acceptors, a)
	e.mu.Unlock()
}

// Dial implements Engine. It never runs on a loop: a probe must not wait for
// traffic, nor traffic for a probe.
func (e *epollEngine) Dial(ctx context.Context, leg Leg) (net.Conn, error) {
	return e.net.Dial(ctx, leg)
}

// Close implements Engine.
func (e *epollEngine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	acceptors := e.acceptors
	e.acceptors = nil
	e.mu.Unlock()
	var errs []error
	for a := range acceptors {
		errs = append(errs, a.Close())
	}
	for _, l := range e.loops {
		l.do(func() { l.cutAll(os.ErrClosed) })
	}
	// Before the loops stop: they free the slots of its flows.
	errs = append(errs, e.net.Close())
	for _, l := range e.loops {
		l.stop()
	}
	e.running.Wait()
	return errors.Join(errs...)
}

func (l *loop) cutAll(cause error) {
	for _, f := range l.flows {
		if f != nil && f.s.phase != phaseFree {
			l.cutFlow(f, cause)
		}
	}
}

// elsewhere has the net engine carry a flow on from a step.
func (e *epollEngine) elsewhere(f *epollFlow, step Step, done func()) {
	c, err := adoptConn(int(f.s.side[client].fd))
	f.s.side[client].fd = none
	if err != nil {
		f.l.end(f, ending{cause: CauseCut, err: err})
		return
	}
	n := newNetFlow(e.net, f.h, c)
	_ = n.client.setOptions() // FileConn set others; fails only on a socket that is over
	n.flow = &f.Flow
	n.started = f.l.k.start.Add(time.Duration(f.s.started))
	n.release = f.acceptor.release
	n.after = done
	f.net.Store(n)
	if f.s.has(woken) {
		n.wake()
	}
	if !e.net.add(n, func() { n.carryOn(step) }) {
		abort(c)
		f.net.Store(nil)
		f.l.end(f, ending{cause: CauseCut, err: os.ErrClosed})
	}
}
