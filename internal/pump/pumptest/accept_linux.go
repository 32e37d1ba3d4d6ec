package pumptest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/pump"
	. "legate/internal/testnet" //nolint:staticcheck // ST1001: a schedule should read as a sentence
)

var accepting = map[string]func(*testing.T, New){
	"max_keeps_clients_in_the_queue":     maxKeepsClientsInTheQueue,
	"listeners_share_a_limit":            listenersShareALimit,
	"stop_at_the_maximum_serves":         stopAtTheMaximumServes,
	"suspended_listener_refuses_tcp":     func(t *testing.T, n New) { suspendedRefuses(t, n, "tcp4") },
	"suspended_listener_refuses_tcp6":    func(t *testing.T, n New) { suspendedRefuses(t, n, "tcp6") },
	"suspended_listener_refuses_unix":    func(t *testing.T, n New) { suspendedRefuses(t, n, "unix") },
	"suspended_address_stays_taken":      suspendedAddressStaysTaken,
	"suspend_many_unix_listeners":        suspendManyUnixListeners,
	"failed_suspend_goes_on_accepting":   failedSuspendGoesOnAccepting,
	"resume_is_tried_again":              resumeIsTriedAgain,
	"suspend_accepts_what_is_queued":     func(t *testing.T, n New) { queuedAreServed(t, n, pump.Acceptor.Suspend) },
	"close_accepts_what_is_queued":       func(t *testing.T, n New) { queuedAreServed(t, n, pump.Acceptor.Close) },
	"suspend_introduces_every_flow":      func(t *testing.T, n New) { stopIntroduces(t, n, pump.Acceptor.Suspend) },
	"close_introduces_every_flow":        func(t *testing.T, n New) { stopIntroduces(t, n, pump.Acceptor.Close) },
	"close_of_a_listener_keeps_flows":    closeOfAListenerKeepsFlows,
	"close_while_suspended":              closeWhileSuspended,
	"serve_takes_the_descriptor_anyway":  serveTakesTheDescriptorAnyway,
	"client_that_reset_in_the_queue":     clientThatResetInTheQueue,
	"many_clients_at_once":               manyClientsAtOnce,
	"listeners_are_plain_tcp":            listenersArePlainTCP,
	"two_listeners_on_one_engine":        twoListenersOnOneEngine,
	"resume_while_clients_come":          resumeWhileClientsCome,
	"suspend_while_max_is_reached":       suspendWhileMaxIsReached,
	"close_of_a_listener_at_its_maximum": closeAtTheMaximum,
}

func maxKeepsClientsInTheQueue(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{max: 2}, always(to(Serve(t, "tcp4", Echo))))
	first, second, third := r.dial(), r.dial(), r.dial()
	run(t, first, Send("A"), Expect("A"))
	run(t, second, Send("B"), Expect("B"))
	run(t, third, Send("C"))
	third.Conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := third.Conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third client read %d, %v", n, err)
	}
	if n := r.count(&r.attempts); n != 2 {
		t.Errorf("%d flows were begun", n)
	}
	run(t, first, Close())
	r.endedWith(1, pump.CauseEOF)
	run(t, third, Expect("C"), Close())
	run(t, second, Close())
	r.ended(3)
}

// As the two sockets of localhost do. The one that has no client yet must not
// hold a place.
func listenersShareALimit(t *testing.T, newEngine New) {
	limit := pump.NewLimit(2)
	fd, addr := ListenFD(t, "tcp4")
	r := start(t, newEngine, setup{fd: fd, addr: addr, limit: limit}, always(to(Serve(t, "tcp4", Echo))))
	fd, addr = ListenFD(t, "tcp6")
	if _, err := r.engine.Serve(pump.Listener{Network: pump.TCP, FD: fd, Limit: limit}, r.handler); err != nil {
		t.Fatal(err)
	}
	first, second := r.dial(), r.dial()
	run(t, first, Send("A"), Expect("A"))
	run(t, second, Send("B"), Expect("B"))
	third := NewPeer("client", Dial(t, addr), new(Signals))
	run(t, third, Send("C"))
	third.Conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := third.Conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third client read %d, %v", n, err)
	}
	run(t, first, Close())
	run(t, third, Expect("C"), Close())
	run(t, second, Close())
	r.ended(3)
}

func suspendedRefuses(t *testing.T, newEngine New, network string) {
	r := start(t, newEngine, setup{network: network}, always(to(Serve(t, network, Echo))))
	client := r.dial()
	run(t, client, Send("PING"), Expect("PING"))
	for range 3 {
		if err := r.acceptor.Suspend(); err != nil {
			t.Fatalf("suspend: %v", err)
		}
		if _, err := DialErr(r.addr); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial a suspended listener: %v", err)
		}
		run(t, client, Send("still here"), Expect("still here"))
		if err := r.acceptor.Resume(); err != nil {
			t.Fatalf("resume: %v", err)
		}
		run(t, r.dial(), Send("again"), Expect("again"), Close())
	}
	run(t, client, Close())
	r.ended(4)
	run(t, r.dial(), Close())
}

// A process that allows the address to be shared, as most servers do, must not
// get it either: the listener could not have it back.
func suspendedAddressStaysTaken(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "tcp6"} {
		r := start(t, newEngine, setup{network: network}, always(to(Serve(t, "tcp4", Echo))))
		kept := r.dial() // its socket has the address, too
		run(t, kept, Send("A"), Expect("A"))
		if err := r.acceptor.Suspend(); err != nil {
			t.Fatal(err)
		}
		thief, err := net.Listen("tcp", r.addr)
		if !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("bind the same address: %v", err)
		}
		if err == nil {
			thief.Close()
		}
		if err := r.acceptor.Resume(); err != nil {
			t.Fatal(err)
		}
		run(t, r.dial(), Send("B"), Expect("B"), Close())
		run(t, kept, Close())
		r.ended(2)
	}
}

// Somebody who shares the socket can have the address nevertheless: the
// listener waits until it is free again.
func resumeIsTriedAgain(t *testing.T, newEngine New) {
	fd, addr := ListenFD(t, "tcp4")
	shared, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(shared)
	r := start(t, newEngine, setup{fd: fd, addr: addr}, always(to(Serve(t, "tcp4", Echo))))
	if err := errors.Join(r.acceptor.Suspend(), unix.SetsockoptInt(shared, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)); err != nil {
		t.Fatal(err)
	}
	thief, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.acceptor.Resume(); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("resume: %v", err)
	}
	if err := r.acceptor.Resume(); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("resume again: %v", err)
	}
	thief.Close()
	Await(t, "the listener", func() bool {
		c, err := DialErr(addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	run(t, r.dial(), Send("A"), Expect("A"), Close())
	r.ended(2)
}

// Several links, and containers that share the directory, may do so at once.
func suspendManyUnixListeners(t *testing.T, newEngine New) {
	const listeners, rounds = 8, 10
	dir := t.TempDir()
	r := start(t, newEngine, setup{network: "unix"}, always(to(Serve(t, "tcp4", Echo))))
	var acceptors []pump.Acceptor
	var addrs []string
	for i := range listeners {
		path := filepath.Join(dir, strconv.Itoa(i))
		fd, err := pump.BindUnix(path, pump.UnixOptions{Mode: 0o600, GID: -1})
		if err != nil {
			t.Fatal(err)
		}
		a, err := r.engine.Serve(pump.Listener{Network: pump.Unix, FD: fd}, r.handler)
		if err != nil {
			t.Fatal(err)
		}
		acceptors, addrs = append(acceptors, a), append(addrs, "unix:"+path)
	}
	for range rounds {
		together(t, listeners, func(i int) error { return acceptors[i].Suspend() })
		for _, addr := range addrs {
			if _, err := DialErr(addr); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("dial a suspended listener: %v", err)
			}
		}
		together(t, listeners, func(i int) error { return acceptors[i].Resume() })
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != listeners {
		t.Errorf("the directory has %v (%v)", files, err)
	}
	for _, addr := range addrs {
		run(t, NewPeer("client", Dial(t, addr), new(Signals)), Send("A"), Expect("A"), Close())
	}
	r.ended(listeners)
}

// The socket file cannot be replaced: better served than neither.
func failedSuspendGoesOnAccepting(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{network: "unix"}, always(to(Serve(t, "tcp4", Echo))))
	path := strings.TrimPrefix(r.addr, "unix:")
	hidden := path + "~"
	if err := os.Rename(path, hidden); err != nil {
		t.Fatal(err)
	}
	if err := r.acceptor.Suspend(); err == nil {
		t.Error("it was suspended without its file")
	}
	if err := r.acceptor.Resume(); err != nil {
		t.Errorf("resume: %v", err)
	}
	if err := os.Rename(hidden, path); err != nil {
		t.Fatal(err)
	}
	run(t, r.dial(), Send("A"), Expect("A"), Close())
	if err := r.acceptor.Suspend(); err != nil {
		t.Errorf("suspend: %v", err)
	}
	r.ended(1)
}

// A client whose connect has succeeded was promised to be served. Several keep
// connecting, so that some are in the queue when the listener is told to stop.
func queuedAreServed(t *testing.T, newEngine New, stop func(pump.Acceptor) error) {
	const dialers, rounds = 4, 20
	for range rounds {
		r := start(t, newEngine, setup{}, always(to(Serve(t, "tcp4", Echo))))
		var storm storm
		storm.start(r.addr, dialers)
		r.asked(1)
		stopped := time.Now()
		if err := stop(r.acceptor); err != nil {
			t.Fatalf("stop: %v", err)
		}
		for _, p := range storm.stop(t, stopped) {
			run(t, p, SendWithFIN("PING"), Expect("PING"), ExpectEnd(EOF), Close())
		}
		if err := r.engine.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

// A handler that does not know of a flow cannot wait for its end.
func stopIntroduces(t *testing.T, newEngine New, stop func(pump.Acceptor) error) {
	const rounds, clients = 50, 4
	for range rounds {
		r := start(t, newEngine, setup{}, always(to(Serve(t, "tcp4", Echo))))
		var peers []*Peer
		for range clients {
			peers = append(peers, r.dial())
		}
		if err := stop(r.acceptor); err != nil {
			t.Fatalf("stop: %v", err)
		}
		if n := r.count(&r.attempts); n != clients {
			t.Fatalf("the handler knows %d flows of %d", n, clients)
		}
		for _, p := range peers {
			run(t, p, SendWithFIN("PING"), Expect("PING"), ExpectEnd(EOF), Close())
		}
	}
}

// storm is clients that connect one after the other as fast as they can.
type storm struct {
	done    atomic.Bool
	running sync.WaitGroup
	mu      sync.Mutex // guards clients
	clients []stormClient
}

type stormClient struct {
	conn      net.Conn
	connected time.Time
}

func (s *storm) start(addr string, dialers int) {
	for range dialers {
		s.running.Go(func() {
			for !s.done.Load() {
				c, err := DialErr(addr)
				if err != nil {
					return // it listens no more
				}
				s.mu.Lock()
				s.clients = append(s.clients, stormClient{c, time.Now()})
				s.mu.Unlock()
			}
		})
	}
}

// stop returns those that were connected before a moment and closes the rest.
func (s *storm) stop(t *testing.T, before time.Time) (promised []*Peer) {
	t.Helper()
	s.done.Store(true)
	s.running.Wait()
	for _, c := range s.clients {
		t.Cleanup(func() { c.conn.Close() })
		if c.connected.Before(before) {
			promised = append(promised, NewPeer("client", c.conn, new(Signals)))
		}
	}
	return promised
}

func closeOfAListenerKeepsFlows(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "unix"} {
		r := start(t, newEngine, setup{network: network}, always(to(Serve(t, "tcp4", Echo))))
		client := r.dial()
		run(t, client, Send("PING"), Expect("PING"))
		if err := r.acceptor.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if _, err := DialErr(r.addr); err == nil {
			t.Error("it still listens")
		}
		run(t, client, Send("PING"), Expect("PING"), Close())
		r.endedWith(1, pump.CauseEOF)
		if err := r.acceptor.Close(); err != nil {
			t.Errorf("close again: %v", err)
		}
		if path, ok := strings.CutPrefix(r.addr, "unix:"); ok {
			if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket file is still there: %v", err)
			}
		}
	}
}

func closeWhileSuspended(t *testing.T, newEngine New) {
	for _, network := range []string{"tcp4", "unix"} {
		r := start(t, newEngine, setup{network: network}, always())
		if err := errors.Join(r.acceptor.Suspend(), r.acceptor.Close()); err != nil {
			t.Errorf("%s: %v", network, err)
		}
		if err := r.acceptor.Resume(); err == nil {
			t.Errorf("%s: a closed listener was resumed", network)
		}
	}
}

// On error the descriptor is closed: CheckLeaks in start would find it.
func serveTakesTheDescriptorAnyway(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{}, always())
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1])
	if _, err := r.engine.Serve(pump.Listener{Network: pump.TCP, FD: pipe[0]}, r.handler); err == nil {
		t.Error("a pipe is served")
	}
}

// Its flow may or may not be seen; the others must not notice.
func clientThatResetInTheQueue(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{max: 1}, always(to(Serve(t, "tcp4", Echo))))
	first, second, third := r.dial(), r.dial(), r.dial()
	run(t, first, Send("A"), Expect("A"))
	run(t, second, Reset())
	run(t, first, Close())
	run(t, third, Send("C"), Expect("C"), Close())
	Await(t, "every flow's end", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.results) >= 2 && len(r.results) == len(r.order)
	})
}

func manyClientsAtOnce(t *testing.T, newEngine New) {
	const clients = 500
	r := start(t, newEngine, setup{}, always(to(Serve(t, "tcp4", Echo))))
	together(t, clients, func(int) error {
		c, err := DialErr(r.addr)
		if err != nil {
			return err
		}
		return NewPeer("client", c, new(Signals)).Run(Send("PING"), Expect("PING"), HalfClose(), ExpectEnd(EOF), Close())
	})
	r.ended(clients)
}

// Multipath TCP, which Go's listeners offer unasked, lacks socket options that
// engines need.
func listenersArePlainTCP(t *testing.T, _ New) {
	fd, err := pump.BindTCP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if got := option(t, fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); got != unix.IPPROTO_TCP {
		t.Errorf("the listener's protocol is %d", got)
	}
}

func twoListenersOnOneEngine(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{}, always(to(Serve(t, "tcp4", Say("one")))))
	fd, addr := ListenFD(t, "unix")
	other := newHandler(t, always(to(Serve(t, "unix", Say("two")))))
	a, err := r.engine.Serve(pump.Listener{Network: pump.Unix, FD: fd}, other)
	if err != nil {
		t.Fatal(err)
	}
	greets(t, NewPeer("other client", Dial(t, addr), new(Signals)), "two")
	other.endedWith(1, pump.CauseEOF)
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	greets(t, r.dial(), "one")
	r.endedWith(1, pump.CauseEOF)
}

// The one that waits for a place must not keep the listener from its orders.
func suspendWhileMaxIsReached(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{max: 1}, always(to(Serve(t, "tcp4", Echo))))
	first := r.dial()
	run(t, first, Send("A"), Expect("A"))
	if err := errors.Join(r.acceptor.Suspend(), r.acceptor.Resume()); err != nil {
		t.Fatal(err)
	}
	second := r.dial()
	run(t, first, Close())
	run(t, second, Send("B"), Expect("B"), Close())
	r.ended(2)
}

// A client that waits for a place was accepted, and keeps its connection when
// the listener is told to stop.
func stopAtTheMaximumServes(t *testing.T, newEngine New) {
	for name, stop := range map[string]func(pump.Acceptor) error{"suspend": pump.Acceptor.Suspend, "close": pump.Acceptor.Close} {
		r := start(t, newEngine, setup{max: 1}, always(to(Serve(t, "tcp4", Echo))))
		first := r.dial()
		run(t, first, Send("A"), Expect("A"))
		second := r.dial()
		run(t, second, Send("B"))
		Await(t, "the second client's socket to be accepted", func() bool {
			return findConnected(t, second.Conn.LocalAddr()) >= 0
		})
		if err := stop(r.acceptor); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		run(t, second, Expect("B"), Close())
		run(t, first, Close())
		r.ended(2)
	}
}

func closeAtTheMaximum(t *testing.T, newEngine New) {
	r := start(t, newEngine, setup{max: 1}, always(to(Serve(t, "tcp4", Echo))))
	first := r.dial()
	run(t, first, Send("A"), Expect("A"))
	if err := r.acceptor.Close(); err != nil {
		t.Fatal(err)
	}
	run(t, first, Send("A"), Expect("A"), Close())
	r.endedWith(1, pump.CauseEOF)
}

// A link that comes up says so again and again, whether or not its listener
// was ever suspended, while clients are handed to other loops.
func resumeWhileClientsCome(t *testing.T, newEngine New) {
	const dialers, resumes = 4, 2000
	r := start(t, newEngine, setup{}, always(to(Serve(t, "tcp4", Echo))))
	var storm storm
	storm.start(r.addr, dialers)
	r.asked(dialers)
	for range resumes {
		if err := r.acceptor.Resume(); err != nil {
			t.Fatalf("resume: %v", err)
		}
	}
	for _, p := range storm.stop(t, time.Now()) {
		run(t, p, Close())
	}
}
