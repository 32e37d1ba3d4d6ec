package systemd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Manager is the service manager that started this process, or nobody. Its
// methods may be called from any goroutine, and on a nil Manager do nothing.
type Manager struct {
	log      *slog.Logger
	socket   int // made where we were started: abstract names are of a network namespace
	watchdog time.Duration

	mu   sync.Mutex // guards the following
	to   string     // where it listens; "": nobody does
	rest map[key]inherited
}

// sendWithin bounds how long a message waits for the manager to read those
// before it.
const sendWithin = time.Second

// New takes over what the manager passed. Close it; what nobody took is closed
// with it, and stays with the manager. The error is of variables that no
// manager sets.
func New(cfg Config) (*Manager, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.PID == 0 {
		cfg.PID = os.Getpid()
	}
	if cfg.First == 0 {
		cfg.First = 3
	}
	s, err := read(cfg.Environ, cfg.PID)
	if err != nil {
		return nil, err
	}
	m := &Manager{log: cfg.Log, watchdog: s.watchdog, socket: -1, rest: map[key]inherited{}}
	if s.notify != "" {
		if err := m.open(s.notify); err != nil {
			return nil, fmt.Errorf("make a socket to notify %s: %w", s.notify, err)
		}
	}
	m.inherit(cfg.First, s.names)
	return m, nil
}

func (m *Manager) open(path string) (err error) {
	if m.socket, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	m.to = path
	limit := unix.NsecToTimeval(int64(sendWithin))
	return unix.SetsockoptTimeval(m.socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
}

// Close lets the manager go.
func (m *Manager) Close() error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, s := range m.rest {
		delete(m.rest, k)
		_ = unix.Close(s.fd) // it is somebody else's as well
	}
	if m.to == "" {
		return nil
	}
	m.to = ""
	return unix.Close(m.socket)
}

// send gives descriptors along; they stay ours, too.
func (m *Manager) send(text []byte, fds ...int) error {
	m.mu.Lock()
	to, socket := m.to, m.socket
	m.mu.Unlock()
	if to == "" {
		return nil
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(socket, text, rights, &unix.SockaddrUnix{Name: to}, unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("notify %s: it does not read what it is sent", to)
		case err != nil:
			return fmt.Errorf("notify %s: %w", to, err)
		}
		return nil
	}
}

// Ready says that the service serves, and what systemctl status shall show.
func (m *Manager) Ready(status string) { m.tell("READY=1", "STATUS="+oneLine(status)) }

// Stopping says that the service is about to end.
func (m *Manager) Stopping(status string) { m.tell("STOPPING=1", "STATUS="+oneLine(status)) }

func (m *Manager) tell(lines ...string) {
	if m == nil {
		return
	}
	if err := m.send(message(lines...)); err != nil {
		m.log.Warn("the service manager was not told", "error", err)
	}
}

// Watch pings the watchdog twice in the time that it allows, until ctx ends,
// each time after alive has returned: while that hangs there is no ping, and
// the manager restarts what is stuck.
func (m *Manager) Watch(ctx context.Context, alive func()) {
	if m == nil || m.watchdog == 0 {
		return
	}
	tick := time.NewTicker(max(m.watchdog/2, time.Millisecond))
	defer tick.Stop()
	for {
		alive()
		m.tell("WATCHDOG=1")
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// barrier returns when the manager has done what it was told before
// (sd_notify_barrier(3)): it closes the descriptor that it is given last.
func (m *Manager) barrier(within time.Duration) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a barrier: %w", err)
	}
	defer func() { _ = r.Close() }()
	err = m.send([]byte("BARRIER=1"), int(w.Fd()))
	_ = w.Close()
	if err != nil {
		return err
	}
	if err := r.SetReadDeadline(time.Now().Add(within)); err != nil {
		return fmt.Errorf("wait at a barrier: %w", err)
	}
	if _, err := r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the service manager has not let sockets go within %s", within)
	}
	return nil
}
