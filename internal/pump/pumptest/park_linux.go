package pumptest

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

var parking = map[string]func(*testing.T, New){
	"parked_client_resets":                   func(t *testing.T, n New) { parkedClientLeaves(t, n, Reset()) },
	"parked_client_says_fin":                 func(t *testing.T, n New) { parkedClientLeaves(t, n, Close()) },
	"parked_client_half_closes":              func(t *testing.T, n New) { parkedClientLeaves(t, n, HalfClose()) },
	"parked_client_resets_with_bytes_unread": func(t *testing.T, n New) { parkedClientLeaves(t, n, Send("PING"), Reset()) },
	"parked_client_with_unread_bytes_stays":  parkedClientStays,
	"parked_client_resets_after_its_fin":     parkedClientResetsAfterItsFIN,
	"parked_unix_client_leaves":              parkedUnixClientLeaves,
	"parked_unix_client_with_unread_stays":   parkedUnixClientStays,
	"parked_client_is_woken":                 parkedClientIsWoken,
	"parked_client_expires":                  parkedClientExpires,
	"parked_client_is_released_whole":        parkedClientIsReleasedWhole,
	"parked_again_and_again":                 parkedAgainAndAgain,
	"park_keeps_the_server_silent":           parkedClientSeesNothing,
	"wake_before_park_is_not_lost":           wakeBeforePark,
	"wakes_in_a_burst":                       wakesInABurst,
	"parked_clients_cost_no_cpu":             parkedClientsCostNoCPU,
	"park_in_the_past_asks_again":            parkInThePast,
	"parked_client_is_cut":                   parkedClientIsCut,
	"parked_client_that_sent_fin_is_refused": parkedThenEnded,
}

func parked(t *testing.T, newEngine New, network string, then ...func() pump.Step) *rig {
	t.Helper()
	first := func() pump.Step { return parkStep(Patience) }
	return start(t, newEngine, setup{network: network}, inTurn(append([]func() pump.Step{first}, then...)...))
}

func parkedClientLeaves(t *testing.T, newEngine New, leave ...Step) {
	r := parked(t, newEngine, "tcp4")
	client := r.dial()
	r.asked(1)
	run(t, client, leave...)
	r.endedWith(1, pump.CauseAbandoned)
}

func parkedUnixClientLeaves(t *testing.T, newEngine New) {
	r := parked(t, newEngine, "unix")
	client := r.dial()
	r.asked(1)
	run(t, client, Close())
	r.endedWith(1, pump.CauseAbandoned)
}

// printf PING | nc -N: the request is there and the answer is still wanted.
func parkedClientStays(t *testing.T, newEngine New) { parkedStays(t, newEngine, "tcp4") }

func parkedUnixClientStays(t *testing.T, newEngine New) { parkedStays(t, newEngine, "unix") }

func parkedStays(t *testing.T, newEngine New, network string) {
	server := Listen(t, "tcp4")
	r := parked(t, newEngine, network, fixed(dialStep(to(server))))
	client := r.dial()
	r.asked(1)
	run(t, client, SendWithFIN("PING"))
	// Nothing to wait for: that it does not happen must be watched.
	run(t, client, Pause(200*time.Millisecond))
	r.flow(1).Wake()
	run(t, accept(t, server), Expect("PING"), ExpectEnd(EOF), Send("PONG"), Close())
	run(t, client, Expect("PONG"), ExpectEnd(EOF))
	r.endedWith(1, pump.CauseEOF)
}

func parkedClientResetsAfterItsFIN(t *testing.T, newEngine New) {
	r := parked(t, newEngine, "tcp4")
	client := r.dial()
	r.asked(1)
	run(t, client, SendWithFIN("PING"), Pause(20*time.Millisecond), Reset())
	r.endedWith(1, pump.CauseAbandoned)
}

func parkedClientIsWoken(t *testing.T, newEngine New) {
	r := parked(t, newEngine, "tcp4", fixed(dialStep(to(Serve(t, "tcp4", Say("served"))))))
	client := r.dial()
	r.asked(1)
	woken := time.Now()
	r.flow(1).Wake()
	if a := r.asked(2); a.Kind != pump.Woken {
		t.Errorf("Next was told %s", describe(a))
	}
	if took := time.Since(woken); took > prompt {
		t.Errorf("it woke after %v", took)
	}
	greets(t, client, "served")
	r.endedWith(1, pump.CauseEOF)
}

func parkedClientExpires(t *testing.T, newEngine New) {
	const until = 150 * time.Millisecond
	r := start(t, newEngine, setup{}, inTurn(func() pump.Step { return parkStep(until) }))
	began := time.Now()
	client := r.dial()
	run(t, client, ExpectEnd(RESET))
	if took := time.Since(began); took < until {
		t.Errorf("it expired after %v", took)
	}
	if a := r.asked(2); a.Kind != pump.Expired {
		t.Errorf("Next was told %s", describe(a))
	}
	if e := r.endedWith(1, pump.CauseEnded); !errors.Is(e.Err, errGiveUp) {
		t.Errorf("the result's error is %v", e.Err)
	}
}

func parkedClientIsReleasedWhole(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := parked(t, newEngine, "tcp4", fixed(dialStep(to(server))))
	signals := new(Signals)
	client := r.peer("client", signals)
	var stuck int64
	run(t, client, SendUntilStuck(1, &stuck))
	r.flow(1).Wake()
	endpoint := accept(t, server)
	run(t, endpoint, ExpectStream(1, stuck), Send("PONG"))
	run(t, client, Expect("PONG"), HalfClose())
	run(t, endpoint, ExpectEnd(EOF), Close())
	run(t, client, ExpectEnd(EOF))
	if got := r.endedWith(1, pump.CauseEOF); got.Counters.In != uint64(stuck) {
		t.Errorf("%d bytes were sent and %d counted", stuck, got.Counters.In)
	}
}

func parkedAgainAndAgain(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	again := func() pump.Step { return parkStep(Patience) }
	r := parked(t, newEngine, "tcp4", again, fixed(dialStep(refusing(t))), again, fixed(dialStep(to(server))))
	client := r.dial()
	for i, text := range []string{"a", "b", "c"} {
		r.asked([]int{1, 2, 4}[i])
		run(t, client, Send(text))
		r.flow(1).Wake()
	}
	run(t, accept(t, server), Expect("abc"), Close())
	run(t, client, ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
	if n := r.count(&r.attempts); n != 5 {
		t.Errorf("Next was called %d times", n)
	}
}

func parkedClientSeesNothing(t *testing.T, newEngine New) {
	r := parked(t, newEngine, "tcp4", fixed(endStep(io.EOF)))
	client := r.dial()
	r.asked(1)
	client.Conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := client.Conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the waiting client read %d, %v", n, err)
	}
	r.flow(1).Wake()
	run(t, client, ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEnded)
}

// An endpoint may come up between the decision to park and the parking.
func wakeBeforePark(t *testing.T, newEngine New) {
	server := to(Serve(t, "tcp4", Say("served")))
	r := start(t, newEngine, setup{}, func(f *pump.Flow, last pump.Attempt) pump.Step {
		if last.Kind == pump.Accepted {
			f.Wake()
			return parkStep(Patience)
		}
		if last.Kind != pump.Woken {
			return endStep(errGiveUp)
		}
		return dialStep(server)
	})
	greets(t, r.dial(), "served")
	r.endedWith(1, pump.CauseEOF)
}

// Wakes that come while the flow is being asked are one; none is left behind.
func wakesInABurst(t *testing.T, newEngine New) {
	const burst = 1000
	r := start(t, newEngine, setup{}, func(f *pump.Flow, last pump.Attempt) pump.Step {
		if last.Kind == pump.Accepted {
			for range burst {
				f.Wake()
			}
		}
		return parkStep(Patience)
	})
	client := r.dial()
	r.asked(2)
	if n := quiet(t, func() int { return r.count(&r.attempts) }); n != 2 {
		t.Errorf("%d wakes led to %d more calls of Next", burst, n-1)
	}
	r.flow(1).Wake()
	r.asked(3)
	run(t, client, Reset())
	r.endedWith(1, pump.CauseAbandoned)
	r.flow(1).Wake()
}

// Half-closed clients with unread bytes are the case in which a level-triggered
// poll spins (epoll(7), EPOLLRDHUP).
func parkedClientsCostNoCPU(t *testing.T, newEngine New) {
	const clients = 100
	r := start(t, newEngine, setup{}, func(*pump.Flow, pump.Attempt) pump.Step { return parkStep(time.Minute) })
	for i := range clients {
		c := r.dial()
		if i%2 == 0 {
			run(t, c, SendWithFIN("PING"))
		} else {
			run(t, c, Send("PING"))
		}
	}
	r.asked(clients)
	restsQuietly(t)
	if n := r.count(&r.attempts); n != clients {
		t.Errorf("Next was called %d times for %d parked clients", n, clients)
	}
}

// restsQuietly fails the test when this process, in which nothing has to be
// done, does something.
func restsQuietly(t *testing.T) {
	t.Helper()
	const watched = 500 * time.Millisecond
	settled := cpuTime(t)
	Await(t, "a quiet moment", func() bool {
		before := settled
		settled = cpuTime(t)
		return settled-before < time.Millisecond
	})
	time.Sleep(watched) //nolint:forbidigo // the time over which it is measured
	if used := cpuTime(t) - settled; used > watched/5 {
		t.Errorf("clients that wait used %v of CPU in %v", used, watched)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func parkInThePast(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{}, inTurn(func() pump.Step { return parkStep(-time.Second) }))
	r.refuses()
	if a := r.asked(2); a.Kind != pump.Expired {
		t.Errorf("Next was told %s", describe(a))
	}
	r.endedWith(1, pump.CauseEnded)
}

func parkedClientIsCut(t *testing.T, newEngine New) {
	r := parked(t, newEngine, "tcp4")
	client := r.dial()
	r.asked(1)
	r.flow(1).Cut(errGiveUp)
	run(t, client, ExpectEnd(RESET))
	if e := r.endedWith(1, pump.CauseCut); !errors.Is(e.Err, errGiveUp) {
		t.Errorf("the result's error is %v", e.Err)
	}
}

func parkedThenEnded(t *testing.T, newEngine New) {
	r := parked(t, newEngine, "tcp4", fixed(endStep(errGiveUp)))
	client := r.dial()
	r.asked(1)
	run(t, client, SendWithFIN("PING"))
	r.flow(1).Wake()
	run(t, client, ExpectEnd(RESET))
	r.endedWith(1, pump.CauseEnded)
}
