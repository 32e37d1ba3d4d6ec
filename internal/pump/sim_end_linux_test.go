package pump

import (
	"time"

	"golang.org/x/sys/unix"
)

// simEnd is one end of a connection: of the proxy when it has a file, of a peer
// when it has not. It follows net/ipv4/tcp.c, tcp_input.c and af_unix.c. Bytes
// are only counted, since each is a function of its stream and position.
type simEnd struct {
	w     *simWorld
	name  string
	file  *simFile
	other *simEnd
	flow  *simFlow // ours only
	// changed is called when something happened that a peer may wait for.
	changed func()
	unix    bool
	plain   bool // cannot be spliced

	connecting, closed bool // SYN_SENT, CLOSE
	orphan             bool // the application has closed it
	gone               bool // the host at the other end answers nothing
	goneAt             int64
	err                unix.Errno

	// reads: what the other end sends.
	in             simStream
	queue, room    int   // readable, and at most
	position       int64 // of the first that is readable
	skipped        int64 // of them that were a preface
	rcvShut, rcvFF bool  // RCV_SHUTDOWN; SOCK_DONE: a FIN came
	urgent         bool  // out-of-band data is before the byte at mark
	mark           int64
	reset          bool // an RST came
	resetAt        int64

	// writes
	out              simCheck
	flight, sndRoom  int   // not acknowledged, and at most
	written          int64 // in all
	sentAt           int64 // bytes or FIN, the last time
	sndShut          bool
	finSent, finDone bool // wanted, and acknowledged
	nospace          bool
	sending          bool // a transmission is on the agenda
	aborted          bool // RST was sent
	died             bool // a call has reported an error
	diedAt           int64
	closedByReset    bool
	unreadAtClose    int
	turn             int // of the loop, when so much was read from it
	turnBytes        int
	unwatched        bool // it could not be added to the epoll set
	lost             int  // what SIOCOUTQ says of a queue that was thrown away
}

func (e *simEnd) tell(flags uint32) {
	if e.file != nil {
		e.file.notify(flags)
	}
	if e.changed != nil {
		e.changed()
	}
}

// spacious is sk_stream_is_writeable, or unix_writable: poll asks for more room
// than a write does.
func (e *simEnd) spacious() bool {
	if e.unix {
		return e.other.queue*4 <= e.sndRoom
	}
	return e.sndRoom-e.flight >= e.flight/2 && e.flight < e.sndRoom
}

func (e *simEnd) free() int {
	if e.unix {
		return max(e.sndRoom-e.other.queue, 0)
	}
	return max(e.sndRoom-e.flight, 0)
}

// mask is tcp_poll, or unix_poll.
func (e *simEnd) mask() (m uint32) {
	if e.rcvShut && e.sndShut || e.closed {
		m |= unix.EPOLLHUP
	}
	if e.rcvShut {
		m |= unix.EPOLLIN | unix.EPOLLRDHUP
	}
	if !e.connecting {
		if e.queue > 0 {
			m |= unix.EPOLLIN
		}
		switch {
		case e.sndShut && !e.unix, e.spacious():
			m |= unix.EPOLLOUT
		default:
			e.nospace = true
		}
	}
	if e.urgent {
		m |= unix.EPOLLPRI
	}
	if e.err != 0 {
		m |= unix.EPOLLERR
	}
	return m
}

func (e *simEnd) takeError() (errno unix.Errno) {
	errno, e.err = e.err, 0
	return errno
}

// receive is what a read of at most n bytes would say: how many, or why none.
func (e *simEnd) receive(n int) (int, unix.Errno) {
	switch {
	case e.urgent && e.mark > e.position:
		return min(n, e.queue, int(e.mark-e.position)), 0
	case e.queue > 0:
		return min(n, e.queue), 0
	case e.rcvFF && !e.unix:
		return 0, 0
	case e.err != 0:
		return 0, e.takeError()
	case e.rcvShut:
		return 0, 0
	case e.closed:
		return 0, unix.ENOTCONN
	}
	return 0, unix.EAGAIN
}

// taken removes what was read; the window opens.
func (e *simEnd) taken(n int) {
	if n == 0 {
		return
	}
	if e.urgent && e.mark == e.position {
		e.urgent = false
	}
	e.queue -= n
	e.position += int64(n)
	e.w.moved++
	if !e.unix {
		e.other.transmit()
		return
	}
	if !e.other.orphan && e.other.spacious() {
		e.other.tell(unix.EPOLLOUT) // unix_write_space asks for no SOCK_NOSPACE
	}
}

// sendable is how much of n bytes a write would take, or why none.
func (e *simEnd) sendable(n int) (int, unix.Errno) {
	switch {
	case e.connecting:
		return 0, unix.EAGAIN
	case e.unix && (e.sndShut || e.other.orphan || e.other.rcvShut):
		return 0, unix.EPIPE
	case e.err != 0:
		return 0, e.takeError()
	case e.sndShut || e.closed:
		return 0, unix.EPIPE
	}
	free := e.free()
	if n > free {
		e.nospace = true
	}
	if free == 0 {
		return 0, unix.EAGAIN
	}
	return min(n, free), 0
}

// sent adds what was written and is checked already.
func (e *simEnd) sent(n int) {
	if n == 0 {
		return
	}
	e.written += int64(n)
	e.sentAt = e.w.now
	e.w.moved++
	if e.unix {
		e.other.queue += n
		e.other.tell(unix.EPOLLIN)
		return
	}
	e.flight += n
	e.transmit()
}

// transmit brings bytes and FIN to the other end, now or in a while.
func (e *simEnd) transmit() {
	if e.unix || e.sending || e.gone || e.closed || e.connecting || e.outstanding() == 0 {
		return
	}
	if !e.w.d.chance(e.w.lag) {
		e.deliver()
		return
	}
	e.sending = true
	e.w.after(time.Duration(e.w.d.n(1+e.w.d.n(30)))*100*time.Microsecond, func() {
		e.sending = false
		e.deliver()
	})
}

func (e *simEnd) deliver() {
	if e.closed || e.gone || e.aborted {
		return
	}
	o := e.other
	if (o.orphan && e.flight > 0) || o.closed && !o.rcvFF {
		e.gotReset() // nobody is there to take it (tcp_rcv_state_process)
		return
	}
	if n := min(e.flight, o.room-o.queue); n > 0 {
		e.flight -= n
		o.queue += n
		e.w.moved++
		if e.w.tracing {
			e.w.log("%d bytes arrive at %s", n, o.name)
		}
		o.tell(unix.EPOLLIN)
		e.acknowledged()
	}
	if e.flight == 0 && e.finSent && !e.finDone && !e.closed {
		e.w.moved++
		if e.w.tracing {
			e.w.log("FIN arrives at %s", o.name)
		}
		o.rcvShut, o.rcvFF = true, true
		o.tell(0)
		e.finDone = true
		e.tell(0) // FIN_WAIT2 wakes, too
		e.finish()
		o.finish()
	}
}

// sendUrgent sends a byte out of band, which is not in the stream but stops
// reads before and splices at its place for as long as no read has passed it
// (tcp_recvmsg and tcp_read_sock in net/ipv4/tcp.c).
func (e *simEnd) sendUrgent() {
	o := e.other
	if e.unix || e.flight > 0 || e.sndShut || e.closed || e.gone || o.orphan || o.urgent {
		return
	}
	o.urgent, o.mark = true, o.position+int64(o.queue)
	e.w.moved++
	e.w.log("urgent data arrive at %s", o.name)
	o.tell(unix.EPOLLIN | unix.EPOLLPRI)
}

// acknowledged is tcp_check_space.
func (e *simEnd) acknowledged() {
	if e.nospace && e.spacious() {
		e.nospace = false
		e.tell(unix.EPOLLOUT)
	} else if e.changed != nil {
		e.changed()
	}
}

// finish is TIME_WAIT, or LAST_ACK acknowledged: for the socket both are CLOSE.
func (e *simEnd) finish() {
	if e.finDone && e.rcvFF && !e.closed {
		e.closed, e.rcvShut, e.sndShut = true, true, true
		e.tell(0)
	}
}

// gotReset is tcp_reset and tcp_done.
func (e *simEnd) gotReset() {
	if e.closed {
		return
	}
	errno := unix.ECONNRESET
	switch {
	case e.connecting:
		errno = unix.ECONNREFUSED
	case e.rcvFF && !e.sndShut:
		errno = unix.EPIPE
	}
	e.die(errno)
	e.reset, e.resetAt = true, e.w.now
}

// die ends a connection with an error that is reported once.
func (e *simEnd) die(errno unix.Errno) {
	e.w.moved++
	if e.w.tracing {
		e.w.log("%s gets %v", e.name, errno)
	}
	e.lost = e.outstanding()
	e.flight, e.connecting = 0, false
	e.err, e.died, e.diedAt = errno, true, e.w.now
	e.closed, e.rcvShut, e.sndShut = true, true, true
	if !e.orphan {
		e.tell(0)
	}
}

func (e *simEnd) outstanding() int {
	n := e.flight
	if e.finSent && !e.finDone {
		n++
	}
	return n
}

// undelivered is SIOCOUTQ, with what kernel.undelivered makes of it.
func (e *simEnd) undelivered() int {
	switch {
	case e.unix:
		return e.other.queue
	case e.connecting:
		return 0
	case e.closed && e.lost > 1:
		return 0
	case e.closed:
		return e.lost
	}
	return e.outstanding()
}

// shutdown says FIN.
func (e *simEnd) shutdown() unix.Errno {
	e.w.moved++
	switch {
	case e.unix:
		if e.other.orphan {
			// its peer is gone: unix_shutdown finds none, and succeeds
			e.sndShut = true
			e.tell(0)
			return 0
		}
		e.sndShut = true
		e.other.rcvShut, e.other.rcvFF = true, true
		e.tell(0)
		e.other.tell(0)
		return 0
	case e.closed:
		e.tell(0)
		return unix.ENOTCONN
	}
	already := e.sndShut
	e.sndShut = true
	if !already {
		e.finSent, e.sentAt = true, e.w.now
		e.transmit()
	}
	e.tell(0)
	return 0
}

// close is close(2), which resets where input is unread.
func (e *simEnd) close() {
	switch {
	case e.unix:
		e.orphan = true
		unread := e.queue > 0
		e.queue = 0
		if !e.other.orphan {
			e.other.rcvShut, e.other.sndShut = true, true
			if unread {
				e.other.err = unix.ECONNRESET
				e.other.reset, e.other.resetAt = true, e.w.now
				e.other.dies()
			} else {
				e.other.rcvFF = true
			}
			e.other.tell(0)
		}
		return
	case e.queue > 0:
		e.abort()
		return
	}
	e.orphan = true
	e.rcvShut = true
	if !e.closed && !e.sndShut {
		e.finSent = true
	}
	e.sndShut = true
	e.transmit()
}

// abort is close with SO_LINGER 0.
func (e *simEnd) abort() {
	if e.unix {
		e.close()
		return
	}
	was := e.closed
	// In LAST_ACK and CLOSING an RST goes out only for what was not sent yet.
	last := e.rcvFF && e.finSent && e.flight == 0
	needed := !e.connecting && !e.closed && !last
	if e.sending || e.flight > 0 {
		// what the window has room for is on its way before the RST
		e.sending = false
		e.deliver()
	}
	e.orphan, e.closed, e.rcvShut, e.sndShut = true, true, true, true
	e.queue, e.flight = 0, 0
	if was || !needed || e.gone {
		return
	}
	e.aborted = true
	o := e.other
	if !e.w.d.chance(e.w.lag) {
		o.gotReset()
		return
	}
	e.w.after(time.Duration(e.w.d.n(1+e.w.d.n(30)))*100*time.Microsecond, o.gotReset)
}

// vanish is the other end's host going away without a word.
func (e *simEnd) vanish() {
	e.gone, e.other.gone = true, true
	e.goneAt, e.other.goneAt = e.w.now, e.w.now
	if e.unix {
		e.gone, e.other.gone = false, false
	}
}
