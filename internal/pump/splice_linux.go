package pump

import (
	"errors"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// spliceSize is how much of a stream fits into a pipe.
	spliceSize = 1 << 20
	// A stream is over after thinPieces in a row of less than thinPiece.
	thinPiece  = 16 << 10
	thinPieces = 8
	// idlePipes are kept for the next stream; their descriptors are set aside.
	idlePipes = 4
)

// pipe is what splice(2) moves bytes through.
type pipe struct{ r, w int }

// pipes lends pipes for the time in which bytes pass: a stream that waits for
// its source has none. Package net would keep one for as long as the piece that
// it was asked for is not complete, which may be for ever.
type pipes struct {
	fds  *budget // of which a pipe that is lent takes two
	keep int     // so many idle ones, whose descriptors are set aside

	mu   sync.Mutex // guards the following
	idle []*pipe
}

// take returns nil when descriptors are short: then bytes are copied.
func (p *pipes) take() *pipe {
	if !p.fds.tryAcquire(2) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if last := len(p.idle) - 1; last >= 0 {
		x := p.idle[last]
		p.idle = p.idle[:last]
		return x
	}
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		p.fds.release(2)
		return nil
	}
	// A user with many pipes gets small ones, which are only slower (pipe(7)).
	_, _ = unix.FcntlInt(uintptr(fd[0]), unix.F_SETPIPE_SZ, spliceSize)
	return &pipe{r: fd[0], w: fd[1]}
}

// put takes a pipe back; one that is not empty must not meet another stream.
func (p *pipes) put(x *pipe, empty bool) {
	p.mu.Lock()
	if empty && len(p.idle) < p.keep {
		p.idle = append(p.idle, x)
	} else {
		x.close()
	}
	p.mu.Unlock()
	p.fds.release(2)
}

func (p *pipes) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.idle {
		x.close()
	}
	p.idle = nil
}

func (x *pipe) close() {
	_ = unix.Close(x.r) // a pipe has nothing left to fail at
	_ = unix.Close(x.w)
}

// stream splices until src ends or has little to say, or for want of a pipe. It
// tells whether src ended.
func (c *copier) stream() (end bool, err error) {
	if _, ok := c.dst.conn.(*net.TCPConn); !ok || c.src.raw == nil || c.plain {
		return false, nil
	}
	defer c.putPipe()
	for thin := 0; thin < thinPieces; {
		if err := c.src.raw.Read(c.tryFill); err != nil {
			return false, err
		}
		switch {
		case errors.Is(c.err, unix.EINVAL): // a socket that cannot be spliced; nothing was read
			c.plain = true
			return false, nil
		case c.err != nil || c.pipe == nil:
			return false, c.err
		case c.got == 0:
			return true, nil
		case c.got < thinPiece:
			thin++
		default:
			thin = 0
		}
		if err := c.emptyPipe(); err != nil {
			c.writing = true
			return false, err
		}
	}
	return false, nil
}

func (c *copier) tryFill(fd uintptr) bool {
	c.got, c.err = 0, nil
	if c.pipe == nil {
		if c.pipe = c.pipes.take(); c.pipe == nil {
			return true
		}
	}
	c.got, c.err = splice(int(fd), c.pipe.w, spliceSize)
	if !errors.Is(c.err, unix.EAGAIN) {
		return true
	}
	c.putPipe()
	if !atUrgentMark(fd) {
		return false
	}
	c.plain, c.err = true, nil // no splice gets past it
	return true
}

// atUrgentMark tells whether out-of-band data is what comes next (sockatmark(3)):
// a splice stops there, with EAGAIN, until a read has passed it.
func atUrgentMark(fd uintptr) bool {
	n, err := unix.IoctlGetInt(int(fd), unix.SIOCATMARK)
	return err == nil && n != 0
}

// emptyPipe writes on what is in the pipe, however long dst takes for it.
func (c *copier) emptyPipe() error {
	c.src.onward.Store(true)
	defer c.src.onward.Store(false)
	if err := c.dst.raw.Write(c.tryEmpty); err != nil {
		return err
	}
	return c.err
}

func (c *copier) tryEmpty(fd uintptr) bool {
	for c.got > 0 {
		n, err := splice(c.pipe.r, int(fd), c.got)
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		if c.err = err; err != nil {
			return true
		}
		c.got -= n
		c.n.Add(uint64(n))
	}
	return true
}

func (c *copier) putPipe() {
	if c.pipe != nil {
		c.pipes.put(c.pipe, c.got <= 0)
		c.pipe = nil
	}
}

func splice(from, to, length int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, length, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if !errors.Is(err, unix.EINTR) {
			return max(int(n), 0), err
		}
	}
}
