package pump

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"legate/internal/testnet"

	"golang.org/x/sys/unix"
)

func bytesOf(v unix.Iovec) []byte { return unsafe.Slice(v.Base, int(v.Len)) }

// inBothModes runs a test with what the kernel has and without.
func inBothModes(t *testing.T, test func(t *testing.T, plain bool)) {
	for _, plain := range []bool{false, true} {
		t.Run(map[bool]string{false: "merged", true: "plain"}[plain], func(t *testing.T) { test(t, plain) })
	}
}

// sendSegmented sends p as datagrams of that size by one call; to is zero where
// the socket is connected.
func sendSegmented(c *net.UDPConn, p []byte, size int, to netip.AddrPort) error {
	var ctl [64]byte
	binary.NativeEndian.PutUint16(putControl(ctl[:], unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2), uint16(size))
	_, _, err := c.WriteMsgUDPAddrPort(p, ctl[:unix.CmsgSpace(2)], to)
	return err
}

// burst is one segmented send.
type burst struct{ size, bytes int }

func (b burst) payload() []byte {
	p := make([]byte, b.bytes)
	for i := range p {
		p[i] = byte(i/b.size) ^ byte(i*3)
	}
	return p
}

var bursts = []burst{
	{1200, 1200}, {1200, 12000}, {1200, 6007}, {1200, 1201}, {1472, 44 * 1472}, {1, 64}, {100, 6400}, {9000, 27001}, {64, 64 * 64},
}

func TestUDP_SegmentedSendsPassExactly(t *testing.T) {
	testnet.NeedIPv6(t)
	inBothModes(t, func(t *testing.T, plain bool) {
		for _, c := range []struct{ listen, client, server string }{
			{"127.0.0.1:0", "127.0.0.1", "127.0.0.1:0"},
			{"[::]:0", "127.0.0.2", "[::1]:0"},
			{"[::]:0", "::1", "127.0.0.1:0"},
		} {
			t.Run(fmt.Sprint(c), func(t *testing.T) {
				w := serveUDPOn(t, c.listen, Listener{}, nil, plain)
				server, at := listenTestUDP(t, c.server)
				w.h.set(to(at))
				client := w.client(t, c.client)
				sendTo(t, client, "hello")
				_, session := receiveFrom(t, server)
				for _, b := range bursts {
					for range 3 { // answers come merged from the second one on
						b.check(t, client, netip.AddrPort{}, server)
						b.check(t, server, session, client)
					}
				}
				if n := w.DroppedUDP(); n != 0 {
					t.Errorf("%d dropped", n)
				}
			})
		}
	})
}

func (b burst) check(t *testing.T, from *net.UDPConn, to netip.AddrPort, at *net.UDPConn) {
	t.Helper()
	p := b.payload()
	if err := sendSegmented(from, p, b.size, to); err != nil {
		t.Fatalf("%+v: %v", b, err)
	}
	for i, want := range split(p, b.size) {
		if got, _ := receiveFrom(t, at); got != string(want) {
			t.Fatalf("%+v: datagram %d has %d bytes, want %d", b, i, len(got), len(want))
		}
	}
}

// Later kernels take 128 segments in one send; the proxy never sends more than 64.
func TestUDP_MoreSegmentsThanOneSendMayHave(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	server, at := listenTestUDP(t, "127.0.0.1:0")
	w.h.set(to(at))
	client := w.client(t, "127.0.0.1")
	b := burst{50, 128 * 50}
	p := b.payload()
	if err := sendSegmented(client, p, b.size, netip.AddrPort{}); errors.Is(err, unix.EINVAL) {
		for _, half := range [][]byte{p[:64*50], p[64*50:]} {
			if err := sendSegmented(client, half, b.size, netip.AddrPort{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, want := range split(p, b.size) {
		if got, _ := receiveFrom(t, server); got != string(want) {
			t.Fatalf("datagram %d: %x, want %x", i, got, want)
		}
	}
}

// What comes merged leaves merged, and so do equal datagrams that wait together.
func TestUDP_MergedLeavesMerged(t *testing.T) {
	inBothModes(t, func(t *testing.T, plain bool) {
		w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil, plain)
		server, at := listenTestUDP(t, "127.0.0.1:0")
		w.h.set(to(at))
		client := w.client(t, "127.0.0.1")
		sendTo(t, client, "hello")
		_, session := receiveFrom(t, server)
		b := burst{1200, 50 * 1200} // more than a batch, were they not merged
		for _, way := range []struct {
			name     string
			from, at *net.UDPConn
			to       netip.AddrPort
		}{{"in", client, server, netip.AddrPort{}}, {"out", server, client, session}} {
			b.check(t, way.from, way.to, way.at)
			takeMerged(t, way.at)
			want := []int{b.bytes}
			if plain {
				want = slices.Repeat([]int{b.size}, 50)
			}
			// Again, since a session takes answers merged only once many came.
			eventually(t, func() bool {
				if err := sendSegmented(way.from, b.payload(), b.size, way.to); err != nil {
					t.Fatal(err)
				}
				sizes := receiveMerged(t, way.at, b.bytes)
				if plain && !slices.Equal(sizes, want) {
					t.Fatalf("%s: came as %v, want %v", way.name, sizes, want)
				}
				return slices.Equal(sizes, want)
			})
		}
	})
}

func takeMerged(t *testing.T, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = mergeUDP(int(fd)) })
	if err != nil {
		t.Fatal(err)
	}
}

// receiveMerged returns how long the messages are in which so many bytes come.
func receiveMerged(t *testing.T, c *net.UDPConn, bytes int) (sizes []int) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(testnet.Patience))
	p := make([]byte, maxDatagram)
	for bytes > 0 {
		n, err := c.Read(p)
		if err != nil {
			t.Fatalf("receive: %v, got %v", err, sizes)
		}
		sizes = append(sizes, n)
		bytes -= n
	}
	return sizes
}

// hold keeps the acceptor's goroutine in Next until release is called: what is
// sent meanwhile is one batch.
func (w *udpWorld) hold(t *testing.T, next func(*Flow, Attempt) Step) (release func()) {
	t.Helper()
	there, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.h.set(func(f *Flow, a Attempt) Step {
		once.Do(func() { close(there); <-goOn })
		return next(f, a)
	})
	sendTo(t, w.client(t, "127.0.0.1"), "hold")
	<-there
	return func() { close(goOn) }
}

func TestUDP_InterleavedSessionsKeepTheirOrder(t *testing.T) {
	inBothModes(t, func(t *testing.T, plain bool) {
		w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil, plain)
		server, at := listenTestUDP(t, "127.0.0.1:0")
		clients := make([]*net.UDPConn, 5)
		for i := range clients {
			clients[i] = w.client(t, "127.0.0.1")
		}
		for range 2 { // with new sessions, then with those
			release := w.hold(t, to(at))
			for n := range 8 {
				for i, c := range clients {
					// Three datagrams of one length that depends on both.
					p := bytes.Repeat(fmt.Appendf(nil, "%d %d %0*d", i, n, 10+n%3*(i+1), 0), 3)
					if err := sendSegmented(c, p, len(p)/3, netip.AddrPort{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			release()
			if hold, _ := receiveFrom(t, server); hold != "hold" {
				t.Fatalf("received %q first", hold)
			}
			seen := make([]int, len(clients))
			from := make([]netip.AddrPort, len(clients))
			for range 3 * 8 * len(clients) {
				got, session := receiveFrom(t, server)
				var i, n int
				if _, err := fmt.Sscan(got, &i, &n); err != nil || n != seen[i]/3 || len(got) != 14+n%3*(i+1) {
					t.Fatalf("received %q of client %d, who has had %d", got, i, seen[i])
				}
				if seen[i] > 0 && session != from[i] {
					t.Errorf("client %d: from %v, then %v", i, from[i], session)
				}
				seen[i], from[i] = seen[i]+1, session
			}
		}
		if n := w.h.connects(); n != len(clients)+2 {
			t.Errorf("%d sessions", n)
		}
	})
}

// Plain datagrams that wait together are sent together.
func TestUDP_WaitingDatagramsLeaveTogether(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	server, at := listenTestUDP(t, "127.0.0.1:0")
	client := w.client(t, "127.0.0.1")
	release := w.hold(t, to(at))
	for range wideBatch {
		sendTo(t, client, "64 bytes, or whatever they are, but all the same")
	}
	takeMerged(t, server)
	release()
	receiveMerged(t, server, 4)
	if sizes := receiveMerged(t, server, wideBatch*48); len(sizes) > 3 {
		t.Errorf("came as %v", sizes)
	}
}

// The segments of a merged message may be longer than the way out bears: they
// leave in fragments then, and the way is remembered.
func TestUDP_SegmentsLongerThanTheWayBears(t *testing.T) {
	testnet.Child{OwnNet: true}.Run(t, func() {
		here, far := testnet.Self(t), testnet.NewHost(t)
		testnet.Join(t, here, far)
		if out, err := exec.Command("ip", "link", "set", "cable0", "mtu", "1280").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, c := range []struct{ near, farAway netip.Addr }{
			{netip.MustParseAddr("127.0.0.1"), far.V4}, {netip.MustParseAddr("::1"), far.V6},
		} {
			t.Run(c.near.String(), func(t *testing.T) { longSegments(t, here, far, c.near, c.farAway) })
		}
	})
}

func longSegments(t *testing.T, here, far *testnet.Host, near, farAway netip.Addr) {
	own := here.V4
	if near.Is6() {
		own = here.V6
	}
	w := serveUDPOn(t, "[::]:0", Listener{}, nil)
	var away, awayClient, nearServer *net.UDPConn
	var awayAt, nearAt netip.AddrPort
	far.Do(t, func() error {
		away, awayAt = listenTestUDP(t, netip.AddrPortFrom(farAway, 0).String())
		awayClient = dialTestUDP(t, netip.AddrPortFrom(own, w.port))
		return nil
	})
	nearServer, nearAt = listenTestUDP(t, netip.AddrPortFrom(near, 0).String())
	w.h.set(func(f *Flow, a Attempt) Step {
		if f.Client.Addr() == near {
			return to(awayAt)(f, a)
		}
		return to(nearAt)(f, a)
	})
	nearClient := w.client(t, near.String())
	session := knock(t, awayClient, nearServer)
	for _, b := range []burst{{1400, 14000}, {1000, 10007}, {1400, 1400}, {9000, 27000}} {
		for range 3 {
			b.check(t, nearClient, netip.AddrPort{}, away)
			b.check(t, nearServer, session, awayClient)
		}
	}
	if n := w.DroppedUDP(); n != 0 {
		t.Errorf("%d dropped", n)
	}
	w.mu.Lock()
	sessions := slices.Collect(maps.Values(w.sessions))
	w.mu.Unlock()
	w.cut(nil) // nobody works on them any more
	for _, s := range sessions {
		if s.in.segment != 1399 && s.out.segment != 1399 {
			t.Errorf("knows of segments up to %d and %d, want 1399", s.in.segment, s.out.segment)
		}
	}
}

// knock sends until something comes: a new cable may lose the first. It returns
// from where.
func knock(t *testing.T, from, at *net.UDPConn) (session netip.AddrPort) {
	t.Helper()
	var p [10]byte
	eventually(t, func() bool {
		sendTo(t, from, "knock")
		_ = at.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, addr, err := at.ReadFromUDPAddrPort(p[:])
		session = addr
		return err == nil
	})
	return session
}

func TestUDPBatches_WideOnesAreBounded(t *testing.T) {
	p := newUDPBatches()
	var bs []*udpBatch
	for i := range maxWide + 2 {
		b := p.get(true)
		if (len(b.buf) == wideBatch) != (i < maxWide) {
			t.Errorf("batch %d has %d messages", i, len(b.buf))
		}
		bs = append(bs, b)
	}
	for _, b := range bs {
		p.put(b)
	}
	if b := p.get(true); len(b.buf) != wideBatch {
		t.Errorf("after all were given back: %d messages", len(b.buf))
	}
}

// A refusal that comes up between two messages of one call is lost
// (sendmmsg(2)): the next one is not, and no datagram after that.
func TestUDP_RefusalInTheMiddleOfABatch(t *testing.T) {
	dead := freeUDP(t)
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	good, at := listenTestUDP(t, "127.0.0.1:0")
	w.h.set(func(f *Flow, a Attempt) Step {
		if a.Kind == Refused {
			return to(at)(f, a)
		}
		return to(dead)(f, a)
	})
	s := newUDPSession(w.udpAcceptor, udpKey{client: at})
	if !w.acquire(1) || !s.open() {
		t.Fatal("not opened")
	}
	defer func() { s.mu.Lock(); s.end(CauseCut, nil); s.mu.Unlock(); s.finish() }()
	b, tr := trainOf("1", "22", "333", "4444", "55555")
	s.forward(b, tr)
	for _, want := range []string{"333", "4444", "55555"} {
		expect(t, good, want)
	}
	if ks := w.h.kinds(); !slices.Equal(ks, []AttemptKind{Accepted, Refused}) {
		t.Errorf("attempts %v", ks)
	}
	if got := s.counters().In; got != 15 {
		t.Errorf("%d bytes counted, want all 15", got)
	}
}

func TestUDP_EachDatagramOfABatchAsksAgainWhereThereIsNoEndpoint(t *testing.T) {
	inBothModes(t, func(t *testing.T, plain bool) {
		down := errors.New("down")
		w := serveUDPOn(t, "127.0.0.1:0", Listener{}, func(*Flow, Attempt) Step { return Step{End: down} }, plain)
		if err := sendSegmented(w.client(t, "127.0.0.1"), make([]byte, 7*100+1), 100, netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() bool { return w.h.ends() == 8 })
		if n := w.DroppedUDP(); n != 8 {
			t.Errorf("%d dropped, want 8", n)
		}
	})
}

func TestUDP_SuspendedDropsAreCountedByDatagram(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	if err := w.Suspend(); err != nil {
		t.Fatal(err)
	}
	if err := sendSegmented(w.client(t, "127.0.0.1"), make([]byte, 50*100), 100, netip.AddrPort{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return w.DroppedUDP() == 50 })
}

func TestUDP_RefusedLegIsNotTried(t *testing.T) {
	loop := errors.New("would go round")
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	server, at := listenTestUDP(t, "127.0.0.1:0")
	var refuse atomic.Bool
	refuse.Store(true)
	var begun atomic.Int32
	legs := make([]Leg, 1)
	w.h.set(func(_ *Flow, a Attempt) Step {
		if a.Kind == DialFailed {
			return Step{End: legs[0].Err}
		}
		legs[0] = Leg{Network: UDP, Addr: at, Begin: func() { begun.Add(1) }}
		if refuse.Load() {
			legs[0].Refuse = loop
		}
		return Step{Dial: legs}
	})
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "not there")
	eventually(t, func() bool { return w.h.ends() == 1 })
	if r := w.h.done(0); !errors.Is(r.Err, loop) || begun.Load() != 1 {
		t.Errorf("result %+v, begun %d times", r, begun.Load())
	}
	refuse.Store(false)
	sendTo(t, c, "there")
	expect(t, server, "there")
	refuse.Store(true) // also where the session goes already
	w.h.flow(1).Wake()
	eventually(t, func() bool { return w.h.ends() == 2 })
	if r := w.h.done(1); !errors.Is(r.Err, loop) {
		t.Errorf("result %+v", r)
	}
}

// A datagram takes one receive: none that only tells that there is no more.
func TestUDP_SingleDatagramsTakeOneReceiveEach(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		testnet.Skip(t, "needs strace")
	}
	const questions = 200
	trace := filepath.Join(t.TempDir(), "trace")
	parent := testnet.Child{Through: []string{"strace", "-f", "--seccomp-bpf", "-e", "trace=recvmmsg", "-o", trace}}.Run(t, func() {
		w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
		w.h.set(to(echo(t, "127.0.0.1:0", "")))
		c := w.client(t, "127.0.0.1")
		for i := range questions {
			ask(t, c, fmt.Sprint(i), fmt.Sprint(i))
		}
	})
	if !parent {
		return
	}
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	took, empty := bytes.Count(calls, []byte(") = 1")), bytes.Count(calls, []byte("EAGAIN"))
	if took != 2*questions || empty > questions/4 {
		t.Errorf("%d receives of one datagram and %d of none, want %d and next to none", took, empty, 2*questions)
	}
}

func TestUDP_NothingIsAllocatedPerDatagram(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	server, at := listenTestUDP(t, "127.0.0.1:0")
	w.h.set(to(at))
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "hello")
	_, session := receiveFrom(t, server)
	p := make([]byte, 1200)
	round := func() {
		_, _ = c.Write(p)
		_, _ = server.Read(p)
		_, _ = server.WriteToUDPAddrPort(p, session)
		_, _ = c.Read(p)
	}
	round()
	const rounds = 2000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range rounds {
		round()
	}
	runtime.ReadMemStats(&after)
	// The race detector has a sync.Pool throw away every fourth.
	batch := uint64(unsafe.Sizeof(udpBatch{})) + narrowBatch*(maxDatagram+1)
	batches := (after.TotalAlloc - before.TotalAlloc) / batch
	if n := after.Mallocs - before.Mallocs - 2*batches; n > rounds/5 {
		t.Errorf("%d allocations in %d rounds, and %d batches", n, rounds, batches)
	}
}
