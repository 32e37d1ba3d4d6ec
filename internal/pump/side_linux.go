package pump

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keepAlive notices a peer that went away while nothing was to be sent.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 9}

// notSentLowat bounds what one stalled hop keeps in the kernel: 0.26 MB
// instead of 4.2 MB by default (tcp(7), TCP_NOTSENT_LOWAT).
const notSentLowat = 128 << 10

// side is one of the two connections of a flow.
type side struct {
	conn net.Conn
	raw  syscall.RawConn // nil for a connection that is no socket
	// ahead was read from such a connection to see whether it closes early.
	ahead []byte
	tcp   bool

	// onward is true while what was read from here is being written on. Nobody
	// waits for this side then, and its reset is found by the sweep.
	onward atomic.Bool
	shut   atomic.Bool // we said that we are done sending
	ended  atomic.Bool // its end of file was passed on, or came after a cut
	// broken says that the connection did not end in order, and why. What the
	// peer sent before stays to be delivered; then the other side is reset.
	broken atomic.Pointer[breakage]
}

type breakage struct {
	err      error
	vanished bool
	at       time.Time
}

func newSide(c net.Conn) *side {
	s := &side{conn: c}
	_, s.tcp = c.(*net.TCPConn)
	if sc, ok := c.(syscall.Conn); ok {
		s.raw, _ = sc.SyscallConn() // fails only on a nil connection
	}
	return s
}

func (s *side) setOptions() error {
	t, ok := s.conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := t.SetKeepAliveConfig(keepAlive); err != nil {
		return err
	}
	return control(s.raw, setLowat)
}

func setLowat(fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
}

func control(raw syscall.RawConn, f func(fd uintptr) error) error {
	var ferr error
	if err := raw.Control(func(fd uintptr) { ferr = f(fd) }); err != nil {
		return err
	}
	return ferr
}

// breakWith marks the side as broken; only the first reason counts.
func (s *side) breakWith(err error, vanished bool) bool {
	return s.broken.CompareAndSwap(nil, &breakage{err: err, vanished: vanished, at: time.Now()})
}

func (s *side) closeWrite() error {
	s.shut.Store(true)
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return s.conn.Close()
}

// pollNow asks the kernel what is true of the socket at this moment (poll(2)).
func pollNow(fd uintptr) int16 {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP | unix.POLLPRI}}
	for {
		_, err := unix.Poll(p, 0)
		if !errors.Is(err, unix.EINTR) {
			return p[0].Revents
		}
	}
}

// hasError tells whether the peer reset the connection and no call has
// reported that yet. POLLHUP would not do: it also says that both sides have
// finished in order.
func hasError(fd uintptr) bool { return pollNow(fd)&unix.POLLERR != 0 }

// takeError returns the error that hasError saw, as ErrReset unless it is the
// kernel's verdict that the peer's host is gone.
func (s *side) takeError() error {
	errno := 0
	_ = control(s.raw, func(fd uintptr) (err error) { // closed: then why does not matter
		errno, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return err
	})
	if err := syscall.Errno(errno); vanished(err) {
		return err
	}
	return ErrReset
}

// isClosed tells whether TCP has dropped the connection for good, which stays
// true after the error was reported (enum in linux/tcp_states.h).
func isClosed(fd uintptr) bool {
	const tcpClose = 7
	info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && info.State == tcpClose
}

// wasReset tells, at an end of file, whether it stands for a reset whose error
// was reported to a write: TCP is closed although we never said FIN. The
// socket is asked first: the other direction may say FIN at this moment, which
// ends an orderly connection within microseconds.
func (s *side) wasReset() bool { return s.check(isClosed) && !s.shut.Load() }

// hasEnded tells whether the peer has said FIN or RST.
func hasEnded(fd uintptr) bool {
	return pollNow(fd)&(unix.POLLERR|unix.POLLHUP|unix.POLLRDHUP) != 0
}

// hasLeft tells whether a waiting client has given up: it was reset, or said
// FIN without leaving anything to be served. One that sent its request and
// closed its sending side still wants the answer.
func hasLeft(fd uintptr) bool {
	ev := pollNow(fd)
	if ev&unix.POLLERR != 0 {
		return true
	}
	if ev&(unix.POLLRDHUP|unix.POLLHUP) == 0 {
		return false
	}
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
	return err != nil || n == 0
}

// unsent returns how many bytes the peer has not acknowledged.
func unsent(fd uintptr) int {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
	if err != nil {
		return 0
	}
	return n
}

// hasUndelivered tells whether more than our FIN waits to be acknowledged by a
// peer that is still there. On a unix socket what was written has arrived.
func (s *side) hasUndelivered() bool {
	return s.tcp && s.check(func(fd uintptr) bool { return unsent(fd) > 1 && !isClosed(fd) })
}

// check evaluates f on the socket; without one it is false.
func (s *side) check(f func(fd uintptr) bool) (ok bool) {
	if s.raw == nil {
		return false
	}
	_ = s.raw.Control(func(fd uintptr) { ok = f(fd) }) // closed: false is right
	return ok
}

// await returns nil once f is true; f is evaluated now and after each change
// of the socket's readiness, so nothing spins. A past read deadline ends it.
func (s *side) await(f func(fd uintptr) bool) error {
	return s.raw.Read(f)
}

// interrupt wakes whatever reads or writes, by the deadlines.
func (s *side) interrupt() { _ = s.conn.SetDeadline(aLongTimeAgo) }

// peeked says what a read would find.
type peeked int

const (
	peekData peeked = iota
	peekEOF
	peekReset
	peekInterrupted
)

// peek waits until the connection has something to read and says what, leaving
// it there. Only an error cannot be left: it is reported once (SO_ERROR,
// socket(7)), so who peeks must act on it.
func (s *side) peek() (peeked, error) {
	if s.raw == nil {
		return s.readAhead()
	}
	var n int
	var err error
	var b [1]byte
	werr := s.raw.Read(func(fd uintptr) bool {
		for {
			n, _, err = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if !errors.Is(err, unix.EINTR) {
				return !errors.Is(err, unix.EAGAIN)
			}
		}
	})
	switch {
	case werr != nil:
		return peekInterrupted, nil
	case vanished(err):
		return peekReset, err
	case err != nil:
		return peekReset, ErrReset
	case n == 0:
		return peekEOF, nil
	}
	return peekData, nil
}

// readAhead is peek for a connection that is no socket, which can only be read.
func (s *side) readAhead() (peeked, error) {
	b := make([]byte, 4<<10)
	n, err := s.conn.Read(b)
	s.ahead = b[:n]
	switch {
	case n > 0:
		return peekData, nil // an error with it comes again
	case errors.Is(err, io.EOF):
		return peekEOF, nil
	case isDeadline(err):
		return peekInterrupted, nil
	}
	return peekReset, err
}

// read reads from a connection that is no socket.
func (s *side) read(b []byte) (int, error) {
	if len(s.ahead) > 0 {
		n := copy(b, s.ahead)
		s.ahead = s.ahead[n:]
		return n, nil
	}
	return s.conn.Read(b)
}

// abort closes with RST on TCP (SO_LINGER 0, socket(7)); a unix peer sees the
// end of the file.
func abort(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // fails only on a closed socket
	}
	_ = c.Close()
}

// lingerTime bounds how long an end waits for what is still under way.
const lingerTime = time.Second

// closeGently ends a connection without resetting it: closing with unread
// input would send RST and drop what we sent (RFC 2525, 2.17).
func closeGently(s *side) {
	_ = s.conn.SetDeadline(time.Now().Add(lingerTime))
	if s.closeWrite() == nil {
		_, _ = io.Copy(io.Discard, onlyReader{s.conn})
	}
	_ = s.conn.Close()
}

// onlyReader hides WriteTo, which would take a pipe for what is thrown away.
type onlyReader struct{ io.Reader }

// drain waits until the peer has acknowledged all that was written, at most
// until the deadline: SO_LINGER 0 throws away what is still queued. There is
// no event for an empty queue, hence the polling.
func (s *side) drain(deadline time.Time) {
	if !s.tcp {
		return
	}
	for wait := time.Millisecond; time.Now().Before(deadline); wait = min(2*wait, 20*time.Millisecond) {
		if s.check(func(fd uintptr) bool { return unsent(fd) == 0 || isClosed(fd) }) {
			return
		}
		<-time.After(wait)
	}
}

func isDeadline(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
