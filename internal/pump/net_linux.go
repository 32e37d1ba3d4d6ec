package pump

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// fewestDescriptors are what one listener and one flow take: with less an
// engine would start, say that all is well, and never serve anybody.
const fewestDescriptors = 4

// reserved descriptors stay free for the control socket, DNS and checks.
const reserved = 64

// netEngine carries each flow on goroutines of its own over package net.
type netEngine struct {
	cfg  Config
	fds  *budget // descriptors that flows may still take
	stop chan struct{}
	// arrivals counts the clients that were accepted.
	arrivals atomic.Uint64
	wg       sync.WaitGroup // the sweeper and every flow

	buffers sync.Pool // of *[bufferSize]byte, for all copiers
	pipes   *pipes

	mu        sync.Mutex // guards the following
	closed    bool
	flows     map[*netFlow]struct{}
	acceptors map[Acceptor]struct{}
}

// NewNet returns the engine that runs on package net and goroutines.
func NewNet(cfg Config) (Engine, error) {
	e, err := newNetEngine(cfg, idlePipes, 0)
	if err != nil {
		return nil, err // not a typed nil
	}
	return e, nil
}

// newNetEngine makes one that keeps so many idle pipes and leaves so many
// descriptors to its owner.
func newNetEngine(cfg Config, keep, owner int) (*netEngine, error) {
	free, err := freeDescriptors()
	if err != nil {
		return nil, err
	}
	fds := free - reserved - 2*keep - owner
	if fds < fewestDescriptors {
		return nil, ErrDescriptors
	}
	e := &netEngine{
		cfg:       cfg.withDefaults(),
		fds:       newBudget(fds),
		stop:      make(chan struct{}),
		flows:     map[*netFlow]struct{}{},
		acceptors: map[Acceptor]struct{}{},
	}
	e.pipes = &pipes{fds: e.fds, keep: keep}
	e.wg.Go(e.sweep)
	return e, nil
}

func freeDescriptors() (int, error) {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return 0, fmt.Errorf("read the descriptor limit: %w", err)
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, fmt.Errorf("count open descriptors: %w", err)
	}
	return int(min(lim.Cur, 1<<30)) - len(open), nil
}

// Serve implements Engine.
func (e *netEngine) Serve(l Listener, h Handler) (Acceptor, error) {
	a, err := e.serve(l, h)
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
		return nil, errors.Join(os.ErrClosed, closeAll(a))
	}
	return a, nil
}

func (e *netEngine) serve(l Listener, h Handler) (Acceptor, error) {
	if l.Network == UDP {
		return serveUDP(udpConfig{Listener: l, Handler: h, Acquire: e.fds.tryAcquire, Release: e.fds.release, Log: e.cfg.Log, Ended: e.forget})
	}
	return e.newStreamAcceptor(l, h)
}

// Dial implements Engine.
func (e *netEngine) Dial(ctx context.Context, leg Leg) (net.Conn, error) {
	if leg.Network == UDP {
		return connectDatagrams(&leg)
	}
	s, err := connect(ctx, &leg)
	if err != nil {
		return nil, err
	}
	return s.conn, nil
}

// Resume implements Engine: goroutines take up no flow of another process.
func (e *netEngine) Resume(s State, _ Handler, _ any) (*Flow, error) {
	return nil, errors.Join(ErrNotMovable, unix.Close(s.Client), unix.Close(s.Endpoint))
}

// Close implements Engine.
func (e *netEngine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	acceptors := e.acceptors
	e.acceptors = nil
	e.mu.Unlock()
	close(e.stop)
	var errs []error
	for a := range acceptors {
		errs = append(errs, closeAll(a))
	}
	for _, f := range e.live() {
		f.cut(os.ErrClosed)
	}
	e.wg.Wait()
	e.pipes.close()
	return errors.Join(errs...)
}

// closeAll closes a listener together with the sessions that only it knows.
func closeAll(a Acceptor) error {
	err := a.Close()
	if c, ok := a.(interface{ cut(error) }); ok {
		c.cut(os.ErrClosed)
	}
	return err
}

// live returns the stream flows that have not ended.
func (e *netEngine) live() []*netFlow {
	e.mu.Lock()
	defer e.mu.Unlock()
	fs := make([]*netFlow, 0, len(e.flows))
	for f := range e.flows {
		fs = append(fs, f)
	}
	return fs
}

// add registers a flow and starts it with run; when the engine is closing it
// does not.
func (e *netEngine) add(f *netFlow, run func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.flows[f] = struct{}{}
	e.wg.Go(run)
	return true
}

func (e *netEngine) remove(f *netFlow) {
	e.mu.Lock()
	delete(e.flows, f)
	e.mu.Unlock()
}

func (e *netEngine) forget(a Acceptor) {
	e.mu.Lock()
	delete(e.acceptors, a)
	e.mu.Unlock()
}
