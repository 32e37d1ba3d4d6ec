package pump

import "sync"

// budget hands out a bounded number of units, first come first served. It
// keeps accepting from eating the descriptors that live connections, DNS and
// the control socket need: a proxy that meets EMFILE in the middle of a
// connection has already failed somebody.
type budget struct {
	mu      sync.Mutex // guards the following
	free    int
	waiting []*waiter
}

type waiter struct {
	n      int
	ready  chan struct{}
	notify func() // when set, is called, under the budget's lock, with ready
}

// granted tells whether the units are the waiter's now.
func (w *waiter) granted() bool {
	select {
	case <-w.ready:
		return true
	default:
		return false
	}
}

func newBudget(n int) *budget { return &budget{free: n} }

// tryAcquire takes n units if they are free and nobody waits for them.
func (b *budget) tryAcquire(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) > 0 || b.free < n {
		return false
	}
	b.free -= n
	return true
}

// acquire takes n units, or returns false when stop is readable first.
func (b *budget) acquire(n int, stop <-chan struct{}) bool {
	if b.tryAcquire(n) {
		return true
	}
	w := b.queue(n, nil)
	select {
	case <-w.ready:
		return true
	case <-stop:
		b.withdraw(w)
		return false
	}
}

// queue asks for n units, which may be granted before it returns.
func (b *budget) queue(n int, notify func()) *waiter {
	w := &waiter{n: n, ready: make(chan struct{}), notify: notify}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, w)
	b.grant()
	return w
}

func (b *budget) withdraw(w *waiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if w.granted() {
		b.free += w.n
	} else {
		for i, other := range b.waiting {
			if other == w {
				b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
				break
			}
		}
	}
	b.grant()
}

// release gives n units back; a negative n takes them out of circulation.
func (b *budget) release(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	b.grant()
}

func (b *budget) grant() {
	for len(b.waiting) > 0 && b.free >= b.waiting[0].n {
		w := b.waiting[0]
		b.waiting = b.waiting[1:]
		b.free -= w.n
		close(w.ready)
		if w.notify != nil {
			w.notify()
		}
	}
}

// acquire waits for a place in the limit, or returns false when stop is
// readable first.
func (l *Limit) acquire(stop <-chan struct{}) bool { return l == nil || l.free.acquire(1, stop) }

func (l *Limit) tryAcquire() bool { return l == nil || l.free.tryAcquire(1) }

// release gives n places back; a negative n takes them although there are none.
func (l *Limit) release(n int) {
	if l != nil {
		l.free.release(n)
	}
}
