package forward

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// Ejections by one link.
const (
	ownBackoff    = time.Second
	ownMaxBackoff = 30 * time.Second
)

// own is what a link alone holds against an endpoint, and has it try it last:
// what came of the link's own options. That a server closes on a header which
// it does not expect, or did not connect within a millisecond, says nothing to
// those who send none and wait longer; else one container's labels would decide
// where another's connections go.
type own struct {
	err       error
	unreached bool          // in the time that the link gives; else it closed early
	since     time.Duration // as Forwarder.now
	until     time.Duration
	backoff   time.Duration
}

// ownOf implements endpoints.View.Own. It needs mu.
func (l *link) ownOf(e spec.Endpoint) endpoints.Own {
	es := l.stats.endpoints[e]
	if es == nil || es.own == nil {
		return endpoints.Own{}
	}
	o := es.own
	return endpoints.Own{Err: o.err, Unreached: o.unreached, Since: l.fw.at(o.since), Until: l.fw.at(o.until)}
}

// eject has the link try the endpoint last for a while: for longer when it
// closed early again after the last time. One that could not be reached is
// tried again as soon as others that are down. It needs mu.
func (l *link) eject(es *endpointStats, err error, unreached bool) {
	now := l.fw.now()
	// One that cannot be reached at all is worse than one that closes early: else
	// it would be tried again without a pause.
	worse := unreached && es.own != nil && !es.own.unreached
	if es.own != nil && now < es.own.until && !worse {
		return
	}
	backoff := ownBackoff
	if es.isOnProbation(now) && !unreached {
		backoff = min(2*es.own.backoff, ownMaxBackoff)
	}
	es.own = &own{err: err, unreached: unreached, since: now, until: now + backoff, backoff: backoff}
	l.list = nil
	l.fw.cfg.Log.Info("endpoint is tried last by this link alone", "link", l.spec.Name, "endpoint", es.endpoint.String(), "error", err)
	if unreached { // of that nobody else has news
		time.AfterFunc(backoff, l.reconsider)
	}
}

// isOnProbation tells whether one more early close ejects the endpoint, which
// is so for a while: see Pool.ClosedEarly.
func (es *endpointStats) isOnProbation(now time.Duration) bool {
	return es.own != nil && !es.own.unreached && now < es.own.until+ownMaxBackoff
}

// readmit ends what the link holds against an endpoint, if there is anything.
func (l *link) readmit(es *endpointStats) {
	if es.own != nil {
		es.own, l.list = nil, nil
	}
}

// forgive does so for all, whose links' options are others now.
func (l *link) forgive() {
	for _, es := range l.stats.endpoints {
		l.readmit(es)
	}
}

// closes notes an early close, so long after the connect, and tells whether
// the pool is to know of it. The endpoint that is about to be ejected for it,
// here or there, is not when it serves others. It needs mu.
func (l *link) closes(es *endpointStats, after time.Duration, err error) (tell bool) {
	tell = !l.mayBeOurs(after)
	es.rejects(l.sendsProxy())
	enough := es.closedEarly(l.fw.now())
	if !enough && (tell || !es.isOnProbation(l.fw.now())) {
		return tell
	}
	live := l.servedSince(es, es.earlySince)
	switch {
	case tell && live != nil:
		l.fw.cfg.Pool.Answered(live)
	case !tell && live == nil:
		l.eject(es, fmt.Errorf("closed early: %w", err), false)
	}
	return tell
}

// mayBeOurs tells whether an early close, so long after the connect, may be
// for what this link alone does: it sends a header, or keeps the client's bytes
// back for so long that others would have sent them.
func (l *link) mayBeOurs(after time.Duration) bool {
	return l.sendsProxy() != "" || l.spec.Options.Settle > pump.EarlyClose && after > pump.EarlyClose
}

// servedSince finds a connection that the endpoint serves and that began since
// then, that of an early close: it closes some only. nil: there is none. It
// needs mu.
func (l *link) servedSince(es *endpointStats, since time.Duration) *endpoints.Live {
	for _, f := range l.flows.live {
		if f.on == es && f.since >= since && f.pump.Counters().Out > 0 {
			return f.live
		}
	}
	return nil
}

// tellClosed has the pool know of an early close, or only ask the endpoint's
// sources again.
func (l *link) tellClosed(e spec.Endpoint, err error, tell bool) {
	if tell {
		l.fw.cfg.Pool.ClosedEarly(e, err)
	} else {
		l.fw.cfg.Pool.Suspect(e)
	}
}

// isHasty tells whether an attempt ended only because it was given less time
// than others give.
func isHasty(err error, given time.Duration) bool {
	return given < spec.DefaultConnectTimeout && errors.Is(err, os.ErrDeadlineExceeded)
}

// hastyError names the option, where it was that which gave so little time. It
// needs mu.
func (l *link) hastyError(err error) error {
	if t := l.spec.Options.ConnectTimeout; t < spec.DefaultConnectTimeout {
		return fmt.Errorf("%w (connect-timeout=%v of this link)", err, t)
	}
	return err
}

// isReset tells of a reset that overtakes the end of the connect.
func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }
