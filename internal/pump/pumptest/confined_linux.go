package pumptest

import (
	"bufio"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

// confined tests run in a process of their own.
var confined = map[string]func(*testing.T, New){
	"self_connect_is_refused":          selfConnect,
	"bulk_is_spliced":                  bulkIsSpliced,
	"bulk_at_rest_keeps_no_pipe":       bulkAtRest,
	"stuck_bulk_leaves_the_reserve":    stuckBulkLeavesTheReserve,
	"descriptors_are_kept_in_reserve":  descriptorsInReserve,
	"suspend_serves_who_was_accepted":  func(t *testing.T, n New) { stopInShortage(t, n, pump.Acceptor.Suspend) },
	"close_serves_who_was_accepted":    func(t *testing.T, n New) { stopInShortage(t, n, pump.Acceptor.Close) },
	"accepting_recovers_from_shortage": acceptingRecovers,
	"dialling_says_shortage":           diallingSaysShortage,
	"stopped_reader_outlives_the_end":  stoppedReaderOutlivesTheEnd,
}

// With one port to choose from, a connect to it meets itself (RFC 9293, 3.5,
// simultaneous open). An engine may also have found out by itself and tried
// again, for want of another port in vain.
func selfConnect(t *testing.T, newEngine New) {
	Child{OwnNet: true}.Run(t, func() {
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40000"), 0); err != nil {
			t.Fatal(err)
		}
		own := pump.Leg{Network: pump.TCP, Addr: netip.AddrPortFrom(loopback, 40000), Timeout: Patience}
		watched := own
		watched.Begin = func() {}
		legs := []pump.Leg{watched, own}
		r := start(t, newEngine, setup{network: "unix"}, inTurn(fixed(dialStep(legs...)), fixed(dialStep(to(Serve(t, "unix", Say("next")))))))
		greets(t, r.dial(), "next")
		r.endedWith(1, pump.CauseEOF)
		for i, err := range []error{legs[0].Err, legs[1].Err, dialAndClose(r, t.Context(), own)} {
			if !errors.Is(err, pump.ErrSelfConnect) && (i == 0 || !pump.IsShortage(err)) {
				t.Errorf("attempt %d has %v", i, err)
			}
		}
	})
}

// Every spliced byte goes through splice(2) twice, in and out of a pipe.
func bulkIsSpliced(t *testing.T, newEngine New) {
	const size = 64 * mib
	if _, err := exec.LookPath("strace"); err != nil {
		Skip(t, "needs strace")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	parent := Child{Through: []string{"strace", "-f", "--seccomp-bpf", "-e", "trace=splice", "-o", trace}}.Run(t, func() {
		server := Listen(t, "tcp4")
		r := start(t, newEngine, setup{}, always(to(server)))
		signals := new(Signals)
		client, endpoint := r.peer("client", signals), NewPeer("endpoint", server.Accept(t), signals)
		Play(t,
			Part{Peer: client, Steps: steps{SendStream(1, size), ExpectStream(2, size), Close()}},
			Part{Peer: endpoint, Steps: steps{ExpectStream(1, size), SendStream(2, size), ExpectEnd(EOF), Close()}})
		r.endedWith(1, pump.CauseEOF)
	})
	if !parent {
		return
	}
	if got := spliced(t, trace) / 2; got < 2*size*8/10 {
		t.Errorf("%d of %d MiB were spliced", got/mib, 2*size/mib)
	}
}

var spliceResult = regexp.MustCompile(`splice.* = (\d+)$`)

func spliced(t *testing.T, trace string) (sum int64) {
	t.Helper()
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if m := spliceResult.FindStringSubmatch(lines.Text()); m != nil {
			n, _ := strconv.ParseInt(m[1], 10, 64)
			sum += n
		}
	}
	return sum
}

// A connection that moved much once and rests now is as small as any other.
func bulkAtRest(t *testing.T, newEngine New) {
	const flows, kept = 20, 8
	Child{}.Run(t, func() {
		server := Listen(t, "tcp4")
		r := start(t, newEngine, setup{}, always(to(server)))
		before := pipes(t)
		var clients, endpoints []*Peer
		for range flows {
			clients = append(clients, r.dial())
			endpoints = append(endpoints, accept(t, server))
		}
		var moved [flows]int64
		together(t, flows, func(i int) error {
			return errors.Join(clients[i].Run(SendUntilStuck(1, &moved[i])), endpoints[i].Run(ExpectStream(1, moved[i])))
		})
		Await(t, "the counters of all that was moved", func() bool {
			for i := range flows {
				// Each was connected before the next came.
				if r.flow(i+1).Counters().In != uint64(moved[i]) {
					return false
				}
			}
			return true
		})
		Await(t, "the descriptors of pipes to be closed", func() bool { return pipes(t)-before <= kept })
	})
}

// pipes returns how many descriptors of pipes this process has.
func pipes(t *testing.T) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// Readers that stop in the middle of a stream must not cost others what
// engines leave to them.
func stuckBulkLeavesTheReserve(t *testing.T, newEngine New) {
	const flows, spare = 8, 4
	Child{Files: 256}.Run(t, func() {
		var taken hog
		defer func() { taken.free(len(taken)) }()
		server := Listen(t, "tcp4")
		fd, addr := ListenFD(t, "tcp4")
		var clients []*Peer
		for range flows {
			clients = append(clients, NewPeer("client", Dial(t, addr), new(Signals)))
		}
		taken.fill(t)
		const ofEngine = 2*flows + 2 + 8 // flows, its listener, and pipes that it may keep
		taken.free(reserve + ofEngine + spare)
		r := start(t, newEngine, setup{fd: fd, addr: addr}, always(to(server)))
		r.isConnected(flows)
		taken.free(flows) // for the endpoints
		for range flows {
			accept(t, server)
		}
		var sent [flows]int64
		together(t, flows, func(i int) error { return clients[i].Run(SendUntilStuck(uint64(i), &sent[i])) })
		free := taken.fill(t)
		taken.free(free)
		if free < reserve {
			t.Errorf("%d descriptors are left, not %d", free, reserve)
		}
		for _, c := range clients {
			run(t, c, Reset())
		}
		r.ended(flows)
	})
}

// reserve is what engines leave to the control socket, DNS and checks.
const reserve = 64

// hog takes the process's descriptors.
type hog []int

// fill takes every one that is left and returns how many that were.
func (h *hog) fill(t *testing.T) int {
	t.Helper()
	before := len(*h)
	for {
		fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
		if errors.Is(err, unix.EMFILE) {
			return len(*h) - before
		}
		if err != nil {
			t.Fatal(err)
		}
		*h = append(*h, fd)
	}
}

// free gives n back.
func (h *hog) free(n int) {
	for _, fd := range (*h)[len(*h)-n:] {
		unix.Close(fd)
	}
	*h = (*h)[:len(*h)-n]
}

// unaccepted is an endpoint that costs this process no descriptors: the kernel
// completes the connects.
func unaccepted(t *testing.T) pump.Leg { return to(Listen(t, "tcp4")) }

// More clients than descriptors: the engine stops in time, those that it has
// are served, and the others when there is room again.
func descriptorsInReserve(t *testing.T, newEngine New) {
	const clients, room = 40, 20
	Child{Files: 256}.Run(t, func() {
		var taken hog
		defer func() { taken.free(len(taken)) }()
		fd, addr := ListenFD(t, "tcp4")
		leg := unaccepted(t)
		var peers []*Peer
		for range clients {
			peers = append(peers, NewPeer("client", Dial(t, addr), new(Signals)))
		}
		taken.fill(t)
		taken.free(reserve + room)
		r := start(t, newEngine, setup{fd: fd, addr: addr}, always(leg))
		flows := quiet(t, func() int { return r.count(&r.attempts) })
		if flows < 3 || flows > room/2 {
			t.Errorf("%d flows were begun with %d descriptors", flows, room)
		}
		free := taken.fill(t)
		taken.free(free)
		if free < reserve {
			t.Errorf("%d descriptors are left, not %d", free, reserve)
		}
		for i := range clients {
			r.asked(min(flows+i, clients))
			run(t, peers[i], Reset())
		}
		r.ended(clients)
	})
}

// One client is accepted before it is known that there is nothing left for it.
// To be told to stop meanwhile must not cost it the connection.
func stopInShortage(t *testing.T, newEngine New, stop func(pump.Acceptor) error) {
	const clients, room = 20, 20
	Child{Files: 256}.Run(t, func() {
		var taken hog
		defer func() { taken.free(len(taken)) }()
		fd, addr := ListenFD(t, "tcp4")
		leg := unaccepted(t)
		var peers []*Peer
		for range clients {
			peers = append(peers, NewPeer("client", Dial(t, addr), new(Signals)))
		}
		taken.fill(t)
		taken.free(reserve + room)
		r := start(t, newEngine, setup{fd: fd, addr: addr}, always(leg))
		flows := quiet(t, func() int { return r.count(&r.attempts) })
		if err := stop(r.acceptor); err != nil {
			t.Errorf("stop: %v", err)
		}
		r.isConnected(flows + 1)
		for _, p := range peers[:flows+1] {
			run(t, p, Reset())
		}
		r.ended(flows + 1)
	})
}

// quiet waits until a number has not changed for 100 ms.
func quiet(t *testing.T, number func() int) int {
	t.Helper()
	last, since := number(), time.Now()
	Await(t, "a quiet moment", func() bool {
		if now := number(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 100*time.Millisecond
	})
	return last
}

// accept(2) itself fails with EMFILE, because the rest of the process took
// what was left.
func acceptingRecovers(t *testing.T, newEngine New) {
	Child{Files: 256}.Run(t, func() {
		var taken hog
		defer func() { taken.free(len(taken)) }()
		r, client, endpoint := talking(t, newEngine, "tcp4")
		taken.fill(t)
		taken.free(1)
		waiting := r.dial() // takes that one
		before := cpuTime(t)
		const watched = 500 * time.Millisecond
		run(t, client, Pause(watched))
		if used := cpuTime(t) - before; used > watched/5 {
			t.Errorf("waiting for descriptors used %v of CPU in %v", used, watched)
		}
		if n := r.count(&r.attempts); n != 1 {
			t.Errorf("Next was called %d times", n)
		}
		signals := new(Signals)
		Play(t,
			Part{Peer: NewPeer("client", client.Conn, signals), Steps: steps{SendStream(1, bulk), HalfClose(), ExpectEnd(EOF)}},
			Part{Peer: NewPeer("endpoint", endpoint.Conn, signals), Steps: steps{ExpectStream(1, bulk), ExpectEnd(EOF), Close()}})
		taken.free(len(taken))
		run(t, waiting, Send("PING"))
		r.isConnected(2)
		run(t, waiting, Reset())
		r.ended(2)
	})
}

func diallingSaysShortage(t *testing.T, newEngine New) {
	Child{Files: 256}.Run(t, func() {
		var taken hog
		defer func() { taken.free(len(taken)) }()
		legs := []pump.Leg{to(Serve(t, "tcp4", Echo))}
		r := start(t, newEngine, setup{}, inTurn(
			fixed(dialStep(legs...)),
			func() pump.Step { return parkStep(Patience) },
			fixed(dialStep(legs...))))
		taken.fill(t)
		taken.free(2) // for the client and for what is accepted
		client := r.dial()
		if a := r.asked(2); a.Kind != pump.DialFailed || !pump.IsShortage(legs[0].Err) {
			t.Errorf("Next was told %s, the leg has %v", describe(a), legs[0].Err)
		}
		taken.free(len(taken))
		r.flow(1).Wake()
		run(t, client, Send("PING"), Expect("PING"), Close())
		r.endedWith(1, pump.CauseEOF)
	})
}

// Both sides have said that they are done, but the client has not read all of
// it. A socket that is closed then is the kernel's, which gives up on a closed
// window when its pause between probes has reached the maximum: minutes, here
// a second (tcp_probe_timer in net/ipv4/tcp_timer.c).
func stoppedReaderOutlivesTheEnd(t *testing.T, newEngine New) {
	Child{OwnNet: true}.Run(t, func() {
		for name, value := range map[string]string{"tcp_rto_max_ms": "1000", "tcp_orphan_retries": "1"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
				Skip(t, "the kernel cannot be hurried: "+err.Error())
			}
		}
		server := Listen(t, "tcp4")
		r := start(t, newEngine, setup{}, always(to(server)))
		client := r.dial()
		endpoint := accept(t, server)
		const fits = 100 << 10 // in one socket's buffer, not in the client's
		run(t, client, Shrink(), HalfClose())
		run(t, endpoint, ExpectEnd(EOF), SendStream(1, fits), Close())
		run(t, client, Pause(6*time.Second), ExpectStream(1, fits), ExpectEnd(EOF), Close())
		r.endedWith(1, pump.CauseEOF)
	})
}
