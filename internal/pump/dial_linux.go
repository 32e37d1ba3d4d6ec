package pump

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type dialed struct {
	leg int
	s   *side
	err error
}

// dial tries the legs of a step and returns the first that connects, or nil
// with each Leg.Err set.
func (f *netFlow) dial(step Step) (int, *side) {
	for i := range step.Dial {
		step.Dial[i].Err = ErrNotTried
	}
	ctx := f.ctx
	if !step.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, step.Deadline)
		defer cancel()
	}
	if step.Stagger > 0 && len(step.Dial) > 1 {
		return race(ctx, step)
	}
	for i := range step.Dial {
		if isOver(ctx) {
			break
		}
		leg := &step.Dial[i]
		var s *side
		if s, leg.Err = connect(ctx, leg); leg.Err == nil {
			return i, s
		}
	}
	return 0, nil
}

// isOver tells whether ctx has ended or its deadline passed: a socket's own
// deadline may fire a little before the context's timer does.
func isOver(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || (ok && !time.Now().Before(deadline))
}

// race starts legs Stagger apart, or as soon as one failed, and keeps the
// first to connect (RFC 8305, section 5).
func race(ctx context.Context, step Step) (int, *side) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan dialed)
	started, pending := 0, 0
	start := func() {
		if started == len(step.Dial) || isOver(ctx) {
			return
		}
		go func(i int) {
			s, err := connect(ctx, &step.Dial[i])
			results <- dialed{i, s, err}
		}(started)
		started++
		pending++
	}
	winner := dialed{}
	ticker := time.NewTicker(step.Stagger)
	defer ticker.Stop()
	for start(); pending > 0; {
		select {
		case <-ticker.C:
			start()
		case r := <-results:
			pending--
			leg := &step.Dial[r.leg]
			switch leg.Err = r.err; {
			case winner.s != nil:
				leg.Err = ErrOvertaken
				if r.s != nil {
					_ = r.s.conn.Close() // a loser that was as quick
				}
			case r.err == nil:
				winner = r
				cancel()
			default:
				ticker.Reset(step.Stagger)
				start()
			}
		}
	}
	return winner.leg, winner.s
}

// connect makes one connection and writes the leg's prefix.
func connect(ctx context.Context, leg *Leg) (*side, error) {
	if leg.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, leg.Timeout)
		defer cancel()
	}
	start := time.Now()
	c, err := open(ctx, leg)
	if err != nil {
		return nil, plainly(err, time.Since(start))
	}
	if len(leg.Prefix) > 0 {
		if err := writePrefix(ctx, c, leg.Prefix); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("write prefix: %w", err)
		}
	}
	return newSide(c), nil
}

// plainly says what went wrong without the addresses that package net puts
// around it: who reads it knows which endpoint it was.
func plainly(err error, took time.Duration) error {
	if isTimeout(err) && !errors.Is(err, unix.ETIMEDOUT) {
		return fmt.Errorf("connect: no answer within %v: %w", took.Round(10*time.Millisecond), os.ErrDeadlineExceeded)
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

func open(ctx context.Context, leg *Leg) (net.Conn, error) {
	if leg.Refuse != nil {
		leg.begin()
		return nil, leg.Refuse
	}
	if leg.Open != nil {
		leg.begin()
		return leg.Open(ctx)
	}
	c, err := dialNet(ctx, leg)
	if err != nil || leg.Network == Unix {
		return c, err
	}
	if streamAddr(c.LocalAddr()) == streamAddr(c.RemoteAddr()) {
		return nil, errors.Join(ErrSelfConnect, c.Close())
	}
	return c, nil
}

func dialNet(ctx context.Context, leg *Leg) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive, Control: setDialOptions}
	switch {
	case leg.Begin != nil, leg.Socket != nil:
		return dialRaw(ctx, leg)
	case leg.Network == Unix:
		return d.DialContext(ctx, "unix", leg.Path)
	}
	// Not DialTCP: it binds first, even to no address at all, and a port taken
	// by bind(2) serves one connection instead of one to each endpoint.
	return d.DialContext(ctx, "tcp", leg.Addr.String())
}

func setDialOptions(network, _ string, raw syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	return control(raw, setLowat)
}

// dialRaw connects step by step, because package net takes no socket of
// somebody else, and has no moment between the connect that is under way and
// its end, which Leg.Begin wants to know.
func dialRaw(ctx context.Context, leg *Leg) (net.Conn, error) {
	fd, err := startConnect(leg)
	leg.begin()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "endpoint")
	defer func() { _ = f.Close() }() // FileConn works on a duplicate
	if err := awaitConnect(ctx, f); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	if err := newSide(c).setOptions(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// adoptConn takes over a connected descriptor.
func adoptConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "connection")
	defer func() { _ = f.Close() }() // FileConn works on a duplicate
	return net.FileConn(f)
}

// startConnect returns a non-blocking socket whose connect is under way.
func startConnect(leg *Leg) (int, error) {
	sa := unix.Sockaddr(&unix.SockaddrUnix{Name: leg.Path})
	if leg.Network != Unix {
		sa = sockaddr(leg.Addr)
	}
	fd, err := leg.ownSocket()
	if err == nil && fd == none {
		fd, err = unix.Socket(leg.domain(), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		err = os.NewSyscallError("socket", err)
	}
	if err != nil {
		return none, err
	}
	err = unix.Connect(fd, sa)
	if errors.Is(err, unix.EINPROGRESS) {
		err = nil
	}
	return ownedUnless(fd, os.NewSyscallError("connect", err))
}

// awaitConnect waits until the connect of f has succeeded or failed
// (connect(2), EINPROGRESS).
func awaitConnect(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(aLongTimeAgo) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno int
	var gerr error
	err = raw.Write(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, _ := unix.Poll(p, 0); n == 0 {
			return false
		}
		errno, gerr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return true
	})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil || gerr != nil:
		return errors.Join(err, gerr)
	case errno != 0:
		return os.NewSyscallError("connect", syscall.Errno(errno))
	}
	return nil
}

// domain is that of the leg's socket, as in socket(2).
func (leg *Leg) domain() int {
	if leg.Network == Unix {
		return unix.AF_UNIX
	}
	return family(leg.Addr.Addr())
}

// ownSocket is the socket that the leg brings along; none: it brings none.
func (leg *Leg) ownSocket() (int, error) {
	if leg.Socket == nil {
		return none, nil
	}
	kind := unix.SOCK_STREAM
	if leg.Network == UDP {
		kind = unix.SOCK_DGRAM
	}
	return leg.Socket(leg.domain(), kind)
}

func (leg *Leg) begin() {
	if leg.Begin != nil {
		leg.Begin()
	}
}

func writePrefix(ctx context.Context, c net.Conn, p []byte) error {
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetWriteDeadline(deadline) // fails only on a closed connection; so does the write
	}
	if _, err := c.Write(p); err != nil {
		return err
	}
	return c.SetWriteDeadline(time.Time{})
}

// vanished tells whether err says that the other side's host fell silent.
func vanished(err error) bool {
	for _, e := range []error{unix.ETIMEDOUT, unix.EHOSTUNREACH, unix.ENETUNREACH} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
