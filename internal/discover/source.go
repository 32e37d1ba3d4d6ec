package discover

import (
	"context"
	"math/rand/v2"
	"time"

	"legate/internal/spec"
)

// The pace of all sources: none is asked more often than Floor, however many
// connects fail, and one that has to be polled not more rarely than Ceiling.
const (
	Floor   = time.Second
	Ceiling = 30 * time.Second
)

// Source says which endpoints the questions of one kind have. It is shared:
// Watch is called for many questions at the same time.
type Source interface {
	// Watch calls set with the complete result soon after it was called and
	// after every change, until ctx ends or it fails; it returns the failure,
	// and is called again after a pause. Repeating a result is harmless. set
	// does not block for long.
	//
	// It is not the source's to keep what was known before, to wait between
	// failures, or to smooth over bursts: that is done once for all of them.
	Watch(ctx context.Context, q Query, set func(Result)) error
}

// Query is what a source is asked. Targets that differ in port or protocol
// alone ask the same question: Target has neither.
type Query struct {
	Target spec.Target
	// Suspect receives when what was last said is in doubt. A source that
	// learns of changes by itself may ignore it; one that polls uses Wait.
	Suspect <-chan struct{}
}

// Result is everything that a source knows about one question.
type Result struct {
	Places []Place // the complete set
	// Err says why there is no set, which Places are then not. It does not
	// end the watch. Nil where Places are right, even if there are none.
	Err error
	// Weak: that something is missing here which was known before proves
	// nothing, since the source says so for a moment when nothing changed,
	// too: a name server that was just restarted, a registry that lost its
	// data. What is missing stays for a while as a last resort. With Err: the
	// source says that there is nothing at all, without proof.
	Weak bool
	// Whole: the source knows all that there is, so that what was missing
	// without proof before, and is missing still, is gone. Others may know only
	// a part again, after they lost their data.
	Whole bool
	// Dead are the ids of containers that were in former results and run no
	// more. Their addresses may be somebody else's by now.
	Dead []string
	// TTL is for how long the source vouches for it; 0: until it says
	// something else.
	TTL time.Duration
	// Detail is what people want to know beside the endpoints, such as which
	// records they are from; "": nothing.
	Detail string
}

// Place is one endpoint as a source names it.
type Place struct {
	// Host is an IP address, or a name, which is looked up in turn; "" for a
	// unix socket.
	Host      string
	Name      string // the name that Host is one of several addresses of; "": none
	Port      uint16 // 0: the one that the target has
	Path      string // of a unix socket; "": none
	Weight    uint16 // its share beside others of its priority, usually 1 (RFC 2782)
	Priority  uint16 // lower ones are used first (RFC 2782)
	On        string // the name of the host that it is on; "": not known
	Container string // the id of the container behind it; "": not known
	// Inside: Host is an address in the network of Container, and reached from
	// there alone.
	Inside bool
	// Unhealthy is why its source finds it unhealthy; "": it does not.
	Unhealthy string
}

// Wait returns pause after asked, or at a suspicion, but not before Floor has
// passed since asked. It returns an error when ctx ends.
func (q Query) Wait(ctx context.Context, asked time.Time, pause time.Duration) error {
	_, err := q.wait(ctx, asked, pause)
	return err
}

// wait is Wait that tells whether a suspicion came.
func (q Query) wait(ctx context.Context, asked time.Time, pause time.Duration) (suspected bool, err error) {
	timer := time.NewTimer(time.Until(asked.Add(pause)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-timer.C:
		return false, nil
	case <-q.Suspect:
	}
	timer.Reset(time.Until(asked.Add(Floor)))
	select {
	case <-ctx.Done():
		return true, ctx.Err()
	case <-timer.C:
		return true, nil
	}
}

// Jitter shortens a pause by up to a tenth, so that many watches do not ask in
// step.
func Jitter(pause time.Duration) time.Duration {
	return pause - rand.N(pause/10+1)
}
