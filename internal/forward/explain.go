package forward

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"legate/internal/endpoints"
	"legate/internal/spec"
)

// Explain says where a new connection of the caller to the link would go, and
// why. It changes nothing.
func (fw *Forwarder) Explain(name string, c spec.Caller) (spec.Explanation, error) {
	fw.mu.Lock()
	i := slices.IndexFunc(fw.applied, func(a applied) bool { return a.spec.Name == name })
	var a applied
	if i >= 0 {
		a = fw.applied[i]
	}
	fw.mu.Unlock()
	switch {
	case i < 0:
		return spec.Explanation{}, fmt.Errorf("explain: no link %q", name)
	case a.link == nil:
		x := introduce(a.spec, c)
		x.Refuse(a.err.Error(), spec.HintOf(a.err))
		return x, nil
	}
	return a.link.explain(c), nil
}

func introduce(s spec.Link, c spec.Caller) spec.Explanation {
	return spec.Explanation{
		Link:      s.Name,
		Listen:    s.Listen.String(),
		Caller:    c.String(),
		Rule:      ruleOf(&s),
		Target:    targetText(s.Targets),
		Sources:   []spec.SourceStatus{},
		Endpoints: []spec.EndpointStatus{},
	}
}

// ruleOf says whom the link has, and by whose wish.
func ruleOf(s *spec.Link) string {
	if s.For != nil && s.Listen.Switched() {
		return fmt.Sprintf("container %s, by its address, when it connects to port %d of this ambassador (from its %s: %s)", s.For, s.Listen.Port, s.Origin, s.Text)
	}
	if s.For != nil {
		return fmt.Sprintf("whoever in container %s connects to its %s (from its %s: %s)", s.For, s.Listen, s.Origin, s.Text)
	}
	return fmt.Sprintf("whoever connects to %s (from %s)", s.Listen, s.Origin)
}

func (l *link) explain(c spec.Caller) spec.Explanation {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = nil // see status
	x := introduce(l.spec, c)
	x.State, x.Sources = l.state(), l.sources()
	order, full := l.orderFor(c)
	for _, candidate := range order {
		x.Endpoints = append(x.Endpoints, l.endpointStatus(candidate))
	}
	tried := map[*endpoints.Candidate]bool{}
	for _, candidate := range order {
		tried[candidate] = true
	}
	list := l.candidates().All
	for i := range list {
		if !tried[&list[i]] {
			x.Endpoints = append(x.Endpoints, l.endpointStatus(&list[i]))
		}
	}
	if len(order) > 0 {
		x.Chosen = order[0].Endpoint.String()
	}
	x.Verdict = l.verdict(c, order, full)
	x.Notes = l.notes()
	return x
}

// orderFor returns the candidates that the caller's next connection would try,
// and whether there are none for want of room.
func (l *link) orderFor(c spec.Caller) (order []*endpoints.Candidate, full bool) {
	list := l.candidates()
	k := endpoints.Key{Turn: l.turn + 1, Caller: l.hash(c.Addr)}
	first, full := list.First(k)
	if first == nil {
		return nil, full
	}
	return list.Rest(k, first, []*endpoints.Candidate{first}), false
}

// verdict is what the next connection of the caller meets.
func (l *link) verdict(c spec.Caller, order []*endpoints.Candidate, full bool) string {
	udp := l.listen.Protocol == spec.UDP
	hold := l.spec.Options.Hold
	switch {
	case l.spec.Mode == spec.ModeDrain && udp:
		return "dropped: the link is drained; only sessions that are there go on"
	case l.spec.Mode == spec.ModeDrain:
		return "refused: the link is drained and does not listen"
	case l.atLimit():
		return l.verdictAtLimit()
	case l.callerRefused(c) != nil:
		return "reset: " + l.callerRefused(c).Error()
	case l.spec.Mode == spec.ModePause && udp:
		return "dropped: the link is paused; only sessions that are there go on"
	case len(l.queue.waiting) >= maxHeld:
		return fmt.Sprintf("reset: %d connections wait already", len(l.queue.waiting))
	case l.spec.Mode == spec.ModePause:
		return fmt.Sprintf("waits, behind %d others, until the link is resumed", len(l.queue.waiting))
	case udp && len(order) == 0:
		return "dropped: " + l.whyNone(full)
	case len(order) == 0 && l.denied(l.candidates().All):
		return "reset: every endpoint is denied: " + l.candidates().All[0].LastErr.Error()
	case !l.downSince.IsZero():
		return l.verdictDown()
	case len(order) == 0 && full, len(l.queue.waiting) > 0:
		if hold == 0 {
			return "reset: every endpoint is full, and hold is 0"
		}
		return fmt.Sprintf("waits for up to %v, behind %d others, since every endpoint is full", hold, len(l.queue.waiting))
	case len(order) == 0:
		return l.verdictNone()
	}
	return l.verdictServed(order)
}

// atLimit tells whether the link accepts nobody, having max-connections. One
// that refuses meanwhile has nothing to accept from.
func (l *link) atLimit() bool {
	most := limit(l.spec)
	return most > 0 && len(l.flows.live) >= most && !l.refusing
}

func (l *link) verdictAtLimit() string {
	now, most := len(l.flows.live), limit(l.spec)
	switch {
	case l.listen.Protocol == spec.UDP:
		return fmt.Sprintf("dropped: the link has %d of %d sessions (max-connections); only these go on", now, most)
	case l.listen.Switched(): // others are served on the same socket
		return fmt.Sprintf("reset: the link has %d of %d connections (max-connections)", now, most)
	}
	return fmt.Sprintf("waits in the listen queue, for as long as it takes: the link has %d of %d connections (max-connections)", now, most)
}

func (l *link) verdictServed(order []*endpoints.Candidate) string {
	first := order[0]
	balance := l.spec.Options.Balance
	if balance == "" {
		balance = spec.BalanceRoundRobin
	}
	text := fmt.Sprintf("goes to %s (%s", first.Endpoint, balance)
	if n := len(order); n > 1 {
		text += fmt.Sprintf(" of %d", n)
	}
	text += ")"
	switch {
	case l.fw.loopsAt(&first.Endpoint):
		text += ", which is refused: it would loop, since that is our own listener"
	case l.closing(first.Endpoint) > 0:
		text += ", which " + closingText(l.closing(first.Endpoint))
	case isBad(first):
		text += ", though it is " + string(healthOf(first)) + ", since no better one is there"
	}
	return text
}

// verdictNone is what a client meets that finds out that the link is down.
func (l *link) verdictNone() string {
	switch o := &l.spec.Options; {
	case o.WhenDown == spec.WhenDownRefuse:
		return fmt.Sprintf("reset at once, and later ones refused (when-down=refuse): %s", l.whyNone(false))
	case o.Hold == 0:
		return fmt.Sprintf("reset at once (hold=0): %s", l.whyNone(false))
	default:
		return fmt.Sprintf("waits for up to %v: %s", o.Hold, l.whyNone(false))
	}
}

func (l *link) verdictDown() string {
	down := time.Since(l.downSince).Round(time.Second)
	left := time.Until(l.outage().Add(l.spec.Options.Hold))
	switch {
	case l.spec.Options.WhenDown == spec.WhenDownRefuse:
		return fmt.Sprintf("refused: the link is down for %v and does not listen meanwhile (when-down=refuse): %s", down, l.whyNone(false))
	case left > 0:
		return fmt.Sprintf("waits for up to %v, behind %d others: %s", left.Round(time.Second), len(l.queue.waiting), l.whyNone(false))
	}
	return fmt.Sprintf("reset at once: the link is down for %v, longer than hold (%v): %s", down, l.spec.Options.Hold, l.whyNone(false))
}

// whyNone says why nobody is there to connect to.
func (l *link) whyNone(full bool) string {
	list := l.candidates().All
	if full {
		return "every endpoint is full"
	}
	if len(list) == 0 {
		if err, _ := l.sourceError(); err != "" {
			return "there are no endpoints: " + err
		}
		if !l.answered() {
			return "there are no endpoints: not every source has answered yet"
		}
		return "there are no endpoints"
	}
	count := map[spec.Health]int{}
	for i := range list {
		count[healthOf(&list[i])]++
	}
	var parts []string
	for _, h := range []spec.Health{spec.HealthDenied, spec.HealthUnhealthy, spec.HealthStandby, spec.HealthEjected, spec.HealthDrained, spec.HealthUnknown, spec.HealthWeak} {
		if n := count[h]; n == len(list) {
			return "every endpoint is " + string(h)
		} else if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, h))
		}
	}
	return "no endpoint may be tried: " + strings.Join(parts, ", ")
}

// callerRefused says which limit the caller's next connection would meet.
func (l *link) callerRefused(c spec.Caller) error {
	o := &l.spec.Options
	known, ok := l.callers.known[c.Addr.Addr().Unmap()]
	if !ok || !c.Addr.Addr().IsValid() {
		return nil
	}
	if o.CallerConnections > 0 && known.connections >= o.CallerConnections {
		return fmt.Errorf("%w (caller-connections=%d)", ErrCallerConnections, o.CallerConnections)
	}
	if o.CallerRate > 0 {
		known.rate.fill(o.CallerRate, l.fw.now())
		if known.rate.tokens < 1 {
			return fmt.Errorf("%w (caller-rate=%d)", ErrCallerRate, o.CallerRate)
		}
	}
	return nil
}

// notes say what looks wrong.
func (l *link) notes() (notes []string) {
	list := l.candidates().All
	unhealthy := 0
	for i := range list {
		c := &list[i]
		if note := l.headerNote(c.Endpoint); note != "" {
			notes = append(notes, c.Endpoint.String()+" "+note)
		}
		if l.fw.loopsAt(&c.Endpoint) {
			notes = append(notes, c.Endpoint.String()+" is our own listener: connections to it are refused, since they would loop")
		}
		if c.Health == spec.HealthUnhealthy {
			unhealthy++
		}
	}
	if unhealthy > 0 && unhealthy == len(list) && !list[0].Barred {
		notes = append(notes, "every endpoint is unhealthy, and they are tried all the same (all-unhealthy=try): the check may be wrong")
	}
	for _, s := range l.sources() {
		switch {
		case s.Weak > 0 && s.Error != "":
			notes = append(notes, fmt.Sprintf("%s: its source says that there are none, without proof; the last known ones are kept for a while: %s", s.Target, s.Error))
		case s.Weak > 0:
			notes = append(notes, fmt.Sprintf("%s: its source no longer names %d of the endpoints, without proof; they are kept for a while, as a last resort", s.Target, s.Weak))
		case s.Error != "":
			notes = append(notes, s.Target+": "+s.Error)
		case s.Learned == nil:
			notes = append(notes, s.Target+": its source has not answered yet")
		}
	}
	return notes
}

// Try connects to the candidates in the order in which the caller's next
// connection would, the PROXY header included, until one takes it and does not
// close it at once, and closes that. It changes no turn.
func (fw *Forwarder) Try(ctx context.Context, name string, c spec.Caller) ([]spec.AttemptStatus, error) {
	l := fw.named(name)
	if l == nil {
		return nil, fmt.Errorf("try: no link %q is served", name)
	}
	l.mu.Lock()
	order, _ := l.orderFor(c)
	timeout, v, who := l.spec.Options.ConnectTimeout, l.sendsProxy(), l.spec.For
	l.mu.Unlock()
	var header []byte
	if v != "" {
		// Whom the caller would connect to is known from its connection only.
		h := proxyHeader{source: c.Addr, destination: netip.AddrPortFrom(netip.Addr{}, l.listen.Port)}
		header = appendProxy(nil, v, &h, nil, who)
	}
	var out []spec.AttemptStatus
	for _, candidate := range order {
		start := time.Now()
		err := fw.try(ctx, candidate.Endpoint, timeout, header)
		s := spec.AttemptStatus{Address: candidate.Endpoint.String(), Connected: err == nil, Millis: float64(time.Since(start)) / float64(time.Millisecond)}
		if err != nil {
			s.Error = err.Error()
		}
		out = append(out, s)
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	return out, ctx.Err()
}

func (fw *Forwarder) try(ctx context.Context, e spec.Endpoint, timeout time.Duration, header []byte) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := fw.Connect(ctx, e)
	if err != nil {
		return err
	}
	defer c.Close()
	if len(header) > 0 {
		_ = c.SetWriteDeadline(time.Now().Add(timeout))
		if _, err = c.Write(header); err != nil {
			return err
		}
	}
	if e.Protocol == spec.UDP {
		return nil
	}
	return endpoints.Lasts(ctx, c)
}

// hash is a number for the caller, the same in every process, where the order
// depends on it. (FNV-1a.)
func (l *link) hash(c netip.AddrPort) uint64 {
	if l.view.Balance != spec.BalanceHash || !c.IsValid() {
		return 0
	}
	h := uint64(0xcbf29ce484222325)
	for _, b := range c.Addr().Unmap().As16() {
		h = (h ^ uint64(b)) * 0x100000001b3
	}
	return h
}
