//go:build pumpcheck

package pump

import "fmt"

// verify panics when what must always hold of a loop does not.
func (l *loop) verify() {
	l.verifyCounts()
	for id, f := range l.flows {
		if f != nil && f.s.phase != phaseFree {
			l.verifyFlow(f, uint32(id))
		}
	}
}

func (l *loop) verifyCounts() {
	buffers, pipes, flows := 0, 0, 0
	for _, f := range l.flows {
		if f == nil || f.s.phase == phaseFree {
			continue
		}
		flows++
		for i := range f.s.side {
			if f.s.side[i].buffer != none {
				buffers++
			}
			if f.s.side[i].pipe != none {
				pipes++
			}
		}
	}
	must(flows == l.slab.used, "%d flows in %d slots", flows, l.slab.used)
	must(buffers == l.buffers.used, "%d buffers of %d are held", buffers, l.buffers.used)
	must(pipes == l.pipes.used, "%d pipes of %d are held", pipes, l.pipes.used)
	for i, t := range l.timers.heap {
		must(l.slab.at(t.id).timer == int32(i), "timer %d is not its slot's", i)
	}
}

func (l *loop) verifyFlow(f *epollFlow, id uint32) {
	s := f.s
	must(f.id == id && f.s == l.slab.at(id), "flow %d is in slot %d", int(f.id), int(id))
	must((f.attempt != nil) == (s.phase == phaseConnecting), "flow %d: an attempt in phase %d, or connecting without one", int(id), int(s.phase))
	must(s.phase != phaseAsking, "flow %d: the handler is still asked", int(id))
	for i := range s.side {
		p := &s.side[i]
		must((p.held > 0) == (p.buffer != none || p.pipe != none), "flow %d: %d bytes held in buffer %d, pipe %d", int(id), int(p.held), int(p.buffer), int(p.pipe))
		must(p.buffer == none || p.pipe == none, "flow %d: bytes in a buffer and in a pipe", int(id))
		must(!p.has(passed) || p.has(ended) || p.has(broken) || s.phase == phaseParting, "flow %d: an end was passed that was not read", int(id))
	}
	l.verifyProgress(f)
}

// verifyProgress wants somebody to look at a flow again.
func (l *loop) verifyProgress(f *epollFlow) {
	s := f.s
	switch s.phase {
	case phaseOpen:
		if s.has(queued | gated | settling) {
			return
		}
		for i := range s.side {
			src, dst := &s.side[i], &s.side[1-i]
			must(!dst.has(writable) || src.held == 0, "flow %d: bytes that could be written wait", int(f.id))
			must(src.held > 0 || src.has(ended) || !src.has(readable), "flow %d: nobody reads what is there", int(f.id))
			must(!src.has(ended) || src.held > 0 || src.has(passed), "flow %d: an end waits", int(f.id))
			must(!src.has(failed), "flow %d: an error waits", int(f.id))
		}
	case phaseParked, phaseBreaking, phaseDraining, phaseDelivering, phaseLingering, phaseParting:
		must(s.timer != none || s.has(queued), "flow %d: phase %d without a timer", int(f.id), int(s.phase))
	case phasePreface:
		must(f.preface.Timeout == 0 || s.timer != none, "flow %d: a preface without a timer", int(f.id))
	case phaseConnecting:
		must(f.attempt.pending > 0, "flow %d: connecting without a leg", int(f.id))
	case phaseFree, phaseAsking, phaseElsewhere:
	}
}

// must takes numbers only: those stay on the stack, where values of any kind
// would be allocated at each call, and tests count what a connection allocates.
func must(ok bool, format string, args ...int) {
	if ok {
		return
	}
	values := make([]any, len(args))
	for i, a := range args {
		values[i] = a
	}
	panic("pump: " + fmt.Sprintf(format, values...))
}
