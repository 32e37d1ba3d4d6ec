package forward

import (
	"cmp"
	"slices"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// stats count for one link since it was opened.
type stats struct {
	total       int64
	heldTotal   int64
	abandoned   int64
	earlyClosed int64
	moved       int64
	failed      map[string]int64
	ended       pump.Counters // of flows that are done
	endpoints   map[spec.Endpoint]*endpointStats
}

type endpointStats struct {
	endpoint       spec.Endpoint
	current, total int64
	failed         map[string]int64
	ended          pump.Counters
	live           pump.Counters // of flows that are connected to it, while a status is made
}

func newStats() stats {
	return stats{failed: map[string]int64{}, endpoints: map[spec.Endpoint]*endpointStats{}}
}

func (s *stats) of(e spec.Endpoint) *endpointStats {
	es := s.endpoints[e]
	if es == nil {
		es = &endpointStats{endpoint: e, failed: map[string]int64{}}
		s.endpoints[e] = es
	}
	return es
}

// forget drops what is known of endpoints that are neither in the list nor in
// use, of which moving containers leave one behind at every move.
func (s *stats) forget(list []endpoints.Candidate) {
	for e, es := range s.endpoints {
		if es.current == 0 && !slices.ContainsFunc(list, func(c endpoints.Candidate) bool { return c.Endpoint == e }) {
			delete(s.endpoints, e)
		}
	}
}

func (s *stats) connected(e spec.Endpoint) *endpointStats {
	es := s.of(e)
	es.current++
	es.total++
	return es
}

func (s *stats) closedEarly(on *endpointStats) {
	s.earlyClosed++
	on.current--
	on.failed["closed"]++
}

// ends takes in the final counters of a flow; on is nil where it had no
// endpoint.
func (s *stats) ends(on *endpointStats, c pump.Counters) {
	s.ended = sum(s.ended, c)
	if on != nil {
		on.current--
		on.ended = sum(on.ended, c)
	}
}

func sum(a, b pump.Counters) pump.Counters { return pump.Counters{In: a.In + b.In, Out: a.Out + b.Out} }

// Snapshot reports every applied link, in the order of Apply.
func (fw *Forwarder) Snapshot() []spec.LinkStatus {
	fw.mu.Lock()
	all := fw.applied
	fw.mu.Unlock()
	out := make([]spec.LinkStatus, len(all))
	for i, a := range all {
		if a.link != nil {
			out[i] = a.link.status()
			continue
		}
		out[i] = describe(a.spec)
		out[i].State, out[i].Error = spec.StateError, a.err.Error()
	}
	return out
}

func describe(s spec.Link) spec.LinkStatus {
	return spec.LinkStatus{
		Name:      s.Name,
		Listen:    s.Listen.String(),
		Target:    targetText(s.Targets),
		Origin:    s.Origin,
		Limit:     s.Options.MaxConnections,
		Counters:  spec.LinkCounters{Failed: map[string]int64{}},
		Endpoints: []spec.EndpointStatus{},
	}
}

func (l *link) status() spec.LinkStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.fw.cfg.Pool.List(&l.view, nil).All
	s := describe(l.spec)
	s.State = l.state(list)
	if !l.downSince.IsZero() {
		since := l.downSince
		s.Since = &since
	}
	s.Error, s.Learned = l.sourceError()
	s.Counters = l.counters()
	for _, c := range list {
		s.Endpoints = append(s.Endpoints, l.endpointStatus(c))
	}
	for e, es := range l.stats.endpoints {
		if es.current == 0 || slices.ContainsFunc(list, func(c endpoints.Candidate) bool { return c.Endpoint == e }) {
			continue
		}
		former := l.endpointStatus(endpoints.Candidate{Member: e.Plain()})
		former.From, former.Health = "", spec.HealthFormer
		s.Endpoints = append(s.Endpoints, former)
	}
	sortFormer(s.Endpoints[len(list):])
	return s
}

func sortFormer(list []spec.EndpointStatus) {
	slices.SortFunc(list, func(a, b spec.EndpointStatus) int { return cmp.Compare(a.Address, b.Address) })
}

func (l *link) state(list []endpoints.Candidate) spec.LinkState {
	switch {
	case !l.downSince.IsZero() && len(l.queue.waiting) > 0:
		return spec.StateHolding
	case !l.downSince.IsZero():
		return spec.StateDown
	case slices.ContainsFunc(list, func(c endpoints.Candidate) bool { return c.State == endpoints.Failing }):
		return spec.StateDegraded
	}
	return spec.StateUp
}

// sourceError returns why a source could not be asked, of the first target
// that has such an error, and from when its endpoints are.
func (l *link) sourceError() (string, *time.Time) {
	for _, t := range l.spec.Targets {
		if a := l.fw.cfg.Pool.Answer(t); a.Err != nil {
			return a.Err.Error(), optional(a.At)
		}
	}
	return "", nil
}

func (l *link) counters() spec.LinkCounters {
	total := l.stats.ended
	for _, es := range l.stats.endpoints {
		es.live = pump.Counters{}
	}
	for _, f := range l.flows.live {
		c := f.pump.Counters()
		total = sum(total, c)
		if f.on != nil {
			f.on.live = sum(f.on.live, c)
		}
	}
	failed := make(map[string]int64, len(l.stats.failed))
	for why, n := range l.stats.failed {
		failed[why] = n
	}
	return spec.LinkCounters{
		Current:     int64(len(l.flows.live)),
		Total:       l.stats.total,
		Held:        int64(len(l.queue.waiting)),
		HeldTotal:   l.stats.heldTotal,
		Abandoned:   l.stats.abandoned,
		Failed:      failed,
		BytesIn:     total.In,
		BytesOut:    total.Out,
		DroppedUDP:  l.droppedUDP(),
		MovedUDP:    l.stats.moved,
		EarlyClosed: l.stats.earlyClosed,
	}
}

func (l *link) endpointStatus(c endpoints.Candidate) spec.EndpointStatus {
	s := spec.EndpointStatus{
		Address:   c.Endpoint.String(),
		From:      c.From.String(),
		Health:    c.Health,
		LastTried: optional(c.Tried),
		Failed:    map[string]int64{},
	}
	if c.LastErr != nil {
		s.LastError = c.LastErr.Error()
	}
	es := l.stats.endpoints[c.Endpoint]
	if es == nil {
		return s
	}
	for why, n := range es.failed {
		s.Failed[why] = n
	}
	bytes := sum(es.ended, es.live)
	s.Current, s.Total, s.BytesIn, s.BytesOut = es.current, es.total, bytes.In, bytes.Out
	return s
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
