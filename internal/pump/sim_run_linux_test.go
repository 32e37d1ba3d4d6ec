package pump

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// sim is one simulation: a world, and the loops in it.
type sim struct {
	w         *simWorld
	engine    *epollEngine
	listeners []*simListener
	handler   simHandler
	loops     int
	networks  []Network // of the listeners, one of each loop: a loop has its acceptors in a map, whose order no seed decides
	places    int       // for descriptors of flows
	limit     int       // of flows at once; 0 is none
	limited   *Limit
	preload   int // flows that the first loop seems to have beside
	numbers   int
	turns     int
	moved     uint64 // by then
	movedAt   int64
	fruitless int
	ending    bool
	ends      int // how often peers were released
	calm      int // turns until peers are released again
	endingAt  int64
}

// simChoices are all that a simulation depends on.
type simChoices struct{ plan, more, play []uint32 }

// simSource is where the choices come from: of the plan, of what was added to
// it later, so that older seeds keep their meaning without that, and of the rest.
type simSource struct{ plan, more, play *simDraws }

func simOf(seed uint64) simSource {
	return simSource{newSimDraws(seed, 1), newSimDraws(seed, 3), newSimDraws(seed, 2)}
}

// simBefore is a seed as it was before prefaces and gentle ends.
func simBefore(seed uint64) simSource {
	x := simOf(seed)
	x.more = playSimDraws(nil)
	return x
}

func (c simChoices) source() simSource {
	return simSource{playSimDraws(c.plan), playSimDraws(c.more), playSimDraws(c.play)}
}

func (c simChoices) size() int { return len(c.plan) + len(c.more) + len(c.play) }

func playSim(x simSource, pattern *simPattern, tracing bool) (s *sim, failure *simFailure) {
	w := &simWorld{d: x.play, now: int64(time.Second), ways: map[string]*simWay{}, pattern: pattern, tracing: tracing}
	s = &sim{w: w, handler: simHandler{w}}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *simFailure:
			failure = r
		default:
			failure = &simFailure{"panic", fmt.Sprintf("%v\n%s", r, debug.Stack())}
		}
	}()
	(&simPlan{d: x.plan, more: x.more, w: w, s: s}).draw()
	w.busy++ // nothing happens before the loops are there
	s.start()
	w.busy--
	s.run()
	s.checkLeft()
	return s, nil
}

// When the loops call a silent host vanished, and how often they look.
const (
	simVanishAfter = 2 * time.Minute
	simSweep       = 15 * time.Second
)

func (s *sim) number() int { s.numbers++; return s.numbers }

// start makes the loops, each with a listener.
func (s *sim) start() {
	log := slog.New(slog.DiscardHandler)
	fds := newBudget(s.places)
	s.engine = &epollEngine{cfg: Config{Log: log}, net: &netEngine{cfg: Config{Log: log}, fds: fds}}
	for i := range s.loops {
		set := &simEpoll{w: s.w}
		set.blocked = func() { s.w.checkAsleep(i) }
		s.w.epolls = append(s.w.epolls, set)
		s.engine.loops = append(s.engine.loops, newLoop(loopConfig{
			Kernel: set.kernel(), Budget: fds,
			VanishAfter: simVanishAfter, SweepEvery: simSweep,
			Elsewhere: func(*epollFlow, Step, func()) { s.w.fail("handler", "no step opens a connection") },
		}))
		set.loop = s.engine.loops[i]
	}
	s.engine.loops[0].load.Add(int32(s.preload))
	s.limited = NewLimit(s.limit)
	for i, network := range s.networks {
		s.listen(s.engine.loops[i], network, uint32(i+1))
	}
}

func (s *sim) listen(home *loop, network Network, id uint32) {
	ln := &simListener{}
	ln.file = &simFile{name: "listener", listener: ln}
	fd := s.w.install(ln.file)
	a := &epollAcceptor{
		e: s.engine, home: home, id: id, h: s.handler, l: Listener{Network: network, FD: fd, Limit: s.limited},
		batch: 1, againAt: never, waiting: accepted{fd: none},
	}
	home.acceptors[id] = a
	if errno := a.listenOn(); errno != 0 {
		s.w.fail("descriptor", "listen: %v", errno)
	}
	s.listeners = append(s.listeners, ln)
}

// arrive has a client connect: the kernel does that without the loop.
func (s *sim) arrive(f *simFlow) {
	ln := s.listeners[f.listener]
	ln.queue = append(ln.queue, f)
	s.w.moved++
	s.w.log("%s arrives", f.client.name)
	ln.file.notify(unix.EPOLLIN)
	f.caller.start(f.script)
}

// cutAll is what Engine.Close does to flows.
func (s *sim) cutAll() {
	s.w.log("cut all")
	for _, l := range s.engine.loops {
		l.post(command{kind: commandCall, call: func() {
			s.w.cutAll++
			l.cutAll(os.ErrClosed)
			s.w.cutAll--
		}})
	}
}

// freeze is Flow.Freeze, and Engine.Resume a while later, without their waiting
// for the loop.
func (s *sim) freeze(f *simFlow) {
	if f.flow == nil || f.phase == simFrozen {
		return
	}
	x := f.flow.engine.(*epollFlow)
	gen := x.s.gen.Load()
	x.l.post(command{kind: commandCall, call: func() {
		if x.l.flow(x.id, gen) == nil {
			return
		}
		f.freezes = true
		s.w.log("freeze %s", f.name)
		state, err := x.l.freezeFlow(x)
		if err == nil {
			s.w.after(time.Duration(s.w.d.n(3))*time.Millisecond, func() { s.resume(f, state) })
		} else if !errors.Is(err, ErrNotMovable) {
			s.w.fail("freeze", "%s: %v", f.name, err)
		}
	}})
}

func (s *sim) resume(f *simFlow, state State) {
	i := s.w.d.n(len(s.engine.loops))
	l := s.engine.loops[i]
	l.post(command{kind: commandCall, call: func() {
		r, err := decodeRecord(state.Record)
		if err != nil {
			s.w.fail("freeze", "%s: %v", f.name, err)
		}
		s.engine.net.fds.release(-2)
		l.load.Add(1)
		f.moves++
		f.phase, f.loop, f.cutErr, f.partedAt = simOpen, i, nil, never
		// This loop hears of a break, or of both ends, now.
		f.troubleAt, f.bothAt = never, never
		f.resuming = true
		s.w.log("resume %s on loop %d", f.name, i)
		fl, err := l.resume(state, &r, s.handler, f)
		f.resuming = false
		switch {
		case err != nil:
			f.phase, f.flow = simDone, nil // who asked knows; nobody else hears of it
		case f.phase != simDone:
			f.flow = fl
		}
	}})
}

// run takes turns until every flow has ended.
func (s *sim) run() {
	for {
		for i, l := range s.engine.loops {
			s.turn(i, l)
		}
		w := s.w
		if w.moved != s.moved {
			s.moved, s.movedAt = w.moved, w.now
		}
		if s.allDone() {
			return
		}
		quiet := w.now > s.movedAt+int64(5*time.Second) || w.allIdle() && len(w.agenda) == 0
		switch {
		case quiet && s.turns > s.calm:
			s.windUp()
		case s.ending && w.now > s.endingAt+int64(time.Hour), s.turns > 500_000:
			s.stuck()
		}
	}
}

func (s *sim) turn(i int, l *loop) {
	w, set := s.w, s.w.epolls[i]
	moved := w.moved
	set.fetched, set.polled = 0, false
	s.turns++
	w.turn = s.turns
	l.turn()
	s.checkFair(i)
	switch {
	case w.moved != moved || set.fetched == 0 && !set.polled:
		s.fruitless = 0
	case s.fruitless > 100:
		w.fail("spin", "a loop turns and turns, and nothing moves")
	default:
		s.fruitless++
	}
}

// checkFair wants a flow with something to do to have its turn soon.
func (s *sim) checkFair(i int) {
	others := false
	for _, f := range s.w.flows {
		others = others || f.served
	}
	most := 2 // what arrives in one turn is fetched in the next
	if s.w.jitter > 0 {
		most = 40 // fetched in any order, and not always all
	}
	for _, f := range s.w.flows {
		if f.loop != i {
			continue
		}
		if f.served || !others || !f.deliverable() {
			f.waited = 0
		} else if f.waited++; f.waited > most {
			s.w.fail("fair", "%s waits while others have %d turns", f.name, f.waited)
		}
		f.served = false
	}
}

func (s *sim) allDone() bool {
	for _, f := range s.w.flows {
		if f.phase != simDone {
			return false
		}
	}
	return true
}

// windUp lets every peer that holds something up go on, so that all ends.
func (s *sim) windUp() {
	w := s.w
	if s.ends++; s.ends > 1500 {
		s.stuck()
	}
	if !s.ending {
		w.log("winding up")
		s.ending, s.endingAt = true, w.now
	}
	s.calm, s.movedAt = s.turns+50, w.now
	w.limit, w.shortage, w.early = 1<<20, 0, 0
	for _, f := range w.flows {
		f.caller.release()
		for _, d := range f.decisions {
			for _, y := range d.ways {
				if y.peer != nil && y.connected {
					y.peer.release()
				}
			}
		}
	}
}

func (s *sim) stuck() {
	text := ""
	for _, f := range s.w.flows {
		if f.phase != simDone {
			text += fmt.Sprintf("%s is %v; ", f.name, f.phase)
		}
	}
	s.w.fail("stuck", "after %d turns and %v: %s", s.turns, time.Duration(s.w.now), text)
}

// checkLeft wants nothing to be left when all flows have ended.
func (s *sim) checkLeft() {
	w := s.w
	for i, l := range s.engine.loops {
		if l.buffers.used != 0 || l.pipes.used != 0 || l.slab.used != 0 || len(l.timers.heap) != 0 {
			w.fail("left", "%d buffers, %d pipes, %d slots, %d timers", l.buffers.used, l.pipes.used, l.slab.used, len(l.timers.heap))
		}
		if n := l.load.Load(); n != 0 && (i > 0 || n != int32(s.preload)) {
			w.fail("left", "loop %d has a load of %d", i, n)
		}
		for _, i := range l.pipes.free {
			if p := w.file(l.pipes.all[i].r, "look").pipe; p.held != 0 {
				w.fail("pipe", "an idle pipe holds %d bytes", p.held)
			}
		}
		l.pipes.close()
	}
	if n := w.openFiles() - len(s.listeners); n != 0 {
		w.fail("left", "%d descriptors", n)
	}
	if n := s.engine.net.fds.free; n != s.places {
		w.fail("left", "%d of %d places are free", n, s.places)
	}
	if s.limited != nil && s.limited.free.free != s.limit {
		w.fail("left", "%d of at most %d flows may begin", s.limited.free.free, s.limit)
	}
}
