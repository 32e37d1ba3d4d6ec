package pump

import (
	"errors"
	"io"
	"time"
)

// cutGently tells whether the last cut wanted an orderly end.
func (f *simFlow) cutGently() bool { return f.cutErr != nil && errors.Is(f.cutErr, io.EOF) }

// parts notes what had reached us when the flow was cut with io.EOF.
func (f *simFlow) parts() {
	f.partedAt = f.w.now
	for i, e := range f.ends() {
		if e != nil {
			f.owed[i] = e.position + int64(e.queue)
		}
	}
	// While one loop sleeps another's commands may wait, as those of a thread
	// that does not run: the time counts from when it is obeyed.
	f.flow.engine.(*epollFlow).l.post(command{kind: commandCall, call: func() { f.partedAt = max(f.partedAt, f.w.now) }})
}

// checkLast is asked when FIN is said to a side of a flow that was cut with
// io.EOF: all that is owed is there by then.
func (f *simFlow) checkLast(e, src *simEnd) {
	owed := f.owed[client]
	if e == f.client {
		owed = f.owed[endpoint]
	}
	switch {
	case e.payload() != src.carried() || e.written < int64(len(e.out.prefix)):
		f.w.fail("part", "FIN is said to %s after %d bytes, %d were read for it", e.name, e.payload(), src.carried())
	case src.position < owed:
		f.w.fail("part", "FIN is said to %s after %d bytes of %s, %d had come", e.name, src.position, src.name, owed)
	}
}

// checkParted tells whether a flow that was cut with io.EOF ended as it should.
func (f *simFlow) checkParted(bad func(string)) {
	if f.partedAt == never {
		bad("nobody wanted that")
	}
	early := f.w.now < f.partedAt+int64(lingerTime-simTick)
	for _, e := range f.ends() {
		switch {
		case e == nil || e.dead() || e.unix && e.other.orphan:
		case e.closedByReset && early:
			bad(e.name + " is reset, and had time")
		case !e.closedByReset && e.unreadAtClose > 0 && early:
			bad(e.name + " is closed with input unread, and had time")
		case !e.closedByReset && f.phase == simOpen && !e.rcvFF:
			bad(e.name + " is closed in order, and had not finished")
		}
	}
}

// checkParting is asked when the loop is about to sleep.
func (f *simFlow) checkParting(lost func(string, ...any)) {
	w := f.w
	if w.now > f.partedAt+int64(lingerTime+simTick) {
		lost("it was cut %v ago", time.Duration(w.now-f.partedAt))
	}
	ends := f.ends()
	c, s := ends[client], ends[endpoint]
	if f.phase != simOpen || c.dead() || s.dead() {
		return
	}
	for i := range ends {
		src, dst := ends[i], ends[1-i]
		held := src.carried() + int64(len(dst.out.prefix)) - dst.written
		switch {
		case dst.sndShut && src.queue > 0:
			lost("%s has %d bytes unread", src.name, src.queue)
		case !dst.sndShut && held > 0 && dst.spacious() && dst.free() > 0:
			lost("%d bytes are held for %s, and there is room", held, dst.name)
		case !dst.sndShut && held == 0 && src.position >= f.owed[i]:
			lost("%s has all, and was not told", dst.name)
		}
	}
	if c.sndShut && s.sndShut && c.rcvFF && s.rcvFF && c.flight == 0 && s.flight == 0 {
		if f.bothAt == never {
			f.bothAt = w.now
		}
		if w.now > f.bothAt+int64(30*time.Millisecond+simTick) {
			lost("both sides finished %v ago", time.Duration(w.now-f.bothAt))
		}
	}
}
