package load

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Clients are connected, or ready to connect, and can be run more than once.
type Clients interface {
	// Run puts the load on; it returns when the last answer is there.
	Run() (Result, error)
	// Close closes every connection.
	Close()
}

// Open makes the clients of s towards an IPv4 address, which leads to to; nil
// will do for clients of connections. Those that keep theirs have each had one
// answer when it returns.
func Open(addr string, s Shape, to *Server) (Clients, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("read address: %w", err)
	}
	target := socketAddr(a)
	switch s.Mode {
	case Stream:
		return openStreams(target, s)
	case Churn:
		return openChurn(target, s)
	case Plain, GSO:
		return openDatagrams(target, s, to.Sink)
	}
	return nil, fmt.Errorf("unknown mode %q", s.Mode)
}

// streams are clients on connections that stay. One goroutine uses them.
type streams struct {
	shape Shape
	poll  *poll
	list  []stream
	in    []byte
	out   []byte

	plan schedule
	next int64 // requests that have become due
	done int64 // answered
	end  time.Duration
	took []time.Duration
}

// stream is one connection.
type stream struct {
	fd      int
	armed   bool            // waits for room to write
	waiting int64           // requests that are due and not begun
	sent    int64           // begun
	got     int64           // answered
	out     int             // bytes of the last request still to write
	in      int             // bytes of the next answer that are there
	since   []time.Duration // by number of request modulo depth: what its latency counts from
}

func openStreams(target *unix.SockaddrInet4, s Shape) (*streams, error) {
	p, err := newPoll()
	if err != nil {
		return nil, err
	}
	l := &streams{shape: s, poll: p, in: make([]byte, blockSize), out: make([]byte, max(s.Request, headerSize))}
	for range s.Conns {
		if err := l.connect(target); err != nil {
			l.Close()
			return nil, err
		}
	}
	if err := l.warm(); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// connect opens one connection and says what its answers are to be.
func (l *streams) connect(target *unix.SockaddrInet4) error {
	fd, err := dialHeader(target, header(kindAnswer, l.shape.Request, l.shape.Response))
	if err != nil {
		return err
	}
	l.list = append(l.list, stream{fd: fd, since: make([]time.Duration, l.shape.Depth)})
	return l.poll.add(fd, len(l.list)-1, unix.EPOLLIN)
}

// dialHeader connects blocking, for nothing is measured yet.
func dialHeader(target *unix.SockaddrInet4, first []byte) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	if err := dialOn(fd, target, first); err != nil {
		unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

func dialOn(fd int, target *unix.SockaddrInet4, first []byte) error {
	for {
		err := unix.Connect(fd, target)
		if err == nil || errors.Is(err, unix.EISCONN) {
			break
		}
		// A signal to this process does not stop the connect: asked again it
		// waits for the end of the first.
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EALREADY) {
			return fmt.Errorf("connect: %w", err)
		}
	}
	if _, err := unix.Write(fd, first); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return fmt.Errorf("set non-blocking: %w", err)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

// warm sends one request on every connection: then the whole way is connected.
func (l *streams) warm() error {
	l.plan = schedule{begin: clock(), rate: 1e9, total: int64(len(l.list))}
	return l.loop()
}

func (l *streams) Run() (Result, error) {
	l.plan = newSchedule(l.shape)
	if err := l.loop(); err != nil {
		return Result{}, err
	}
	r := Result{Units: float64(l.done) * l.shape.Units, Wall: l.end - l.plan.begin}
	r.sum(l.took)
	return r, nil
}

func (l *streams) Close() {
	for i := range l.list {
		unix.Close(l.list[i].fd)
	}
	l.poll.close()
}

// loop carries out the plan.
func (l *streams) loop() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	restore, err := exactTimers()
	if err != nil {
		return err
	}
	defer restore()
	l.next, l.done, l.took = 0, 0, l.took[:0]
	for i := range l.list {
		l.list[i].sent, l.list[i].got = 0, 0
	}
	for {
		now := clock()
		if err := l.arrive(now); err != nil {
			return err
		}
		timeout, over := l.left(now)
		if over {
			return nil
		}
		events, expired, err := l.poll.wait(timeout)
		if err != nil {
			return err
		}
		if expired && timeout == stall {
			return fmt.Errorf("%d of %d answers do not come", l.open(), l.next)
		}
		for _, e := range events {
			if err := l.ready(&l.list[e.Fd], e); err != nil {
				return err
			}
		}
	}
}

// arrive begins what has become due.
func (l *streams) arrive(now time.Duration) error {
	if l.plan.total == 0 {
		for i := range l.list {
			if err := l.push(i, now); err != nil {
				return err
			}
		}
		return nil
	}
	for until := l.plan.upTo(now); l.next < until; l.next++ {
		i := int(l.next % int64(len(l.list)))
		l.list[i].waiting++
		if err := l.push(i, now); err != nil {
			return err
		}
	}
	return nil
}

// left is how long to wait for events at most, and whether all is done.
func (l *streams) left(now time.Duration) (time.Duration, bool) {
	if l.plan.total == 0 {
		return stall, !l.more(now) && l.open() == 0
	}
	if l.next < l.plan.total {
		return max(0, l.plan.due(l.next)-now), false
	}
	return stall, l.done == l.plan.total
}

// more tells whether requests still begin when it goes as fast as it can.
func (l *streams) more(now time.Duration) bool { return now-l.plan.begin < l.shape.Time }

// open is how many requests are not answered.
func (l *streams) open() (n int64) {
	for i := range l.list {
		n += l.list[i].waiting + l.list[i].sent - l.list[i].got
	}
	return n
}

// push begins as many requests of connection i as may be under way.
func (l *streams) push(i int, now time.Duration) error {
	c := &l.list[i]
	for c.out == 0 && c.sent-c.got < int64(l.shape.Depth) {
		since := now
		if l.plan.total > 0 {
			if c.waiting == 0 {
				break
			}
			c.waiting--
			since = l.plan.due(c.sent*int64(len(l.list)) + int64(i))
		} else if !l.more(now) {
			break
		}
		c.since[c.sent%int64(l.shape.Depth)] = since
		c.sent++
		c.out = l.shape.Request
		if err := l.flush(i); err != nil {
			return err
		}
	}
	return nil
}

// flush writes the rest of a request, as far as there is room.
func (l *streams) flush(i int) error {
	c := &l.list[i]
	for c.out > 0 {
		n, err := unix.Write(c.fd, l.out[:c.out])
		if err != nil && !again(err) {
			return fmt.Errorf("send: %w", err)
		}
		if err != nil {
			break
		}
		c.out -= n
	}
	full := c.out > 0
	if full == c.armed {
		return nil
	}
	c.armed = full
	events := uint32(unix.EPOLLIN)
	if full {
		events |= unix.EPOLLOUT
	}
	return l.poll.change(c.fd, i, events)
}

// ready handles one event of a connection.
func (l *streams) ready(c *stream, e unix.EpollEvent) error {
	i := int(e.Fd)
	if e.Events&unix.EPOLLOUT != 0 {
		if err := l.flush(i); err != nil {
			return err
		}
	}
	if e.Events&^unix.EPOLLOUT == 0 {
		return l.push(i, clock())
	}
	n, err := unix.Read(c.fd, l.in)
	if err != nil && again(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("receive: %w", err)
	}
	if n == 0 {
		return errors.New("receive: the connection ended")
	}
	now := clock()
	for c.in += n; c.in >= l.shape.Response && c.got < c.sent; c.in -= l.shape.Response {
		l.took = append(l.took, now-c.since[c.got%int64(l.shape.Depth)])
		c.got++
		l.done++
	}
	l.end = now
	return l.push(i, now)
}
