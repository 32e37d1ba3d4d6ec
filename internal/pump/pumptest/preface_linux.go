package pumptest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

var prefacing = map[string]func(*testing.T, New){
	"preface_alone":                   func(t *testing.T, n New) { prefaceIsTaken(t, n, Send(hello), Send("PING"), HalfClose()) },
	"preface_with_the_request_behind": func(t *testing.T, n New) { prefaceIsTaken(t, n, Send(hello+"PING"), HalfClose()) },
	"preface_with_request_and_fin":    func(t *testing.T, n New) { prefaceIsTaken(t, n, SendWithFIN(hello+"PING")) },
	"preface_byte_by_byte":            func(t *testing.T, n New) { prefaceIsTaken(t, n, SendBytewise(hello+"PING"), HalfClose()) },
	"preface_in_two_pieces": func(t *testing.T, n New) {
		prefaceIsTaken(t, n, Send(hello[:3]), Pause(50*time.Millisecond), Send(hello[3:]+"PING"), HalfClose())
	},
	"preface_of_the_allowed_length":        prefaceOfAllowedLength,
	"preface_of_the_most_bytes_one_by_one": prefaceOfMaxBytes,
	"preface_is_only_what_the_parser_says": prefaceKeepsTheRest,
	"preface_that_is_none":                 func(t *testing.T, n New) { prefaceFails(t, n, errNoHello, Send("HELP\n")) },
	"preface_that_is_none_and_fin":         func(t *testing.T, n New) { prefaceFails(t, n, errNoHello, SendWithFIN("HELP\n")) },
	"preface_too_long": func(t *testing.T, n New) {
		prefaceFails(t, n, pump.ErrLongPreface, Send("HELLO "+strings.Repeat("x", 100)))
	},
	"preface_too_slow":         prefaceTooSlow,
	"preface_that_never_comes": func(t *testing.T, n New) { prefaceFails(t, n, os.ErrDeadlineExceeded) },
	"preface_ends_with_fin":    func(t *testing.T, n New) { prefaceFails(t, n, pump.ErrNoPreface, SendWithFIN("HELLO wor")) },
	"preface_ends_with_fin_later": func(t *testing.T, n New) {
		prefaceFails(t, n, pump.ErrNoPreface, Send("HELLO wor"), Pause(50*time.Millisecond), HalfClose())
	},
	"preface_ends_with_fin_alone":              func(t *testing.T, n New) { prefaceFails(t, n, pump.ErrNoPreface, HalfClose()) },
	"preface_with_out_of_band_data":            prefaceWithOutOfBandData,
	"preface_client_resets":                    prefaceClientResets,
	"preface_is_cut":                           prefaceIsCut,
	"preface_is_cut_in_an_orderly_way":         prefaceIsCutGently,
	"preface_is_cut_by_close":                  prefaceCutByClose,
	"preface_is_not_movable":                   prefaceIsNotMovable,
	"preface_then_parked":                      prefaceThenParked,
	"preface_keeps_a_wake":                     prefaceKeepsAWake,
	"preface_then_early_close":                 prefaceThenEarlyClose,
	"preface_then_open":                        prefaceThenOpen,
	"preface_then_the_server_speaks":           prefaceThenServerSpeaks,
	"preface_after_suspend":                    prefaceAfterSuspend,
	"prefaces_that_do_not_come_cost_no_cpu":    prefacesCostNoCPU,
	"prefaces_of_many_do_not_wait_for_another": prefacesDoNotWait,
}

const (
	hello      = "HELLO world\n"
	longestHi  = 32
	prefaceFor = 300 * time.Millisecond // what a client has that sends none
)

var errNoHello = errors.New("that is no HELLO")

// greeting reads a line that begins with HELLO, and remembers the names.
type greeting struct {
	mu    sync.Mutex
	names []string
}

func (g *greeting) parse(_ *pump.Flow, b []byte) (int, error) {
	const word = "HELLO "
	if n := min(len(b), len(word)); string(b[:n]) != word[:n] {
		return 0, errNoHello
	}
	n := bytes.IndexByte(b, '\n') + 1
	if n > 0 {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.names = append(g.names, string(b[len(word):n-1]))
	}
	return n, nil
}

func (g *greeting) step(timeout time.Duration) func() pump.Step {
	return fixed(pump.Step{Preface: &pump.Preface{Timeout: timeout, Max: longestHi, Parse: g.parse}})
}

// prefaced is a rig whose clients begin with a HELLO.
func prefaced(t *testing.T, newEngine New, network string, timeout time.Duration, then ...func() pump.Step) *rig {
	t.Helper()
	return start(t, newEngine, setup{network: network}, inTurn(append([]func() pump.Step{new(greeting).step(timeout)}, then...)...))
}

func prefaceIsTaken(t *testing.T, newEngine New, sends ...Step) {
	for _, network := range []string{"tcp4", "unix"} {
		for _, retry := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s retry %v", network, retry), func(t *testing.T) {
				server := Listen(t, network)
				r := prefaced(t, newEngine, network, Patience, fixed(pump.Step{Dial: []pump.Leg{to(server)}, Retry: retry}))
				client := r.dial()
				run(t, client, sends...)
				run(t, accept(t, server), Expect("PING"), ExpectEnd(EOF), Send("PONG"), Close())
				run(t, client, Expect("PONG"), ExpectEnd(EOF), Close())
				if got := r.endedWith(1, pump.CauseEOF).Counters; got != (pump.Counters{In: 4, Out: 4}) {
					t.Errorf("the counters are %+v: the preface is no payload", got)
				}
				if a := r.asked(2); a.Kind != pump.Prefaced || a.Err != nil {
					t.Errorf("Next was told %s", describe(a))
				}
			})
		}
	}
}

func prefaceOfAllowedLength(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := prefaced(t, newEngine, "tcp4", Patience, fixed(dialStep(to(server))))
	client := r.dial()
	run(t, client, Send("HELLO "+strings.Repeat("x", longestHi-len("HELLO \n"))+"\nPING"))
	run(t, accept(t, server), Expect("PING"), Close())
	run(t, client, ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
}

// More than any buffer holds follows at once.
func prefaceKeepsTheRest(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := prefaced(t, newEngine, "tcp4", Patience, fixed(dialStep(to(server))))
	signals := new(Signals)
	client := r.peer("client", signals)
	run(t, client, Send(hello))
	endpoint := NewPeer("endpoint", server.Accept(t), signals)
	Play(t,
		Part{Peer: client, Steps: steps{SendStream(1, bulk), Close()}},
		Part{Peer: endpoint, Steps: steps{ExpectStream(1, bulk), ExpectEnd(EOF), Close()}})
	if got := r.endedWith(1, pump.CauseEOF).Counters; got != (pump.Counters{In: bulk}) {
		t.Errorf("the counters are %+v", got)
	}
}

func prefaceFails(t *testing.T, newEngine New, want error, sends ...Step) {
	for _, network := range []string{"tcp4", "unix"} {
		for _, end := range []error{errGiveUp, io.EOF} {
			t.Run(fmt.Sprintf("%s then %v", network, end), func(t *testing.T) {
				timeout := Patience
				if errors.Is(want, os.ErrDeadlineExceeded) {
					timeout = prefaceFor
				}
				r := prefaced(t, newEngine, network, timeout, fixed(endStep(end)))
				client := r.dial()
				r.asked(1)
				run(t, client, sends...)
				if a := r.asked(2); a.Kind != pump.BadPreface || !errors.Is(a.Err, want) {
					t.Errorf("Next was told %s", describe(a))
				}
				bye := RESET
				if errors.Is(end, io.EOF) || network == "unix" {
					bye = EOF
				}
				if network == "unix" {
					run(t, client, ReadToEnd(), Close()) // a close with input unread says so
				} else {
					run(t, client, ExpectEnd(bye), Close())
				}
				if e := r.endedWith(1, pump.CauseEnded); !errors.Is(e.Err, end) || e.Counters != (pump.Counters{}) {
					t.Errorf("it ended with %v, %+v", e.Err, e.Counters)
				}
			})
		}
	}
}

// The time is that of the whole preface: a byte does not win more.
func prefaceTooSlow(t *testing.T, newEngine New) {
	const pieces, pause = 20, prefaceFor / 4
	r := prefaced(t, newEngine, "tcp4", prefaceFor, fixed(endStep(errGiveUp)))
	client := r.dial()
	r.asked(1)
	began := time.Now()
	run(t, client, Send("HELLO "))
	for range pieces {
		if client.Run(Send("x"), Pause(pause)) != nil {
			break
		}
	}
	if a := r.asked(2); a.Kind != pump.BadPreface || !errors.Is(a.Err, os.ErrDeadlineExceeded) {
		t.Errorf("Next was told %s", describe(a))
	}
	r.endedWith(1, pump.CauseEnded)
	if took := r.results[0].Duration; took < prefaceFor || took > pieces*pause {
		t.Errorf("the client had %v, in %v", took, time.Since(began))
	}
}

// What is behind the mark is hidden from whoever only looks.
func prefaceWithOutOfBandData(t *testing.T, newEngine New) {
	r := prefaced(t, newEngine, "tcp4", Patience, fixed(endStep(errGiveUp)))
	client := r.dial()
	r.asked(1)
	run(t, client, Send("HELLO "), Call("send out of band", func() error {
		raw, err := client.Conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			return err
		}
		var serr error
		err = raw.Control(func(fd uintptr) { serr = unix.Send(int(fd), []byte("!"), unix.MSG_OOB) })
		return errors.Join(err, serr)
	}))
	if a := r.asked(2); a.Kind != pump.BadPreface || a.Err == nil {
		t.Errorf("Next was told %s", describe(a))
	}
	if d := r.endedWith(1, pump.CauseEnded).Duration; d > prompt {
		t.Errorf("it took %v", d)
	}
}

// The longest, in as many pieces as it has bytes.
func prefaceOfMaxBytes(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	whole := func(_ *pump.Flow, b []byte) (int, error) { return len(b) / pump.MaxPreface * pump.MaxPreface, nil }
	r := start(t, newEngine, setup{}, inTurn(fixed(pump.Step{Preface: &pump.Preface{Parse: whole}}), fixed(dialStep(to(server)))))
	client := r.dial()
	run(t, client, SendBytewise(strings.Repeat("x", pump.MaxPreface)+"PING"))
	run(t, accept(t, server), Expect("PING"), Close())
	run(t, client, ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
}

func prefaceClientResets(t *testing.T, newEngine New) {
	for _, sends := range []steps{{}, {Send("HELLO w")}} {
		r := prefaced(t, newEngine, "tcp4", Patience)
		client := r.dial()
		r.asked(1)
		run(t, client, append(sends, Pause(20*time.Millisecond), Reset())...)
		if e := r.endedWith(1, pump.CauseAbandoned); e.Err == nil {
			t.Error("the result has no error")
		}
		if n := r.count(&r.attempts); n != 1 {
			t.Errorf("Next was called %d times", n)
		}
	}
}

func prefaceIsCut(t *testing.T, newEngine New) {
	r := prefaced(t, newEngine, "tcp4", Patience)
	client := r.dial()
	run(t, client, Send("HELLO"))
	r.asked(1)
	r.flow(1).Cut(errGiveUp)
	run(t, client, ExpectEnd(RESET))
	if e := r.endedWith(1, pump.CauseCut); !errors.Is(e.Err, errGiveUp) {
		t.Errorf("the result's error is %v", e.Err)
	}
}

func prefaceIsCutGently(t *testing.T, newEngine New) {
	r := prefaced(t, newEngine, "tcp4", Patience)
	client := r.dial()
	run(t, client, Send("HELLO"))
	r.asked(1)
	r.flow(1).Cut(io.EOF)
	run(t, client, ExpectEnd(EOF), Send(" world"), Close())
	if e := r.endedWith(1, pump.CauseCut); !errors.Is(e.Err, io.EOF) {
		t.Errorf("the result's error is %v", e.Err)
	}
}

func prefaceCutByClose(t *testing.T, newEngine New) {
	r := prefaced(t, newEngine, "tcp4", 0)
	client := r.dial()
	r.asked(1)
	if err := r.engine.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	run(t, client, ExpectEnd(RESET))
	r.endedWith(1, pump.CauseCut)
}

func prefaceIsNotMovable(t *testing.T, newEngine New) {
	r := prefaced(t, newEngine, "tcp4", Patience)
	client := r.dial()
	r.asked(1)
	if _, err := r.flow(1).Freeze(); !errors.Is(err, pump.ErrNotMovable) {
		t.Errorf("freeze: %v", err)
	}
	r.flow(1).Cut(errGiveUp) // for an engine that moves none
	run(t, client, ExpectEnd(RESET))
	r.endedWith(1, pump.CauseCut)
}

func prefaceThenParked(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := prefaced(t, newEngine, "tcp4", Patience, func() pump.Step { return parkStep(Patience) }, fixed(retrying(to(server))))
	client := r.dial()
	run(t, client, Send(hello+"PI"))
	r.asked(2)
	run(t, client, SendWithFIN("NG"))
	r.flow(1).Wake()
	run(t, accept(t, server), Expect("PING"), ExpectEnd(EOF), Close())
	run(t, client, ExpectEnd(EOF))
	r.endedWith(1, pump.CauseEOF)
}

// The endpoint may come up meanwhile: whoever parks then hears of it.
func prefaceKeepsAWake(t *testing.T, newEngine New) {
	server := to(Serve(t, "tcp4", Say("served")))
	r := prefaced(t, newEngine, "tcp4", Patience, func() pump.Step { return parkStep(Patience) }, fixed(dialStep(server)))
	client := r.dial()
	r.asked(1)
	r.flow(1).Wake()
	run(t, client, Send(hello))
	if a := r.asked(3); a.Kind != pump.Woken {
		t.Errorf("Next was told %s", describe(a))
	}
	greets(t, client, "served")
	r.endedWith(1, pump.CauseEOF)
}

// Nothing followed the preface, so that an endpoint's close may be made good.
func prefaceThenEarlyClose(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "unix"} {
		first, second := Listen(t, "tcp4"), Listen(t, "tcp4")
		r := prefaced(t, newEngine, network, Patience, fixed(retrying(to(first))), fixed(retrying(to(second))))
		client := r.dial()
		run(t, client, Send(hello))
		r.isConnected(1)
		run(t, accept(t, first), Close())
		if a := r.asked(3); a.Kind != pump.ClosedEarly {
			t.Errorf("%s: Next was told %s", network, describe(a))
		}
		endpoint := accept(t, second)
		run(t, client, Send("PING"), HalfClose())
		run(t, endpoint, Expect("PING"), ExpectEnd(EOF), Close())
		run(t, client, ExpectEnd(EOF), Close())
		r.endedWith(1, pump.CauseEOF)
	}
}

func prefaceThenOpen(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	r := prefaced(t, newEngine, "tcp4", Patience, fixed(dialStep(opening(server))))
	client := r.dial()
	run(t, client, SendWithFIN(hello+"PING"))
	run(t, accept(t, server), Expect("PING"), ExpectEnd(EOF), Close())
	run(t, client, ExpectEnd(EOF))
	r.endedWith(1, pump.CauseEOF)
}

func prefaceThenServerSpeaks(t *testing.T, newEngine New) {
	r := prefaced(t, newEngine, "tcp4", Patience, fixed(retrying(to(Serve(t, "tcp4", Say("served"))))))
	client := r.dial()
	run(t, client, Send(hello))
	greets(t, client, "served")
	r.endedWith(1, pump.CauseEOF)
}

// Who stops accepting must know all flows, also those that say nothing yet.
func prefaceAfterSuspend(t *testing.T, newEngine New) {
	r := prefaced(t, newEngine, "tcp4", Patience, fixed(dialStep(to(Serve(t, "tcp4", Say("served"))))))
	client := r.dial()
	if err := r.acceptor.Suspend(); err != nil {
		t.Fatal(err)
	}
	if n := r.count(&r.attempts); n != 1 {
		t.Errorf("Next was called %d times when nobody is accepted any more", n)
	}
	run(t, client, Send(hello))
	greets(t, client, "served")
	r.endedWith(1, pump.CauseEOF)
}

func prefacesCostNoCPU(t *testing.T, newEngine New) {
	const clients = 50
	g := new(greeting)
	r := start(t, newEngine, setup{}, func(*pump.Flow, pump.Attempt) pump.Step { return g.step(time.Minute)() })
	for range clients {
		run(t, r.dial(), Send("HELLO w"))
	}
	r.asked(clients)
	restsQuietly(t)
}

func prefacesDoNotWait(t *testing.T, newEngine New) {
	server := to(Serve(t, "tcp4", Say("served")))
	g := new(greeting)
	r := start(t, newEngine, setup{}, func(_ *pump.Flow, last pump.Attempt) pump.Step {
		if last.Kind == pump.Prefaced {
			return dialStep(server)
		}
		return g.step(0)()
	})
	silent := r.dial()
	r.asked(1)
	for i := range 20 {
		client := r.dial()
		run(t, client, Send(fmt.Sprintf("HELLO %d\n", i)))
		greets(t, client, "served")
	}
	run(t, silent, Send(hello))
	greets(t, silent, "served")
	r.ended(21)
	if len(g.names) != 21 || g.names[0] != "0" || g.names[20] != "world" {
		t.Errorf("the names were %q", g.names)
	}
}
