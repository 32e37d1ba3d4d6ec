package forward

import (
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// Times of connections that end gently because an endpoint was added.
const (
	// departAmong is the longest time among which they spread: so many clients
	// connect anew at once as can be borne.
	departAmong = 30 * time.Second
	// departQuiet is how long no byte moves before one ends, so that most do
	// between two requests.
	departQuiet = 100 * time.Millisecond
	// departLatest is how long one waits for such a moment.
	departLatest = 5 * time.Second
	departLook   = 25 * time.Millisecond
)

// departure is of a connection that is to end gently.
type departure struct {
	ticket
	at    time.Duration // as Forwarder.now
	last  pump.Counters
	quiet time.Duration // since when these did not change; 0: not looked at yet
}

// additions notices endpoints that were added to a target that had answered
// before.
type additions struct {
	generation uint64
	targets    map[spec.Target]bool   // that have answered
	known      map[spec.Endpoint]bool // true: it was added, and does not serve yet
}

// look tells whether a connection may expect another endpoint than before.
func (a *additions) look(l *link, list []endpoints.Candidate) (added bool) {
	if a.known == nil || a.generation != l.generation {
		*a = additions{generation: l.generation, targets: map[spec.Target]bool{}}
	}
	known := make(map[spec.Endpoint]bool, len(list))
	for i := range list {
		c := &list[i]
		waits, old := a.known[c.Endpoint]
		waits = waits || !old && a.targets[*c.From]
		if waits && l.takesConnections(c) && c.From.Rank == list[0].From.Rank {
			waits, added = false, true
		}
		known[c.Endpoint] = waits
	}
	for _, t := range l.spec.Targets {
		if !l.fw.cfg.Pool.Answer(t).At.IsZero() {
			a.targets[t] = true
		}
	}
	a.known = known
	return added
}

func (l *link) takesConnections(c *endpoints.Candidate) bool {
	return !c.Barred && !isBad(c) && (c.State == endpoints.Serving || !l.view.Check.Active())
}

// rebalance has old connections end gently when an endpoint was added, each at
// a moment of its own within their age or departAmong.
func (l *link) rebalance(list []endpoints.Candidate) {
	age := l.spec.Options.Rebalance
	if age == 0 {
		l.additions = additions{}
		return
	}
	if !l.additions.look(l, list) || l.closed {
		return
	}
	now := l.fw.now()
	running := len(l.departures) > 0
	for _, f := range l.flows.live {
		if f.on != nil && !f.leaving && now-f.since >= age {
			f.leaving = true
			l.departures = append(l.departures, departure{ticket: f.ticket(), at: now + rand.N(min(age, departAmong))})
		}
	}
	if n := len(l.departures); n > 0 && !running {
		l.fw.cfg.Log.Info("an endpoint was added: old connections end gently", "link", l.spec.Name, "connections", n)
		l.changes.Go(l.depart)
	}
}

// depart ends connections until none is left that is to end.
func (l *link) depart() {
	look := time.NewTicker(departLook)
	defer look.Stop()
	for {
		select {
		case <-look.C:
		case <-l.stop:
			return
		}
		if l.departSome() == 0 {
			return
		}
	}
}

// departSome returns how many are left.
func (l *link) departSome() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.fw.now()
	off := l.spec.Options.Rebalance == 0
	l.departures = slices.DeleteFunc(l.departures, func(d departure) bool { return !d.isLive() })
	for i := range l.departures {
		d := &l.departures[i]
		switch {
		case off:
			d.f.leaving = false
		case d.isDue(now):
			d.f.pump.Cut(io.EOF)
		default:
			continue
		}
		d.ticket.arrival = 0
	}
	l.departures = slices.DeleteFunc(l.departures, func(d departure) bool { return d.arrival == 0 })
	return len(l.departures)
}

// isDue tells whether the moment has come.
func (d *departure) isDue(now time.Duration) bool {
	if now < d.at {
		return false
	}
	if c := d.f.pump.Counters(); d.quiet == 0 || c != d.last {
		d.last, d.quiet = c, now
	}
	return now-d.quiet >= departQuiet || now-d.at >= departLatest
}
