package pump

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// acceptBatch bounds the clients of one listener in a turn.
	acceptBatch = 16
	// acceptAgain is the pause after accept failed for want of something that
	// the budget does not count.
	acceptAgain = 100 * time.Millisecond
	// imbalance is how many flows more than another a loop keeps before it
	// hands its clients on: waking a loop costs more than one flow does.
	imbalance = 8
)

// accepted is a client that no epoll set knows yet.
type accepted struct {
	fd      int
	from    netip.AddrPort
	arrival uint64 // given when it is introduced
}

// epollAcceptor accepts the clients of one listening socket. Its home loop
// owns the socket; the methods post what is wanted and wait.
type epollAcceptor struct {
	e    *epollEngine
	home *loop
	id   uint32
	h    Handler
	l    Listener
	name string // its address, for logs
	// introducing is the clients that are on their way to another loop, so that
	// who stops accepting knows when the handler has met them all.
	introducing sync.WaitGroup

	control sync.Mutex // one change at a time; guards the following
	closed  bool

	// The home loop's.
	state    acceptState
	want     acceptState
	path     string      // of a unix socket
	file     os.FileInfo // the socket file that is ours
	watched  bool
	batch    int      // how many clients may be there, as far as one knows
	calledAt uint64   // the last turn in which it accepted
	turn     bool     // the socket was reported in this turn
	againAt  int64    // when to try again what failed; never: nothing failed
	waiting  accepted // the client in hand, for want of a place or descriptors
	place    bool     // its place in the limit is taken
	room     bool     // its descriptors are taken
	ticket   *waiter  // for what it still lacks
	lacks    *budget  // who gave the ticket

	warned atomic.Int64 // when, in Unix seconds
}

func newEpollAcceptor(e *epollEngine, home *loop, l Listener, h Handler) (*epollAcceptor, error) {
	a := &epollAcceptor{e: e, home: home, id: e.acceptorID.Add(1), h: h, l: l, batch: 1, againAt: never, waiting: accepted{fd: none}}
	err := a.adopt(l.FD)
	if err != nil {
		_ = unix.Close(l.FD)
		return nil, err
	}
	if errno := a.start(); errno != 0 {
		_ = unix.Close(l.FD)
		return nil, os.NewSyscallError("epoll_ctl", errno)
	}
	return a, nil
}

// start has the home loop accept.
func (a *epollAcceptor) start() unix.Errno {
	errno := unix.EBADF // of a loop that has stopped
	a.home.do(func() {
		if errno = a.listenOn(); errno == 0 {
			a.home.acceptors[a.id] = a
			a.e.net.fds.release(-2) // the socket, and one client that may be in hand
		}
	})
	return errno
}

// adopt checks that fd is a listening stream socket and prepares it: accepted
// ones have its options.
func (a *epollAcceptor) adopt(fd int) error {
	if n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || n == 0 {
		return fmt.Errorf("adopt listener: not a listening socket: %w", errors.Join(err, unix.EINVAL))
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("adopt listener: %w", err)
	}
	if u, ok := sa.(*unix.SockaddrUnix); ok {
		a.path, a.name = u.Name, u.Name
		a.file, _ = os.Lstat(a.path) // gone already: then there is nothing to unlink later
	} else if addr, err := udpAddrPort(sa, nil); err == nil {
		a.name = addr.String()
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("adopt listener: %w", err)
	}
	if a.l.Network == TCP {
		return setStreamOptions(fd)
	}
	return nil
}

func setStreamOptions(fd int) error {
	for _, o := range append(tendedOptions[:], noDelay) {
		if err := unix.SetsockoptInt(fd, int(o.level), int(o.name), int(o.value)); err != nil {
			return fmt.Errorf("adopt listener: %w", err)
		}
	}
	return nil
}

// listenOn adds the socket to the home loop's set, level-triggered: what one
// turn does not accept is reported in the next.
func (a *epollAcceptor) listenOn() unix.Errno {
	if a.watched {
		return 0
	}
	errno := a.home.k.watch(a.l.FD, unix.EPOLLIN, eventKey{slot: acceptSlot, gen: a.id})
	a.watched = errno == 0
	return errno
}

func (a *epollAcceptor) pauseListening() {
	if a.watched {
		a.home.k.unwatch(a.l.FD)
		a.watched = false
	}
}

// call notes that an acceptor has clients.
func (l *loop) call(id uint32) {
	if a := l.acceptors[id]; a != nil && !a.turn {
		a.turn = true
		l.called = append(l.called, a)
	}
}

// acceptCalled runs after the flows of the turn: those that have ended have
// given their descriptors back.
func (l *loop) acceptCalled() {
	for i, a := range l.called {
		a.turn = false
		if a.watched {
			a.acceptSome()
		}
		l.called[i] = nil
	}
	l.called = l.called[:0]
	if l.retryAt <= l.now {
		l.retry()
	}
}

func (l *loop) retry() {
	l.retryAt = never
	for _, a := range l.acceptors {
		if a.againAt <= l.now {
			a.tryAgain()
		}
		l.retryAt = min(l.retryAt, a.againAt)
	}
}

// retryIn has the acceptor try again what failed.
func (a *epollAcceptor) retryIn(d time.Duration) {
	a.againAt = a.home.now + int64(d)
	a.home.retryAt = min(a.home.retryAt, a.againAt)
}

// acceptSome takes one client, and more when the turn before left some: an
// accept that finds nobody is a call for nothing.
func (a *epollAcceptor) acceptSome() {
	if a.calledAt+1 != a.home.turns {
		a.batch = 1
	}
	a.calledAt = a.home.turns
	for n := range a.batch {
		if a.waiting.fd != none {
			return
		}
		fd, from, errno := a.home.k.accept(a.l.FD)
		if errno != 0 {
			a.batch = max(n, 1)
			if errno != unix.EAGAIN {
				a.acceptFailed(errno)
			}
			return
		}
		a.waiting = accepted{fd: fd, from: from}
		a.admit()
	}
	a.batch = min(2*a.batch, acceptBatch)
}

// admit takes the means to serve the client in hand, and has a loop begin; or
// it waits for them, and accepts nobody meanwhile.
func (a *epollAcceptor) admit() {
	if !a.place && !a.l.Limit.tryAcquire() {
		a.await(a.l.Limit.free, 1)
		return
	}
	a.place = true
	if !a.room && !a.e.net.fds.tryAcquire(2) {
		a.warn("no descriptors are left")
		a.await(a.e.net.fds, 2)
		return
	}
	a.place, a.room = false, false
	c := a.waiting
	a.waiting.fd = none
	a.introduce(c)
}

// await has admitted called when n units of b are ours.
func (a *epollAcceptor) await(b *budget, n int) {
	a.pauseListening()
	a.lacks = b
	a.ticket = b.queue(n, func() { a.home.post(command{kind: commandAdmit, acceptor: a}) })
}

// admitted goes on with the client that waited.
func (a *epollAcceptor) admitted() {
	if a.ticket == nil || !a.ticket.granted() {
		return // of an earlier wait that a stop ended
	}
	a.place = true
	a.room = a.lacks == a.e.net.fds
	a.ticket, a.lacks = nil, nil
	a.admit()
	if a.state == accepting {
		a.relisten()
	}
}

// relisten accepts again, unless a client is still in hand.
func (a *epollAcceptor) relisten() {
	if a.waiting.fd != none {
		return
	}
	if errno := a.listenOn(); errno != 0 {
		a.warn(errno.Error())
		a.retryIn(acceptAgain)
	}
}

// acceptFailed waits out what a retry at once would only meet again: with
// EMFILE the client stays in the queue and is reported again and again.
func (a *epollAcceptor) acceptFailed(errno unix.Errno) {
	a.warn(errno.Error())
	a.pauseListening()
	a.retryIn(acceptAgain)
}

func (a *epollAcceptor) tryAgain() {
	if a.want != a.state {
		_ = a.change() // it says so itself, or tries once more
		return
	}
	a.againAt = never
	if a.state == accepting {
		a.relisten()
	}
}

// introduce has the loop with the fewest flows begin. Only this client moves,
// which no epoll set knows yet.
func (a *epollAcceptor) introduce(c accepted) {
	c.arrival = a.e.arrivals.Add(1)
	to := a.e.lightest(a.home)
	to.load.Add(1)
	if to == a.home {
		to.begin(a, c)
		return
	}
	a.introducing.Add(1)
	if !to.post(command{kind: commandAdopt, acceptor: a, client: c}) {
		a.introducing.Done()
		to.load.Add(-1)
		a.home.load.Add(1)
		a.home.refuse(nil, a, c)
	}
}

// lightest is home unless another loop has clearly fewer flows.
func (e *epollEngine) lightest(home *loop) *loop {
	best, least := home, home.load.Load()-imbalance
	for _, l := range e.loops {
		if n := l.load.Load(); n < least {
			best, least = l, n
		}
	}
	return best
}

// release gives back what a flow of this listener took. Any loop calls it.
func (a *epollAcceptor) release() {
	a.e.net.fds.release(2)
	a.l.Limit.release(1)
}

// warn logs a shortage, which each client meets anew, now and then. Any loop
// calls it.
func (a *epollAcceptor) warn(why string) {
	now, last := time.Now().Unix(), a.warned.Load()
	if now-last < int64(warnEvery/time.Second) || !a.warned.CompareAndSwap(last, now) {
		return
	}
	a.e.cfg.Log.Warn("accepting pauses", "listener", a.name, "why", why)
}

// Suspend implements Acceptor.
func (a *epollAcceptor) Suspend() error { return a.become(suspended) }

// Resume implements Acceptor.
func (a *epollAcceptor) Resume() error { return a.become(accepting) }

// Close implements Acceptor.
func (a *epollAcceptor) Close() error {
	err := a.become(closing)
	a.e.forget(a)
	return err
}

func (a *epollAcceptor) become(s acceptState) error {
	a.control.Lock()
	defer a.control.Unlock()
	if a.closed {
		if s == closing {
			return nil
		}
		return os.ErrClosed
	}
	a.closed = s == closing
	err, stopped := os.ErrClosed, false
	if !a.home.do(func() {
		a.want = s
		err = a.change()
		stopped = a.state != accepting
	}) && s == closing {
		return os.NewSyscallError("close", unix.Close(a.l.FD)) // its loop has stopped
	}
	if stopped { // else the home loop adds to them all the time
		a.introducing.Wait()
	}
	return err
}

// change brings the socket into the wanted state. What cannot be suspended
// goes on as it was; what cannot listen again is tried again.
func (a *epollAcceptor) change() error {
	if a.state == a.want {
		a.againAt = never
		if a.state == accepting {
			a.relisten() // it may have paused for want of something
		}
		return nil
	}
	var err error
	retried := a.againAt != never
	a.againAt = never
	switch a.want {
	case closing:
		err = a.closeSocket()
		a.state = closing
		delete(a.home.acceptors, a.id)
		a.e.net.fds.release(2)
		return err
	case suspended:
		err = a.refuse()
	case accepting:
		err = a.listenAgain()
	}
	switch {
	case err == nil:
		a.state = a.want
		if retried && a.state == accepting {
			a.e.cfg.Log.Info("listening again", "on", a.name)
		}
	case a.want == suspended:
		a.want = a.state
		a.relisten()
	default:
		a.retryIn(listenAgainEvery)
	}
	return err
}

// acceptQueued takes the clients that the kernel already promised to serve: a
// close or shutdown of the listener would reset them. The one in hand is
// served whatever it lacks, from the reserve.
func (a *epollAcceptor) acceptQueued() {
	a.pauseListening()
	if a.waiting.fd != none {
		a.takeUnasked()
	}
	for range backlog + 1 { // those that come meanwhile could keep us for ever
		if !a.l.Limit.tryAcquire() {
			return
		}
		if !a.e.net.fds.tryAcquire(2) {
			a.l.Limit.release(1)
			return
		}
		fd, from, errno := a.home.k.accept(a.l.FD)
		if errno != 0 {
			a.release()
			return
		}
		a.introduce(accepted{fd: fd, from: from})
	}
}

func (a *epollAcceptor) takeUnasked() {
	if a.ticket != nil {
		a.lacks.withdraw(a.ticket)
		a.ticket, a.lacks = nil, nil
	}
	if !a.place {
		a.l.Limit.release(-1)
	}
	a.place = false
	a.e.net.fds.release(-2)
	c := a.waiting
	a.waiting.fd = none
	a.introduce(c)
}

func (a *epollAcceptor) closeSocket() error {
	if a.state == accepting {
		a.acceptQueued()
	}
	if a.l.Network == Unix {
		unlinkOwn(a.path, a.file)
	}
	return os.NewSyscallError("close", unix.Close(a.l.FD))
}

// refuse makes the kernel answer connects with a refusal.
func (a *epollAcceptor) refuse() error {
	if a.l.Network == Unix {
		return a.replace(false)
	}
	a.acceptQueued()
	return stopListening(a.l.FD)
}

func (a *epollAcceptor) listenAgain() error {
	var err error
	if a.l.Network == Unix {
		err = a.replace(true)
	} else {
		err = listenAgain(a.l.FD)
	}
	if err == nil {
		a.relisten()
	}
	return err
}

// replace puts another socket in the place of the present one.
func (a *epollAcceptor) replace(listening bool) error {
	fd, file, err := replaceUnix(a.path, listening)
	if err != nil {
		return fmt.Errorf("replace socket %s: %w", a.path, err)
	}
	if a.state == accepting {
		a.acceptQueued()
	}
	_ = unix.Close(a.l.FD) // nobody can reach it any more
	a.l.FD, a.file, a.watched = fd, file, false
	return nil
}
