package pump

import "golang.org/x/sys/unix"

// simEpoll is an epoll set after fs/eventpoll.c: a callback puts an item on the
// ready list, the mask is worked out only when the item is fetched, and an item
// whose mask is empty by then is dropped. A level-triggered one goes back on the
// list.
type simEpoll struct {
	w     *simWorld
	loop  *loop
	ready []*simItem
	woken bool // the eventfd
	// idle says that the loop found nothing to do and sleeps until its deadline.
	idle     bool
	deadline int64 // never: for ever
	blocked  func()
	slept    int64 // until then
	// Since the turn began: events fetched, and whether it asked without blocking.
	fetched int
	polled  bool
}

// simItem is one descriptor in the set.
type simItem struct {
	set    *simEpoll
	file   *simFile
	events uint32
	key    eventKey
	listed bool
	dead   bool
}

const simAlways = unix.EPOLLERR | unix.EPOLLHUP

func (s *simEpoll) watch(fd int, events uint32, key eventKey) unix.Errno {
	w := s.w
	w.meanwhile()
	f := w.file(fd, "watch")
	for _, it := range f.items {
		if it.set == s {
			w.fail("descriptor", "watch of descriptor %d (%s), which is watched", fd, f.name)
		}
	}
	if w.shortage > 0 && w.d.chance(w.shortage) {
		if w.tracing {
			w.log("watch %s: no memory", f.name)
		}
		if f.end != nil {
			f.end.unwatched = true
		}
		return unix.ENOMEM
	}
	it := &simItem{set: s, file: f, events: events | simAlways, key: key}
	f.items = append(f.items, it)
	mask := f.mask() & it.events
	if w.tracing {
		w.log("watch %s as fd %d, key %d.%d.%d: %s", f.name, fd, key.slot, key.tag, key.gen, simMask(mask))
	}
	if mask != 0 {
		s.list(it)
	}
	return 0
}

func (s *simEpoll) unwatch(fd int) unix.Errno {
	w := s.w
	w.meanwhile()
	f := w.file(fd, "unwatch")
	for i, it := range f.items {
		if it.set == s {
			if w.tracing {
				w.log("unwatch %s", f.name)
			}
			it.dead = true
			f.items = append(f.items[:i:i], f.items[i+1:]...)
			return 0
		}
	}
	return unix.ENOENT
}

func (s *simEpoll) list(it *simItem) {
	s.idle = false
	if !it.listed {
		it.listed = true
		s.ready = append(s.ready, it)
	}
}

// notify is ep_poll_callback; no flags stand for any.
func (f *simFile) notify(flags uint32) {
	for _, it := range f.items {
		if flags == 0 || flags&it.events != 0 {
			it.set.list(it)
		}
	}
}

func (f *simFile) mask() uint32 {
	switch {
	case f.end != nil:
		return f.end.mask()
	case f.listener != nil && len(f.listener.queue) > 0:
		return unix.EPOLLIN
	}
	return 0
}

// fetch takes what is ready, in any order and not always all.
func (s *simEpoll) fetch(events []unix.EpollEvent) int {
	w := s.w
	n := 0
	if s.woken {
		s.woken = false
		events[0].Events = unix.EPOLLIN
		eventKey{slot: noSlot}.set(&events[0])
		n++
	}
	max := len(events)
	if len(s.ready) > 1 && w.jitter > 0 && w.d.chance(20) {
		max = min(max, 1+w.d.n(3))
	}
	var again []*simItem
	for len(s.ready) > 0 && n < max {
		i := 0
		if w.jitter > 0 {
			i = w.d.n(len(s.ready))
		}
		it := s.ready[i]
		s.ready = append(s.ready[:i], s.ready[i+1:]...)
		it.listed = false
		if it.dead {
			continue
		}
		mask := it.file.mask() & it.events
		if mask == 0 {
			continue
		}
		events[n].Events = mask
		it.key.set(&events[n])
		n++
		if w.tracing {
			w.log("event %s: %s", it.file.name, simMask(mask))
		}
		if it.events&unix.EPOLLET == 0 {
			again = append(again, it)
		}
	}
	s.fetched += n
	for _, it := range again {
		s.list(it)
	}
	return n
}

// wait lets the world go on until there is an event or the time is over. With
// several loops it comes back early, so that the others have their turn.
func (s *simEpoll) wait(events []unix.EpollEvent, timeout int) int {
	w := s.w
	w.longestTurn = max(w.longestTurn, w.now-s.loop.now)
	w.meanwhile()
	for w.due() && !w.d.chance(w.jitter) {
		w.step()
	}
	s.idle = false
	if w.early > 0 && w.d.chance(w.early) {
		w.stir()
	}
	if n := s.fetch(events); n > 0 || timeout == 0 {
		s.polled = s.polled || n == 0
		return n
	}
	s.polled = false
	if w.early > 0 && w.d.chance(w.early) {
		return 0 // interrupted (signal(7))
	}
	s.deadline = never
	if timeout > 0 {
		s.deadline = w.now + int64(timeout)*1e6
	}
	s.idle = true
	if s.blocked != nil && !w.due() {
		s.blocked()
	}
	for w.allIdle() {
		next := int64(never)
		for _, o := range w.epolls {
			next = min(next, o.deadline)
		}
		switch {
		case len(w.agenda) > 0 && w.agenda[0].at <= next:
			w.step()
		case next == never:
			return 0 // the driver sees that nothing will ever happen
		default:
			w.now = max(w.now, next)
			for _, o := range w.epolls {
				o.idle = o.idle && o.deadline > w.now
			}
		}
	}
	s.slept = w.now
	return s.fetch(events)
}

// stir calls back for a descriptor of which there is nothing new, as the kernel
// does now and then.
func (w *simWorld) stir() {
	if f := w.files[w.d.n(len(w.files))]; f != nil {
		f.notify(0)
	}
}

func (w *simWorld) allIdle() bool {
	for _, o := range w.epolls {
		if !o.idle {
			return false
		}
	}
	return true
}

func (s *simEpoll) wake() {
	s.woken = true
	s.idle = false
}

func simMask(m uint32) string {
	out := ""
	for _, b := range []struct {
		bit  uint32
		name string
	}{{unix.EPOLLIN, "IN"}, {unix.EPOLLOUT, "OUT"}, {unix.EPOLLRDHUP, "RDHUP"}, {unix.EPOLLHUP, "HUP"}, {unix.EPOLLERR, "ERR"}, {unix.EPOLLPRI, "PRI"}} {
		if m&b.bit != 0 {
			out += " " + b.name
		}
	}
	if out == "" {
		return "nothing"
	}
	return out[1:]
}
