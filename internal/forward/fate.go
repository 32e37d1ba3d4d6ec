package forward

import (
	"errors"
	"slices"
	"time"

	"legate/internal/endpoints"
	"legate/internal/spec"
)

// Errors that end flows for what became of their endpoint.
var (
	ErrRemoved   = errors.New("the endpoint has left its source")
	ErrUnhealthy = errors.New("the endpoint has turned unhealthy")
	ErrDead      = errors.New("the endpoint's container runs no more")
	ErrDenied    = errors.New("the endpoint is no longer allowed to the caller")
)

// fate is what becomes of the connections to an endpoint that left its source
// or turned unhealthy. It is theirs whose way there began before that: who
// came later knew of it, as where every endpoint is unhealthy and they are
// tried all the same.
type fate struct {
	why   error         // nil: nothing becomes of them
	since time.Duration // as Forwarder.now
	met   bool          // they have been cut
	timer *time.Timer   // that cuts them
}

// isFor returns why a connection whose pass began then is to be cut.
func (ft *fate) isFor(began time.Duration) error {
	if !ft.met || began > ft.since {
		return nil
	}
	return ft.why
}

// decideFates gives every endpoint's connections the fate that it has now.
func (l *link) decideFates() {
	for _, es := range l.stats.endpoints {
		l.decideFate(es)
	}
}

func (l *link) decideFate(es *endpointStats) {
	what, why := l.fateOf(es)
	switch {
	case what.Kind != spec.FateDrain && what.Kind != spec.FateCut:
		l.endFate(es)
	case !errors.Is(es.fate.why, why):
		l.endFate(es)
		l.beginFate(es, why, what)
	}
}

// fateOf returns what is to become of an endpoint's connections, and why.
func (l *link) fateOf(es *endpointStats) (what spec.Fate, why error) {
	o := &l.spec.Options
	c := l.find(es.endpoint)
	switch {
	case l.closed:
		return spec.Fate{}, nil
	case c == nil && l.isDead(es):
		return spec.Fate{Kind: spec.FateCut}, ErrDead
	case c == nil && slices.Contains(l.spec.Targets, es.from):
		return o.OnRemoved, ErrRemoved
	case c != nil && c.Health == spec.HealthDenied:
		return spec.Fate{Kind: spec.FateCut}, ErrDenied
	case c != nil && c.Health == spec.HealthUnhealthy:
		return o.OnUnhealthy, ErrUnhealthy
	case c != nil && c.Health == spec.HealthDrained:
		return o.OnUnhealthy, es.fate.why // what hides behind that is not known
	}
	return spec.Fate{}, nil // it serves, or is of a target that the link had before
}

// isDead tells whether what the endpoint was is known to be gone: its address
// may be somebody else's by now, who would get what was meant for another.
func (l *link) isDead(es *endpointStats) bool {
	id := es.endpoint.Container
	return id != "" && slices.Contains(l.fw.cfg.Pool.Answer(es.from).Dead, id)
}

// joinFate makes up for what decideFates could not know: the fate of an endpoint
// that had no connection before this one. It needs mu.
func (l *link) joinFate(f *flow, c *endpoints.Candidate) {
	switch es := f.on; {
	case es.current > 1 || es.fate.why != nil:
	case c.Health == spec.HealthUnhealthy:
		if k := l.spec.Options.OnUnhealthy.Kind; k == spec.FateCut || k == spec.FateDrain {
			es.fate = fate{why: ErrUnhealthy, since: c.Since.Sub(l.fw.start), met: true}
		}
	case f.pass.list != l.candidates():
		l.decideFate(es)
	}
}

func (l *link) beginFate(es *endpointStats, why error, what spec.Fate) {
	if why == nil {
		return
	}
	es.fate = fate{why: why, since: l.fw.now()}
	if what.Kind == spec.FateCut || what.Within <= 0 {
		l.meetFate(es)
		return
	}
	since := es.fate.since
	l.changes.Add(1)
	es.fate.timer = time.AfterFunc(what.Within, func() {
		defer l.changes.Done()
		l.mu.Lock()
		defer l.mu.Unlock()
		if es.fate.timer != nil && es.fate.since == since {
			l.meetFate(es)
		}
	})
}

func (l *link) meetFate(es *endpointStats) {
	es.fate.met, es.fate.timer = true, nil
	n := 0
	for _, f := range l.flows.live {
		if f.on == es && f.began <= es.fate.since {
			f.pump.Cut(es.fate.why)
			n++
		}
	}
	if n > 0 {
		l.fw.cfg.Log.Info("connections are cut", "link", l.spec.Name, "endpoint", es.endpoint.String(), "connections", n, "why", es.fate.why)
	}
}

// endFate forgets the fate of an endpoint that is as it should be again.
func (l *link) endFate(es *endpointStats) {
	if es.fate.timer != nil && es.fate.timer.Stop() {
		l.changes.Done()
	}
	es.fate = fate{}
}
