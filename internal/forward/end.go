package forward

import (
	"context"
	"slices"

	"legate/internal/endpoints"
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
		return !slices.ContainsFunc(l.candidates().All, func(c endpoints.Candidate) bool { return c.Endpoint == f.on.endpoint })
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

// cut ends a flow, unless it has ended by itself.
func (l *link) cut(ctx context.Context, t ticket) (wasLive bool) {
	l.mu.Lock()
	if wasLive = t.isLive(); wasLive {
		t.f.pump.Cut(ErrCut)
	}
	l.mu.Unlock()
	l.await(ctx, func() bool {
		if t.isLive() {
			t.f.watched = true
		}
		return !t.isLive()
	})
	return wasLive
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
