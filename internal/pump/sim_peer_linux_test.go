package pump

import (
	"time"

	"golang.org/x/sys/unix"
)

// simOp is what a peer does.
type simOp uint8

const (
	simClose   simOp = iota // as close(2): resets where something is unread
	simReadAll              // to the end
	simSend
	simRead
	simHalf // says FIN
	simPause
	simReset
	simStall  // does nothing more until the simulation winds up
	simVanish // its host is gone
	simUrgent // sends a byte out of band
)

func (o simOp) String() string {
	return [...]string{"close", "read to the end", "send", "read", "half-close", "pause", "reset", "stall", "vanish", "send urgent"}[o]
}

// simStep is one thing that a peer does: n bytes, at most piece of them at once
// with a gap after each.
type simStep struct {
	op    simOp
	n     int
	piece int
	gap   time.Duration
}

// simPeer is the application at the far end of a connection.
type simPeer struct {
	w       *simWorld
	end     *simEnd
	steps   []simStep
	left    int // of the present step
	waiting bool
	resting bool // stalled
	ended   bool
	sawEnd  bool // it read the end of the file
	broken  unix.Errno
}

func (p *simPeer) start(steps []simStep) {
	p.steps = steps
	p.end.changed = p.poke
	p.begin()
	p.w.after(0, p.run)
}

func (p *simPeer) begin() {
	if len(p.steps) == 0 {
		p.steps = []simStep{{op: simClose}}
	}
	p.left = p.steps[0].n
}

// poke lets a peer that waits look again.
func (p *simPeer) poke() {
	if p.waiting {
		p.waiting = false
		p.w.after(p.w.moment(), p.run)
	}
}

// moment is how long something takes that takes no time to speak of.
func (w *simWorld) moment() time.Duration {
	if w.lag == 0 {
		return 0
	}
	return time.Duration(w.d.n(20)) * 5 * time.Microsecond
}

func (p *simPeer) run() {
	for !p.ended && !p.resting {
		s := &p.steps[0]
		done, again := p.do(s)
		switch {
		case p.ended || p.resting:
			return
		case done:
			p.steps = p.steps[1:]
			p.begin()
			if s.op == simPause {
				p.w.after(s.gap, p.run)
				return
			}
		case !again:
			p.waiting = true
			return
		case s.gap > 0:
			p.w.after(s.gap, p.run)
			return
		}
	}
}

// do performs a step, or a piece of it; again says that the next piece may
// follow, else the peer waits for its connection to change.
func (p *simPeer) do(s *simStep) (done, again bool) {
	e := p.end
	switch s.op {
	case simSend:
		n, errno := e.sendable(s.atMost(p.left))
		if errno != 0 {
			return p.failed(errno), false
		}
		e.sent(n)
		p.left -= n
		return p.left == 0, true
	case simRead, simReadAll:
		want := s.atMost(1 << 30)
		if s.op == simRead {
			want = s.atMost(p.left)
		}
		n, errno := e.receive(want)
		if errno != 0 {
			return p.failed(errno), false
		}
		p.left -= n
		e.taken(n)
		if n == 0 {
			p.sawEnd = true
			p.w.log("%s reads the end", e.name)
		}
		return n == 0 || s.op == simRead && p.left <= 0, true
	case simPause:
		return true, false
	case simUrgent:
		e.sendUrgent()
		return true, false
	case simStall:
		p.resting = true
		return false, false
	}
	p.w.log("%s: %v", e.name, s.op)
	switch s.op {
	case simHalf:
		e.shutdown()
		return true, false
	case simVanish:
		p.vanish()
	case simReset:
		e.abort()
	default:
		e.close()
	}
	p.ended = true
	return true, false
}

func (s *simStep) atMost(n int) int {
	if s.piece > 0 {
		return min(n, s.piece)
	}
	return n
}

// failed ends a peer whose connection is broken; it may wait otherwise.
func (p *simPeer) failed(errno unix.Errno) (done bool) {
	if errno == unix.EAGAIN {
		return false
	}
	p.w.log("%s: %v, closes", p.end.name, simErrno(errno))
	p.broken = errno
	p.end.close()
	p.ended = true
	return true
}

// vanish: idle connections end by keepalive after two minutes, others when
// retransmission gives up (tcp(7)).
func (p *simPeer) vanish() {
	ours := p.end.other
	if ours.unix {
		p.end.close()
		return
	}
	p.end.vanish()
	errno := simPick(p.w.d, unix.ETIMEDOUT, unix.EHOSTUNREACH)
	p.w.after(2*time.Minute, func() {
		if ours.outstanding() == 0 && !ours.closed {
			ours.die(unix.ETIMEDOUT)
			ours.resetAt = p.w.now
		}
	})
	p.w.after(16*time.Minute, func() {
		if !ours.closed {
			ours.die(errno)
			ours.resetAt = p.w.now
		}
	})
}

// release has a peer that would do nothing for ever read on and close.
func (p *simPeer) release() {
	if p.ended {
		return
	}
	p.resting, p.waiting = false, false
	p.steps = []simStep{{op: simHalf}, {op: simReadAll}, {op: simClose}}
	p.begin()
	p.w.after(0, p.run)
}
