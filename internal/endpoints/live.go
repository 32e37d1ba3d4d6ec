package endpoints

import (
	"sync/atomic"
	"time"

	"legate/internal/spec"
)

// State is what a new connection may expect of an endpoint.
type State uint8

// The states: nothing is known before the first attempt.
const (
	Unknown State = iota
	Serving
	Failing
)

// Live is the one state of an endpoint for all links. Its methods may be
// called from any goroutine, and under locks of the caller: each connect that
// begins is to be followed by Connected and Release, or by Failed.
type Live struct {
	spec.Endpoint
	pool *Pool

	load       atomic.Int64 // connections, those that are being made included
	latency    atomic.Int64 // moving average of connects, in nanoseconds
	served     atomic.Int64 // when it last connected, as Pool.now
	connecting atomic.Int32
	settled    atomic.Bool // one more success changes nothing but served
	against    atomic.Bool // that bytes come from it would be news
	wanted     atomic.Bool // somebody waits for room

	// The pool's mutex guards the following.
	targets []*target // that have it now
	asked   []*asked  // its checks
	probe   task      // that looks for its return
	mark    uint32    // of a walk over endpoints that has seen it
	place   int32     // where in the list that is being made
	known
}

// known is what one life of an endpoint, from the first target that had it to
// the last, has taught. Moments are those of Pool.now, 0 is never.
type known struct {
	life      uint32
	state     State // by attempts alone
	ejection  ejection
	early     uint8 // early closes in a row
	probation bool  // it was ejected for early closes, and has not answered since
	drained   bool
	doubted   bool // to be probed once, whatever its state
	lastErr   error
	tried     time.Duration // the last attempt that somebody reported
	began     time.Duration // the last attempt of our own, or what made it unnecessary
	since     time.Duration // of state
	ejected   time.Duration // since when it is, or last was
	until     time.Duration // the end of its back-off
	backoff   time.Duration // the last one
	returned  time.Duration // the last end of an ejection
	risen     time.Duration // since when it takes its share again; 0: it had no break
}

// ejection says why an endpoint is tried last.
type ejection uint8

const (
	notEjected ejection = iota
	unreached           // an attempt failed; an attempt that succeeds ends it
	closing             // it closed early again and again; only time ends it
)

// timed tells whether only time ends the ejection.
func (e *Live) timed() bool {
	return e.ejection == closing || e.ejection == unreached && e.Protocol == spec.UDP
}

// latencyShare of a new value goes into the moving average.
const latencyShare = 8

// Begin notes that a connect is under way.
func (e *Live) Begin() {
	e.load.Add(1)
	e.connecting.Add(1)
}

// Connected notes that a connect succeeded, and how long it took.
func (e *Live) Connected(took time.Duration) {
	e.connecting.Add(-1)
	e.makeRoom()
	old := e.latency.Load()
	if old == 0 {
		old = int64(took)
	}
	// That a value which comes at the same time may be lost does no harm.
	e.latency.Store(max(1, old+(int64(took)-old)/latencyShare))
}

// Failed notes that a connect which began came to nothing. Pool.Report says
// why.
func (e *Live) Failed() {
	e.connecting.Add(-1)
	e.Release()
}

// Release notes that a connection has ended.
func (e *Live) Release() {
	e.load.Add(-1)
	e.makeRoom()
}

// Load returns the number of connections of all links, those that are being
// made included.
func (e *Live) Load() int64 { return e.load.Load() }

// Latency returns the moving average of the times that connects took; 0 means
// that there was none.
func (e *Live) Latency() time.Duration { return time.Duration(e.latency.Load()) }

// makeRoom tells those who found the endpoint full that it may not be so now.
func (e *Live) makeRoom() {
	if !e.wanted.Load() || !e.wanted.Swap(false) {
		return
	}
	p := e.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, tg := range e.targets {
		p.note(tg, newsRoom)
	}
}

// hasRoom tells whether a connection may begin. A limit of 0 is none.
func (e *Live) hasRoom(limit int64, release bool) bool {
	return (limit == 0 || e.load.Load() < limit) && (!release || e.connecting.Load() < maxReleasing)
}

// lastTried returns when the last attempt was, be it one that only Served
// knows of.
func (e *Live) lastTried() time.Duration { return max(e.tried, time.Duration(e.served.Load())) }
