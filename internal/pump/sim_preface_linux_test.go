package pump

import (
	"errors"
	"os"
	"time"
)

// simPreface is what a handler wants of a client's first bytes.
type simPreface struct {
	need    int // so many are the preface
	bad     int // so many show that they are none; 0: never
	max     int // 0: MaxPreface
	timeout time.Duration
}

// simSaying is what the parser has said since the step.
type simSaying struct {
	n   int
	err error
}

var errSimPreface = errors.New("that is no preface")

// preface is none that the client's socket could not hold: nobody would ever
// see it whole.
func (p *simPlan) preface(room int) *simPreface {
	d := p.more
	x := &simPreface{need: min(simPick(d, 5, 1, 40, 300, 4096, 5000), room)}
	if d.n(4) == 3 {
		x.bad = simPick(d, 1, 4, 60)
	}
	x.max = simPick(d, 0, 1, 5, 100, 9000)
	x.timeout = simPick(d, 0, 3*time.Second, 300*time.Millisecond, time.Millisecond, 20*time.Microsecond)
	return x
}

func (x *simPreface) most() int {
	if x.max == 0 {
		return MaxPreface
	}
	return min(x.max, MaxPreface)
}

// enough is how many bytes tell what becomes of it.
func (x *simPreface) enough() int {
	n := min(x.need, x.most())
	if x.bad > 0 {
		n = min(n, x.bad)
	}
	return n
}

func (f *simFlow) prefaceOf(x *simPreface) *Preface {
	f.phase, f.said = simPrefacing, simSaying{}
	f.until = never
	if x.timeout > 0 {
		f.until = f.w.now + int64(x.timeout)
	}
	return &Preface{Timeout: x.timeout, Max: x.max, Parse: func(fl *Flow, b []byte) (int, error) {
		f.said.n, f.said.err = f.parse(fl, x, b)
		f.w.log("%s: parse %d bytes: %d, %v", f.name, len(b), f.said.n, f.said.err)
		return f.said.n, f.said.err
	}}
}

func (f *simFlow) parse(fl *Flow, x *simPreface, b []byte) (int, error) {
	w := f.w
	switch {
	case f.flow != fl || f.phase != simPrefacing || f.decision.preface != x:
		w.fail("preface", "%s: parse when %v", f.name, f.phase)
	case f.said.n != 0 || f.said.err != nil:
		w.fail("preface", "%s: parse again after %d, %v", f.name, f.said.n, f.said.err)
	case len(b) == 0 || len(b) > x.most():
		w.fail("preface", "%s: parse of %d bytes where %d are allowed", f.name, len(b), x.most())
	case !f.client.in.has(b, f.client.position):
		w.fail("preface", "%s: parse of bytes that are not those to come", f.name)
	case x.bad > 0 && x.bad < x.need && len(b) >= x.bad:
		return 0, errSimPreface
	case len(b) >= x.need:
		return x.need, nil
	}
	return 0, nil
}

// checkPreface tells whether what the loop says of a preface is so.
func (f *simFlow) checkPreface(last Attempt, bad func(string)) {
	w, c, x := f.w, f.client, f.decision.preface
	if f.phase != simPrefacing {
		bad("nobody waits for a preface")
	}
	read := int(c.carried()) // nothing but the preface was read so far
	switch {
	case last.Kind == Prefaced:
		if last.Err != nil || f.said.n != x.need || read != x.need {
			bad("that is not what was said")
		}
		c.skipped += int64(read)
		read = 0
	case errors.Is(last.Err, errSimPreface):
		if f.said.err == nil {
			bad("nobody said so")
		}
	case errors.Is(last.Err, ErrNoPreface):
		if !c.rcvFF && !c.unix || c.visible() >= x.enough() {
			bad("it could have come")
		}
	case errors.Is(last.Err, errUrgentPreface):
		if !c.urgent && c.skipped == 0 { // else the loop has seen some before
			bad("there are no out-of-band data")
		}
	case errors.Is(last.Err, ErrLongPreface):
		if c.visible() < x.most() || x.need <= x.most() {
			bad("it is not that long")
		}
	case errors.Is(last.Err, os.ErrDeadlineExceeded):
		if w.now < f.until-int64(simTick) || w.epolls[f.loop].slept > f.until+int64(simTick) {
			bad("that is too early, or too late")
		}
	default:
		bad("what is that")
	}
	if read != 0 {
		bad("bytes were read")
	}
}

// visible is how many bytes one read would find.
func (e *simEnd) visible() int {
	if e.urgent && e.mark > e.position {
		return min(e.queue, int(e.mark-e.position))
	}
	return e.queue
}

// checkPrefacing is asked when the loop is about to sleep.
func (f *simFlow) checkPrefacing(lost func(string, ...any)) {
	c := f.client
	switch {
	case c.err != 0:
		lost("the client was reset")
	case f.until != never && f.w.now > f.until+int64(simTick):
		lost("it waits too long")
	case c.visible() >= f.decision.preface.enough():
		lost("there are %d bytes", c.visible())
	case c.urgent && c.visible() > 0:
		lost("out-of-band data hide the rest")
	case c.rcvShut:
		lost("the client has finished")
	}
}

// takeBack uses the memory of prefixes for something else, as a handler may.
func (f *simFlow) takeBack() {
	for _, y := range f.decision.ways {
		clear(y.lent)
	}
}
