package pump

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// simPlan draws a world with its clients, endpoints, decisions and accidents.
// The first value of every choice makes for the plainest world.
type simPlan struct {
	d    *simDraws
	more *simDraws // what older seeds do without
	w    *simWorld
	s    *sim
	tiny bool
}

func (p *simPlan) draw() {
	d, w := p.d, p.w
	w.jitter = simPick(d, 0, 15, 50)
	w.lag = simPick(d, 0, 20, 70)
	w.early = simPick(d, 0, 5)
	w.meddle = simPick(d, 0, 0, 15)
	p.tiny = d.n(3) == 2
	w.limit = simPick(d, 1000, 1000, 1000, 60, 14)
	p.s.places = simPick(d, 10000, 10000, 10000, 12, 4)
	p.s.loops = 1 + simPick(d, 0, 0, 1)
	for range p.s.loops {
		p.s.networks = append(p.s.networks, simPick(d, TCP, TCP, Unix))
	}
	for range simPick(d, 0, 0, 0, 1, 2) {
		at, until, percent := p.moment(), p.moment(), simPick(d, 20, 90)
		w.after(at, func() { w.shortage = percent })
		w.after(at+until, func() { w.shortage = 0 })
	}
	p.s.limit = simPick(d, 0, 0, 0, 1, 3)
	if p.s.loops > 1 {
		p.s.preload = simPick(d, 0, 0, 20)
	}
	for range simPick(d, 0, 0, 0, 0, 0, 1) {
		w.after(p.moment()+p.moment(), p.s.cutAll)
	}
	for id := range 1 + d.n(simPick(d, 1, 3, 6)) {
		p.flow(id)
	}
}

func (p *simPlan) moment() time.Duration {
	return simPick(p.d, 0, time.Millisecond, 20*time.Microsecond, 7*time.Millisecond, 60*time.Millisecond, 400*time.Millisecond, 900*time.Millisecond, 2500*time.Millisecond)
}

func (p *simPlan) flow(id int) {
	d, w := p.d, p.w
	f := &simFlow{w: w, id: id, name: fmt.Sprintf("flow %d", id), troubleAt: never, bothAt: never, partedAt: never}
	f.listener = d.n(p.s.loops)
	unixSocket := p.s.networks[f.listener] == Unix
	room := p.room()
	far := simPairOf(w, fmt.Sprintf("client %d", id), unixSocket, room)
	f.client = far.other
	f.client.flow = f
	f.client.plain = d.n(10) == 9
	f.client.in = w.newStream()
	f.caller = &simPeer{w: w, end: far}
	f.script = p.script()
	for range 1 + d.n(simPick(d, 1, 4)) {
		if p.more.n(6) == 5 {
			f.decisions = append(f.decisions, simDecision{preface: p.preface(f.client.room)})
		}
		f.decisions = append(f.decisions, p.decision(f))
	}
	w.flows = append(w.flows, f)
	w.after(p.moment(), func() { p.s.arrive(f) })
	for range simPick(d, 0, 0, 0, 1, 3) {
		p.action(f)
	}
	if p.more.n(4) == 3 {
		at := simPick(p.more, 0, time.Millisecond, 7*time.Millisecond, 60*time.Millisecond, 400*time.Millisecond)
		w.after(at+simPick(p.more, 0, 20*time.Microsecond, 500*time.Microsecond, 900*time.Millisecond), func() { f.cut(io.EOF) })
	}
}

func (p *simPlan) action(f *simFlow) {
	at := p.moment() + p.moment()
	switch p.d.n(4) {
	case 0, 1:
		p.w.after(at, func() { p.s.freeze(f) })
	case 2:
		p.w.after(at, f.wake)
	default:
		err := errors.New("cut of " + f.name)
		p.w.after(at, func() { f.cut(err) })
	}
}

// room draws the sizes of the buffers of a connection. In a tiny world they
// take a few bytes, and so are its messages.
func (p *simPlan) room() (r [4]int) {
	for i := range r {
		if p.tiny {
			r[i] = simPick(p.d, 64<<10, 300, 40, 3)
		} else {
			r[i] = simPick(p.d, 256<<10, 64<<10, 2<<20, 5000)
		}
	}
	return r
}

func (p *simPlan) bytes() int {
	if p.tiny {
		return simPick(p.d, 10, 0, 1, 100, 700)
	}
	return simPick(p.d, 10, 0, 1, 1000, 40_000, 70_000, 300_000, 3_000_000)
}

func (p *simPlan) step(op simOp) simStep {
	s := simStep{op: op}
	switch op {
	case simSend, simRead, simReadAll:
		s.n = p.bytes()
		if p.d.n(4) == 3 {
			s.piece = max(s.n/simPick(p.d, 2, 7, 30), 1)
			s.gap = simPick(p.d, 0, 10*time.Microsecond, 3*time.Millisecond, 50*time.Millisecond)
			if op == simReadAll {
				s.piece = max(s.piece, 2000)
			}
		}
		if op == simSend && s.n == 0 {
			s.n = 1
		}
	case simPause:
		s.gap = p.moment()
	}
	return s
}

// script is what a peer does: mostly it talks, and ends in order.
func (p *simPlan) script() (steps []simStep) {
	d := p.d
	for range simPick(d, 1, 0, 2, 4) {
		op := simPick(d, simSend, simSend, simSend, simRead, simRead, simPause, simPause, simReadAll, simUrgent)
		steps = append(steps, p.step(op))
	}
	all := p.step(simReadAll)
	switch d.n(10) {
	case 0, 1:
		return append(steps, simStep{op: simHalf}, all, simStep{op: simClose})
	case 2, 3, 4:
		return append(steps, all, simStep{op: simClose})
	case 5:
		return append(steps, simStep{op: simClose})
	case 6:
		return append(steps, simStep{op: simHalf}, p.step(simPause), simStep{op: simReset})
	case 7:
		return append(steps, simStep{op: simReset})
	case 8:
		return append(steps, simStep{op: simStall})
	}
	return append(steps, p.step(simPause), simStep{op: simVanish})
}

func (p *simPlan) decision(f *simFlow) (x simDecision) {
	d := p.d
	switch d.n(10) {
	case 9:
		x.end = simPick(d, io.EOF, errSimEnd)
		return x
	case 7, 8:
		x.park = p.moment() + p.moment()
		return x
	}
	for range 1 + d.n(simPick(d, 1, 1, 4)) {
		x.ways = append(x.ways, p.way(f))
		x.refuse = append(x.refuse, d.n(12) == 11)
	}
	x.stagger = simPick(d, 0, 0, time.Millisecond, 250*time.Millisecond)
	x.deadline = simPick(d, 0, 0, 0, 10*time.Millisecond, 500*time.Millisecond)
	x.settle = simPick(d, 0, 0, 0, 5*time.Millisecond, 300*time.Millisecond)
	x.retry = d.n(2) == 1
	return x
}

func (p *simPlan) way(f *simFlow) *simWay {
	d, w := p.d, p.w
	y := &simWay{w: w, flow: f, number: p.s.number(), room: p.room(), unix: d.n(5) == 4}
	y.name = fmt.Sprintf("endpoint %d of %s", y.number, f.name)
	y.outcome = simPick(d, simConnects, simConnects, simConnects, simConnects, simConnects, simRefuses, simRefuses, simTimesOut, simUnreachable, simBlackHole, simItself)
	y.itself = y.outcome == simItself && !y.unix
	y.atOnce = d.n(3) == 2
	y.delay = p.moment()
	y.plain = d.n(10) == 9
	y.script = p.script()
	if d.n(5) == 4 {
		y.prefix = make([]byte, simPick(d, 20, 1, 300))
		for i := range y.prefix {
			y.prefix[i] = byte(i*7 + y.number)
		}
	}
	return y
}
