package discover

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"legate/internal/spec"
)

// The pace of all sources. A source is asked again after a failure with
// doubling pauses between floor and ceiling, and never more often than floor,
// however many connects fail.
const (
	floor   = time.Second
	ceiling = 30 * time.Second
)

// Source says which endpoints the targets of one kind have.
type Source interface {
	// Watch calls set with the complete result soon after it was called and
	// after every change, until ctx ends or it fails; it returns the failure,
	// and is called again after a pause. It returns nil when nothing will ever
	// change. Repeating a result is harmless. set blocks until the result was
	// taken over.
	Watch(ctx context.Context, q Query, set func(Result)) error
}

// Query is what a source is asked.
type Query struct {
	Target spec.Target
	// Suspect receives when what was last said is in doubt. A source that
	// learns of changes by itself may ignore it; one that polls uses Wait.
	Suspect <-chan struct{}
}

// Result is everything that a source knows of one target.
type Result struct {
	Endpoints []spec.Member // the complete set; ignored when Err is set
	// Err says why there is no set; nil where Endpoints are right, even if
	// there are none.
	Err error
	// Weak, together with Err: the source says that there are no endpoints,
	// but sources say that for a moment when nothing changed, too. False: the
	// source knows nothing.
	Weak bool
}

// Wait returns pause after asked, or at a suspicion, but not before floor has
// passed since asked. It returns when the suspicion came, zero without one, and
// an error when ctx ends.
func (q Query) Wait(ctx context.Context, asked time.Time, pause time.Duration) (time.Time, error) {
	timer := time.NewTimer(time.Until(asked.Add(pause)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	case <-timer.C:
		return time.Time{}, nil
	case <-q.Suspect:
	}
	doubt := time.Now()
	timer.Reset(time.Until(asked.Add(floor)))
	select {
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	case <-timer.C:
		return doubt, nil
	}
}

// fixed is the source of targets that are addresses already.
type fixed struct{}

func (fixed) Watch(_ context.Context, q Query, set func(Result)) error {
	t := q.Target
	if t.Protocol == spec.Unix {
		set(Result{Endpoints: []spec.Member{spec.Endpoint{Protocol: spec.Unix, Path: t.Path}.Plain()}})
		return nil
	}
	addr, err := netip.ParseAddr(t.Host)
	if err != nil {
		set(Result{Err: fmt.Errorf("read address: %w", err)})
		return nil
	}
	set(Result{Endpoints: endpoints(t, []netip.Addr{addr})})
	return nil
}
