package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

// Life tells when processes end, so that the sockets in their namespaces can
// be closed at once: each of those keeps a namespace without a process alive.
// Its methods may be called from any goroutine.
type Life struct {
	epoll *os.File
	raw   syscall.RawConn
	done  chan struct{} // closed when run has returned

	// The mutex guards the following.
	mu      sync.Mutex
	closed  bool
	last    uint64           // number given
	watched map[uint64]*life // by a number that is never used again, unlike descriptors
}

// life is one process that is watched.
type life struct {
	pidfd int
	ended func()
}

// NewLife starts the one goroutine that waits for all of them; Close ends it.
func NewLife() (*Life, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch processes: %w", err)
	}
	// Non-blocking descriptors are watched by the runtime's own poller, an
	// epoll's too, so that waiting takes no thread and Close wakes it.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watch processes: %w", err)
	}
	l := &Life{epoll: os.NewFile(uintptr(fd), "epoll"), done: make(chan struct{}), watched: make(map[uint64]*life)}
	if l.raw, err = l.epoll.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("watch processes: %w", err), l.epoll.Close())
	}
	go l.run()
	return l, nil
}

// Watch calls ended once, when the process with the number pid that lives in
// ns ends. It must not block: one goroutine calls it for all processes. The
// error wraps fs.ErrNotExist when there is no such process (any more); ended is
// not called then. stop ends the watch; ended may be under way at that moment.
// ns may be closed as soon as Watch has returned.
func (l *Life) Watch(pid int, ns *Namespace, ended func()) (stop func(), err error) {
	pidfd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, explainPidfd(pid, err)
	}
	// Asked only now: if another process was given the number before it was
	// opened, it lives elsewhere; if after that, what was opened has ended.
	var st unix.Stat_t
	err = unix.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &st)
	if err == nil && idOf(&st) != ns.ID() {
		err = fs.ErrNotExist
	}
	if err != nil {
		_ = unix.Close(pidfd)
		return nil, fmt.Errorf("watch process %d: %w", pid, gone(err))
	}
	return l.add(&life{pidfd, ended})
}

func explainPidfd(pid int, err error) error {
	if errors.Is(err, unix.ENOSYS) {
		return spec.Errorf("a kernel of version 5.3 or newer is needed", "watch process %d: %v", pid, err)
	}
	return fmt.Errorf("watch process %d: %w", pid, gone(err))
}

func (l *Life) add(p *life) (stop func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	number := l.last + 1
	err = os.ErrClosed
	if !l.closed {
		err = l.register(number, p.pidfd)
	}
	if err != nil {
		_ = unix.Close(p.pidfd)
		return nil, fmt.Errorf("watch processes: %w", err)
	}
	l.last = number
	l.watched[number] = p
	return func() { l.take(number) }, nil
}

func (l *Life) register(number uint64, pidfd int) error {
	var failed error
	err := l.raw.Control(func(epoll uintptr) {
		e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(uint32(number)), Pad: int32(uint32(number >> 32))}
		failed = unix.EpollCtl(int(epoll), unix.EPOLL_CTL_ADD, pidfd, &e)
	})
	return errors.Join(err, failed)
}

// take ends a watch, and returns what to call if nobody else has ended it.
func (l *Life) take(number uint64) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.watched[number]
	if !ok {
		return nil
	}
	delete(l.watched, number)
	_ = unix.Close(p.pidfd) // which also takes it off the epoll
	return p.ended
}

func (l *Life) run() {
	defer close(l.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n := 0
		err := l.raw.Read(func(epoll uintptr) bool {
			n, _ = unix.EpollWait(int(epoll), events, 0)
			return n > 0
		})
		if err != nil {
			return // closed
		}
		for _, e := range events[:n] {
			if ended := l.take(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32); ended != nil {
				ended()
			}
		}
	}
}

// Close ends all watches and returns when no ended runs any more; none may
// call it.
func (l *Life) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	err := l.epoll.Close()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	for number, p := range l.watched {
		delete(l.watched, number)
		_ = unix.Close(p.pidfd)
	}
	return err
}
