package pump

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// prefacing is a flow of the net engine that waits for its client's preface.
type prefacing struct {
	f     *netFlow
	p     *Preface
	b     []byte
	n     int   // bytes of the preface
	bad   error // there is none
	reset bool  // the client has reset
}

// readPreface waits for the client's first bytes, which stay in the kernel
// until it is known how many of them are the preface.
func (f *netFlow) readPreface(p *Preface) (Attempt, *Result) {
	x := &prefacing{f: f, p: p, b: make([]byte, p.most())}
	known := make(chan error, 1)
	go func() { known <- f.client.await(x.look) }()
	var late <-chan time.Time
	if p.Timeout > 0 {
		timer := time.NewTimer(p.Timeout)
		defer timer.Stop()
		late = timer.C
	}
	var err error
	select {
	case err = <-known:
	case <-late:
		f.client.interrupt()
		err = <-known
	case <-f.ctx.Done():
		f.client.interrupt()
		_ = <-known // only that it has ended matters
	}
	if end := f.reopen(); end != nil {
		return Attempt{}, end
	}
	return x.outcome(err)
}

// look tells whether it is known now what becomes of the preface. The state is
// asked for first: what came before the peer's end is there then.
func (x *prefacing) look(fd uintptr) bool {
	ev := pollNow(fd)
	got, err := peekAt(fd, x.b)
	switch {
	case errors.Is(err, unix.EAGAIN):
		return false
	case err != nil || ev&unix.POLLERR != 0:
		x.reset = true
		return true
	}
	if got > 0 {
		x.n, x.bad = x.p.Parse(x.f.flow, x.b[:got])
	}
	switch {
	case x.bad != nil || x.n > 0:
	case got == len(x.b):
		x.bad = ErrLongPreface
	case got == 0 || ev&(unix.POLLRDHUP|unix.POLLHUP) != 0:
		x.bad = ErrNoPreface
	case ev&unix.POLLPRI != 0:
		x.bad = errUrgentPreface
	default:
		return false
	}
	return true
}

func peekAt(fd uintptr, b []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// outcome consumes the preface; err is why nothing is known of it.
func (x *prefacing) outcome(err error) (Attempt, *Result) {
	switch {
	case x.reset:
		return Attempt{}, x.f.drop(CauseAbandoned, x.f.client.takeError())
	case x.bad != nil:
		return Attempt{Kind: BadPreface, Err: x.bad}, nil
	case x.n > 0:
		if _, err := io.ReadFull(x.f.client.conn, x.b[:x.n]); err != nil {
			return Attempt{}, x.f.drop(CauseAbandoned, err)
		}
		return Attempt{Kind: Prefaced}, nil
	case isDeadline(err):
		return Attempt{Kind: BadPreface, Err: os.ErrDeadlineExceeded}, nil
	}
	return Attempt{}, x.f.drop(CauseAbandoned, err)
}
