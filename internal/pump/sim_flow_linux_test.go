package pump

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
)

// simPhase is where a flow stands as its handler knows it.
type simPhase uint8

const (
	simComing simPhase = iota
	simParked
	simPrefacing
	simConnecting
	simOpen
	simGivenUp
	simFrozen
	simDone
)

func (p simPhase) String() string {
	return [...]string{"coming", "parked", "in its preface", "connecting", "open", "given up", "frozen", "done"}[p]
}

// simDecision is what a handler will say.
type simDecision struct {
	ways     []*simWay
	refuse   []bool
	stagger  time.Duration
	deadline time.Duration
	settle   time.Duration
	retry    bool
	park     time.Duration
	preface  *simPreface
	end      error
}

func (d simDecision) String() string {
	switch {
	case d.end != nil:
		return d.end.Error()
	case d.preface != nil:
		return fmt.Sprintf("%+v", *d.preface)
	case len(d.ways) > 0:
		return fmt.Sprintf("%d legs, stagger %v, deadline %v, settle %v, retry %v, prefix %d", len(d.ways), d.stagger, d.deadline, d.settle, d.retry, len(d.ways[0].prefix))
	}
	return d.park.String()
}

// simFlow is one client with all that becomes of it.
type simFlow struct {
	w         *simWorld
	id        int
	name      string
	listener  int
	client    *simEnd // ours
	caller    *simPeer
	script    []simStep
	decisions []simDecision

	accepted bool
	flow     *Flow
	loop     int
	phase    simPhase
	asked    int
	step     Step
	decision simDecision
	stepAt   int64
	until    int64 // of the park
	way      *simWay
	openAt   int64
	moves    int

	wakes, answered int
	wokenBy         int // calls of Next
	cutAt           int64
	cutErr          error
	partedAt        int64    // when it was cut with io.EOF; never
	owed            [2]int64 // up to there each side had sent by then
	said            simSaying
	freezes         bool  // Freeze was asked for
	troubleAt       int64 // when a side was reset; never
	bothAt          int64 // when both ends were said and delivered
	waited          int   // turns in which others moved and this one could have
	served          bool
	resuming        bool
}

var errSimEnd = errors.New("the handler gives up")

func (f *simFlow) addr() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 1}), uint16(1000+f.id))
}

// simHandler is the handler of all flows of a simulation.
type simHandler struct{ w *simWorld }

// meddle has a call about one flow wake or cut another, as who has a queue of
// held clients does.
func (h simHandler) meddle(f *simFlow) {
	w := h.w
	if w.meddle == 0 || !w.d.chance(w.meddle) {
		return
	}
	o := w.flows[w.d.n(len(w.flows))]
	switch {
	case o == f:
	case w.d.chance(20):
		o.cut(errSimMeddle)
	default:
		o.wake()
	}
}

var errSimMeddle = errors.New("cut by the handler")

func (f *simFlow) wake() {
	if f.flow != nil {
		f.w.log("wake %s", f.name)
		f.wakes++
		f.flow.Wake()
	}
}

func (f *simFlow) cut(err error) {
	if f.flow != nil && (f.cutErr == nil || f.cutGently() && !errors.Is(err, io.EOF)) {
		f.w.log("cut %s: %v", f.name, err)
		f.cutAt, f.cutErr = f.w.now, err
		if f.cutGently() {
			f.parts()
		}
		f.flow.Cut(err)
	}
}

func (h simHandler) find(fl *Flow) *simFlow {
	f, ok := fl.Data.(*simFlow)
	if !ok {
		h.w.fail("handler", "a flow without its Data is reported on")
	}
	if f.resuming {
		f.flow = fl
	}
	if f.flow != fl {
		h.w.fail("handler", "%s has become another Flow", f.name)
	}
	return f
}

func (h simHandler) Next(fl *Flow, last Attempt) Step {
	w := h.w
	if last.Kind == Accepted {
		h.introduce(fl)
	}
	f := h.find(fl)
	if fl.Client != f.addr() {
		w.fail("handler", "%s is said to come from %v", f.name, fl.Client)
	}
	f.checkAttempt(last)
	f.takeBack()
	if f.asked >= len(f.decisions) {
		f.decisions = append(f.decisions, simDecision{end: errSimEnd})
	}
	d := f.decisions[f.asked]
	f.asked++
	f.decision, f.stepAt, f.way = d, w.now, nil
	f.step = f.stepOf(d)
	w.moved++
	w.log("%s: next after %v: %v %s", f.name, last, f.phase, d)
	h.meddle(f)
	return f.step
}

func (h simHandler) introduce(fl *Flow) {
	if fl.Data != nil {
		h.w.fail("handler", "a flow that is used again still has its Data")
	}
	for _, f := range h.w.flows {
		if f.addr() == fl.Client && f.accepted && f.flow == nil {
			fl.Data, f.flow = f, fl
			f.loop = h.loopOf(fl)
			return
		}
	}
	h.w.fail("handler", "a client %v is introduced that was not accepted, or was before", fl.Client)
}

func (f *simFlow) stepOf(d simDecision) (s Step) {
	w := f.w
	switch {
	case d.end != nil:
		f.phase = simGivenUp
		s.End = d.end
	case d.preface != nil:
		s.Preface = f.prefaceOf(d.preface)
	case len(d.ways) > 0:
		f.phase = simConnecting
		for i, y := range d.ways {
			l := y.leg()
			l.Timeout = simPick(w.d, 0, 50*time.Millisecond, 3*time.Second)
			if d.refuse[i] {
				l.Refuse = errSimRefuse
			}
			w.ways[y.path] = y
			s.Dial = append(s.Dial, l)
		}
		s.Stagger, s.Settle, s.Retry = d.stagger, d.settle, d.retry
		if d.deadline > 0 {
			s.Deadline = simStart().Add(time.Duration(w.now) + d.deadline)
		}
	default:
		f.phase = simParked
		f.until = w.now + int64(d.park)
		s.Park = simStart().Add(time.Duration(f.until))
	}
	return s
}

var errSimRefuse = errors.New("the handler refuses this leg")

// checkAttempt tells whether what the loop says of the last step is so.
func (f *simFlow) checkAttempt(last Attempt) {
	w := f.w
	bad := func(why string) {
		w.fail("attempt", "%s: %v (%v) after being %v: %s", f.name, last.Kind, last.Err, f.phase, why)
	}
	switch last.Kind {
	case Accepted:
		if f.asked > 0 {
			bad("it was introduced before")
		}
	case DialFailed:
		if f.phase != simConnecting {
			bad("nothing was dialled")
		}
		f.checkLegs(-1)
	case ClosedEarly:
		f.checkEarly(last, bad)
	case Woken:
		if f.phase != simParked {
			bad("it was not parked")
		}
		// One that came while another was answered may be answered once more.
		if f.wokenBy++; f.wokenBy > f.wakes {
			bad("nobody called Wake")
		}
		f.answered = f.wakes
	case Expired:
		if f.phase != simParked || w.now < f.until {
			bad("that is too early")
		}
		if late := w.epolls[f.loop].slept - f.until; late > int64(simTick) {
			bad("the loop overslept by " + time.Duration(late).String())
		}
	case Prefaced, BadPreface:
		f.checkPreface(last, bad)
	default:
		bad("what is that")
	}
}

// simTick is how late a timer may be: epoll counts milliseconds, and the world
// may have moved on before the loop looks at its clock.
const simTick = 8 * time.Millisecond

func (f *simFlow) checkEarly(last Attempt, bad func(string)) {
	switch y := f.way; {
	case f.phase != simOpen || y == nil:
		bad("no endpoint was connected")
	case !f.decision.retry:
		bad("the step has no Retry")
	case last.Leg != y.index:
		bad("another leg had won")
	case !y.ours.rcvFF && !y.ours.reset:
		bad("the endpoint has not closed")
	case !errors.Is(last.Err, io.EOF) && !errors.Is(last.Err, ErrReset):
		bad("it is neither io.EOF nor ErrReset")
	case errors.Is(last.Err, io.EOF) && !y.ours.rcvFF, errors.Is(last.Err, ErrReset) && !y.ours.reset:
		bad("it closed in the other way")
	case y.ours.position > 0 || y.ours.written > int64(len(y.prefix)) || f.client.carried() > 0 || f.client.written > 0:
		bad("bytes have moved")
	case f.w.now > f.openAt+int64(EarlyClose):
		bad("that is late")
	case y.ours.file != nil:
		bad("its descriptor is open")
	}
}

// checkLegs wants each leg to say what became of it.
func (f *simFlow) checkLegs(won int) {
	w := f.w
	for i := range f.step.Dial {
		leg, y := &f.step.Dial[i], f.decision.ways[i]
		overtaken := errors.Is(leg.Err, ErrOvertaken)
		untried := errors.Is(leg.Err, ErrNotTried) && !overtaken
		switch {
		case (leg.Err == nil) != (i == won):
			w.fail("legs", "%s: leg %d has error %v when %d has won", f.name, i, leg.Err, won)
		case leg.Refuse != nil && !errors.Is(leg.Err, errSimRefuse) && !untried:
			w.fail("legs", "%s: leg %d was refused but has %v", f.name, i, leg.Err)
		case y.begun > 1 || y.dialled > 1:
			w.fail("legs", "%s: leg %d was begun %d times, dialled %d times", f.name, i, y.begun, y.dialled)
		case y.dialled > y.begun:
			w.fail("legs", "%s: leg %d was dialled, but Begin not called", f.name, i)
		case untried && y.begun > 0:
			w.fail("legs", "%s: leg %d was begun, and is said not to have been tried", f.name, i)
		case overtaken && y.begun == 0:
			w.fail("legs", "%s: leg %d was not begun, and is said to be overtaken", f.name, i)
		case i != won && y.ours != nil && y.ours.file != nil:
			w.fail("legs", "%s: leg %d has lost, but its descriptor is open", f.name, i)
		case won < 0 && overtaken:
			w.fail("legs", "%s: leg %d was overtaken by none", f.name, i)
		case won < 0 && untried && f.step.Deadline.IsZero():
			w.fail("legs", "%s: leg %d had no turn, though there is time", f.name, i)
		}
	}
}

func (h simHandler) Connected(fl *Flow, leg int) {
	w, f := h.w, h.find(fl)
	if f.phase != simConnecting || f.way != nil {
		w.fail("handler", "%s: connected when %v", f.name, f.phase)
	}
	if leg < 0 || leg >= len(f.decision.ways) {
		w.fail("handler", "%s: leg %d of %d is connected", f.name, leg, len(f.decision.ways))
	}
	f.way, f.phase, f.openAt = f.decision.ways[leg], simOpen, w.now
	f.way.index = leg
	y := f.way
	if !y.connected {
		w.fail("handler", "%s: leg %d is said to be connected", f.name, leg)
	}
	if y.itself {
		w.fail("handler", "%s: leg %d is connected to itself", f.name, leg)
	}
	f.checkLegs(leg)
	f.takeBack()
	f.client.out = simCheck{stream: &y.ours.in}
	w.moved++
	w.log("%s: leg %d, %s, has won", f.name, leg, y.name)
	h.meddle(f)
}

func (h simHandler) Done(fl *Flow, r Result) {
	w, f := h.w, h.find(fl)
	if f.phase == simDone {
		w.fail("done", "%s: done twice", f.name)
	}
	w.moved++
	w.log("%s: done: %s %v %+v", f.name, r.Cause, r.Err, r.Counters)
	f.flow = nil
	f.takeBack()
	f.checkCounters(r)
	h.meddle(f)
	if r.Cause == CauseMoved {
		if f.phase != simOpen {
			w.fail("done", "%s: moved when %v", f.name, f.phase)
		}
		f.phase = simFrozen
		return
	}
	f.checkDone(r)
	f.phase = simDone
}

func (h simHandler) loopOf(fl *Flow) int {
	for i, set := range h.w.epolls {
		if fl.engine.(*epollFlow).l == set.loop {
			return i
		}
	}
	h.w.fail("handler", "a flow of no loop")
	return 0
}

// deliverable tells whether the loop could move bytes of the flow.
func (f *simFlow) deliverable() bool {
	if f.phase != simOpen || f.decision.settle > 0 {
		return false
	}
	ends := f.ends()
	for i := range ends {
		src, dst := ends[i], ends[1-i]
		if src.dead() || dst.dead() {
			return false
		}
		if src.queue > 0 && dst.spacious() && !dst.sndShut {
			return true
		}
	}
	return false
}
