package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

// Namespace is an open handle on a network namespace. It keeps the namespace
// alive until it is closed, with all network interfaces in it, and so does
// each socket that was made with it. Its methods may be called from any
// goroutine.
type Namespace struct {
	file *os.File
	id   string
}

// Open opens the network namespace that path refers to: /proc/PID/ns/net, or a
// file over which one is mounted. Another file is ErrNoNamespace; what the
// caller may not open is a *spec.UserError.
func Open(path string) (*Namespace, error) {
	ns, err := open(path)
	if err != nil {
		return nil, explainOpen(path, err)
	}
	return ns, nil
}

func explainOpen(what string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return spec.Errorf("run Legate as root with the capabilities SYS_PTRACE and SYS_ADMIN, and without an AppArmor profile",
			"open network namespace %s: %v", what, err)
	}
	return fmt.Errorf("open network namespace %s: %w", what, err)
}

func open(path string) (*Namespace, error) {
	// Asked before it is opened: opening a device may do anything, opening a
	// pipe lets its writer go on.
	var fsys unix.Statfs_t
	if err := unix.Statfs(path, &fsys); err != nil {
		return nil, err
	}
	if fsys.Type != unix.NSFS_MAGIC {
		return nil, ErrNoNamespace
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), path)
	id, err := identify(fd)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return &Namespace{file: file, id: id}, nil
}

// nsGetType asks for the kind of a namespace (ioctl_nsfs(2)); x/sys does not
// have it.
const nsGetType = 0xb703

// identify fails for what is no network namespace, were it another kind of
// namespace.
func identify(fd int) (string, error) {
	if kind, err := unix.IoctlRetInt(fd, nsGetType); err != nil || kind != unix.CLONE_NEWNET {
		return "", ErrNoNamespace
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", err
	}
	return idOf(&st), nil
}

func idOf(st *unix.Stat_t) string {
	return strconv.FormatUint(st.Dev, 10) + ":" + strconv.FormatUint(st.Ino, 10)
}

// ID is the same for two handles exactly if they are on the same namespace.
// That holds as long as one of them is open: the kernel gives the number of a
// namespace that has ended to another.
func (ns *Namespace) ID() string { return ns.id }

// Close lets the namespace go. Sockets that were made with it stay.
func (ns *Namespace) Close() error { return ns.file.Close() }

// Do runs f on a thread that is inside the namespace, and returns its error,
// or one that wraps os.ErrClosed after Close. Sockets that f makes stay there. f
// must do nothing else: goroutines that it starts are outside, and a path in
// /proc/net or /sys is not the namespace's. It must not wait either, as a thread
// waits with it.
func (ns *Namespace) Do(f func() error) error {
	raw, err := ns.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	var result error
	// The descriptor cannot be closed, and its number be another's, meanwhile.
	if raw.Control(func(fd uintptr) { result = inside(int(fd), f) }) != nil {
		return fmt.Errorf("enter network namespace: %w", os.ErrClosed) // its only reason, and package os does not say it so
	}
	return result
}

// Socket makes an unconnected, non-blocking socket in the namespace, as
// pump.Leg.Socket wants it: its connect, wherever that is called, starts from
// there. domain and kind are as in socket(2); the caller owns the descriptor.
func (ns *Namespace) Socket(domain, kind int) (int, error) {
	fd := -1
	err := ns.Do(func() (err error) {
		fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("make a socket in a network namespace: %w", err)
	}
	return fd, nil
}
