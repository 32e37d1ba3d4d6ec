package pumptest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

var carrying = map[string]func(*testing.T, New){
	"four_gib_up":                       func(t *testing.T, n New) { fourGiB(t, n, true) },
	"four_gib_down":                     func(t *testing.T, n New) { fourGiB(t, n, false) },
	"both_ways_at_once":                 bothWaysAtOnce,
	"back_pressure_bounds_memory":       backPressureBoundsMemory,
	"stopped_reader_is_never_cut":       stoppedReaderIsNeverCut,
	"socket_options":                    socketOptions,
	"stuck_one_way_flows_the_other":     stuckOneWayFlowsTheOther,
	"small_messages_are_passed_at_once": smallMessagesAtOnce,
}

// fourGiB checks the whole stream's checksum. Counters of 32 bits and buffers
// that are mixed up show here.
func fourGiB(t *testing.T, newEngine New, up bool) {
	size := int64(4<<30 + 12345)
	if testing.Short() {
		size = 1<<30 + 12345
	}
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, always(to(server)))
	signals := new(Signals)
	client, endpoint := r.peer("client", signals), NewPeer("endpoint", server.Accept(t), signals)
	from, into := client, endpoint
	if !up {
		from, into = endpoint, client
	}
	began := time.Now()
	Play(t,
		Part{Peer: from, Steps: steps{SendStream(7, size), HalfClose(), ExpectEnd(EOF)}},
		Part{Peer: into, Steps: steps{ExpectStream(7, size), ExpectEnd(EOF), Close()}})
	t.Logf("%.0f MiB/s", float64(size)/mib/time.Since(began).Seconds())
	want := pump.Counters{In: uint64(size)}
	if !up {
		want = pump.Counters{Out: uint64(size)}
	}
	if got := r.endedWith(1, pump.CauseEOF).Counters; got != want {
		t.Errorf("the counters are %+v, not %+v", got, want)
	}
}

func bothWaysAtOnce(t *testing.T, newEngine New) {
	for _, p := range pairs {
		server := Listen(t, p.endpoint)
		r := start(t, newEngine, setup{network: p.client}, always(to(server)))
		c := Dial(t, r.addr)
		e := server.Accept(t)
		signals := new(Signals)
		script := func(out, in uint64) (send, receive steps) {
			return steps{SendStream(out, 4*bulk), HalfClose()}, steps{ExpectStream(in, 4*bulk), ExpectEnd(EOF)}
		}
		upSend, downReceive := script(1, 2)
		downSend, upReceive := script(2, 1)
		// A peer runs one script; each side has one for each direction.
		Play(t,
			Part{Peer: NewPeer("client's sender", c, signals), Steps: append(upSend, After("down"))},
			Part{Peer: NewPeer("client's receiver", c, signals), Steps: append(downReceive, Tell("down"), After("up"))},
			Part{Peer: NewPeer("endpoint's sender", e, signals), Steps: append(downSend, After("up"))},
			Part{Peer: NewPeer("endpoint's receiver", e, signals), Steps: append(upReceive, Tell("up"), After("down"))})
		if got, want := r.endedWith(1, pump.CauseEOF).Counters, (pump.Counters{In: 4 * bulk, Out: 4 * bulk}); got != want {
			t.Errorf("%s: the counters are %+v, not %+v", p.name, got, want)
		}
	}
}

// What one stalled flow may keep: our process a buffer, the kernel what
// TCP_NOTSENT_LOWAT and the sockets' own buffers allow.
func backPressureBoundsMemory(t *testing.T, newEngine New) {
	const flows, perFlow = 20, 256 << 10
	// The kernel lets a receive buffer grow though nobody reads, when segments
	// come faster than it can merge them (tcp_clamp_window in tcp_input.c).
	inKernel := mostBuffered(t, "tcp_rmem") + mostBuffered(t, "tcp_wmem")
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{}, always(to(server)))
	var clients, endpoints [flows]*Peer
	var sent [flows]int64
	before := heap()
	for i := range flows {
		clients[i] = r.dial()
		endpoints[i] = accept(t, server)
	}
	together(t, flows, func(i int) error {
		return errors.Join(endpoints[i].Run(Shrink()), clients[i].Run(Shrink(), SendUntilStuck(uint64(i), &sent[i])))
	})
	if used := heap() - before; used > flows*perFlow {
		t.Errorf("%d stalled flows keep %d bytes of memory", flows, used)
	}
	together(t, flows, func(i int) error {
		if sent[i] > inKernel {
			t.Errorf("flow %d took in %d bytes that nobody read", i, sent[i])
		}
		return errors.Join(clients[i].Run(HalfClose()),
			endpoints[i].Run(ExpectStream(uint64(i), sent[i]), ExpectEnd(EOF), Close()),
			clients[i].Run(ExpectEnd(EOF)))
	})
	r.ended(flows)
}

// together runs something n times at once and fails the test where it fails.
func together(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// mostBuffered is the last of the three sizes that tcp(7) has in such a file.
func mostBuffered(t *testing.T, name string) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/ipv4/" + name)
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(text))
	most, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return most
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// It answers every probe of the kernel's, so it lives; however long it reads
// nothing. TCP_USER_TIMEOUT would have cut it.
func stoppedReaderIsNeverCut(t *testing.T, newEngine New) {
	const vanish = time.Second
	server := Listen(t, "tcp4")
	r := start(t, newEngine, setup{timing: Timing{VanishAfter: vanish, SweepEvery: vanish / 10}}, always(to(server)))
	client := r.dial()
	endpoint := accept(t, server)
	var up, down int64
	run(t, client, SendUntilStuck(1, &up))
	run(t, endpoint, SendUntilStuck(2, &down), Pause(4*vanish))
	run(t, client, HalfClose())
	run(t, endpoint, HalfClose(), ExpectStream(1, up), ExpectEnd(EOF))
	run(t, client, ExpectStream(2, down), ExpectEnd(EOF))
	if got, want := r.endedWith(1, pump.CauseEOF).Counters, (pump.Counters{In: uint64(up), Out: uint64(down)}); got != want {
		t.Errorf("the counters are %+v, not %+v", got, want)
	}
}

func stuckOneWayFlowsTheOther(t *testing.T, newEngine New) {
	r, client, endpoint := talking(t, newEngine, "tcp4")
	var stuck int64
	run(t, client, SendUntilStuck(1, &stuck))
	for range 100 {
		run(t, endpoint, Send("PING"))
		run(t, client, Expect("PING"))
	}
	run(t, endpoint, ExpectStream(1, stuck))
	run(t, client, Close())
	run(t, endpoint, ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
}

// Nagle's algorithm with delayed acknowledgements would cost 40 ms for every
// second small piece (RFC 896, RFC 1122 4.2.3.2).
func smallMessagesAtOnce(t *testing.T, newEngine New) {
	const rounds = 100
	r, client, endpoint := talking(t, newEngine, "tcp4")
	began := time.Now()
	for range rounds {
		run(t, client, Send("a"), Send("b"), Send("c"))
		run(t, endpoint, Expect("abc"), Send("d"), Send("e"))
		run(t, client, Expect("de"))
	}
	if took := time.Since(began); took > rounds*20*time.Millisecond {
		t.Errorf("%d rounds took %v", rounds, took)
	}
	run(t, client, Close())
	run(t, endpoint, ExpectEnd(EOF), Close())
	r.endedWith(1, pump.CauseEOF)
}

// The engine's own descriptors are in this process, known by their peers.
func socketOptions(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "tcp6"} {
		_, client, endpoint := talkingWith(t, newEngine, setup{network: network, timing: Timing{SweepEvery: 20 * time.Millisecond}})
		// What only a connection needs that lives may come with the first sweep.
		Await(t, "the endpoint's socket to be probed", func() bool {
			return option(t, connectedTo(t, endpoint.Conn.LocalAddr()), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT) != 0
		})
		sides := map[string]*Peer{"client side": client, "endpoint side": endpoint}
		for side, peer := range sides {
			fd := connectedTo(t, peer.Conn.LocalAddr())
			for _, o := range []struct {
				name               string
				level, opt, wanted int
			}{
				{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
				{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
				{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
				{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 10},
				{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
				{"TCP_NOTSENT_LOWAT", unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 128 << 10},
				{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
				{"SO_PROTOCOL", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
			} {
				if got := option(t, fd, o.level, o.opt); got != o.wanted {
					t.Errorf("%s, %s: %s is %d, not %d", network, side, o.name, got, o.wanted)
				}
			}
		}
	}
}

func option(t *testing.T, fd, level, opt int) int {
	t.Helper()
	v, err := unix.GetsockoptInt(fd, level, opt)
	if err != nil {
		t.Fatalf("getsockopt %d/%d: %v", level, opt, err)
	}
	return v
}

// connectedTo finds the descriptor of this process whose peer has an address.
func connectedTo(t *testing.T, peer net.Addr) int {
	t.Helper()
	fd := findConnected(t, peer)
	if fd < 0 {
		t.Fatalf("no descriptor is connected to %v", peer)
	}
	return fd
}

// findConnected returns -1 where there is none.
func findConnected(t *testing.T, peer net.Addr) int {
	t.Helper()
	want := peer.(*net.TCPAddr).AddrPort()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if sa, err := unix.Getpeername(fd); err == nil && addrOf(sa) == want {
			return fd
		}
	}
	return -1
}

func addrOf(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
