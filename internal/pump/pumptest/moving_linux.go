package pumptest

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

// moving tests freeze flows and take them up again.
var moving = map[string]func(*testing.T, New){
	"moved_flow_goes_on":             movedFlowGoesOn,
	"moved_again_and_again":          movedAgainAndAgain,
	"moved_to_another_engine":        movedToAnotherEngine,
	"moved_with_bytes_on_their_way":  movedWithBytesOnTheirWay,
	"moved_in_the_middle_of_streams": movedInTheMiddleOfStreams,
	"moved_client_had_finished":      func(t *testing.T, n New) { movedHalfClosed(t, n, true) },
	"moved_endpoint_had_finished":    func(t *testing.T, n New) { movedHalfClosed(t, n, false) },
	"moved_then_reset":               movedThenReset,
	"moved_to_an_engine_that_closes": movedToAnEngineThatCloses,
	"frozen_while_parked_ends":       frozenWhileParked,
	"frozen_while_connecting_ends":   frozenWhileConnecting,
	"no_state_is_refused":            noStateIsRefused,
}

// Moving runs them.
func Moving(t *testing.T, newEngine New) { runGroup(t, moving, newEngine) }

func resume(t *testing.T, e pump.Engine, s pump.State, h *handler) *pump.Flow {
	t.Helper()
	f, err := e.Resume(s, h, "data")
	if err != nil {
		t.Fatalf("resume: %v", err)
	}
	if _, data := h.look(f); data != "data" {
		t.Errorf("the flow's data are %v", data)
	}
	return f
}

// look reads a flow's fields before its Done can have run to its end.
func (h *handler) look(f *pump.Flow) (netip.AddrPort, any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return f.Client, f.Data
}

// move freezes a flow and has an engine take it up, with a new flow for it.
func move(t *testing.T, f *pump.Flow, to pump.Engine, h *handler) *pump.Flow {
	t.Helper()
	return resume(t, to, frozen(t, f), h)
}

func frozen(t *testing.T, f *pump.Flow) pump.State {
	t.Helper()
	s, err := f.Freeze()
	if err != nil {
		t.Fatalf("freeze: %v", err)
	}
	return s
}

func movedFlowGoesOn(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	before := r.flow(1)
	from, _ := r.look(before)
	f := move(t, before, r.engine, r.handler)
	if now, _ := r.look(f); now != from {
		t.Errorf("the client is %v, and was %v", now, from)
	}
	r.endedWith(1, pump.CauseMoved)
	run(t, client, Send("MORE"))
	run(t, endpoint, Expect("MORE"), Send("ANSWER"))
	run(t, client, Expect("ANSWER"), Close())
	run(t, endpoint, ExpectEnd(EOF), Close())
	if got, want := r.endedWith(2, pump.CauseEOF).Counters, (pump.Counters{In: 8, Out: 10}); got != want {
		t.Errorf("the counters are %+v, not %+v", got, want)
	}
}

func movedAgainAndAgain(t *testing.T, newEngine New) {
	const times = 50
	r, client, endpoint := talking(t, newEngine, "tcp4")
	f := r.flow(1)
	for range times {
		f = move(t, f, r.engine, r.handler)
		run(t, client, Send("PING"))
		run(t, endpoint, Expect("PING"), Send("PONG"))
		run(t, client, Expect("PONG"))
	}
	run(t, client, Close())
	run(t, endpoint, ExpectEnd(EOF), Close())
	r.endedWith(times+1, pump.CauseEOF)
}

func movedToAnotherEngine(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	other := start(t, newEngine, setup{}, always())
	move(t, r.flow(1), other.engine, other.handler)
	r.endedWith(1, pump.CauseMoved)
	if err := r.engine.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	run(t, client, Send("PING"))
	run(t, endpoint, Expect("PING"), Send("PONG"))
	run(t, client, Expect("PONG"), Close())
	run(t, endpoint, ExpectEnd(EOF), Close())
	other.endedWith(1, pump.CauseEOF)
}

// The reader has stopped, so the engine holds bytes, in a pipe or a buffer.
func movedWithBytesOnTheirWay(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "unix"} {
		r, client, endpoint := talking(t, newEngine, network)
		var up, down int64
		run(t, client, SendUntilStuck(1, &up))
		run(t, endpoint, SendUntilStuck(2, &down))
		f := r.flow(1)
		for range 3 {
			f = move(t, f, r.engine, r.handler)
		}
		Play(t,
			Part{Peer: client, Steps: steps{ExpectStream(2, down), HalfClose(), ExpectEnd(EOF)}},
			Part{Peer: endpoint, Steps: steps{ExpectStream(1, up), ExpectEnd(EOF), Close()}})
		r.endedWith(4, pump.CauseEOF)
	}
}

func movedInTheMiddleOfStreams(t *testing.T, newEngine New) {
	const size = 64 * mib
	r, client, endpoint := talking(t, newEngine, "tcp4")
	over := make(chan int)
	go func() {
		f, n := r.flow(1), 0
		for {
			s, err := f.Freeze()
			if err != nil {
				over <- n
				return
			}
			if f, err = r.engine.Resume(s, r.handler, nil); err != nil {
				t.Errorf("resume: %v", err)
				over <- n
				return
			}
			n++
			<-time.After(time.Millisecond) // to let bytes pass
		}
	}()
	Play(t,
		Part{Peer: client, Steps: steps{SendStream(1, size), ExpectStream(2, size), HalfClose(), ExpectEnd(EOF)}},
		Part{Peer: endpoint, Steps: steps{ExpectStream(1, size), SendStream(2, size), ExpectEnd(EOF), Close()}})
	n := <-over
	if n == 0 {
		t.Error("it was never moved")
	}
	if got, want := r.endedWith(n+1, pump.CauseEOF).Counters, (pump.Counters{In: size + 4, Out: size + 4}); got != want {
		t.Errorf("the counters are %+v, not %+v", got, want)
	}
}

func movedHalfClosed(t *testing.T, newEngine New, clientFirst bool) {
	r, first, second := talking(t, newEngine, "tcp4")
	if !clientFirst {
		first, second = second, first
	}
	run(t, first, HalfClose())
	run(t, second, ExpectEnd(EOF))
	move(t, r.flow(1), r.engine, r.handler)
	run(t, second, Send("STILL"))
	run(t, first, Expect("STILL"))
	run(t, second, Close())
	run(t, first, ExpectEnd(EOF), Close())
	r.endedWith(2, pump.CauseEOF)
}

func movedThenReset(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	s := frozen(t, r.flow(1))
	run(t, client, Reset())                                       // while nobody watches
	if _, err := r.engine.Resume(s, r.handler, nil); err != nil { // it may be over by now
		t.Fatalf("resume: %v", err)
	}
	run(t, endpoint, ExpectEnd(RESET))
	r.endedWith(2, pump.CauseClientReset)
}

// Taken up or refused: either way it is reported once and leaves nothing open.
func movedToAnEngineThatCloses(t *testing.T, newEngine New) {
	const flows = 20
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, always(to(server)))
	other := start(t, newEngine, setup{}, always())
	other.resumes = true
	var states []pump.State
	for i := range flows {
		client := r.dial()
		run(t, client, Send("PING"))
		run(t, accept(t, server), Expect("PING"))
		states = append(states, frozen(t, r.flow(i+1)))
		defer client.Conn.Close()
	}
	closed := make(chan error, 1)
	go func() { closed <- other.engine.Close() }()
	taken := 0
	for _, s := range states {
		if _, err := other.engine.Resume(s, other.handler, nil); err == nil {
			taken++
		}
	}
	if err := <-closed; err != nil {
		t.Errorf("close: %v", err)
	}
	other.mu.Lock()
	defer other.mu.Unlock()
	if len(other.results) != taken {
		t.Errorf("%d flows were taken up, and %d ended", taken, len(other.results))
	}
}

func frozenWhileParked(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{}, inTurn(func() pump.Step { return parkStep(Patience) }))
	client := r.dial()
	r.asked(1)
	endsFrozen(t, r)
	run(t, client, ExpectEnd(RESET))
}

func frozenWhileConnecting(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{}, always(swallowing(t, Patience)))
	client := r.dial()
	r.asked(1)
	endsFrozen(t, r)
	run(t, client, ExpectEnd(RESET))
}

// endsFrozen freezes the first flow, which has no endpoint yet.
func endsFrozen(t *testing.T, r *rig) {
	t.Helper()
	if _, err := r.flow(1).Freeze(); !errors.Is(err, pump.ErrNotMovable) {
		t.Errorf("freeze: %v", err)
	}
	if res := r.endedWith(1, pump.CauseCut); !errors.Is(res.Err, pump.ErrNotMovable) {
		t.Errorf("it ended with %v", res.Err)
	}
}

// Whatever comes, its sockets are not left open: start looks for leaks.
func noStateIsRefused(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	s := frozen(t, r.flow(1))
	s.Record[0]++
	if _, err := r.engine.Resume(s, r.handler, nil); !errors.Is(err, pump.ErrState) {
		t.Errorf("resume: %v", err)
	}
	run(t, client, AwaitFIN())
	run(t, endpoint, AwaitFIN())
}
