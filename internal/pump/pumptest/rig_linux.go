package pumptest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"legate/internal/pump"
	"legate/internal/testnet"
)

// New makes an engine for one test. The suite closes it.
type New func(t testing.TB, timing Timing) pump.Engine

// Timing shortens what would take minutes; a zero field is the engine's
// default.
type Timing struct {
	VanishAfter time.Duration // silence about unacknowledged data until the flow is cut
	SweepEvery  time.Duration // how often that is looked at
}

// prompt is how soon something must have happened that nothing delays.
const prompt = 5 * time.Second

// setup is what a test wants of its rig. The zero value serves TCP on v4.
type setup struct {
	network string // "tcp4", "tcp6" or "unix"
	timing  Timing
	max     int
	limit   *pump.Limit // instead of max
	fd      int         // listening, instead of one of the rig's own; addr says where
	addr    string
}

// rig is an engine that serves one listener.
type rig struct {
	*handler
	t        *testing.T
	engine   pump.Engine
	acceptor pump.Acceptor
	addr     string // where clients connect
}

// start serves a listener with an engine of its own until the test ends. next
// answers for every flow.
func start(t *testing.T, newEngine New, s setup, next nextFunc) *rig {
	t.Helper()
	testnet.CheckLeaks(t)
	if s.network == "" {
		s.network = "tcp4"
	}
	if s.addr == "" {
		s.fd, s.addr = testnet.ListenFD(t, s.network)
	}
	r := &rig{t: t, engine: newEngine(t, s.timing), addr: s.addr, handler: newHandler(t, next)}
	t.Cleanup(r.close)
	if s.limit == nil {
		s.limit = pump.NewLimit(s.max)
	}
	a, err := r.engine.Serve(pump.Listener{Network: pumpNetwork(s.network), FD: s.fd, Limit: s.limit}, r.handler)
	if err != nil {
		t.Fatalf("serve: %v", err)
	}
	r.acceptor = a
	return r
}

// close ends the engine, after which every flow that asked a first time must
// have been reported, too.
func (r *rig) close() {
	finished := make(chan error, 1)
	go func() { finished <- r.engine.Close() }()
	select {
	case err := <-finished:
		if err != nil {
			r.t.Errorf("close engine: %v", err)
		}
	case <-time.After(testnet.Patience):
		r.t.Fatal("hung: Engine.Close does not return")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for f, s := range r.flows {
		if s.results != 1 {
			r.t.Errorf("the flow of %v had Done %d times", f.Client, s.results)
		}
	}
}

// dial connects a client to the rig.
func (r *rig) dial() *testnet.Peer {
	r.t.Helper()
	return r.peer("client", new(testnet.Signals))
}

// refuses connects a client that is reset at once: perhaps before its connect
// has returned.
func (r *rig) refuses() {
	r.t.Helper()
	c, err := testnet.DialErr(r.addr)
	if err != nil {
		if testnet.Name(err) != testnet.RESET {
			r.t.Errorf("connect: %v", err)
		}
		return
	}
	run(r.t, testnet.NewPeer("client", c, new(testnet.Signals)), testnet.ExpectEnd(testnet.RESET), testnet.Close())
}

func (r *rig) peer(name string, s *testnet.Signals) *testnet.Peer {
	r.t.Helper()
	return testnet.NewPeer(name, testnet.Dial(r.t, r.addr), s)
}

// run plays one peer's steps and fails the test where they fail.
func run(t *testing.T, p *testnet.Peer, steps ...testnet.Step) {
	t.Helper()
	if err := p.Run(steps...); err != nil {
		t.Fatal(err)
	}
}

// accept takes the next connection of a server as a peer.
func accept(t *testing.T, s *testnet.Server) *testnet.Peer {
	t.Helper()
	return testnet.NewPeer("endpoint", s.Accept(t), new(testnet.Signals))
}

func pumpNetwork(network string) pump.Network {
	if network == "unix" {
		return pump.Unix
	}
	return pump.TCP
}

// to is the leg to a server.
func to(s *testnet.Server) pump.Leg {
	return pump.Leg{Network: pumpNetwork(s.Network), Addr: s.Addr, Path: s.Path, Timeout: testnet.Patience}
}

// dialStep tries the legs in order.
func dialStep(legs ...pump.Leg) pump.Step { return pump.Step{Dial: legs} }

func parkStep(d time.Duration) pump.Step { return pump.Step{Park: time.Now().Add(d)} }

func endStep(err error) pump.Step { return pump.Step{End: err} }

var errGiveUp = errors.New("the test gives up")

type nextFunc func(f *pump.Flow, last pump.Attempt) pump.Step

// always gives every flow the same first answer and ends it when it comes back.
func always(legs ...pump.Leg) nextFunc {
	return func(_ *pump.Flow, last pump.Attempt) pump.Step {
		if last.Kind == pump.Accepted {
			return dialStep(append([]pump.Leg(nil), legs...)...)
		}
		return endStep(fmt.Errorf("%w: %v", errGiveUp, describe(last)))
	}
}

// inTurn gives a flow one answer after the other and ends it when it asks once
// more.
func inTurn(steps ...func() pump.Step) nextFunc {
	return func(f *pump.Flow, _ pump.Attempt) pump.Step {
		turn, _ := f.Data.(int)
		f.Data = turn + 1
		if turn < len(steps) {
			return steps[turn]()
		}
		return endStep(errGiveUp)
	}
}

// fixed is an answer that needs no thought when it is given.
func fixed(s pump.Step) func() pump.Step { return func() pump.Step { return s } }

// handler records what the engine says and checks the contract on the way: for
// one flow nothing at the same time, nothing after Done, Done once.
type handler struct {
	t    *testing.T
	next nextFunc

	resumes     bool   // flows begin without Next, too
	onConnected func() // when set, is called by Connected

	mu        sync.Mutex // guards the following
	flows     map[*pump.Flow]*flowState
	order     []*pump.Flow
	attempts  []pump.Attempt
	connected []int
	results   []pump.Result
}

type flowState struct {
	busy    string
	results int
	moved   bool
}

func newHandler(t *testing.T, next nextFunc) *handler {
	return &handler{t: t, next: next, flows: make(map[*pump.Flow]*flowState)}
}

func (h *handler) enter(f *pump.Flow, what string) *flowState {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.flows[f]
	if s == nil || s.results > 0 && (what == "Next" || s.moved || h.resumes) { // an engine may use it again
		s = &flowState{}
		h.flows[f] = s
		h.order = append(h.order, f)
	}
	if s.busy != "" {
		h.t.Errorf("%s was called during %s of the same flow", what, s.busy)
	}
	if s.results > 0 {
		h.t.Errorf("%s was called after Done", what)
	}
	s.busy = what
	return s
}

func (h *handler) leave(s *flowState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.busy = ""
}

// Next implements pump.Handler.
func (h *handler) Next(f *pump.Flow, last pump.Attempt) pump.Step {
	s := h.enter(f, "Next")
	defer h.leave(s)
	h.mu.Lock()
	h.attempts = append(h.attempts, last)
	h.mu.Unlock()
	return h.next(f, last)
}

// Connected implements pump.Handler.
func (h *handler) Connected(f *pump.Flow, leg int) {
	s := h.enter(f, "Connected")
	defer h.leave(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.connected = append(h.connected, leg)
	if h.onConnected != nil {
		h.onConnected()
	}
}

// Done implements pump.Handler.
func (h *handler) Done(f *pump.Flow, r pump.Result) {
	s := h.enter(f, "Done")
	defer h.leave(s)
	h.mu.Lock()
	defer h.mu.Unlock()
	s.results++
	s.moved = r.Cause == pump.CauseMoved
	h.results = append(h.results, r)
}

// asked waits until Next was called n times and returns the last Attempt.
func (h *handler) asked(n int) pump.Attempt {
	h.t.Helper()
	testnet.Await(h.t, fmt.Sprintf("call %d of Next", n), func() bool { return h.count(&h.attempts) >= n })
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.attempts[n-1]
}

// flow waits for the n-th flow, counted from 1.
func (h *handler) flow(n int) *pump.Flow {
	h.t.Helper()
	testnet.Await(h.t, fmt.Sprintf("flow %d", n), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.order) >= n
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.order[n-1]
}

// isConnected waits until Connected was called n times and returns its last
// leg.
func (h *handler) isConnected(n int) int {
	h.t.Helper()
	testnet.Await(h.t, fmt.Sprintf("call %d of Connected", n), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.connected) >= n
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.connected[n-1]
}

// ended waits until n flows have ended and returns the last one's result.
func (h *handler) ended(n int) pump.Result {
	h.t.Helper()
	testnet.Await(h.t, fmt.Sprintf("the end of flow %d", n), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.results) >= n
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.results[n-1]
}

// endedWith is ended for a flow whose cause is known.
func (h *handler) endedWith(n int, cause pump.Cause) pump.Result {
	h.t.Helper()
	r := h.ended(n)
	if r.Cause != cause {
		h.t.Errorf("the flow ended with %q (%v), not %q", r.Cause, r.Err, cause)
	}
	return r
}

func (h *handler) count(list *[]pump.Attempt) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(*list)
}

func describe(a pump.Attempt) string {
	kinds := []string{"accepted", "dial failed", "closed early", "refused", "woken", "expired", "prefaced", "no preface"}
	return strings.TrimSpace(fmt.Sprintf("%s, leg %d: %v", kinds[a.Kind], a.Leg, a.Err))
}
