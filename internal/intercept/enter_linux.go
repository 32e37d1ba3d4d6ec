package intercept

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

var errEnded = errors.New("the work in the network namespace ended early")

// inside runs f on a thread that is in the network namespace ns, and returns
// what f returns. It is the only function that enters a namespace.
//
// The work is a goroutine's of its own. A thread that cannot come back must
// never run anything else, and only a goroutine that ends while it is locked
// to its thread takes that along (runtime.LockOSThread); the caller, who may
// be locked to a thread of his own, goes on in his own namespace. Goroutines
// that f starts are not in ns.
func inside(ns int, f func() error) error {
	done := make(chan error, 1)
	go visit(ns, f, done)
	return <-done
}

func visit(ns int, f func() error, done chan<- error) {
	err := errEnded // which f does with runtime.Goexit
	defer func() { done <- err }()
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		// The first thread of a process never ends: Go keeps it, and the
		// namespace with it. While it is held here, another one does the work.
		err = inside(ns, f)
		runtime.UnlockOSThread()
		return
	}
	home, failed := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if failed != nil {
		runtime.UnlockOSThread()
		err = fmt.Errorf("open own network namespace: %w", failed)
		return
	}
	defer func() { _ = unix.Close(home) }()
	if failed := unix.Setns(ns, unix.CLONE_NEWNET); failed != nil {
		runtime.UnlockOSThread()
		err = explainEnter(failed)
		return
	}
	err = f()
	if unix.Setns(home, unix.CLONE_NEWNET) != nil {
		return // locked, so the thread ends; what f did is done all the same
	}
	runtime.UnlockOSThread()
}

// MayEnter tells whether this process has the capability that entering a
// namespace takes (setns(2)).
func MayEnter() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // 32 capabilities each
	err := unix.Capget(&header, &sets[0])
	return err == nil && sets[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

func explainEnter(err error) error {
	if errors.Is(err, unix.EPERM) {
		return spec.Errorf("run Legate as root with the capability SYS_ADMIN: docker run --cap-add SYS_ADMIN",
			"enter a container's network namespace: %v", err)
	}
	return fmt.Errorf("enter network namespace: %w", err)
}
