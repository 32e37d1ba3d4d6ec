package forward

import (
	"errors"
	"net/netip"
	"time"

	"legate/internal/spec"
)

// Errors that end flows of callers who ask for too much.
var (
	ErrCallerConnections = errors.New("this caller has as many connections as one may have")
	ErrCallerRate        = errors.New("this caller makes connections faster than one may")
)

// fewCallers are remembered without a look at whether they still need to be.
const fewCallers = 1024

// callers are those of one link, by address, while it limits them. Clients of
// a unix socket have no address that tells one from another, and are not
// limited: its permissions say who may use it.
type callers struct {
	known map[netip.Addr]caller
	sweep int // how many may be known before idle ones are forgotten
}

type caller struct {
	connections int
	rate        bucket
}

// bucket holds the connections that a caller may make at once, and fills up
// within a second.
type bucket struct {
	tokens float64
	at     time.Duration // as Forwarder.now; 0: never used, so full
}

func (b *bucket) fill(rate int, now time.Duration) {
	if b.at == 0 {
		b.tokens = float64(rate)
	} else {
		b.tokens = min(float64(rate), b.tokens+float64(rate)*(now-b.at).Seconds())
	}
	b.at = now
}

// admit counts one more connection of a caller, or says why there may be none.
// counted tells whether leave must be called at its end.
func (cs *callers) admit(a netip.Addr, o *spec.Options, now time.Duration) (counted bool, err error) {
	if o.CallerConnections == 0 && o.CallerRate == 0 || !a.IsValid() {
		return false, nil
	}
	a = a.Unmap()
	c, known := cs.known[a]
	if o.CallerConnections > 0 && c.connections >= o.CallerConnections {
		return false, ErrCallerConnections
	}
	if o.CallerRate > 0 {
		c.rate.fill(o.CallerRate, now)
		if c.rate.tokens < 1 {
			cs.known[a] = c
			return false, ErrCallerRate
		}
		c.rate.tokens--
	}
	if !known {
		cs.makeRoom(now)
	}
	c.connections++
	cs.known[a] = c
	return true, nil
}

// enter counts one more connection, whatever the limits.
func (cs *callers) enter(a netip.Addr, now time.Duration) {
	a = a.Unmap()
	cs.makeRoom(now)
	c := cs.known[a]
	c.connections++
	cs.known[a] = c
}

// leave counts one connection less. Who has a bucket is forgotten later.
func (cs *callers) leave(a netip.Addr) {
	a = a.Unmap()
	c := cs.known[a]
	c.connections--
	if c.connections == 0 && c.rate.at == 0 {
		delete(cs.known, a)
		return
	}
	cs.known[a] = c
}

// makeRoom forgets idle callers whenever twice as many are known as were left
// the last time: whoever has many addresses gets no more of our memory than
// connections and the last second take.
func (cs *callers) makeRoom(now time.Duration) {
	if cs.known == nil {
		cs.known = map[netip.Addr]caller{}
		cs.sweep = fewCallers
	}
	if len(cs.known) < cs.sweep {
		return
	}
	for a, c := range cs.known {
		if c.connections == 0 && now-c.rate.at >= time.Second {
			delete(cs.known, a)
		}
	}
	cs.sweep = max(fewCallers, 2*len(cs.known))
}

// countCallers counts the connections that are there when a limit begins.
func (l *link) countCallers() {
	for _, f := range l.flows.live {
		if a := f.caller().Addr(); f.entered && !f.counted && a.IsValid() {
			l.callers.enter(a, l.fw.now())
			f.counted = true
		}
	}
}
