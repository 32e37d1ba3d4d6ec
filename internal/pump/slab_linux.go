package pump

import "sync/atomic"

// sideFlags is what a loop knows of one socket.
type sideFlags uint16

const (
	readable   sideFlags = 1 << iota // a read may find something
	writable                         // a write may succeed
	finished                         // the peer said FIN, or all is over: reads come to an end
	failed                           // an error is pending
	urgent                           // out-of-band data is about: short reads mean nothing
	ended                            // its end of file was read
	passed                           // and said to the other side
	broken                           // reset or vanished
	unspliced                        // cannot be spliced
	streaming                        // it has much to say: splice
	unanswered                       // written to since the last sweep found all acknowledged
	plainTCP
	tended // has all its options
)

// none is no buffer, pipe or timer.
const none = -1

// sideState is one socket of a flow and what was read from it but not yet
// written to the other. Without pointers, as slot.
type sideState struct {
	fd     int32
	buffer int32 // of the loop, or none
	pipe   int32 // of the loop, or none
	from   int32 // the rest begins there in the buffer
	held   int32 // bytes in the buffer, or in the pipe
	flags  sideFlags
	tag    uint8 // of its events
	full   uint8 // reads in a row that filled the buffer
	thin   uint8 // splices in a row that found little
	// owed is how much of what is unread is still to be delivered, once the flow
	// is parting.
	owed int32
	// moved is what was read from here and written to the other side. Any
	// goroutine may load it.
	moved atomic.Uint64
}

func (s *sideState) has(f sideFlags) bool { return s.flags&f != 0 }
func (s *sideState) set(f sideFlags)      { s.flags |= f }
func (s *sideState) clear(f sideFlags)    { s.flags &^= f }

// phase is where a flow stands.
type phase uint8

const (
	phaseFree       phase = iota
	phaseAsking           // the handler is about to say what to do
	phaseParked           // waiting for a wake, a moment or the client's end
	phasePreface          // waiting for the client's first bytes
	phaseConnecting       // legs are under way
	phaseOpen             // bytes pass
	phaseDelivering       // both sides finished, their last bytes are under way
	phaseBreaking         // one side broke, what it sent before is under way
	phaseDraining         // and the kernel has all of it to send
	phaseLingering        // ended without an endpoint, the client is read to its end
	phaseParting          // cut in an orderly way, both sides are read to their ends
	phaseElsewhere        // the net engine has it
)

// slotFlags are what is true of a flow.
type slotFlags uint8

const (
	queued   slotFlags = 1 << iota // in the run queue
	gated                          // an early close of the endpoint may still be made good
	settling                       // the client's first bytes wait
	woken                          // Wake was called when it was not parked
	vanish                         // the side that broke has vanished
	parted                         // cut in an orderly way
	fresh                          // it was connected here, so that since is when
	early                          // the endpoint ended before anything else happened
)

// slot is the state of one flow, its loop's alone. It has no pointers, so the
// collector never looks at it, however many there are.
type slot struct {
	side      [2]sideState
	started   int64         // loop clock
	since     int64         // connected, or broken, then
	deadline  int64         // of all legs of the step
	gen       atomic.Uint32 // of who has the slot; any goroutine may load it
	timer     int32         // place among the timers, or none
	pause     int32         // until the next look, in milliseconds
	phase     phase
	flags     slotFlags
	tags      uint8  // the last that was given to a leg
	leg       uint16 // that won
	brokeSide uint8
}

func (s *slot) has(f slotFlags) bool { return s.flags&f != 0 }
func (s *slot) set(f slotFlags)      { s.flags |= f }
func (s *slot) clear(f slotFlags)    { s.flags &^= f }

// chunkSize is how many slots are made at a time. They never move: other
// goroutines read counters.
const chunkSize = 256

type chunk [chunkSize]slot

// slab hands out slots; one that is given back is used again first, while it
// is in the cache. Slots are never freed: that costs what the most flows at one
// time needed, and saves an allocation per flow.
type slab struct {
	chunks []*chunk
	free   []uint32
	used   int
}

func (b *slab) at(id uint32) *slot { return &b.chunks[id/chunkSize][id%chunkSize] }

// take returns a slot in phaseAsking, or false when there are maxSlots.
func (b *slab) take() (uint32, bool) {
	if len(b.free) == 0 && !b.grow() {
		return 0, false
	}
	last := len(b.free) - 1
	id := b.free[last]
	b.free = b.free[:last]
	b.used++
	s := b.at(id)
	s.phase, s.flags, s.timer = phaseAsking, 0, none
	for i := range s.side {
		s.side[i].reset()
		s.side[i].moved.Store(0)
	}
	return id, true
}

func (s *sideState) reset() {
	s.fd, s.buffer, s.pipe = none, none, none
	s.from, s.held, s.flags, s.tag, s.full, s.thin, s.owed = 0, 0, 0, 0, 0, 0, 0
}

func (b *slab) grow() bool {
	first := uint32(len(b.chunks)) * chunkSize
	if first+chunkSize > noSlot {
		return false
	}
	b.chunks = append(b.chunks, new(chunk))
	for i := range uint32(chunkSize) {
		b.free = append(b.free, first+chunkSize-1-i)
	}
	return true
}

// put takes a slot back; events and commands that still name it are stale from
// now on.
func (b *slab) put(id uint32) {
	s := b.at(id)
	s.phase = phaseFree
	s.gen.Add(1)
	b.free = append(b.free, id)
	b.used--
}

// noSlot is the number of no slot.
const noSlot = maxSlots - 1

// timers is a heap of one moment per slot, the earliest first.
type timers struct{ heap []timer }

type timer struct {
	at int64
	id uint32
}

// next returns the earliest moment; false when there is none.
func (t *timers) next() (timer, bool) {
	if len(t.heap) == 0 {
		return timer{}, false
	}
	return t.heap[0], true
}

// set makes at the slot's moment, whether or not it had one.
func (t *timers) set(b *slab, id uint32, at int64) {
	s := b.at(id)
	if s.timer == none {
		s.timer = int32(len(t.heap))
		t.heap = append(t.heap, timer{})
	}
	i := int(s.timer)
	t.heap[i] = timer{at, id}
	t.down(b, t.up(b, i))
}

// clear forgets the slot's moment, if it has one.
func (t *timers) clear(b *slab, id uint32) {
	s := b.at(id)
	if s.timer == none {
		return
	}
	i, last := int(s.timer), len(t.heap)-1
	s.timer = none
	moved := t.heap[last]
	t.heap = t.heap[:last]
	if i < last {
		t.heap[i] = moved
		b.at(moved.id).timer = int32(i)
		t.down(b, t.up(b, i))
	}
}

func (t *timers) up(b *slab, i int) int {
	x := t.heap[i]
	for i > 0 {
		parent := (i - 1) / 2
		if t.heap[parent].at <= x.at {
			break
		}
		t.place(b, i, t.heap[parent])
		i = parent
	}
	t.place(b, i, x)
	return i
}

func (t *timers) down(b *slab, i int) {
	x := t.heap[i]
	for {
		child := 2*i + 1
		if child >= len(t.heap) {
			break
		}
		if child+1 < len(t.heap) && t.heap[child+1].at < t.heap[child].at {
			child++
		}
		if t.heap[child].at >= x.at {
			break
		}
		t.place(b, i, t.heap[child])
		i = child
	}
	t.place(b, i, x)
}

func (t *timers) place(b *slab, i int, x timer) {
	t.heap[i] = x
	b.at(x.id).timer = int32(i)
}
