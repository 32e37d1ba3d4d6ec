package pump

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// bufferSize is that of the buffer through which copying starts; two reads in a
// row that fill it mark a stream, which is then spliced.
const bufferSize = 64 << 10

// The gate of a relay decides who comes first: a client byte (or end) that is
// about to be forwarded, or an endpoint that closes early. Only one of them
// may happen, since bytes once sent are never sent again.
const (
	gateShut int32 = iota
	gateForwarding
	gateEarly
)

// relay carries the bytes of one flow between its two connected sides.
type relay struct {
	f         *netFlow
	client    *side
	endpoint  *side
	step      Step
	connected time.Time

	gate    atomic.Int32
	settled chan struct{} // closed when the settle time is over or pointless
	ends    atomic.Int32  // directions that have passed on their end of file
	grace   atomic.Pointer[time.Timer]
	first   atomic.Pointer[side]      // that broke
	parting atomic.Pointer[time.Time] // until when a cut lets both sides finish
	early   atomic.Bool               // the endpoint ended before anything else happened
}

// run returns the end of the flow, or how the endpoint closed when it did so
// early.
func (r *relay) run() (end *Result, early error) {
	if !r.step.Retry {
		r.gate.Store(gateForwarding)
	}
	r.settled = make(chan struct{})
	switch err := context.Cause(r.f.ctx); { // a cut may have come before the flow knew this relay
	case err == nil:
	case errors.Is(err, io.EOF) && r.f.hard.Load() == nil:
		r.part()
	default:
		r.interrupt()
	}
	var up sync.WaitGroup
	up.Go(r.clientToEndpoint)
	early = r.endpointToClient()
	up.Wait()
	if t := r.grace.Load(); t != nil {
		t.Stop()
	}
	if early != nil {
		_ = r.endpoint.conn.Close()
		return r.f.reopen(), early
	}
	return r.finish(), nil
}

func (r *relay) clientToEndpoint() {
	if r.step.Settle > 0 {
		r.waitSettled()
	}
	var broken error
	if r.gate.Load() == gateShut {
		_, broken = r.client.peek()
	}
	if !r.gate.CompareAndSwap(gateShut, gateForwarding) && r.gate.Load() == gateEarly {
		return
	}
	if broken != nil {
		r.broke(r.client, broken)
	}
	r.carry(r.endpoint, r.client, &r.f.in)
}

func (r *relay) waitSettled() {
	t := time.NewTimer(r.step.Settle)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.settled:
	case <-r.f.ctx.Done():
	}
}

func (r *relay) endpointToClient() error {
	if r.gate.Load() == gateShut || r.step.Settle > 0 {
		if err := r.closedEarly(); err != nil {
			return err
		}
	}
	r.carry(r.client, r.endpoint, &r.f.out)
	return nil
}

// closedEarly waits for the endpoint's first word. It returns an error when
// that is a close that another endpoint can make good.
func (r *relay) closedEarly() error {
	got, broken := r.endpoint.peek()
	if got != peekEOF && got != peekReset {
		r.gate.CompareAndSwap(gateShut, gateForwarding)
		return nil
	}
	late := time.Since(r.connected) > EarlyClose
	if late || r.client.check(hasEnded) || !r.gate.CompareAndSwap(gateShut, gateEarly) {
		r.gate.CompareAndSwap(gateShut, gateForwarding)
		close(r.settled)
		if broken != nil {
			r.broke(r.endpoint, broken)
		}
		return nil
	}
	close(r.settled)
	r.client.interrupt()
	if got == peekEOF {
		return io.EOF
	}
	return ErrReset
}

// carry moves bytes from src to dst until src's end, passes that on, and stays
// to notice when src breaks afterwards.
func (r *relay) carry(dst, src *side, n *atomic.Uint64) {
	c := &copier{dst: dst, src: src, n: n, buffers: &r.f.e.buffers, pipes: r.f.e.pipes}
	err := c.run()
	switch {
	case r.parting.Load() != nil:
		// What it was that ended this direction is found out again.
	case err == nil && src.wasReset():
		r.broke(src, ErrReset)
	case err == nil && src.broken.Load() == nil:
		r.passEnd(dst, src)
	case err == nil, isDeadline(err):
		// src broke while it was written to and all it had sent is
		// delivered, or somebody else ended this direction.
	case c.writing:
		r.broke(dst, err)
	default:
		r.broke(src, err)
	}
	if until := r.parting.Load(); until != nil && r.first.Load() == nil {
		r.partFrom(c, *until)
	}
}

// noteEnd keeps in mind that an endpoint's end, which is about to be passed on,
// was an early close.
func (r *relay) noteEnd(s *side) {
	nothing := r.f.in.Load() == 0 && r.f.out.Load() == 0
	if s == r.endpoint && nothing && r.first.Load() == nil && time.Since(r.connected) <= EarlyClose && !r.client.check(hasEnded) {
		r.early.Store(true)
	}
}

func (r *relay) passEnd(dst, src *side) {
	r.noteEnd(src)
	if err := dst.closeWrite(); err != nil {
		r.broke(dst, err)
		return
	}
	src.ended.Store(true)
	if r.ends.Add(1) == 2 {
		r.interrupt()
		return
	}
	if src.broken.Load() == nil && src.raw != nil && src.await(hasError) == nil {
		r.broke(src, src.takeError())
	}
}

// broke ends the flow because s was reset or vanished: what s had sent before
// may still be delivered for a second, the other direction has nowhere to go.
func (r *relay) broke(s *side, err error) {
	r.noteEnd(s)
	if r.parting.Load() != nil || !s.breakWith(err, vanished(err)) {
		return
	}
	if r.first.CompareAndSwap(nil, s) {
		r.grace.Store(time.AfterFunc(lingerTime, r.interrupt))
	}
	other := r.other(s)
	_ = other.conn.SetReadDeadline(aLongTimeAgo)
	_ = s.conn.SetWriteDeadline(aLongTimeAgo)
	if vanished(err) || s.ended.Load() {
		s.interrupt() // nothing more comes from it
	}
}

func (r *relay) other(s *side) *side {
	if s == r.client {
		return r.endpoint
	}
	return r.client
}

// interrupt ends both directions.
func (r *relay) interrupt() {
	r.client.interrupt()
	r.endpoint.interrupt()
}

// deliver waits until each side has taken what was written to it, however long
// that is: of a closed socket the kernel throws the rest away when the reader
// has stopped for minutes (tcp_probe_timer in net/ipv4/tcp_timer.c). A cut, a
// reset or a vanished host ends it.
func (r *relay) deliver() {
	for pause := time.Millisecond; r.first.Load() == nil; pause = min(2*pause, time.Second) {
		empty := !r.client.hasUndelivered() && !r.endpoint.hasUndelivered()
		// Asked after the queues: a reset empties them.
		r.noticeErrors()
		if empty {
			return
		}
		select {
		case <-r.f.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// noticeErrors breaks a side that was reset, or whose host vanished.
func (r *relay) noticeErrors() {
	for _, s := range []*side{r.client, r.endpoint} {
		if s.tcp && s.check(hasError) {
			r.broke(s, s.takeError())
		}
	}
}

// finish closes both sides the way the flow ended.
func (r *relay) finish() *Result {
	if r.first.Load() == nil {
		r.deliver()
	}
	s := r.first.Load()
	if errors.Is(r.f.cutBy(), io.EOF) {
		r.part() // that cut may have ended the wait before it came to this
	}
	if until := r.parting.Load(); until != nil && s == nil {
		r.closeParted(*until)
		return &Result{Cause: CauseCut, Err: r.f.cutBy()}
	}
	if err := r.f.cutBy(); err != nil && (s == nil || !errors.Is(err, io.EOF)) {
		abort(r.client.conn)
		abort(r.endpoint.conn)
		return &Result{Cause: CauseCut, Err: err}
	}
	if s == nil {
		_ = r.client.conn.Close()
		_ = r.endpoint.conn.Close()
		return &Result{Cause: CauseEOF}
	}
	b := s.broken.Load()
	r.other(s).drain(b.at.Add(lingerTime))
	abort(r.other(s).conn)
	abort(s.conn)
	switch {
	case b.vanished:
		return &Result{Cause: CausePeerVanished, Err: b.err}
	case s == r.client:
		return &Result{Cause: CauseClientReset, Err: b.err}
	}
	return &Result{Cause: CauseEndpointReset, Err: b.err}
}

// copier moves bytes one way.
type copier struct {
	dst, src *side
	n        *atomic.Uint64
	buffers  *sync.Pool
	pipes    *pipes
	plain    bool // src cannot be spliced
	writing  bool // the error came from dst
	buf      *[bufferSize]byte
	pipe     *pipe
	got      int // in the buffer, or in the pipe
	err      error
}

// run returns nil at src's end of file.
func (c *copier) run() error {
	full := 0
	for {
		n, err := c.message()
		if err != nil {
			return err
		}
		switch {
		case n == 0:
			return nil
		case n < bufferSize:
			full = 0
		default:
			full++
		}
		if full >= 2 {
			full = 0
			if end, err := c.stream(); end || err != nil {
				return err
			}
		}
	}
}

// message moves what one read finds; 0 is the end of the file. The buffer is
// taken when there is something to read and given back before the next wait.
func (c *copier) message() (int, error) {
	if c.src.raw == nil {
		c.takeBuffer()
		c.got, c.err = c.src.read(c.buf[:])
		if errors.Is(c.err, io.EOF) {
			c.err = nil
		}
	} else if err := c.src.raw.Read(c.tryRead); err != nil {
		c.got, c.err = 0, err
	}
	if c.buf == nil {
		return 0, c.err
	}
	defer c.putBuffer()
	if c.got <= 0 || c.err != nil {
		return 0, c.err
	}
	c.src.onward.Store(true)
	m, err := c.dst.conn.Write(c.buf[:c.got])
	c.src.onward.Store(false)
	c.n.Add(uint64(m))
	c.writing = err != nil
	return c.got, err
}

func (c *copier) tryRead(fd uintptr) bool {
	c.takeBuffer()
	for {
		c.got, c.err = unix.Read(int(fd), c.buf[:])
		switch {
		case errors.Is(c.err, unix.EINTR):
			continue
		case errors.Is(c.err, unix.EAGAIN):
			c.putBuffer()
			return false
		}
		return true
	}
}

func (c *copier) takeBuffer() {
	var ok bool
	if c.buf, ok = c.buffers.Get().(*[bufferSize]byte); !ok {
		c.buf = new([bufferSize]byte)
	}
}

func (c *copier) putBuffer() {
	c.buffers.Put(c.buf)
	c.buf = nil
}
