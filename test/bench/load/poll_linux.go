package load

import (
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// poll is an epoll set with its events; descriptors are watched level-triggered.
type poll struct {
	fd     int
	events [128]unix.EpollEvent
}

func newPoll() (*poll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll: %w", err)
	}
	return &poll{fd: fd}, nil
}

func (p *poll) close() { unix.Close(p.fd) }

// add watches fd; events about it come back with key.
func (p *poll) add(fd, key int, events uint32) error {
	return p.control(unix.EPOLL_CTL_ADD, fd, key, events)
}

func (p *poll) change(fd, key int, events uint32) error {
	return p.control(unix.EPOLL_CTL_MOD, fd, key, events)
}

func (p *poll) control(op, fd, key int, events uint32) error {
	e := unix.EpollEvent{Events: events, Fd: int32(key)}
	if err := unix.EpollCtl(p.fd, op, fd, &e); err != nil {
		return fmt.Errorf("watch descriptor: %w", err)
	}
	return nil
}

// wait waits for at most timeout, or for ever when that is negative; expired
// says that nothing happened for so long. There may be neither events nor an
// expiry: the runtime signals its threads. Not epoll_wait, whose milliseconds
// would be the clock of the load.
func (p *poll) wait(timeout time.Duration) (events []unix.EpollEvent, expired bool, err error) {
	var limit *unix.Timespec
	if timeout >= 0 {
		ts := unix.NsecToTimespec(int64(timeout))
		limit = &ts
	}
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(p.fd), uintptr(unsafe.Pointer(&p.events)), uintptr(len(p.events)), uintptr(unsafe.Pointer(limit)), 0, 0)
	switch {
	case errno == unix.EINTR:
		return nil, false, nil
	case errno != 0:
		return nil, false, fmt.Errorf("wait for events (Linux 5.11 or later): %w", errno)
	}
	return p.events[:n], n == 0, nil
}

// exactTimers asks for time-outs without the slack of 50 us that threads have
// by default (man 2const PR_SET_TIMERSLACK): it would be in every latency. The
// calling goroutine is locked to its thread until it calls restore: processes
// that the thread starts inherit its slack, and proxies shall have the default.
func exactTimers() (restore func(), err error) {
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("set timer slack: %w", err)
	}
	// 0 is the thread's default; what was just allowed is so again.
	return func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }, nil
}

// again tells that a call on a descriptor has to wait for the next event.
func again(err error) bool { return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) }
