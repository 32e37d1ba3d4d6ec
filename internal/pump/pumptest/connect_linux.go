package pumptest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

var loopback = netip.MustParseAddr("127.0.0.1")

var connecting = map[string]func(*testing.T, New){
	"refused_then_next":               refusedThenNext,
	"every_leg_refused":               everyLegRefused,
	"black_hole_costs_its_timeout":    blackHoleCostsItsTimeout,
	"black_hole_delays_nobody_else":   blackHoleDelaysNobodyElse,
	"stagger_starts_the_next":         staggerStartsTheNext,
	"stagger_is_cut_short_by_refusal": staggerIsCutShortByRefusal,
	"stagger_closes_the_losers":       staggerClosesTheLosers,
	"stagger_names_who_was_overtaken": staggerNamesTheOvertaken,
	"deadline_bounds_all_legs":        deadlineBoundsAllLegs,
	"unix_leg_fails_at_once":          unixLegFailsAtOnce,
	"dial_probes":                     dialProbes,
	"dial_asks_by_datagrams":          dialDatagrams,
	"prefix_comes_first":              prefixComesFirst,
	"settle_delays_client_bytes":      settleDelaysClientBytes,
	"own_socket_is_connected":         ownSocketIsConnected,
	"open_makes_the_connection":       openMakesTheConnection,
	"open_may_retry":                  openMayRetry,
	"open_fails":                      openFails,
	"arrivals_are_in_order_of_accept": arrivalsAreInOrder,
	"flow_knows_its_addresses":        flowKnowsItsAddresses,
}

// refusing is a leg to an address where nobody listens.
func refusing(t *testing.T) pump.Leg {
	return pump.Leg{Network: pump.TCP, Addr: RefusingAddr(t, loopback), Timeout: Patience}
}

// swallowing is a leg to an address that never answers.
func swallowing(t *testing.T, timeout time.Duration) pump.Leg {
	return pump.Leg{Network: pump.TCP, Addr: BlackHole(t, loopback), Timeout: timeout}
}

// greets checks that the client reaches a server made by Say.
func greets(t *testing.T, client *Peer, line string) {
	t.Helper()
	run(t, client, Expect(line+"\n"), HalfClose(), ExpectEnd(EOF), Close())
}

func refusedThenNext(t *testing.T, newEngine New) {
	legs := []pump.Leg{refusing(t), to(Serve(t, "tcp4", Say("second"))), refusing(t)}
	r := start(t, newEngine, setup{}, inTurn(fixed(dialStep(legs...))))
	greets(t, r.dial(), "second")
	if leg := r.isConnected(1); leg != 1 {
		t.Errorf("leg %d won", leg)
	}
	r.endedWith(1, pump.CauseEOF)
	if n := r.count(&r.attempts); n != 1 {
		t.Errorf("Next was called %d times", n)
	}
}

func everyLegRefused(t *testing.T, newEngine New) {
	legs := []pump.Leg{refusing(t), refusing(t)}
	r := start(t, newEngine, setup{}, inTurn(fixed(dialStep(legs...))))
	r.refuses()
	if a := r.asked(2); a.Kind != pump.DialFailed {
		t.Errorf("Next was told %s", describe(a))
	}
	if e := r.endedWith(1, pump.CauseEnded); !errors.Is(e.Err, errGiveUp) {
		t.Errorf("the result's error is %v", e.Err)
	}
	for i, leg := range legs {
		if !errors.Is(leg.Err, syscall.ECONNREFUSED) {
			t.Errorf("leg %d has %v", i, leg.Err)
		}
	}
}

func blackHoleCostsItsTimeout(t *testing.T, newEngine New) {
	const timeout = 150 * time.Millisecond
	var asked time.Time
	legs := []pump.Leg{swallowing(t, timeout)}
	r := start(t, newEngine, setup{}, inTurn(
		func() pump.Step { asked = time.Now(); return dialStep(legs...) },
		fixed(dialStep(to(Serve(t, "tcp4", Say("other")))))))
	greets(t, r.dial(), "other")
	greeted := time.Now()
	r.endedWith(1, pump.CauseEOF)
	if took := greeted.Sub(asked); took < timeout || took > timeout+prompt {
		t.Errorf("the attempt took %v", took)
	}
	if reason := pump.Reason(legs[0].Err); reason != "timeout" {
		t.Errorf("the leg has %v, that is %q", legs[0].Err, reason)
	}
}

// A dial must not happen where clients are accepted.
func blackHoleDelaysNobodyElse(t *testing.T, newEngine New) {
	hole, server := swallowing(t, Patience), to(Serve(t, "tcp4", Say("served")))
	var flows sync.Map
	first := true
	var mu sync.Mutex
	r := start(t, newEngine, setup{}, func(f *pump.Flow, last pump.Attempt) pump.Step {
		mu.Lock()
		defer mu.Unlock()
		if first {
			first = false
			flows.Store("stuck", f)
			return dialStep(hole)
		}
		if last.Kind != pump.Accepted {
			return endStep(errGiveUp)
		}
		return dialStep(server)
	})
	stuck := r.dial()
	r.asked(1)
	began := time.Now()
	greets(t, r.dial(), "served")
	if took := time.Since(began); took > prompt {
		t.Errorf("the second client waited %v for the first one's attempt", took)
	}
	f, _ := flows.Load("stuck")
	f.(*pump.Flow).Cut(errGiveUp)
	run(t, stuck, ExpectEnd(RESET))
	r.ended(2)
}

func staggerStartsTheNext(t *testing.T, newEngine New) {
	legs := []pump.Leg{swallowing(t, Patience), to(Serve(t, "tcp4", Say("second"))), refusing(t)}
	r := start(t, newEngine, setup{}, inTurn(fixed(pump.Step{Dial: legs, Stagger: 50 * time.Millisecond})))
	began := time.Now()
	client := r.dial()
	run(t, client, Expect("second\n"))
	if took := time.Since(began); took < 50*time.Millisecond || took > prompt {
		t.Errorf("the second leg answered after %v", took)
	}
	if leg := r.isConnected(1); leg != 1 {
		t.Errorf("leg %d won", leg)
	}
	run(t, client, HalfClose(), ExpectEnd(EOF))
	r.endedWith(1, pump.CauseEOF)
}

func staggerIsCutShortByRefusal(t *testing.T, newEngine New) {
	legs := []pump.Leg{refusing(t), to(Serve(t, "tcp4", Say("second")))}
	r := start(t, newEngine, setup{}, inTurn(fixed(pump.Step{Dial: legs, Stagger: Patience})))
	greets(t, r.dial(), "second")
	r.endedWith(1, pump.CauseEOF)
}

// The first leg connects only after the second has won, as a connect does that
// is already answered when it is called off.
func staggerClosesTheLosers(t *testing.T, newEngine New) {
	loser, winner := Listen(t, "tcp4"), Listen(t, "tcp4")
	late := pump.Leg{Network: pump.TCP, Timeout: Patience, Open: func(ctx context.Context) (net.Conn, error) {
		<-ctx.Done()
		return DialErr(loser.String())
	}}
	legs := []pump.Leg{late, to(winner)}
	r := start(t, newEngine, setup{}, inTurn(fixed(pump.Step{Dial: legs, Stagger: 10 * time.Millisecond})))
	client := r.dial()
	lost := accept(t, loser)
	if end := endOf(t, lost); end != EOF && end != RESET {
		t.Errorf("the loser saw %s", end)
	}
	won := accept(t, winner)
	run(t, won, Send("PONG"), Close())
	run(t, client, Expect("PONG"), ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
}

// Who dials learns which legs had a turn and were not seen to fail.
func staggerNamesTheOvertaken(t *testing.T, newEngine New) {
	legs := []pump.Leg{refusing(t), swallowing(t, Patience), to(Serve(t, "tcp4", Say("third"))), refusing(t)}
	r := start(t, newEngine, setup{}, inTurn(fixed(pump.Step{Dial: legs, Stagger: 50 * time.Millisecond})))
	greets(t, r.dial(), "third")
	r.endedWith(1, pump.CauseEOF)
	if err := legs[1].Err; !errors.Is(err, pump.ErrOvertaken) || !errors.Is(err, pump.ErrNotTried) {
		t.Errorf("the one that was overtaken has %v", err)
	}
	if err := legs[0].Err; !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the one that failed before has %v", err)
	}
	if legs[2].Err != nil || legs[3].Err != pump.ErrNotTried { //nolint:errorlint // ErrOvertaken is one, too
		t.Errorf("the winner has %v, the one without a turn %v", legs[2].Err, legs[3].Err)
	}
}

// Each leg has more time than the step.
func deadlineBoundsAllLegs(t *testing.T, newEngine New) {
	const stagger, limit = 100 * time.Millisecond, 250 * time.Millisecond
	for _, wait := range []time.Duration{0, stagger} {
		var asked time.Time
		legs := []pump.Leg{swallowing(t, Patience), swallowing(t, Patience), swallowing(t, Patience), swallowing(t, Patience)}
		r := start(t, newEngine, setup{}, inTurn(func() pump.Step {
			asked = time.Now()
			return pump.Step{Dial: legs, Stagger: wait, Deadline: asked.Add(limit)}
		}, fixed(endStep(io.EOF))))
		client := r.dial()
		if a := r.asked(2); a.Kind != pump.DialFailed {
			t.Errorf("Next was told %s", describe(a))
		}
		if took := time.Since(asked); took < limit || took > limit+prompt {
			t.Errorf("stagger %v: the step took %v", wait, took)
		}
		if pump.Reason(legs[0].Err) != "timeout" || !errors.Is(legs[3].Err, pump.ErrNotTried) {
			t.Errorf("stagger %v: the first leg has %v, the last %v", wait, legs[0].Err, legs[3].Err)
		}
		run(t, client, ExpectEnd(EOF), Close())
		r.endedWith(1, pump.CauseEnded)
	}
}

// endOf reads to the end, which must come without a byte before it.
func endOf(t *testing.T, p *Peer) string {
	t.Helper()
	run(t, p, ReadToEnd())
	saw := p.Saw()
	if len(saw) != 1 {
		t.Fatalf("the peer saw %v", saw)
	}
	return strings.TrimPrefix(saw[0], "end ")
}

func unixLegFailsAtOnce(t *testing.T, newEngine New) {
	legs := []pump.Leg{
		{Network: pump.Unix, Path: SocketPath(t), Timeout: Patience},
		{Network: pump.Unix, Path: fullUnixQueue(t), Timeout: time.Second},
		{Network: pump.Unix, Path: deserted(t), Timeout: Patience},
	}
	r := start(t, newEngine, setup{}, inTurn(fixed(dialStep(legs...))))
	r.refuses()
	r.endedWith(1, pump.CauseEnded)
	if !errors.Is(legs[0].Err, syscall.ENOENT) || legs[1].Err == nil || !errors.Is(legs[2].Err, syscall.ECONNREFUSED) {
		t.Errorf("the legs have %v, %v and %v", legs[0].Err, legs[1].Err, legs[2].Err)
	}
}

// deserted is a socket file that nobody serves any more.
func deserted(t *testing.T) string {
	fd, addr := ListenFD(t, "unix")
	unix.Close(fd)
	return strings.TrimPrefix(addr, "unix:")
}

// fullUnixQueue is a unix socket on which connect does not succeed: its queue
// of 0 holds one.
func fullUnixQueue(t *testing.T) string {
	fd, addr := ListenFD(t, "unix")
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	Dial(t, addr)
	return strings.TrimPrefix(addr, "unix:")
}

func prefixComesFirst(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "unix"} {
		server := Listen(t, network)
		leg := to(server)
		leg.Prefix = []byte("PROXY ")
		r := start(t, newEngine, setup{}, always(leg))
		client := r.dial()
		run(t, client, Send("PING"))
		endpoint := accept(t, server)
		run(t, endpoint, Expect("PROXY PING"), Send("PONG"), Close())
		run(t, client, Expect("PONG"), ExpectEnd(EOF), Close())
		if got := r.endedWith(1, pump.CauseEOF).Counters; got != (pump.Counters{In: 4, Out: 4}) {
			t.Errorf("the counters are %+v: the prefix is no payload", got)
		}
	}
}

// The server may speak at once, and the prefix does not wait either.
func settleDelaysClientBytes(t *testing.T, newEngine New) {
	const settle = 500 * time.Millisecond
	server := Listen(t, "tcp4")
	leg := to(server)
	leg.Prefix = []byte("PROXY ")
	r := start(t, newEngine, setup{}, inTurn(fixed(pump.Step{Dial: []pump.Leg{leg}, Settle: settle})))
	client := r.dial()
	run(t, client, Send("PING"))
	endpoint := accept(t, server)
	connected := time.Now()
	run(t, endpoint, Expect("PROXY "), Send("220"))
	run(t, client, Expect("220"))
	if took := time.Since(connected); took >= settle {
		t.Errorf("the greeting came after %v", took)
	}
	run(t, endpoint, Expect("PING"))
	// The connect was a moment before the accept here.
	if took := time.Since(connected); took < settle-50*time.Millisecond {
		t.Errorf("client bytes came after %v", took)
	}
	run(t, client, Send("PING"))
	run(t, endpoint, Expect("PING"), Close())
	run(t, client, ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
}

// opaque is a connection that is no socket, like one with TLS.
type opaque struct{ net.Conn }

func (o opaque) CloseWrite() error { return o.Conn.(*net.TCPConn).CloseWrite() }

// opening is a leg whose connection somebody else makes.
func opening(s *Server) pump.Leg {
	return pump.Leg{Timeout: Patience, Open: func(context.Context) (net.Conn, error) {
		c, err := DialErr(s.String())
		return opaque{c}, err
	}}
}

func openMakesTheConnection(t *testing.T, newEngine New) {
	server := Listen(t, "tcp4")
	leg := opening(server)
	leg.Prefix = []byte("PROXY ")
	r := start(t, newEngine, setup{}, always(leg))
	signals := new(Signals)
	client := r.peer("client", signals)
	endpoint := NewPeer("endpoint", server.Accept(t), signals)
	Play(t,
		Part{Peer: client, Steps: steps{SendStream(1, bulk), HalfClose(), ExpectStream(2, bulk), ExpectEnd(EOF)}},
		Part{Peer: endpoint, Steps: steps{Expect("PROXY "), ExpectStream(1, bulk), ExpectEnd(EOF), SendStream(2, bulk), Close()}})
	if got := r.endedWith(1, pump.CauseEOF).Counters; got != (pump.Counters{In: bulk, Out: bulk}) {
		t.Errorf("the counters are %+v", got)
	}
}

func openMayRetry(t *testing.T, newEngine New) {
	first, second := Listen(t, "tcp4"), Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, inTurn(
		fixed(pump.Step{Dial: []pump.Leg{opening(first)}, Retry: true}),
		fixed(dialStep(opening(second)))))
	client := r.dial()
	run(t, accept(t, first), Close())
	if a := r.asked(2); a.Kind != pump.ClosedEarly {
		t.Errorf("Next was told %s", describe(a))
	}
	run(t, client, Send("PING"))
	run(t, accept(t, second), Expect("PING"), Send("PONG"), Close())
	run(t, client, Expect("PONG"), ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
}

func openFails(t *testing.T, newEngine New) {
	broken := errors.New("no certificate")
	legs := []pump.Leg{
		{Timeout: Patience, Open: func(context.Context) (net.Conn, error) { return nil, broken }},
		{Timeout: 50 * time.Millisecond, Open: func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}},
	}
	r := start(t, newEngine, setup{}, inTurn(fixed(dialStep(legs...)), fixed(endStep(io.EOF))))
	run(t, r.dial(), ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEnded)
	if !errors.Is(legs[0].Err, broken) || pump.Reason(legs[1].Err) != "timeout" {
		t.Errorf("the legs have %v and %v", legs[0].Err, legs[1].Err)
	}
}

func flowKnowsItsAddresses(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		local := make(chan netip.AddrPort, 1)
		leg := to(Serve(t, "tcp4", Say("hello")))
		r := start(t, newEngine, setup{network: network}, func(f *pump.Flow, _ pump.Attempt) pump.Step {
			local <- f.Local()
			return dialStep(leg)
		})
		client := r.dial()
		if got, want := r.flow(1).Client, plain(client.Conn.LocalAddr()); got != want {
			t.Errorf("%s: the flow's client is %v, not %v", network, got, want)
		}
		if got, want := <-local, plain(client.Conn.RemoteAddr()); got != want {
			t.Errorf("%s: the client connected to %v, not %v", network, got, want)
		}
		if a := r.asked(1); a != (pump.Attempt{}) {
			t.Errorf("%s: the first attempt is %s", network, describe(a))
		}
		greets(t, client, "hello")
		r.endedWith(1, pump.CauseEOF)
	}
}

// plain is zero for a unix socket's address.
func plain(a net.Addr) netip.AddrPort {
	if a, ok := a.(*net.TCPAddr); ok {
		return netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	}
	return netip.AddrPort{}
}

// Enough of them that loops hand clients to each other.
func arrivalsAreInOrder(t *testing.T, newEngine New) {
	var mu sync.Mutex
	arrivals := map[netip.AddrPort]uint64{}
	leg := to(Serve(t, "tcp4", Say("hello")))
	r := start(t, newEngine, setup{}, func(f *pump.Flow, _ pump.Attempt) pump.Step {
		mu.Lock()
		defer mu.Unlock()
		arrivals[f.Client] = f.Arrival
		return dialStep(leg)
	})
	var clients []*Peer
	for range 100 {
		clients = append(clients, r.dial())
	}
	for _, c := range clients {
		greets(t, c, "hello")
	}
	mu.Lock()
	defer mu.Unlock()
	last := uint64(0)
	for i, c := range clients {
		arrival := arrivals[plain(c.Conn.LocalAddr())]
		if arrival <= last {
			t.Errorf("client %d is arrival %d, after %d", i+1, arrival, last)
		}
		last = arrival
	}
}
