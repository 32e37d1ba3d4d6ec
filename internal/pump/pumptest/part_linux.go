package pumptest

import (
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

var parting = map[string]func(*testing.T, New){
	"part_when_idle":                          partWhenIdle,
	"part_delivers_what_is_under_way":         partDelivers,
	"part_delivers_much_to_a_slow_reader":     partDeliversMuch,
	"part_delivers_before_the_first_word":     partDeliversDuringSettle,
	"part_resets_a_side_that_goes_on_sending": partResetsTheSender,
	"part_resets_a_side_that_does_not_finish": partResetsTheSilent,
	"part_resets_who_did_not_take_all":        partResetsTheStuck,
	"part_keeps_the_reset_of_one_side":        partKeepsAReset,
	"part_after_a_half_close":                 partAfterHalfClose,
	"part_while_the_end_is_delivered":         partWhileDelivering,
	"part_then_cut":                           partThenCut,
	"part_then_close":                         partThenClose,
	"part_of_a_parked_client":                 partOfAParked,
	"part_during_a_dial":                      partDuringADial,
	"part_of_an_opened_connection":            partOfAnOpened,
	"part_with_an_answer_to_the_fin":          partWithAnAnswer,
}

// endedGently wants the end of a flow that was cut with io.EOF.
func endedGently(t *testing.T, r *rig, n int) pump.Result {
	t.Helper()
	e := r.endedWith(n, pump.CauseCut)
	if !errors.Is(e.Err, io.EOF) {
		t.Errorf("the result's error is %v", e.Err)
	}
	return e
}

func partWhenIdle(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		r, client, endpoint := talking(t, newEngine, network)
		began := time.Now()
		r.flow(1).Cut(io.EOF)
		run(t, client, ExpectEnd(EOF))
		run(t, endpoint, ExpectEnd(EOF), Close())
		run(t, client, Close())
		if e := endedGently(t, r, 1); e.Counters != (pump.Counters{In: 4, Out: 4}) {
			t.Errorf("the counters are %+v", e.Counters)
		}
		if took := time.Since(began); took > prompt {
			t.Errorf("it took %v", took)
		}
	}
}

// What is in our sockets when the flow is cut arrives, each way.
func partDelivers(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "unix"} {
		for range 20 {
			r, client, endpoint := talking(t, newEngine, network)
			const size = 100 << 10
			sends := func(seed uint64) steps {
				if network == "unix" {
					return steps{SendStream(seed, size)}
				}
				return steps{SendStream(seed, size), AwaitSent()}
			}
			run(t, client, sends(1)...)
			run(t, endpoint, sends(2)...)
			r.flow(1).Cut(io.EOF)
			run(t, client, ExpectStream(2, size), ExpectEnd(EOF), HalfClose())
			run(t, endpoint, ExpectStream(1, size), ExpectEnd(EOF), Close())
			run(t, client, Close())
			if e := endedGently(t, r, 1); e.Counters != (pump.Counters{In: 4 + size, Out: 4 + size}) {
				t.Errorf("the counters are %+v", e.Counters)
			}
		}
	}
}

// More than the client's socket takes has reached us, and is read there within
// the second.
func partDeliversMuch(t *testing.T, newEngine New) {
	// Some 260 KiB fit between the two on an idle machine, and less where the
	// kernel merges segments worse.
	const size = 224 << 10
	r, client, endpoint := talking(t, newEngine, "tcp4")
	run(t, client, Shrink())
	run(t, endpoint, SendStream(1, size), AwaitSent())
	r.flow(1).Cut(io.EOF)
	run(t, endpoint, ExpectEnd(EOF), Close())
	run(t, client, ExpectStream(1, size), ExpectEnd(EOF), Close())
	endedGently(t, r, 1)
}

func partDeliversDuringSettle(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	leg := to(server)
	leg.Prefix = []byte("PROXY ")
	r := start(t, newEngine, setup{}, inTurn(fixed(pump.Step{Dial: []pump.Leg{leg}, Settle: Patience, Retry: true})))
	client := r.dial()
	run(t, client, Send("PING"), AwaitSent())
	r.isConnected(1)
	r.flow(1).Cut(io.EOF)
	run(t, accept(t, server), Expect("PROXY PING"), ExpectEnd(EOF), Close())
	run(t, client, ExpectEnd(EOF), Close())
	endedGently(t, r, 1)
}

func partResetsTheSender(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	began := time.Now()
	r.flow(1).Cut(io.EOF)
	var both sync.WaitGroup
	both.Go(func() {
		if err := client.Run(SendUntilError(1)); err != nil {
			t.Error(err)
		}
	})
	run(t, endpoint, ReadToEnd(), Close())
	both.Wait()
	if took := time.Since(began); took < lingers || took > lingers+prompt {
		t.Errorf("the sender was reset after %v", took)
	}
	endedGently(t, r, 1)
}

// lingers is a little less than an orderly end waits.
const lingers = 900 * time.Millisecond

func partResetsTheSilent(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "unix"} {
		r, client, endpoint := talking(t, newEngine, network)
		began := time.Now()
		r.flow(1).Cut(io.EOF)
		run(t, endpoint, ExpectEnd(EOF), Close())
		endedGently(t, r, 1)
		if took := time.Since(began); took < lingers || took > lingers+prompt {
			t.Errorf("it was over after %v", took)
		}
		if network == "tcp4" {
			run(t, client, AwaitReset())
		}
	}
}

// The client does not read: its end must not look like a whole answer.
func partResetsTheStuck(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	var sent int64
	run(t, endpoint, SendUntilStuck(1, &sent))
	run(t, client, HalfClose())
	run(t, endpoint, AwaitFIN())
	r.flow(1).Cut(io.EOF)
	run(t, client, AwaitReset())
	run(t, endpoint, Close())
	endedGently(t, r, 1)
}

// A side that breaks when it hears the FIN is no reason to reset the other.
func partKeepsAReset(t *testing.T, newEngine New) {
	for _, endpointResets := range []bool{false, true} {
		r, client, endpoint := talking(t, newEngine, "tcp4")
		r.flow(1).Cut(io.EOF)
		one, other := client, endpoint
		if endpointResets {
			one, other = endpoint, client
		}
		run(t, other, AwaitFIN())
		run(t, one, ExpectEnd(EOF), Send("late"), Reset())
		run(t, other, Pause(100*time.Millisecond), ExpectEnd(EOF), Close())
		endedGently(t, r, 1)
	}
}

func partAfterHalfClose(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "unix"} {
		r, client, endpoint := talking(t, newEngine, network)
		run(t, client, Send("last"), HalfClose())
		run(t, endpoint, Expect("last"), ExpectEnd(EOF), Send("answer"))
		if network == "tcp4" {
			run(t, endpoint, AwaitSent())
		}
		r.flow(1).Cut(io.EOF)
		run(t, client, Expect("answer"), ExpectEnd(EOF))
		run(t, endpoint, Close())
		endedGently(t, r, 1)
	}
}

func partWhileDelivering(t *testing.T, newEngine New) {
	r, client := delivering(t, newEngine)
	r.flow(1).Cut(io.EOF)
	run(t, client, ExpectStream(1, 100<<10), ExpectEnd(EOF))
	endedGently(t, r, 1)
}

func partThenCut(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	r.flow(1).Cut(io.EOF)
	run(t, client, ExpectEnd(EOF))
	run(t, endpoint, ExpectEnd(EOF))
	r.flow(1).Cut(errGiveUp)
	run(t, client, AwaitReset())
	run(t, endpoint, AwaitReset())
	if e := r.endedWith(1, pump.CauseCut); !errors.Is(e.Err, errGiveUp) || e.Duration > lingers {
		t.Errorf("the result's error is %v, after %v", e.Err, e.Duration)
	}
}

func partThenClose(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	r.flow(1).Cut(io.EOF)
	run(t, client, ExpectEnd(EOF))
	run(t, endpoint, ExpectEnd(EOF))
	if err := r.engine.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	run(t, client, AwaitReset())
	run(t, endpoint, AwaitReset())
	r.endedWith(1, pump.CauseCut)
}

func partOfAParked(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "unix"} {
		r := parked(t, newEngine, network)
		client := r.dial()
		run(t, client, Send("PING"))
		r.asked(1)
		r.flow(1).Cut(io.EOF)
		run(t, client, ExpectEnd(EOF), Close())
		endedGently(t, r, 1)
	}
}

func partDuringADial(t *testing.T, newEngine New) {
	for _, stagger := range []time.Duration{0, 10 * time.Millisecond} {
		legs := []pump.Leg{swallowing(t, Patience), swallowing(t, Patience)}
		r := start(t, newEngine, setup{}, inTurn(fixed(pump.Step{Dial: legs, Stagger: stagger})))
		client := r.dial()
		run(t, client, Send("PING"))
		r.asked(1)
		r.flow(1).Cut(io.EOF)
		run(t, client, ExpectEnd(EOF), Close())
		endedGently(t, r, 1)
	}
}

func partOfAnOpened(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, always(opening(server)))
	client := r.dial()
	endpoint := accept(t, server)
	run(t, endpoint, Send("220"))
	run(t, client, Expect("220"), Send("QUIT"), AwaitSent())
	r.flow(1).Cut(io.EOF)
	run(t, endpoint, Expect("QUIT"), ExpectEnd(EOF), Close())
	run(t, client, ExpectEnd(EOF), Close())
	endedGently(t, r, 1)
}

// What a side says after the FIN is thrown away, and does no harm.
func partWithAnAnswer(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	r.flow(1).Cut(io.EOF)
	run(t, client, ExpectEnd(EOF), SendStream(1, 100<<10), Close())
	run(t, endpoint, ExpectEnd(EOF), Send("bye"), Close())
	if e := endedGently(t, r, 1); e.Counters != (pump.Counters{In: 4, Out: 4}) {
		t.Errorf("the counters are %+v", e.Counters)
	}
}
