package pump

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type udpConfig struct {
	Listener Listener
	Handler  Handler
	// Acquire takes n descriptors of the process's budget without waiting;
	// false: none is left. Release gives them back.
	Acquire func(n int) bool
	Release func(n int)
	// Plain leaves merging and segmenting to the kernel's defaults, as where it
	// has neither.
	Plain bool
	// Log hears about a listening socket that fails; nothing per datagram.
	Log *slog.Logger
	// Ended, when set, is called when nothing of the acceptor runs any more.
	Ended func(Acceptor)
}

// udpPhase only ever grows.
type udpPhase = int32

const (
	udpServing udpPhase = iota
	udpClosing          // Close was called, what is queued is still taken
	udpClosed           // no session begins; the socket carries the remaining ones
)

// queuedAtClose bounds what Close takes from the queue, which a flood would
// keep from ever being empty. The default receive buffer holds a tenth of it.
const queuedAtClose = 4096

// idleAfterClose is how soon quiet sessions end once nothing new may begin: to
// get an answer that is on its way, not longer. With the ordinary time a
// stopping process would wait for clients that have long had theirs, and the
// address would stay taken for as long.
const idleAfterClose = 2 * time.Second

// udpAcceptor serves a bound socket. One goroutine reads it and hands each
// datagram on itself, by calls that do not block; each session has a goroutine
// for the answers. There is no channel between the two: a session that is slow
// or stuck loses its own datagrams and delays nobody.
type udpAcceptor struct {
	cfg     udpConfig
	own     udpOwn
	fd      int // of file; valid until run has ended
	file    *os.File
	raw     syscall.RawConn
	batches *udpBatches
	offload udpOffload
	start   time.Time // of the clock in udpSession.last

	phase     atomic.Int32
	suspended atomic.Bool
	dropped   atomic.Int64
	running   sync.WaitGroup // the sessions' goroutines; run alone adds
	closed    chan struct{}  // closed in udpClosed
	done      chan struct{}  // closed when nothing runs any more

	mu       sync.Mutex // guards the following
	sessions map[udpKey]*udpSession
	cutErr   error // set by cut: ends the sessions that are about to begin
}

// serveUDP takes ownership of the listener's descriptor.
func serveUDP(cfg udpConfig) (Acceptor, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Listener.Idle == 0 {
		cfg.Listener.Idle = defaultUDPIdle
	}
	fd := cfg.Listener.FD
	own, err := ownUDP(fd)
	if err == nil {
		// The socket may come from elsewhere than BindUDP.
		err = errors.Join(unix.SetNonblock(fd, true), askLocalAddress(fd, own.family))
	}
	if _, err := ownedUnless(fd, err); err != nil {
		return nil, fmt.Errorf("adopt udp socket: %w", err)
	}
	a := &udpAcceptor{
		cfg: cfg, own: own, fd: fd, file: os.NewFile(uintptr(fd), "udp"),
		batches: newUDPBatches(), start: time.Now(), sessions: map[udpKey]*udpSession{},
		closed: make(chan struct{}), done: make(chan struct{}),
	}
	if a.raw, err = a.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("adopt udp socket: %w", err), a.file.Close())
	}
	if !cfg.Plain {
		a.offload = probeUDP(fd)
	}
	cfg.Release(-1) // the listening socket itself
	go a.run()
	return a, nil
}

// DroppedUDP implements DropCounter.
func (a *udpAcceptor) DroppedUDP() int64 { return a.dropped.Load() }

// Suspend lets no new session begin: their datagrams are dropped, since UDP
// has no other way to refuse. Sessions that exist go on.
func (a *udpAcceptor) Suspend() error { a.suspended.Store(true); return nil }

// Resume ends what Suspend began.
func (a *udpAcceptor) Resume() error { a.suspended.Store(false); return nil }

// Close takes what is queued, and from then on lets no new session begin. The
// sessions go on while they carry something; quiet ones end after two seconds.
// Since their datagrams come and go through the listening socket, it stays
// open, and its address taken, until the last of them has ended. Not to be
// called while holding a lock that Handler.Next takes.
func (a *udpAcceptor) Close() error {
	a.phase.CompareAndSwap(udpServing, udpClosing)
	a.interrupt()
	<-a.closed
	return nil
}

// cut ends every session with cause, closes the listening socket and returns
// when nothing runs any more.
func (a *udpAcceptor) cut(cause error) {
	a.mu.Lock()
	a.cutErr = cause
	for _, s := range a.sessions {
		s.cut(cause)
	}
	a.mu.Unlock()
	a.phase.CompareAndSwap(udpServing, udpClosing)
	a.interrupt()
	<-a.done
}

// interrupt wakes run from its wait for a datagram.
func (a *udpAcceptor) interrupt() { _ = a.file.SetReadDeadline(aLongTimeAgo) }

// run reads the listening socket until Close was called and the last session
// has ended.
func (a *udpAcceptor) run() {
	in := newUDPInput(a)
	for !a.finished() {
		in.handleNext()
	}
	a.running.Wait()
	_ = a.file.Close() // UDP sockets have nothing left to fail at
	a.cfg.Release(1)
	if a.cfg.Ended != nil {
		a.cfg.Ended(a)
	}
	close(a.done)
}

func (a *udpAcceptor) beginNoMore() {
	a.phase.Store(udpClosed)
	a.mu.Lock()
	for _, s := range a.sessions {
		s.interrupt() // to find out that it is idle sooner
	}
	a.mu.Unlock()
	close(a.closed)
}

// idle is after how long without datagrams a session ends.
func (a *udpAcceptor) idle() time.Duration {
	if a.phase.Load() == udpClosed {
		return min(a.cfg.Listener.Idle, idleAfterClose)
	}
	return a.cfg.Listener.Idle
}

func (a *udpAcceptor) finished() bool {
	if a.phase.Load() != udpClosed {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.sessions) == 0
}

// dispatch hands datagrams to their session, or begins one, or several when one
// after the other ends.
func (a *udpAcceptor) dispatch(b *udpBatch, key udpKey, t *udpTrain) {
	for !t.done() {
		a.mu.Lock()
		s := a.sessions[key]
		a.mu.Unlock()
		switch {
		case s != nil && s.forward(b, t):
		case a.mayBegin():
			a.begin(b, key, t)
		default:
			a.dropped.Add(int64(t.count()))
			return
		}
	}
}

// mayBegin takes the place and the descriptor of a new session, if there may
// be one.
func (a *udpAcceptor) mayBegin() bool {
	if a.phase.Load() == udpClosed || a.suspended.Load() {
		return false
	}
	a.mu.Lock()
	cut := a.cutErr != nil
	a.mu.Unlock()
	if cut || !a.cfg.Listener.Limit.tryAcquire() {
		return false
	}
	if !a.cfg.Acquire(1) {
		a.cfg.Listener.Limit.release(1)
		return false
	}
	return true
}

func (a *udpAcceptor) begin(b *udpBatch, key udpKey, t *udpTrain) {
	s := newUDPSession(a, key)
	if !s.open() {
		a.dropped.Add(1)
		t.drop()
		s.finish()
		return
	}
	s.forward(b, t)
	a.mu.Lock()
	a.sessions[key] = s
	if a.cutErr != nil {
		s.cut(a.cutErr)
	}
	a.mu.Unlock()
	a.running.Go(s.run)
}

// remove forgets a session that has ended; the client may have another by now.
func (a *udpAcceptor) remove(s *udpSession) {
	a.mu.Lock()
	if a.sessions[s.client.key] == s {
		delete(a.sessions, s.client.key)
	}
	last := len(a.sessions) == 0
	a.mu.Unlock()
	if last && a.phase.Load() == udpClosed {
		a.interrupt()
	}
}
