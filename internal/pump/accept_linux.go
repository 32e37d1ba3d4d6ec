package pump

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// backlog of listening sockets; the kernel lowers it to net.core.somaxconn.
const backlog = 4096

// aLongTimeAgo as a deadline wakes whatever blocks on a connection.
var aLongTimeAgo = time.Unix(1, 0)

type acceptState int

const (
	accepting acceptState = iota
	suspended
	closing
)

// streamAcceptor accepts TCP and unix clients of one listening socket. Its one
// goroutine owns the socket; the methods only say which state is wanted.
type streamAcceptor struct {
	e    *netEngine
	h    Handler
	l    Listener
	done chan struct{} // closed when run has returned
	path string        // of a unix socket
	// warned is when run last logged that accepting pauses.
	warned time.Time
	// introducing is the flows that the handler does not know of yet. Only run
	// adds and waits.
	introducing sync.WaitGroup

	mu      sync.Mutex // guards the following
	ln      listener
	want    acceptState
	have    acceptState
	tried   bool  // to get from have to want
	err     error // of that
	hurried bool  // the socket's deadline is in the past
	changed *sync.Cond
	kick    chan struct{} // closed, and replaced, when another state is wanted
	file    os.FileInfo   // the socket file that is ours
}

// listener is what *net.TCPListener and *net.UnixListener share.
type listener interface {
	net.Listener
	SetDeadline(time.Time) error
	SyscallConn() (syscall.RawConn, error)
}

func (e *netEngine) newStreamAcceptor(l Listener, h Handler) (*streamAcceptor, error) {
	ln, err := adoptListener(l.FD)
	if err != nil {
		return nil, err
	}
	a := &streamAcceptor{e: e, h: h, l: l, ln: ln, done: make(chan struct{}), kick: make(chan struct{})}
	a.changed = sync.NewCond(&a.mu)
	if l.Network == Unix {
		a.path = ln.Addr().String()
		a.file, _ = os.Lstat(a.path) // gone already: then there is nothing to unlink later
	}
	// The listening socket, and one client that may be accepted before the
	// budget says no.
	e.fds.release(-2)
	go a.run()
	return a, nil
}

func (a *streamAcceptor) run() {
	defer close(a.done)
	defer a.e.fds.release(2)
	for {
		switch state, kick := a.enter(); state {
		case suspended:
			a.waitSuspended(kick)
		case closing:
			return
		case accepting:
			a.acceptOne(kick)
		}
	}
}

// enter brings the socket into the wanted state, if it can, and returns its
// state with the channel that closes when another one is wanted.
func (a *streamAcceptor) enter() (acceptState, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.have != a.want {
		a.change()
		a.changed.Broadcast()
	}
	if a.hurried && a.have == accepting {
		a.hurried = false
		_ = a.ln.SetDeadline(time.Time{}) // fails only on a closed listener; accepting says so
	}
	return a.have, a.kick
}

// change needs mu. What cannot be suspended goes on as it was; what cannot
// listen again is tried again.
func (a *streamAcceptor) change() {
	again := a.tried
	switch a.want {
	case closing:
		a.err = a.closeSocket()
	case suspended:
		a.err = a.refuse()
	case accepting:
		a.err = a.listenAgain()
	}
	a.tried = true
	switch {
	case a.err == nil || a.want == closing:
		a.have = a.want
	case a.want == suspended:
		a.want = a.have
	}
	if a.have != accepting {
		a.introducing.Wait() // who stopped us now decides about every flow
	}
	if again && a.have == accepting {
		a.e.cfg.Log.Info("listening again", "on", a.ln.Addr())
	}
}

// listenAgainEvery is the pause between tries to get back an address that
// somebody else has taken.
const listenAgainEvery = 200 * time.Millisecond

func (a *streamAcceptor) waitSuspended(kick <-chan struct{}) {
	a.mu.Lock()
	fails := a.want != suspended
	a.mu.Unlock()
	var again <-chan time.Time
	if fails {
		again = time.After(listenAgainEvery)
	}
	select {
	case <-kick:
	case <-again:
	}
}

// acceptOne waits for one client and for the means to serve it. The client is
// accepted before they are taken, so that an idle listener holds none that
// others could use; without them accepting pauses here. When another state is
// wanted meanwhile the client is served nevertheless, descriptors coming from
// the reserve: to close its connection would be a reset.
func (a *streamAcceptor) acceptOne(kick <-chan struct{}) {
	c, err := a.ln.Accept()
	if err != nil {
		a.acceptFailed(err, kick)
		return
	}
	if !a.l.Limit.acquire(kick) {
		a.l.Limit.release(-1)
	}
	if !a.e.fds.tryAcquire(2) {
		a.warn("no descriptors are left")
		if !a.e.fds.acquire(2, kick) {
			a.e.fds.release(-2)
		}
	}
	a.start(c)
}

// warnEvery bounds the log of a shortage, which each client meets anew.
const warnEvery = 10 * time.Second

func (a *streamAcceptor) warn(why string) {
	if time.Since(a.warned) < warnEvery {
		return
	}
	a.warned = time.Now()
	a.e.cfg.Log.Warn("accepting pauses", "listener", a.ln.Addr(), "why", why)
}

// acceptFailed waits out what a retry at once would only meet again: with
// EMFILE the client stays in the queue and Accept returns in a busy loop.
func (a *streamAcceptor) acceptFailed(err error, kick <-chan struct{}) {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, unix.ECONNABORTED) {
		return
	}
	a.warn(err.Error())
	if a.e.fds.acquire(2, kick) {
		a.e.fds.release(2)
	}
	select {
	case <-kick:
	case <-time.After(100 * time.Millisecond):
	}
}

func (a *streamAcceptor) start(c net.Conn) {
	f := newNetFlow(a.e, a.h, c)
	f.flow.Arrival = a.e.arrivals.Add(1)
	f.release = a.release
	a.introducing.Add(1)
	if !a.e.add(f, func() { f.introduce(&a.introducing) }) {
		a.introducing.Done()
		abort(c)
		a.release()
	}
}

// release gives back what a flow of this listener took.
func (a *streamAcceptor) release() {
	a.e.fds.release(2)
	a.l.Limit.release(1)
}

// Suspend implements Acceptor.
func (a *streamAcceptor) Suspend() error { return a.become(suspended) }

// Resume implements Acceptor.
func (a *streamAcceptor) Resume() error { return a.become(accepting) }

// Close implements Acceptor.
func (a *streamAcceptor) Close() error {
	err := a.become(closing)
	<-a.done
	a.e.forget(a)
	return err
}

func (a *streamAcceptor) become(s acceptState) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.want == closing {
		if s == closing {
			return nil
		}
		return os.ErrClosed
	}
	if a.want != s {
		a.order(s)
	}
	for a.have != s && a.want == s && !a.tried {
		a.changed.Wait()
	}
	if a.have == s && s != closing {
		return nil
	}
	return a.err
}

// order needs mu.
func (a *streamAcceptor) order(s acceptState) {
	a.want, a.tried, a.err = s, false, nil
	close(a.kick)
	a.kick = make(chan struct{})
	if a.have == accepting && s != accepting {
		a.hurried = true
		_ = a.ln.SetDeadline(aLongTimeAgo) // fails only on a closed listener, which blocks nobody
	}
}

// acceptQueued takes the clients that the kernel already promised to serve: a
// close or shutdown of the listener would reset them.
func (a *streamAcceptor) acceptQueued() {
	raw, err := a.ln.SyscallConn()
	if err != nil {
		return
	}
	for a.l.Limit.tryAcquire() {
		if !a.e.fds.tryAcquire(2) {
			a.l.Limit.release(1)
			return
		}
		c, err := acceptNow(raw)
		if err != nil {
			a.release()
			return
		}
		a.start(c)
	}
}

func acceptNow(raw syscall.RawConn) (net.Conn, error) {
	var fd int
	var err error
	if cerr := raw.Control(func(l uintptr) { fd, _, err = unix.Accept4(int(l), unix.SOCK_CLOEXEC) }); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, err
	}
	return adoptConn(fd)
}

func (a *streamAcceptor) closeSocket() error {
	a.acceptQueued()
	if a.l.Network == Unix {
		unlinkOwn(a.path, a.file)
	}
	return a.ln.Close()
}

// refuse makes the kernel answer connects with a refusal.
func (a *streamAcceptor) refuse() error {
	if a.l.Network == Unix {
		return a.replaceUnix(false)
	}
	a.acceptQueued()
	return a.control(stopListening)
}

func (a *streamAcceptor) listenAgain() error {
	if a.l.Network == Unix {
		return a.replaceUnix(true)
	}
	return a.control(listenAgain)
}

// replaceUnix puts another socket in the place of the present one.
func (a *streamAcceptor) replaceUnix(listening bool) error {
	fd, file, err := replaceUnix(a.path, listening)
	if err != nil {
		return fmt.Errorf("replace socket %s: %w", a.path, err)
	}
	ln, err := adoptListener(fd)
	if err != nil {
		return fmt.Errorf("replace socket %s: %w", a.path, err)
	}
	a.acceptQueued()
	_ = a.ln.Close() // nobody can reach it any more
	a.ln, a.file = ln, file
	return nil
}

func (a *streamAcceptor) control(f func(fd int) error) error {
	raw, err := a.ln.SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, func(fd uintptr) error { return f(int(fd)) })
}
