package forward

import (
	"context"
	"slices"
	"time"

	"legate/internal/spec"
)

// strays returns the flows that go to former endpoints, or may be about to.
func (l *link) strays() []ticket {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []ticket
	for _, f := range l.flows.live {
		if l.isStray(f) {
			out = append(out, f.ticket())
		}
	}
	return out
}

func (l *link) isStray(f *flow) bool {
	if f.on != nil {
		return l.find(f.on.endpoint) == nil
	}
	return f.generation != 0 && f.generation != l.generation && !f.queued
}

// awaitStray waits until the flow has ended or does not go to a former
// endpoint. It returns false when ctx ends first.
func (l *link) awaitStray(ctx context.Context, t ticket) bool {
	return l.await(ctx, func() bool {
		if !t.isLive() || !l.isStray(t.f) {
			return true
		}
		t.f.watched = true
		return false
	})
}

// cutStrays ends those flows that have neither ended by themselves nor gone
// elsewhere, all at once: none is to use the former endpoint while another's
// end is waited for.
func (l *link) cutStrays(tickets []ticket) (cut int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range tickets {
		if t.isLive() && l.isStray(t.f) {
			t.f.pump.Cut(ErrCut)
			cut++
		}
	}
	return cut
}

// AwaitNone waits until no live connection is left on the links of that name,
// retired ones included, or, with link "", at the endpoint of that address on
// any link; those that may be about to get there count. It fails with ctx's
// error when ctx ends first.
func (fw *Forwarder) AwaitNone(ctx context.Context, link, endpoint string) error {
	asked := fw.now()
	for _, l := range fw.all() {
		if link != "" && l.linkSpec().Name != link {
			continue
		}
		is := func(f *flow) bool { return link != "" || f.mayBeAt(endpoint, asked) }
		for {
			flows := l.those(is)
			if len(flows) == 0 {
				break
			}
			for _, t := range flows {
				if !l.awaitEnd(ctx, t, is) {
					return ctx.Err()
				}
			}
		}
	}
	return nil
}

// mayBeAt tells whether the flow is connected to the endpoint of that address,
// or may be about to since it began to look before somebody asked.
func (f *flow) mayBeAt(address string, asked time.Duration) bool {
	if f.on != nil {
		return f.on.endpoint.String() == address
	}
	return f.generation != 0 && !f.queued && f.began <= asked
}

func (l *link) those(is func(*flow) bool) (out []ticket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.flows.live {
		if is(f) {
			out = append(out, f.ticket())
		}
	}
	return out
}

// awaitEnd waits until the flow has ended or is none of those. It returns false
// when ctx ends first.
func (l *link) awaitEnd(ctx context.Context, t ticket, is func(*flow) bool) bool {
	return l.await(ctx, func() bool {
		if !t.isLive() || !is(t.f) {
			return true
		}
		t.f.watched = true
		return false
	})
}

// Connections returns the live ones for which match, which nil always does, is
// true, of all links, retired ones included, oldest first.
func (fw *Forwarder) Connections(match func(spec.ConnectionStatus) bool) (out []spec.ConnectionStatus) {
	for _, l := range fw.all() {
		l.mu.Lock()
		for _, f := range l.flows.live {
			if c := l.connectionStatus(f); match == nil || match(c) {
				out = append(out, c)
			}
		}
		l.mu.Unlock()
	}
	slices.SortStableFunc(out, func(a, b spec.ConnectionStatus) int { return a.Since.Compare(b.Since) })
	return out
}

func (l *link) connectionStatus(f *flow) spec.ConnectionStatus {
	counters := f.pump.Counters()
	c := spec.ConnectionStatus{
		Link:     l.spec.Name,
		Caller:   callerOf(&l.spec, f.caller()),
		Since:    l.fw.at(f.since),
		BytesIn:  counters.In,
		BytesOut: counters.Out,
	}
	if f.on != nil {
		c.Endpoint = f.on.endpoint.String()
	}
	if f.queued {
		held := l.fw.at(f.waited)
		c.Held = &held
	}
	return c
}

func (l *link) cutAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.flows.live {
		f.pump.Cut(ErrCut)
	}
}

// awaitEmpty waits until a closed link has no flows. It returns false when ctx
// ends first.
func (l *link) awaitEmpty(ctx context.Context) bool {
	return l.await(ctx, func() bool { return len(l.flows.live) == 0 })
}

// await waits until cond, which is asked with mu locked and anew whenever
// tellAll was called, is true. It returns false when ctx ends first.
func (l *link) await(ctx context.Context, cond func() bool) bool {
	for {
		l.mu.Lock()
		if cond() {
			l.mu.Unlock()
			return true
		}
		if l.news == nil {
			l.news = make(chan struct{})
		}
		news := l.news
		l.mu.Unlock()
		select {
		case <-news:
		case <-ctx.Done():
			return false
		}
	}
}

// tell says that something became of f, to whoever waits for that. It needs mu.
func (l *link) tell(f *flow) {
	if f.watched {
		f.watched = false
		l.tellAll()
	}
}

// tellAll needs mu.
func (l *link) tellAll() {
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
}
