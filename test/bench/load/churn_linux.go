package load

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// churn are clients that connect for every request, at most shape.Conns at a
// time. One goroutine uses them.
type churn struct {
	shape  Shape
	target *unix.SockaddrInet4
	poll   *poll
	first  []byte // header and request
	in     []byte
	slots  []short
	free   []int // of the slots

	plan schedule
	next int64 // begun
	done int64
	end  time.Duration
	took []time.Duration
}

// short is one connection.
type short struct {
	fd    int
	open  bool
	sent  bool
	in    int // bytes of the answer that are there
	since time.Duration
}

func openChurn(target *unix.SockaddrInet4, s Shape) (*churn, error) {
	p, err := newPoll()
	if err != nil {
		return nil, err
	}
	l := &churn{shape: s, target: target, poll: p, in: make([]byte, max(s.Response, 1)), slots: make([]short, s.Conns)}
	l.first = append(header(kindAnswer, s.Request, s.Response), make([]byte, s.Request)...)
	for i := range l.slots {
		l.free = append(l.free, i)
	}
	return l, nil
}

func (l *churn) Close() {
	for i := range l.slots {
		if l.slots[i].open {
			unix.Close(l.slots[i].fd)
		}
	}
	l.poll.close()
}

func (l *churn) Run() (Result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restore, err := exactTimers()
	if err != nil {
		return Result{}, err
	}
	defer restore()
	l.plan, l.next, l.done, l.took = newSchedule(l.shape), 0, 0, l.took[:0]
	if err := l.loop(); err != nil {
		return Result{}, err
	}
	r := Result{Units: float64(l.done) * l.shape.Units, Wall: l.end - l.plan.begin}
	r.sum(l.took)
	return r, nil
}

func (l *churn) loop() error {
	for {
		now := clock()
		if err := l.arrive(now); err != nil {
			return err
		}
		timeout := l.left(now)
		if !l.more(now) && l.done == l.next {
			return nil
		}
		events, expired, err := l.poll.wait(timeout)
		if err != nil {
			return err
		}
		if expired && timeout == stall {
			return fmt.Errorf("%d of %d connections get no answer", l.next-l.done, l.next)
		}
		for _, e := range events {
			if err := l.ready(int(e.Fd), e.Events); err != nil {
				return err
			}
		}
	}
}

// more tells whether connections are still to begin.
func (l *churn) more(now time.Duration) bool {
	if l.plan.total == 0 {
		return now-l.plan.begin < l.shape.Time
	}
	return l.next < l.plan.total
}

func (l *churn) left(now time.Duration) time.Duration {
	if l.plan.total == 0 || l.next == l.plan.total || len(l.free) == 0 {
		return stall
	}
	return max(0, l.plan.due(l.next)-now)
}

// arrive begins what has become due, while there are slots.
func (l *churn) arrive(now time.Duration) error {
	for len(l.free) > 0 && l.more(now) {
		since := now
		if l.plan.total > 0 {
			if since = l.plan.due(l.next); since > now {
				return nil
			}
		}
		l.next++
		if err := l.connect(since); err != nil {
			return err
		}
	}
	return nil
}

func (l *churn) connect(since time.Duration) error {
	i := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	fd, err := tcpSocket()
	if err != nil {
		return err
	}
	l.slots[i] = short{fd: fd, open: true, since: since}
	if err := unix.Connect(fd, l.target); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect: %w", err)
	}
	// On loopback the connection is mostly there when connect returns.
	if err := l.send(i); err != nil {
		return err
	}
	events := uint32(unix.EPOLLIN)
	if !l.slots[i].sent {
		events |= unix.EPOLLOUT
	}
	return l.poll.add(fd, i, events)
}

func (l *churn) send(i int) error {
	n, err := unix.Write(l.slots[i].fd, l.first)
	if err != nil && again(err) {
		return nil
	}
	if err != nil || n != len(l.first) {
		return fmt.Errorf("send: %d bytes written: %w", n, err)
	}
	l.slots[i].sent = true
	return nil
}

func (l *churn) ready(i int, events uint32) error {
	c := &l.slots[i]
	if !c.sent && events&unix.EPOLLOUT != 0 {
		if err := l.send(i); err != nil || !c.sent {
			return err
		}
		return l.poll.change(c.fd, i, unix.EPOLLIN)
	}
	n, err := unix.Read(c.fd, l.in)
	if err != nil && again(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if n == 0 {
		return errors.New("receive: the connection ended before the answer")
	}
	if c.in += n; c.in < l.shape.Response {
		return nil
	}
	unix.Close(c.fd)
	c.open = false
	l.free = append(l.free, i)
	l.done++
	l.end = clock()
	l.took = append(l.took, l.end-c.since)
	return nil
}
