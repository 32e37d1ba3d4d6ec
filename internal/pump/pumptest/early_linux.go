package pumptest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

var closingEarly = map[string]func(*testing.T, New){
	"early_fin_tries_the_next":              func(t *testing.T, n New) { earlyCloseTriesTheNext(t, n, Close(), io.EOF) },
	"early_reset_tries_the_next":            func(t *testing.T, n New) { earlyCloseTriesTheNext(t, n, Reset(), pump.ErrReset) },
	"early_close_of_a_unix_endpoint":        earlyCloseOfAUnixEndpoint,
	"early_close_leaves_later_legs_untried": earlyCloseLeavesLaterLegsUntried,
	"early_close_then_parked":               earlyCloseThenParked,
	"early_fin_is_passed_on_at_last":        func(t *testing.T, n New) { lastCloseIsPassedOn(t, n, Close(), EOF, pump.CauseEOF) },
	"early_reset_is_passed_on_at_last": func(t *testing.T, n New) {
		lastCloseIsPassedOn(t, n, Reset(), RESET, pump.CauseEndpointReset)
	},
	"close_after_client_bytes_is_the_answer":    closeAfterClientBytes,
	"close_after_the_clients_fin_is_the_answer": closeAfterTheClientsFIN,
	"close_after_endpoint_bytes_is_the_answer":  closeAfterEndpointBytes,
	"close_after_a_second_is_the_answer":        closeAfterASecond,
	"close_without_retry_is_the_answer":         closeWithoutRetry,
	"early_close_during_settle_loses_nothing":   earlyCloseDuringSettle,
	"early_close_races_with_the_client":         earlyCloseRaces,
	"early_fin_after_the_prefix": func(t *testing.T, n New) {
		earlyCloseAfterThePrefix(t, n, io.EOF, Expect(proxyLine), Close())
	},
	"early_close_with_the_prefix_unread": func(t *testing.T, n New) {
		earlyCloseAfterThePrefix(t, n, pump.ErrReset, CloseUnread(len(proxyLine)))
	},
	"prefix_does_not_wait_for_the_client": prefixDoesNotWait,
	"prefix_memory_is_the_handlers_again": prefixMemory,
}

// retrying is a step after which an early close is a failed attempt.
func retrying(legs ...pump.Leg) pump.Step { return pump.Step{Dial: legs, Retry: true} }

func earlyCloseTriesTheNext(t *testing.T, newEngine New, bye Step, want error) {
	first, second := Listen(t, "tcp4"), Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, inTurn(fixed(retrying(to(first))), fixed(retrying(to(second)))))
	client := r.dial()
	r.isConnected(1)
	run(t, accept(t, first), bye)
	if a := r.asked(2); a.Kind != pump.ClosedEarly || a.Leg != 0 || !errors.Is(a.Err, want) {
		t.Errorf("Next was told %s", describe(a))
	}
	run(t, client, SendWithFIN("PING"))
	run(t, accept(t, second), Expect("PING"), ExpectEnd(EOF), Send("PONG"), Close())
	run(t, client, Expect("PONG"), ExpectEnd(EOF))
	got := r.endedWith(1, pump.CauseEOF)
	if got.Counters != (pump.Counters{In: 4, Out: 4}) {
		t.Errorf("the counters are %+v", got.Counters)
	}
}

func earlyCloseOfAUnixEndpoint(t *testing.T, newEngine New) {
	first, second := Listen(t, "unix"), Listen(t, "unix")
	r := start(t, newEngine, setup{network: "unix"}, inTurn(fixed(retrying(to(first))), fixed(retrying(to(second)))))
	client := r.dial()
	run(t, accept(t, first), Close())
	if a := r.asked(2); a.Kind != pump.ClosedEarly || !errors.Is(a.Err, io.EOF) {
		t.Errorf("Next was told %s", describe(a))
	}
	run(t, client, SendWithFIN("PING"))
	run(t, accept(t, second), Expect("PING"), ExpectEnd(EOF), Close())
	run(t, client, ExpectEnd(EOF))
	r.endedWith(1, pump.CauseEOF)
}

const proxyLine = "PROXY UNKNOWN\r\n"

func prefixed(s *Server) pump.Leg {
	leg := to(s)
	leg.Prefix = []byte(proxyLine)
	return leg
}

// A server that takes no prefix closes when it sees one: the client has lost
// nothing by then.
func earlyCloseAfterThePrefix(t *testing.T, newEngine New, want error, refuse ...Step) {
	for _, network := range []string{"tcp4", "unix"} {
		for _, word := range []string{"", "PING"} {
			first, second := Listen(t, network), Listen(t, network)
			step := retrying(prefixed(first))
			step.Settle = Patience // else a word that is there counts as passed on
			if word == "" {
				step.Settle = 0
			}
			r := start(t, newEngine, setup{network: network}, inTurn(fixed(step), fixed(retrying(prefixed(second)))))
			client := r.dial()
			if word != "" {
				run(t, client, Send(word))
			}
			r.isConnected(1)
			run(t, accept(t, first), refuse...)
			if a := r.asked(2); a.Kind != pump.ClosedEarly || !errors.Is(a.Err, want) {
				t.Errorf("%s %q: Next was told %s", network, word, describe(a))
			}
			run(t, client, Send("!"), HalfClose())
			run(t, accept(t, second), Expect(proxyLine+word+"!"), ExpectEnd(EOF), Close())
			run(t, client, ExpectEnd(EOF), Close())
			if e := r.endedWith(1, pump.CauseEOF); e.Counters.In != uint64(len(word)+1) {
				t.Errorf("%s %q: the counters are %+v", network, word, e.Counters)
			}
		}
	}
}

// Nor does the server's first word, which it says when it has the prefix.
func prefixDoesNotWait(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "unix"} {
		for _, retry := range []bool{false, true} {
			server := Listen(t, network)
			r := start(t, newEngine, setup{network: network}, inTurn(fixed(pump.Step{Dial: []pump.Leg{prefixed(server)}, Retry: retry})))
			client := r.dial()
			endpoint := accept(t, server)
			run(t, endpoint, Expect(proxyLine), Send("220"))
			run(t, client, Expect("220"), Close())
			run(t, endpoint, ExpectEnd(EOF), Close())
			r.endedWith(1, pump.CauseEOF)
		}
	}
}

// Whose leg has connected, failed or been overtaken writes other prefixes into
// the same memory.
func prefixMemory(t *testing.T, newEngine New) {
	for _, stagger := range []time.Duration{0, time.Millisecond} {
		first, second := Listen(t, "tcp4"), Listen(t, "tcp4")
		memory := []byte(proxyLine)
		leg := func(l pump.Leg) pump.Leg {
			copy(memory, proxyLine)
			l.Prefix = memory
			return l
		}
		r := start(t, newEngine, setup{}, func(f *pump.Flow, last pump.Attempt) pump.Step {
			clear(memory)
			switch last.Kind {
			case pump.Accepted:
				return pump.Step{Dial: []pump.Leg{leg(refusing(t)), leg(swallowing(t, 10*time.Millisecond))}, Stagger: stagger}
			case pump.DialFailed:
				return pump.Step{Dial: []pump.Leg{leg(to(first)), leg(swallowing(t, Patience))}, Stagger: stagger, Retry: true}
			}
			return pump.Step{Dial: []pump.Leg{leg(to(second))}, Retry: true}
		})
		r.onConnected = func() { clear(memory) }
		client := r.dial()
		run(t, accept(t, first), Expect(proxyLine), Close())
		run(t, accept(t, second), Expect(proxyLine), Send("220"), Close())
		run(t, client, Expect("220"), ExpectEnd(EOF), Close())
		r.endedWith(1, pump.CauseEOF)
	}
}

func earlyCloseLeavesLaterLegsUntried(t *testing.T, newEngine New) {
	first := Listen(t, "tcp4")
	legs := []pump.Leg{refusing(t), to(first), refusing(t)}
	r := start(t, newEngine, setup{}, inTurn(fixed(retrying(legs...)), fixed(endStep(io.EOF))))
	client := r.dial()
	run(t, accept(t, first), Close())
	run(t, client, ExpectEnd(EOF), Close())
	if a := r.asked(2); a.Kind != pump.ClosedEarly || a.Leg != 1 {
		t.Errorf("Next was told %s", describe(a))
	}
	r.endedWith(1, pump.CauseEnded)
	if !errors.Is(legs[2].Err, pump.ErrNotTried) {
		t.Errorf("the leg without a turn has %v", legs[2].Err)
	}
}

func earlyCloseThenParked(t *testing.T, newEngine New) {
	first, second := Listen(t, "tcp4"), Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, inTurn(
		fixed(retrying(to(first))),
		func() pump.Step { return parkStep(Patience) },
		fixed(retrying(to(second)))))
	client := r.dial()
	run(t, accept(t, first), Close())
	r.asked(2)
	run(t, client, SendStream(1, 64<<10), HalfClose())
	r.flow(1).Wake()
	run(t, accept(t, second), ExpectStream(1, 64<<10), ExpectEnd(EOF), Close())
	run(t, client, ExpectEnd(EOF))
	r.endedWith(1, pump.CauseEOF)
}

// When every endpoint did so the client gets the last close as it was.
func lastCloseIsPassedOn(t *testing.T, newEngine New, bye Step, end string, cause pump.Cause) {
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, inTurn(fixed(retrying(to(server))), fixed(dialStep(to(server)))))
	client := r.dial()
	r.isConnected(1)
	run(t, accept(t, server), bye)
	r.isConnected(2)
	run(t, accept(t, server), bye)
	run(t, client, ExpectEnd(end), Close())
	if got := r.endedWith(1, cause); !got.Early {
		t.Error("the end does not tell that it was an early close")
	}
}

// onlyOnce expects that a flow was connected and never asked again.
func onlyOnce(t *testing.T, r *rig, cause pump.Cause) {
	t.Helper()
	if got := r.endedWith(1, cause); got.Early {
		t.Error("the end tells that it was an early close")
	}
	if n := r.count(&r.attempts); n != 1 {
		t.Errorf("Next was called %d times, at last with %s", n, describe(r.asked(n)))
	}
}

func closeAfterClientBytes(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, inTurn(fixed(retrying(to(server)))))
	client := r.dial()
	run(t, client, Send("PING"))
	run(t, accept(t, server), Expect("PING"), Close())
	run(t, client, ExpectEnd(EOF), Close())
	onlyOnce(t, r, pump.CauseEOF)
}

func closeAfterTheClientsFIN(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, inTurn(fixed(retrying(to(server)))))
	client := r.dial()
	run(t, client, HalfClose())
	run(t, accept(t, server), ExpectEnd(EOF), Close())
	run(t, client, ExpectEnd(EOF))
	onlyOnce(t, r, pump.CauseEOF)
}

func closeAfterEndpointBytes(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, inTurn(fixed(retrying(to(server)))))
	client := r.dial()
	run(t, accept(t, server), SendWithFIN("busy"))
	run(t, client, Expect("busy"), ExpectEnd(EOF), Close())
	onlyOnce(t, r, pump.CauseEOF)
}

func closeAfterASecond(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, inTurn(fixed(retrying(to(server)))))
	client := r.dial()
	run(t, accept(t, server), Pause(pump.EarlyClose+100*time.Millisecond), Close())
	run(t, client, ExpectEnd(EOF), Close())
	onlyOnce(t, r, pump.CauseEOF)
}

func closeWithoutRetry(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, inTurn(fixed(dialStep(to(server)))))
	client := r.dial()
	r.isConnected(1)
	run(t, accept(t, server), Reset())
	run(t, client, ExpectEnd(RESET))
	if got := r.endedWith(1, pump.CauseEndpointReset); !got.Early {
		t.Error("the end does not tell that it was an early close")
	}
	if n := r.count(&r.attempts); n != 1 {
		t.Errorf("Next was called %d times", n)
	}
}

// What the client sent was not yet passed on, so nothing is lost or doubled.
func earlyCloseDuringSettle(t *testing.T, newEngine New) {
	first, second := Listen(t, "tcp4"), Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, inTurn(
		fixed(pump.Step{Dial: []pump.Leg{to(first)}, Retry: true, Settle: pump.EarlyClose / 2}),
		fixed(retrying(to(second)))))
	client := r.dial()
	run(t, client, Send("PING"))
	run(t, accept(t, first), Close())
	run(t, accept(t, second), Expect("PING"), Send("PONG"), Close())
	run(t, client, Expect("PONG"), ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
}

// The endpoint closes while the client's first bytes come in. Either they went
// to the first endpoint, and its close is the answer, or they all go to the
// next; never to both and never to none.
func earlyCloseRaces(t *testing.T, newEngine New) {
	first, second := Serve(t, "tcp4", closeAtOnce), Serve(t, "tcp4", Echo)
	r := start(t, newEngine, setup{}, func(_ *pump.Flow, last pump.Attempt) pump.Step {
		if last.Kind == pump.Accepted {
			return retrying(to(first))
		}
		return dialStep(to(second))
	})
	const rounds = 300
	outcomes := make(map[string]int)
	for i := range rounds {
		client := r.dial()
		late := time.Duration(i%20) * 10 * time.Microsecond
		for began := time.Now(); time.Since(began) < late; {
			runtime.Gosched()
		}
		run(t, client, Send("PING"), Call("half-close unless reset", func() error {
			_ = client.Run(HalfClose())
			return nil
		}), ReadToEnd())
		switch saw := fmt.Sprint(client.Saw()); saw {
		case "[end EOF]", "[end ECONNRESET]":
			outcomes["answered by the first"]++
		case fmt.Sprintf("[got 4 bytes, sum %08x end EOF]", sumOf("PING")):
			outcomes["served by the next"]++
		default:
			t.Fatalf("the client saw %s", saw)
		}
		client.Conn.Close()
	}
	r.ended(rounds)
	t.Logf("%v", outcomes)
}

func closeAtOnce(net.Conn) {}

func sumOf(text string) uint32 {
	var s Sum
	_, _ = s.Write([]byte(text)) // never fails
	return s.CRC
}
