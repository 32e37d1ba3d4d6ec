package pumptest

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

var ending = map[string]func(*testing.T, New){
	"end_in_order":                      endInOrder,
	"end_in_order_of_a_unix_client":     endInOrderOfAUnixClient,
	"end_in_order_waits_for_a_second":   endInOrderWaitsASecond,
	"end_by_error_resets":               endByErrorResets,
	"cut_resets_both_sides":             cutResetsBothSides,
	"cut_of_a_stuck_flow":               cutOfAStuckFlow,
	"cut_during_a_dial":                 cutDuringADial,
	"cut_while_the_end_is_delivered":    cutWhileTheEndIsDelivered,
	"reset_while_the_end_is_delivered":  resetWhileTheEndIsDelivered,
	"cut_without_cause":                 cutWithoutCause,
	"close_cuts_every_flow":             closeCutsEveryFlow,
	"reset_waits_a_second_for_delivery": resetWaitsASecond,
	"counters_and_times":                countersAndTimes,
	"counters_while_it_runs":            countersWhileItRuns,
	"freeze_or_not_movable":             freezeOrNotMovable,
	"late_calls_do_nothing":             lateCallsDoNothing,
}

// A descriptor with unread input is not just closed: that would be a reset.
func endInOrder(t *testing.T, newEngine New) {
	r := parked(t, newEngine, "tcp4", fixed(endStep(io.EOF)))
	client := r.dial()
	run(t, client, Send(strings.Repeat("x", 10_000)), AwaitSent())
	r.flow(1).Wake()
	run(t, client, ExpectEnd(EOF), Send("bye"), Close())
	if e := r.endedWith(1, pump.CauseEnded); !errors.Is(e.Err, io.EOF) {
		t.Errorf("the result's error is %v", e.Err)
	}
}

func endInOrderOfAUnixClient(t *testing.T, newEngine New) {
	r := parked(t, newEngine, "unix", fixed(endStep(io.EOF)))
	client := r.dial()
	run(t, client, Send("PING"))
	r.flow(1).Wake()
	run(t, client, AwaitFIN(), ReadToEnd(), Close())
	if saw := client.Saw(); len(saw) != 1 || saw[0] != "end EOF" {
		t.Errorf("the client saw %v", saw)
	}
	r.endedWith(1, pump.CauseEnded)
}

// The client neither reads nor leaves.
func endInOrderWaitsASecond(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{}, inTurn(fixed(endStep(io.EOF))))
	began := time.Now()
	client := r.dial()
	r.endedWith(1, pump.CauseEnded)
	if took := time.Since(began); took < 900*time.Millisecond || took > time.Second+prompt {
		t.Errorf("it was over after %v", took)
	}
	run(t, client, Close())
}

func endByErrorResets(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{}, inTurn(fixed(endStep(errGiveUp))))
	r.refuses()
	if e := r.endedWith(1, pump.CauseEnded); !errors.Is(e.Err, errGiveUp) {
		t.Errorf("the result's error is %v", e.Err)
	}
}

// talking is a client and an endpoint that have exchanged a word.
func talking(t *testing.T, newEngine New, network string) (r *rig, client, endpoint *Peer) {
	t.Helper()
	return talkingWith(t, newEngine, setup{network: network})
}

func talkingWith(t *testing.T, newEngine New, s setup) (r *rig, client, endpoint *Peer) {
	t.Helper()
	server := Listen(t, s.network)
	r = start(t, newEngine, s, always(to(server)))
	client = r.dial()
	run(t, client, Send("PING"))
	endpoint = accept(t, server)
	run(t, endpoint, Expect("PING"), Send("PONG"))
	run(t, client, Expect("PONG"))
	return r, client, endpoint
}

func cutResetsBothSides(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		r, client, endpoint := talking(t, newEngine, network)
		r.flow(1).Cut(errGiveUp)
		run(t, client, ExpectEnd(RESET))
		run(t, endpoint, ExpectEnd(RESET))
		if e := r.endedWith(1, pump.CauseCut); !errors.Is(e.Err, errGiveUp) {
			t.Errorf("%s: the result's error is %v", network, e.Err)
		}
	}
}

func cutOfAStuckFlow(t *testing.T, newEngine New) {
	r, client, _ := talking(t, newEngine, "tcp4")
	var sent int64
	run(t, client, SendUntilStuck(1, &sent))
	r.flow(1).Cut(errGiveUp)
	run(t, client, AwaitReset())
	r.endedWith(1, pump.CauseCut)
}

func cutDuringADial(t *testing.T, newEngine New) {
	for _, stagger := range []time.Duration{0, 10 * time.Millisecond} {
		legs := []pump.Leg{swallowing(t, Patience), swallowing(t, Patience)}
		r := start(t, newEngine, setup{}, inTurn(fixed(pump.Step{Dial: legs, Stagger: stagger})))
		client := r.dial()
		r.asked(1)
		began := time.Now()
		r.flow(1).Cut(errGiveUp)
		run(t, client, ExpectEnd(RESET))
		r.endedWith(1, pump.CauseCut)
		if took := time.Since(began); took > prompt {
			t.Errorf("the cut took %v", took)
		}
	}
}

// delivering is a flow whose sides have said that they are done, while the
// client has not read all of it.
func delivering(t *testing.T, newEngine New) (*rig, *Peer) {
	t.Helper()
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, always(to(server)))
	client := r.dial()
	const fits = 100 << 10 // in one socket's buffer, not in the client's
	run(t, client, Shrink(), HalfClose())
	run(t, accept(t, server), ExpectEnd(EOF), SendStream(1, fits), AwaitSent(), Close())
	run(t, client, AwaitInput(1))
	return r, client
}

func cutWhileTheEndIsDelivered(t *testing.T, newEngine New) {
	r, client := delivering(t, newEngine)
	r.flow(1).Cut(errGiveUp)
	run(t, client, AwaitReset())
	r.endedWith(1, pump.CauseCut)
}

func resetWhileTheEndIsDelivered(t *testing.T, newEngine New) {
	r, client := delivering(t, newEngine)
	run(t, client, Reset())
	r.endedWith(1, pump.CauseClientReset)
}

func cutWithoutCause(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	r.flow(1).Cut(nil)
	run(t, client, ExpectEnd(RESET))
	run(t, endpoint, ExpectEnd(RESET))
	r.endedWith(1, pump.CauseCut)
}

func closeCutsEveryFlow(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	hole := swallowing(t, Patience)
	r := start(t, newEngine, setup{}, func() nextFunc {
		turns := make(chan pump.Step, 3)
		turns <- dialStep(to(server))
		turns <- dialStep(hole)
		turns <- parkStep(time.Minute)
		return func(*pump.Flow, pump.Attempt) pump.Step { return <-turns }
	}())
	clients := make([]*Peer, 3)
	for i := range clients {
		clients[i] = r.dial()
		r.asked(i + 1)
	}
	r.isConnected(1)
	endpoint := accept(t, server)
	if err := r.engine.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	for i := range clients {
		run(t, clients[i], ExpectEnd(RESET))
		r.endedWith(i+1, pump.CauseCut)
	}
	run(t, endpoint, ExpectEnd(RESET))
	if _, err := DialErr(r.addr); err == nil {
		t.Error("it still listens")
	}
	fd, _ := ListenFD(t, "tcp4")
	if _, err := r.engine.Serve(pump.Listener{Network: pump.TCP, FD: fd}, r.handler); err == nil {
		t.Error("a closed engine serves")
	}
	if err := r.engine.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}

// The endpoint has sent more than fits on the way to a client that does not
// read, and then resets: the rest is given a second, not for ever.
func resetWaitsASecond(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	var sent int64
	run(t, endpoint, SendUntilStuck(1, &sent))
	reset := time.Now()
	run(t, endpoint, Reset())
	run(t, client, AwaitReset())
	if took := time.Since(reset); took < 500*time.Millisecond || took > time.Second+prompt {
		t.Errorf("the client was reset after %v", took)
	}
	r.endedWith(1, pump.CauseEndpointReset)
}

func countersAndTimes(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	before := time.Now()
	r := start(t, newEngine, setup{}, always(to(server)))
	signals := new(Signals)
	client := r.peer("client", signals)
	endpoint := NewPeer("endpoint", server.Accept(t), signals)
	Play(t,
		Part{Peer: client, Steps: steps{SendStream(1, 3*mib+1), HalfClose(), Pause(100 * time.Millisecond), ExpectStream(2, 2*mib+7), ExpectEnd(EOF)}},
		Part{Peer: endpoint, Steps: steps{ExpectStream(1, 3*mib+1), ExpectEnd(EOF), SendStream(2, 2*mib+7), Close()}})
	got := r.endedWith(1, pump.CauseEOF)
	if want := (pump.Counters{In: 3*mib + 1, Out: 2*mib + 7}); got.Counters != want || r.flow(1).Counters() != want {
		t.Errorf("the counters are %+v, afterwards %+v, not %+v", got.Counters, r.flow(1).Counters(), want)
	}
	if got.Err != nil {
		t.Errorf("an ordinary end has error %v", got.Err)
	}
	if got.Started.Before(before) || got.Duration < 100*time.Millisecond || got.Duration > time.Since(before) {
		t.Errorf("it started at %v and took %v", got.Started, got.Duration)
	}
}

func countersWhileItRuns(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	// What has just been written may be read before it is counted.
	Await(t, "both words to be counted", func() bool { return r.flow(1).Counters() == pump.Counters{In: 4, Out: 4} })
	run(t, client, Close())
	run(t, endpoint, ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
}

func freezeOrNotMovable(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	state, err := r.flow(1).Freeze()
	ends := 1
	switch {
	case err == nil:
		r.endedWith(1, pump.CauseMoved)
		ends = 2
		if _, err := r.engine.Resume(state, r.handler, nil); err != nil {
			t.Fatalf("resume: %v", err)
		}
	case !errors.Is(err, pump.ErrNotMovable):
		t.Errorf("freeze: %v", err)
	}
	run(t, client, Send("PING"), Close())
	run(t, endpoint, Expect("PING"), ExpectEnd(EOF), Close())
	r.endedWith(ends, pump.CauseEOF)
}

func lateCallsDoNothing(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	run(t, client, Close())
	run(t, endpoint, ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
	// Descriptors are taken again at once: a late call must not meet another's.
	var others []net.Conn
	other := Serve(t, "tcp4", Echo)
	for range 16 {
		others = append(others, Dial(t, other.String()))
	}
	f := r.flow(1)
	f.Wake()
	f.Cut(errGiveUp)
	if _, err := f.Freeze(); err == nil {
		t.Error("a flow that is over was frozen")
	}
	f.Counters()
	for _, c := range others {
		run(t, NewPeer("bystander", c, new(Signals)), Send("PING"), Expect("PING"))
	}
}
