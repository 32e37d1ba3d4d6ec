package pump

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// simOutcome is what becomes of a connect.
type simOutcome uint8

const (
	simConnects simOutcome = iota // in the call, or later
	simRefuses
	simTimesOut
	simUnreachable
	simBlackHole
	simItself
)

// simWay is one way to an endpoint: a leg of one step of one flow.
type simWay struct {
	w       *simWorld
	flow    *simFlow
	name    string
	unix    bool
	outcome simOutcome
	atOnce  bool
	delay   time.Duration
	script  []simStep
	room    [4]int // of the endpoint's and of our buffers
	plain   bool
	itself  bool
	prefix  []byte
	lent    []byte // the leg's copy of it, until the handler is called again
	number  int
	path    string
	index   int // that won

	dialled   int
	dialledAt int64
	begun     int
	ours      *simEnd
	peer      *simPeer
	connected bool // for the kernel
	connectAt int64
}

func simAddress(leg *Leg) string {
	if leg.Network == Unix {
		return leg.Path
	}
	return leg.Addr.String()
}

func (y *simWay) leg() Leg {
	y.lent = append([]byte(nil), y.prefix...)
	l := Leg{Network: TCP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, 1}), uint16(y.number)), Prefix: y.lent, Begin: func() { y.begun++ }}
	if y.unix {
		l.Network, l.Addr, l.Path = Unix, netip.AddrPort{}, fmt.Sprintf("/sim/%d", y.number)
	}
	y.path = simAddress(&l)
	return l
}

func (y *simWay) dial() (int, unix.Errno) {
	w := y.w
	if y.atOnce {
		switch y.outcome {
		case simRefuses:
			w.log("dial %s: refused at once", y.name)
			return -1, simPick(w.d, unix.ECONNREFUSED, unix.ENOENT)
		case simUnreachable:
			return -1, unix.ENETUNREACH
		case simTimesOut, simBlackHole:
			if y.unix {
				return -1, unix.EAGAIN // its backlog is full (unix(7))
			}
		}
	}
	y.pair()
	y.dialledAt = w.now
	fd := w.install(&simFile{name: y.ours.name, end: y.ours})
	y.ours.file = w.files[fd]
	w.log("dial %s as fd %d", y.name, fd)
	if y.atOnce && (y.outcome == simConnects || y.outcome == simItself) || y.unix {
		y.establish()
		return fd, 0
	}
	y.ours.connecting = true
	after := func(d time.Duration, do func()) {
		w.after(d, func() {
			if y.ours.connecting && !y.ours.orphan {
				do()
			}
		})
	}
	switch y.outcome {
	case simConnects, simItself:
		if y.delay == 0 && w.d.chance(50) {
			y.establish() // by the loopback device, before the call returns
		} else {
			after(y.delay, y.establish)
		}
	case simRefuses:
		after(y.delay, y.ours.gotReset)
	case simTimesOut:
		after(y.delay, func() { y.ours.die(unix.ETIMEDOUT) })
	case simUnreachable:
		after(y.delay, func() { y.ours.die(unix.EHOSTUNREACH) })
	case simBlackHole:
		after(2*time.Minute+10*time.Second, func() { y.ours.die(unix.ETIMEDOUT) })
	}
	return fd, unix.EINPROGRESS
}

func (y *simWay) pair() {
	far := simPairOf(y.w, y.name, y.unix, y.room)
	y.ours = far.other
	y.ours.plain = y.plain
	y.ours.flow = y.flow
	y.ours.in = y.w.newStream()
	y.ours.out = simCheck{prefix: y.prefix, stream: &y.flow.client.in, skip: y.flow.client.skipped}
	y.peer = &simPeer{w: y.w, end: far}
}

// simPairOf makes a connection and returns the peer's end.
func simPairOf(w *simWorld, name string, unixSocket bool, room [4]int) *simEnd {
	ours := &simEnd{w: w, name: name, unix: unixSocket, room: room[0], sndRoom: room[1]}
	far := &simEnd{w: w, name: name + "'s peer", unix: unixSocket, room: room[2], sndRoom: room[3], other: ours}
	ours.other = far
	return far
}

func (y *simWay) establish() {
	y.connected, y.connectAt = true, y.w.now
	y.ours.connecting = false
	y.w.moved++
	y.w.log("%s is connected", y.name)
	y.ours.tell(0)
	y.peer.start(y.script)
}

func (w *simWorld) newStream() simStream {
	w.streams++
	return simStream{w.pattern, w.streams}
}
