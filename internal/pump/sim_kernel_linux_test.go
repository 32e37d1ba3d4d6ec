package pump

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// simListener is a listening socket: level-triggered, with a queue of clients
// that are connected already.
type simListener struct {
	file  *simFile
	queue []*simFlow
}

// simPipe is a pipe: bounded in bytes and in pieces, as a pipe whose slots hold
// little each is (pipe(7)).
type simPipe struct {
	name         string
	pieces       []simPiece
	held         int
	room, slots  int
	piece        int // bytes that a slot takes
	wOpen, rOpen bool
}

type simPiece struct {
	stream   simStream
	position int64
	n        int
}

// simStart is the loop's clock at 0, so that moments of steps are exact.
func simStart() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// kernel is what a loop sees of the world.
func (s *simEpoll) kernel() kernel {
	w := s.w
	return kernel{
		start: simStart(),
		now:   func() int64 { return w.now },
		wait:  s.wait, wake: s.wake, watch: s.watch, unwatch: s.unwatch,
		accept: w.accept, dial: w.dial, local: w.local, meetsItself: w.meetsItself,
		read: w.read, peek: w.peek, write: w.write, splice: w.splice, pipe: w.pipe,
		shut: w.shut, close: w.close, abort: w.abort,
		tend: w.tend, takeError: w.takeError, unread: w.unread, undelivered: w.undelivered,
		silent: func(fd int, after time.Duration) bool {
			e := w.socket(fd, "getsockopt")
			return e.gone && !e.closed && w.now-e.goneAt >= int64(after) && e.outstanding() > 0
		},
	}
}

func (w *simWorld) accept(fd int) (int, netip.AddrPort, unix.Errno) {
	w.meanwhile()
	ln := w.file(fd, "accept").listener
	if ln == nil {
		w.fail("descriptor", "accept on descriptor %d, which is no listener", fd)
	}
	if len(ln.queue) == 0 {
		return -1, netip.AddrPort{}, unix.EAGAIN
	}
	if w.scarce(1) {
		return -1, netip.AddrPort{}, simPick(w.d, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM)
	}
	f := ln.queue[0]
	ln.queue = ln.queue[1:]
	n := w.install(&simFile{name: f.client.name, end: f.client})
	f.client.file = w.files[n]
	f.accepted = true
	w.moved++
	if w.tracing {
		w.log("accept %s as fd %d", f.name, n)
	}
	return n, f.addr(), 0
}

func (w *simWorld) dial(leg *Leg, _ int) (int, unix.Errno) {
	w.meanwhile()
	way := w.ways[simAddress(leg)]
	if way == nil {
		w.fail("handler", "dial of %v %q, which no step has named", leg.Addr, leg.Path)
	}
	if w.scarce(1) {
		if leg.Network == Unix {
			return -1, simPick(w.d, unix.EMFILE, unix.ENFILE, unix.ENOMEM)
		}
		return -1, simPick(w.d, unix.EMFILE, unix.EADDRNOTAVAIL, unix.ENFILE, unix.ENOBUFS)
	}
	way.flow.checkTurn(way)
	way.dialled++
	w.moved++
	return way.dial()
}

func (w *simWorld) local(fd int) netip.AddrPort {
	w.socket(fd, "getsockname")
	return netip.AddrPort{}
}

func (w *simWorld) meetsItself(fd int, leg *Leg) bool {
	return w.ways[simAddress(leg)].itself
}

func (w *simWorld) read(fd int, p []byte) (int, unix.Errno) {
	w.meanwhile()
	f := w.file(fd, "read")
	if f.pipe != nil {
		return f.pipe.read(w, f, p)
	}
	e := w.socket(fd, "read")
	w.onServed(e)
	n, errno := e.receive(len(p))
	e.in.fill(p[:n], e.position)
	if w.tracing {
		w.log("read %s of %d: %d %v", e.name, len(p), n, simErrno(errno))
	}
	e.ate(n, errno)
	w.onRead(e, n)
	e.taken(n)
	return n, errno
}

func (w *simWorld) peek(fd int, p []byte) (int, unix.Errno) {
	w.meanwhile()
	e := w.socket(fd, "recv")
	n, errno := e.receive(len(p))
	e.in.fill(p[:n], e.position)
	if w.tracing {
		w.log("peek %s of %d: %d %v", e.name, len(p), n, simErrno(errno))
	}
	e.ate(n, errno)
	return n, errno
}

func (w *simWorld) write(fd int, p []byte) (int, unix.Errno) {
	w.meanwhile()
	e := w.socket(fd, "write")
	w.onServed(e)
	n, errno := e.sendable(len(p))
	if w.tracing {
		w.log("write %s of %d: %d %v", e.name, len(p), n, simErrno(errno))
	}
	if !e.out.bytes(p[:min(n+64, len(p))], e.written) {
		w.fail("bytes", "%d bytes are written to %s after %d that are not those that follow", len(p), e.name, e.written)
	}
	e.ate(n, errno)
	e.sent(n)
	return n, errno
}

func (w *simWorld) splice(from, to, n int) (int, unix.Errno) {
	w.meanwhile()
	src, dst := w.file(from, "splice"), w.file(to, "splice")
	switch {
	case src.end != nil && dst.pipe != nil && dst.writes:
		return w.spliceIn(src.end, dst.pipe, n)
	case src.pipe != nil && !src.writes && dst.end != nil:
		return w.spliceOut(src.pipe, dst.end, n)
	}
	w.fail("descriptor", "splice from %s to %s", src.name, dst.name)
	return 0, 0
}

func (w *simWorld) spliceIn(e *simEnd, p *simPipe, n int) (got int, errno unix.Errno) {
	w.onServed(e)
	if w.tracing {
		defer func() { w.log("splice %s to %s of %d: %d %v", e.name, p.name, n, got, simErrno(errno)) }()
	}
	if e.plain {
		return 0, unix.EINVAL
	}
	for _, x := range p.pieces {
		if x.stream != e.in {
			w.fail("pipe", "%s has bytes of another stream when %s is spliced into it", p.name, e.name)
		}
	}
	room := min(p.room-p.held, (p.slots-len(p.pieces))*p.piece)
	if room <= 0 || e.urgent && e.mark == e.position && e.queue > 0 {
		return 0, unix.EAGAIN
	}
	if got, errno = e.receive(min(n, room)); got == 0 {
		e.ate(0, errno)
		return 0, errno
	}
	for position, left := e.position, got; left > 0; {
		m := min(left, p.piece)
		p.pieces = append(p.pieces, simPiece{e.in, position, m})
		position, left = position+int64(m), left-m
	}
	p.held += got
	e.ate(got, 0)
	w.onRead(e, got)
	e.taken(got)
	return got, 0
}

func (w *simWorld) spliceOut(p *simPipe, e *simEnd, n int) (sent int, errno unix.Errno) {
	w.onServed(e)
	if w.tracing {
		defer func() { w.log("splice %s to %s of %d: %d %v", p.name, e.name, n, sent, simErrno(errno)) }()
	}
	if p.held == 0 {
		if !p.wOpen {
			return 0, 0
		}
		return 0, unix.EAGAIN
	}
	want := min(n, p.held)
	may, errno := e.sendable(want)
	for sent < may {
		x := &p.pieces[0]
		m := min(x.n, may-sent)
		if !e.out.spliced(x.stream, x.position, e.written+int64(sent)) {
			w.fail("bytes", "bytes from %d on are spliced to %s after %d bytes", x.position, e.name, e.written+int64(sent))
		}
		x.n, x.position = x.n-m, x.position+int64(m)
		sent += m
		if x.n == 0 {
			p.pieces = p.pieces[1:]
		}
	}
	p.held -= sent
	e.ate(sent, errno)
	e.sent(sent)
	return sent, errno
}

func (p *simPipe) read(w *simWorld, f *simFile, b []byte) (n int, errno unix.Errno) {
	if f.writes {
		w.fail("descriptor", "read of the write end of %s", p.name)
	}
	if p.held == 0 {
		if p.wOpen {
			return 0, unix.EAGAIN
		}
		return 0, 0
	}
	for n < len(b) && len(p.pieces) > 0 {
		x := &p.pieces[0]
		m := min(x.n, len(b)-n)
		x.stream.fill(b[n:n+m], x.position)
		x.n, x.position, n = x.n-m, x.position+int64(m), n+m
		if x.n == 0 {
			p.pieces = p.pieces[1:]
		}
	}
	p.held -= n
	w.moved++
	return n, 0
}

func (w *simWorld) pipe() (pipe, unix.Errno) {
	w.meanwhile()
	if w.scarce(2) {
		return pipe{}, simPick(w.d, unix.EMFILE, unix.ENFILE)
	}
	p := &simPipe{name: "pipe", slots: simPick(w.d, 256, 16, 2, 1), piece: simPick(w.d, 4096, 1448, 32<<10, 1), wOpen: true, rOpen: true}
	p.room = min(p.slots*4096, spliceSize)
	if p.piece == 1 {
		p.piece = 100
	}
	r := w.install(&simFile{name: "pipe's read end", pipe: p})
	x := w.install(&simFile{name: "pipe's write end", pipe: p, writes: true})
	return pipe{r: r, w: x}, 0
}

// tend only wants the socket to be there.
func (w *simWorld) tend(fd int) { w.socket(fd, "setsockopt") }

func (w *simWorld) takeError(fd int) unix.Errno {
	w.meanwhile()
	e := w.socket(fd, "getsockopt")
	errno := e.takeError()
	if w.tracing {
		w.log("error of %s: %v", e.name, simErrno(errno))
	}
	return errno
}

func (w *simWorld) unread(fd int) int {
	w.meanwhile()
	return w.socket(fd, "ioctl").queue
}

func (w *simWorld) undelivered(fd int) int {
	w.meanwhile()
	e := w.socket(fd, "ioctl")
	if w.tracing {
		w.log("undelivered of %s: %d", e.name, e.undelivered())
	}
	return e.undelivered()
}

func (w *simWorld) shut(fd int) unix.Errno {
	w.meanwhile()
	e := w.socket(fd, "shutdown")
	w.checkEnd(e)
	errno := e.shutdown()
	e.ate(0, errno)
	if w.tracing {
		w.log("shut %s: %v", e.name, simErrno(errno))
	}
	return errno
}

func (w *simWorld) close(fd int) { w.closeFile(fd, false) }
func (w *simWorld) abort(fd int) { w.closeFile(fd, true) }

func (w *simWorld) closeFile(fd int, reset bool) {
	w.meanwhile()
	f := w.file(fd, "close")
	w.uninstall(f)
	if w.tracing {
		w.log("close %s, fd %d, reset %v", f.name, fd, reset)
	}
	switch {
	case f.end != nil:
		e := f.end
		e.file = nil
		w.closing(e, reset)
		if reset {
			e.abort()
		} else {
			e.close()
		}
	case f.pipe != nil && f.writes:
		f.pipe.wOpen = false
	case f.pipe != nil:
		f.pipe.rOpen = false
	}
}

func simErrno(e unix.Errno) any {
	if e == 0 {
		return "ok"
	}
	return unix.ErrnoName(e)
}
