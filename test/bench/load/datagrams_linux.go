package load

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Burst is how many datagrams are due at once: what a sender with something to
// say puts into one segmented send. 32 of 1,200 bytes fit.
const Burst = 32

// stampSize is the front of a datagram that says when it was due.
const stampSize = 8

// datagrams send bursts; the answer is what the sink counts. One goroutine uses
// them.
type datagrams struct {
	shape   Shape
	sink    *Sink
	fds     []int
	burst   []byte
	control []byte // asks for segments, in GSO mode
}

func openDatagrams(target *unix.SockaddrInet4, s Shape, sink *Sink) (*datagrams, error) {
	l := &datagrams{shape: s, sink: sink, burst: make([]byte, Burst*s.Request)}
	if s.Mode == GSO {
		l.control = segmentControl(s.Request)
	}
	for range s.Conns {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("open socket: %w", err)
		}
		l.fds = append(l.fds, fd)
		if err := unix.Connect(fd, target); err != nil {
			l.Close()
			return nil, fmt.Errorf("connect: %w", err)
		}
	}
	return l, l.warm()
}

// segmentControl is the control message UDP_SEGMENT, see man 7 udp.
func segmentControl(size int) []byte {
	b := make([]byte, unix.CmsgSpace(2))
	h := binary.NativeEndian
	h.PutUint64(b, uint64(unix.CmsgLen(2)))
	h.PutUint32(b[8:], unix.IPPROTO_UDP)
	h.PutUint32(b[12:], unix.UDP_SEGMENT)
	h.PutUint16(b[unix.CmsgLen(0):], uint16(size))
	return b
}

func (l *datagrams) Close() {
	for _, fd := range l.fds {
		unix.Close(fd)
	}
}

// warm opens the proxy's sessions: one datagram on each socket, which must
// arrive.
func (l *datagrams) warm() error {
	l.sink.reset()
	l.stamp(clock())
	for _, fd := range l.fds {
		if err := l.sendPlain(fd, l.burst[:l.shape.Request]); err != nil {
			l.Close()
			return err
		}
	}
	if got := l.arrived(int64(len(l.fds)), stall); got != int64(len(l.fds)) {
		l.Close()
		return fmt.Errorf("%d of the first %d datagrams arrive", got, len(l.fds))
	}
	return nil
}

func (l *datagrams) Run() (Result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restore, err := exactTimers()
	if err != nil {
		return Result{}, err
	}
	defer restore()
	l.sink.reset()
	plan := newSchedule(l.shape)
	timer, err := newPoll()
	if err != nil {
		return Result{}, err
	}
	defer timer.close()
	for i := range plan.total {
		due := plan.due(i)
		for now := clock(); now < due; now = clock() {
			if _, _, err := timer.wait(due - now); err != nil {
				return Result{}, err
			}
		}
		if err := l.send(l.fds[i%int64(len(l.fds))], due); err != nil {
			return Result{}, err
		}
	}
	sent := plan.total * Burst
	got := l.arrived(sent, lossTime)
	r := Result{Units: float64(got) * l.shape.Units, Lost: float64(sent - got), Wall: clock() - plan.begin}
	r.sum(l.sink.delays())
	return r, nil
}

// lossTime is for how long nothing comes before what is missing is lost.
const lossTime = 100 * time.Millisecond

// arrived waits for count datagrams, or until none comes any more, and returns
// how many there are.
func (l *datagrams) arrived(count int64, patience time.Duration) (got int64) {
	for last := clock(); ; {
		n := l.sink.received()
		now := clock()
		if n >= count || now-last > patience {
			return n
		}
		if n > got {
			got, last = n, now
		}
		wait := time.NewTimer(time.Millisecond)
		<-wait.C
	}
}

func (l *datagrams) send(fd int, due time.Duration) error {
	size := l.shape.Request
	l.stamp(due)
	if l.shape.Mode == GSO {
		return ignoreRefused(unix.Sendmsg(fd, l.burst, l.control, nil, 0))
	}
	for at := 0; at < len(l.burst); at += size {
		if err := l.sendPlain(fd, l.burst[at:at+size]); err != nil {
			return err
		}
	}
	return nil
}

// stamp says in every datagram when it was due.
func (l *datagrams) stamp(due time.Duration) {
	for at := 0; at < len(l.burst); at += l.shape.Request {
		binary.BigEndian.PutUint64(l.burst[at:], uint64(due))
	}
}

func (l *datagrams) sendPlain(fd int, b []byte) error {
	_, err := unix.Write(fd, b)
	return ignoreRefused(err)
}

// ignoreRefused: that a datagram did not arrive shows in the count.
func ignoreRefused(err error) error {
	if err == nil || errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	return fmt.Errorf("send: %w", err)
}
