package pumptest

import (
	"os"
	"testing"
	"time"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

var vanishing = map[string]func(*testing.T, New){
	"vanished_client_is_cut":         func(t *testing.T, n New) { vanishedClient(t, n, Send("lost")) },
	"vanished_client_after_a_fin":    func(t *testing.T, n New) { vanishedClient(t, n, Close()) },
	"vanished_stopped_reader_is_cut": vanishedStoppedReader,
	"vanished_says_the_kernel":       func(t *testing.T, n New) { vanishedSaysTheKernel(t, n) },
	"vanished_after_its_fin":         func(t *testing.T, n New) { vanishedSaysTheKernel(t, n, HalfClose()) },
	"vanished_endpoint_is_cut":       vanishedEndpoint,
	"cable_mended_in_time":           cableMendedInTime,
	"idle_peers_are_not_cut":         idlePeersAreNotCut,
}

const vanishAfter = 2 * time.Second

var shortVanish = Timing{VanishAfter: vanishAfter, SweepEvery: vanishAfter / 20}

// remote is a rig that listens on a host of its own, with its clients on
// another, while its endpoint is here.
type remote struct {
	*rig
	server      *Server
	here, there *Host
	cable       *Cable
}

func startRemote(t *testing.T, newEngine New, timing Timing) *remote {
	t.Helper()
	here, there := NewHost(t), NewHost(t)
	cable := Join(t, here, there)
	server := Listen(t, "tcp4")
	s := setup{timing: timing}
	here.Do(t, func() error {
		s.fd, s.addr = ListenFDOn(t, here.V4)
		return nil
	})
	return &remote{start(t, newEngine, s, always(to(server))), server, here, there, cable}
}

// talk connects a client on the other host and has it exchange a word.
func (r *remote) talk() (client, endpoint *Peer) {
	r.t.Helper()
	r.there.Do(r.t, func() error { client = r.dial(); return nil })
	run(r.t, client, Send("PING"))
	endpoint = accept(r.t, r.server)
	run(r.t, endpoint, Expect("PING"), Send("PONG"))
	run(r.t, client, Expect("PONG"))
	return client, endpoint
}

// isCut expects the end of a flow whose peer vanished at a moment.
func (r *remote) isCut(vanished time.Time) {
	r.t.Helper()
	r.endedWith(1, pump.CausePeerVanished)
	// The last sign of life was a little before the cable was cut.
	if took := time.Since(vanished); took < vanishAfter-500*time.Millisecond || took > vanishAfter+prompt {
		r.t.Errorf("it was cut after %v", took)
	}
}

func vanishedClient(t *testing.T, newEngine New, last Step) {
	r := startRemote(t, newEngine, shortVanish)
	_, endpoint := r.talk()
	r.cable.Cut(t)
	vanished := time.Now()
	run(t, endpoint, last)
	r.isCut(vanished)
	if last.String() != Close().String() {
		run(t, endpoint, ExpectEnd(RESET))
	}
}

// Silence about window probes is silence, too.
func vanishedStoppedReader(t *testing.T, newEngine New) {
	r := startRemote(t, newEngine, shortVanish)
	_, endpoint := r.talk()
	var sent int64
	run(t, endpoint, SendUntilStuck(1, &sent))
	r.cable.Cut(t)
	vanished := time.Now()
	run(t, endpoint, AwaitReset())
	r.isCut(vanished)
}

// The kernel gives up by itself, here after one retransmission: ETIMEDOUT is
// no reset, also where nobody reads any more (tcp(7), tcp_retries2).
func vanishedSaysTheKernel(t *testing.T, newEngine New, before ...Step) {
	r := startRemote(t, newEngine, Timing{})
	r.here.Do(t, func() error { return os.WriteFile("/proc/sys/net/ipv4/tcp_retries2", []byte("1"), 0) })
	client, endpoint := r.talk()
	run(t, client, before...)
	for range before {
		run(t, endpoint, AwaitFIN())
	}
	r.cable.Cut(t)
	run(t, endpoint, Send("lost"), AwaitReset())
	r.endedWith(1, pump.CausePeerVanished)
}

// The engine dials from the namespace of its process, so that is a host's.
func vanishedEndpoint(t *testing.T, newEngine New) {
	Child{OwnNet: true}.Run(t, func() {
		here, there := Self(t), NewHost(t)
		cable := Join(t, here, there)
		for _, at := range []string{there.V4.String() + ":0", "[" + there.V6.String() + "]:0"} {
			var server *Server
			there.Do(t, func() error { server = ListenAt(t, "tcp", at); return nil })
			server.Network = "tcp4" // what it listens on is in its address
			r := start(t, newEngine, setup{network: "unix", timing: shortVanish}, always(to(server)))
			client := r.dial()
			endpoint := accept(t, server)
			run(t, client, Send("PING"))
			run(t, endpoint, Expect("PING"), Send("PONG"))
			run(t, client, Expect("PONG"))
			cable.Cut(t)
			vanished := time.Now()
			run(t, client, Send("lost"), ExpectEnd(RESET))
			(&remote{rig: r}).isCut(vanished)
			cable.Restore(t)
		}
	})
}

func cableMendedInTime(t *testing.T, newEngine New) {
	r := startRemote(t, newEngine, Timing{VanishAfter: Patience, SweepEvery: 50 * time.Millisecond})
	client, endpoint := r.talk()
	var sent int64
	run(t, endpoint, SendUntilStuck(1, &sent))
	r.cable.Cut(t)
	run(t, client, Pause(2*time.Second))
	r.cable.Restore(t)
	run(t, endpoint, HalfClose())
	run(t, client, ExpectStream(1, sent), ExpectEnd(EOF), Close())
	run(t, endpoint, ExpectEnd(EOF))
	r.endedWith(1, pump.CauseEOF)
}

func idlePeersAreNotCut(t *testing.T, newEngine New) {
	const vanish = 300 * time.Millisecond
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{timing: Timing{VanishAfter: vanish, SweepEvery: vanish / 10}}, always(to(server)))
	client := r.dial()
	endpoint := accept(t, server)
	run(t, client, Send("PING"))
	run(t, endpoint, Expect("PING"), Pause(5*vanish), Send("PONG"))
	run(t, client, Expect("PONG"), Close())
	run(t, endpoint, ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
}
