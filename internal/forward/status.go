package forward

import (
	"cmp"
	"fmt"
	"io"
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
	from           spec.Target // that it was connected to for, the last time
	current, total int64
	failed         map[string]int64
	ended          pump.Counters
	live           pump.Counters // of flows that are connected to it, while a status is made
	fate           fate
	early          int           // early closes in a row, as far as they are looked at
	earlySince     time.Duration // the first of these; as Forwarder.now
	closes         int           // early closes in a row, all of them
	closedAt       time.Duration // the last of these
	rejected       int           // connections in a row that it ended at once after it got a header
	doubted        bool          // it may have ended one so, or the client did
	own            *own          // nil: nothing
}

// rejections in a row make it likely that a server does not expect the header.
const rejections = 3

// mistrusts tells whether the endpoint may reject the header, so that it is to
// be found out who ends a connection first.
func (s *stats) mistrusts(e spec.Endpoint) bool {
	es := s.endpoints[e]
	return es != nil && (es.doubted || es.rejected > 0)
}

// rejects notes an early close of a connection that began with a header.
func (es *endpointStats) rejects(v spec.ProxyVersion) {
	if v != "" {
		es.rejected++
	}
}

// closedEarly counts an early close, and tells whether that is enough of them in
// a row.
func (es *endpointStats) closedEarly(now time.Duration) (enough bool) {
	es.closes++
	es.closedAt = now
	if es.early++; es.early == 1 {
		es.earlySince = now
	}
	if enough = es.early >= endpoints.EarlyCloses; enough {
		es.early = 0
	}
	return enough
}

// heard notes the end of a connection.
func (es *endpointStats) heard(r pump.Result, quick bool, v spec.ProxyVersion) {
	switch {
	case r.Counters.Out > 0:
		es.early, es.closes, es.rejected, es.doubted = 0, 0, 0, false
	case v == "" || !quick:
	case r.Cause == pump.CauseEndpointReset, r.Cause == pump.CauseEOF && r.Counters.In > 0:
		es.rejected++
	case r.Cause == pump.CauseEOF: // perhaps of a client that said nothing
		es.doubted = true
	}
}

// headerNote says that the endpoint seems to reject the header; "" when
// nothing speaks for that. It needs mu.
func (l *link) headerNote(e spec.Endpoint) string {
	es := l.stats.endpoints[e]
	if v := l.sendsProxy(); v == "" || es == nil || es.rejected < rejections {
		return ""
	}
	return "closes every connection at once; it may not expect the PROXY protocol header: send-proxy=off"
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

// forgetStats drops what is known of endpoints that are neither the link's nor
// in use, of which moving containers leave one behind at every move.
func (l *link) forgetStats() {
	for e, es := range l.stats.endpoints {
		if es.current == 0 && l.find(e) == nil {
			l.endFate(es)
			delete(l.stats.endpoints, e)
		}
	}
}

func (s *stats) connected(c *endpoints.Candidate) *endpointStats {
	es := s.of(c.Endpoint)
	es.from = *c.From
	es.current++
	es.total++
	return es
}

func (s *stats) closedEarly(on *endpointStats) {
	s.earlyClosed++
	on.current--
	on.failed["closed"]++
}

// closedOnClient notes the end of a connection that the endpoint closed at
// once, with nobody else to try: the client got that for an answer. One that
// ended its own direction alone, and took what the client sent, serves. tell is
// as in closes. It needs mu.
func (l *link) closedOnClient(on *endpointStats, r pump.Result) (closed error, tell bool) {
	if !r.Early || r.Counters.In > 0 && r.Cause != pump.CauseEndpointReset {
		return nil, false
	}
	closed = io.EOF
	if r.Cause == pump.CauseEndpointReset {
		closed = pump.ErrReset
	}
	l.stats.failed["closed"]++
	on.failed["closed"]++
	return closed, l.closes(on, 0, closed)
}

// closing returns how many connections in a row the endpoint closed at once,
// unless it has answered one that it got since. It needs mu.
func (l *link) closing(e spec.Endpoint) int {
	es := l.stats.endpoints[e]
	if es == nil || es.closes == 0 || l.servedSince(es, es.closedAt) != nil {
		return 0
	}
	return es.closes
}

func closingText(n int) string {
	if n == 1 {
		return "closed its last connection at once, without a byte"
	}
	return fmt.Sprintf("closed its last %d connections at once, without a byte", n)
}

// ends takes in the final counters of a flow.
func (s *stats) ends(f *flow, c pump.Counters) {
	s.ended = sum(s.ended, c)
	if f.on != nil {
		f.on.current--
		f.on.ended = sum(f.on.ended, less(c, f.before))
	}
}

func sum(a, b pump.Counters) pump.Counters { return pump.Counters{In: a.In + b.In, Out: a.Out + b.Out} }

func less(a, b pump.Counters) pump.Counters {
	return pump.Counters{In: a.In - b.In, Out: a.Out - b.Out}
}

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
		out[i].State, out[i].Error, out[i].Hint = spec.StateError, a.err.Error(), spec.HintOf(a.err)
	}
	return out
}

func describe(s spec.Link) spec.LinkStatus {
	return spec.LinkStatus{
		Name:      s.Name,
		Listen:    s.Listen.String(),
		Target:    targetText(s.Targets),
		Origin:    s.Origin,
		Limit:     limit(s),
		Counters:  spec.LinkCounters{Failed: map[string]int64{}},
		Endpoints: []spec.EndpointStatus{},
	}
}

func (l *link) status() spec.LinkStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = nil // when an endpoint was last asked is of interest to people alone, and makes no new list
	list := l.candidates().All
	s := describe(l.spec)
	s.State = l.state()
	if !l.downSince.IsZero() {
		since := l.downSince
		s.Since = &since
	}
	s.Sources = l.sources()
	s.Error, s.Learned = l.sourceError()
	s.Counters = l.counters()
	s.Full = l.waitsForRoom()
	for i := range list {
		s.Endpoints = append(s.Endpoints, l.endpointStatus(&list[i]))
	}
	for e, es := range l.stats.endpoints {
		if es.current == 0 || l.find(e) != nil {
			continue
		}
		former := l.endpointStatus(&endpoints.Candidate{Member: e.Plain(), From: new(spec.Target)})
		former.From, former.Health, former.Check = "", spec.HealthFormer, ""
		s.Endpoints = append(s.Endpoints, former)
	}
	sortFormer(s.Endpoints[len(list):])
	return s
}

// waitsForRoom tells whether connections wait for no other reason than that
// every endpoint has as many as it may.
func (l *link) waitsForRoom() bool {
	return len(l.queue.waiting) > 0 && l.queue.full && l.downSince.IsZero() && l.spec.Mode == spec.ModeServe
}

// sources tell what each target's source last said.
func (l *link) sources() []spec.SourceStatus {
	out := make([]spec.SourceStatus, len(l.spec.Targets))
	for i, t := range l.spec.Targets {
		a := l.fw.cfg.Pool.Answer(t)
		out[i] = spec.SourceStatus{Target: t.String(), Source: t.Source, Endpoints: len(a.Endpoints), Learned: optional(a.At)}
		for _, m := range a.Endpoints {
			if m.Weak {
				out[i].Weak++
			}
		}
		if a.Err != nil {
			out[i].Error = a.Err.Error()
		}
	}
	return out
}

func sortFormer(list []spec.EndpointStatus) {
	slices.SortFunc(list, func(a, b spec.EndpointStatus) int { return cmp.Compare(a.Address, b.Address) })
}

func (l *link) state() spec.LinkState {
	list := l.candidates()
	bad := slices.ContainsFunc(list.All, func(c endpoints.Candidate) bool {
		return isBad(&c) && !c.Standby || l.closing(c.Endpoint) >= endpoints.EarlyCloses
	})
	switch {
	case l.spec.Mode == spec.ModeDrain:
		return spec.StateDrained
	case l.spec.Mode == spec.ModePause:
		return spec.StatePaused
	case !l.downSince.IsZero() && len(l.queue.waiting) > 0:
		return spec.StateHolding
	case !l.downSince.IsZero():
		return spec.StateDown
	case l.listen.Protocol == spec.UDP && l.found() && !list.Has(endpoints.Serving) && !list.Has(endpoints.Unknown):
		return spec.StateDown // its datagrams are dropped, or try what refused before
	case bad:
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
			f.on.live = sum(f.on.live, less(c, f.before))
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

func (l *link) endpointStatus(c *endpoints.Candidate) spec.EndpointStatus {
	s := spec.EndpointStatus{
		Address:   c.Endpoint.String(),
		From:      c.From.String(),
		Health:    healthOf(c),
		Since:     optional(c.Since),
		Check:     checkText(l.view.Check),
		CheckedAt: optional(c.Checked),
		Ejected:   optional(c.Until),
		Weight:    c.Weight,
		Priority:  c.Priority,
		Host:      c.Host,
		Container: c.Container,
		Near:      c.Near,
		LastTried: optional(c.Tried),
		Failed:    map[string]int64{},
	}
	if c.Health == spec.HealthDrained {
		s.Drained = &spec.Override{Kind: spec.OverrideDrain, When: c.Since}
	}
	if c.Live != nil {
		s.Load = c.Live.Load()
		if c.Protocol != spec.UDP {
			s.ConnectMS = float64(c.Live.Latency()) / float64(time.Millisecond)
		}
	}
	if c.LastErr != nil {
		s.LastError = c.LastErr.Error()
	}
	l.describeClosing(&s, c)
	if note := l.headerNote(c.Endpoint); note != "" {
		s.LastError = note
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
	if c.Protocol == spec.UDP && s.Health == spec.HealthUnknown && bytes.Out > 0 {
		s.Health = spec.HealthOK // a connect says nothing of it, and no check asks it, but it has answered
	}
	return s
}

// healthOf is the health as people are told it: with a standby nothing is wrong.
func healthOf(c *endpoints.Candidate) spec.Health {
	if c.Standby && c.Health == spec.HealthUnhealthy {
		return spec.HealthStandby
	}
	return c.Health
}

// describeClosing says that the endpoint closes early, as one behind a published
// port does that is not up: that connects succeed is not to be called ok.
func (l *link) describeClosing(s *spec.EndpointStatus, c *endpoints.Candidate) {
	n := l.closing(c.Endpoint)
	switch {
	case n == 0:
		return
	case s.Health == spec.HealthOK, s.Health == spec.HealthUnknown: // a reset may overtake the connect
		s.Health, s.Since = spec.HealthClosing, optional(l.fw.at(l.stats.endpoints[c.Endpoint].closedAt))
	case s.Health != spec.HealthEjected || c.State == endpoints.Failing:
		return
	}
	s.LastError = closingText(n)
}

// checkText says in words what endpoints are asked.
func checkText(c spec.Check) string {
	if !c.Active() {
		return ""
	}
	text := string(c.Kind)
	switch {
	case c.Kind == spec.CheckHTTP:
		text += " GET " + c.Path
	case c.Role != "":
		text += " role=" + c.Role
	}
	return text + " every " + c.Interval.String()
}

func optional(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
