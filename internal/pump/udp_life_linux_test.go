package pump

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"legate/internal/testnet"

	"golang.org/x/sys/unix"
)

func TestUDP_CapDropsNewClientsOnly(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{Limit: NewLimit(2)}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	a, b, c := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	ask(t, a, "a", "a")
	ask(t, b, "b", "b")
	sendTo(t, c, "c")
	eventually(t, func() bool { return w.DroppedUDP() == 1 })
	ask(t, a, "a", "a")
	if n := w.h.connects(); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
	w.h.flow(1).Cut(nil)
	eventually(t, func() bool { return w.h.ends() == 1 })
	ask(t, c, "c", "c")
}

func TestUDP_WithoutDescriptorsNewClientsAreDropped(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	a, b := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	ask(t, a, "a", "a")
	held := w.free.Swap(0)
	sendTo(t, b, "b")
	eventually(t, func() bool { return w.DroppedUDP() == 1 })
	ask(t, a, "a", "a")
	w.free.Add(held)
	ask(t, b, "b", "b")
	if ks := w.h.kinds(); !slices.Equal(ks, []AttemptKind{Accepted, Accepted}) {
		t.Errorf("attempts %v", ks)
	}
}

// Our own shortage ends nothing but the datagram, and blames nobody.
func TestUDP_ShortageBlamesNobody(t *testing.T) {
	for _, err := range []error{unix.EMFILE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRNOTAVAIL, unix.EAGAIN} {
		if !isUDPShortage(fmt.Errorf("connect: %w", err)) || isRefusal(err) {
			t.Errorf("%v is not taken for our own shortage", err)
		}
	}
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	at := echo(t, "127.0.0.1:0", "")
	c := w.client(t, "127.0.0.1")
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	none := lim
	none.Cur = 3
	w.h.set(func(f *Flow, a Attempt) Step {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
			t.Error(err)
		}
		return to(at)(f, a)
	})
	sendTo(t, c, "a")
	eventually(t, func() bool { return w.h.ends() == 1 })
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		t.Fatal(err)
	}
	if r := w.h.done(0); r.Cause != CauseEnded || !errors.Is(r.Err, unix.EMFILE) {
		t.Errorf("result %+v", r)
	}
	if ks := w.h.kinds(); !slices.Equal(ks, []AttemptKind{Accepted}) || w.DroppedUDP() != 1 {
		t.Errorf("attempts %v, %d dropped", ks, w.DroppedUDP())
	}
}

func TestUDP_SuspendDropsNewClientsOnly(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	a, b := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	ask(t, a, "a", "a")
	if err := w.Suspend(); err != nil {
		t.Fatal(err)
	}
	sendTo(t, b, "b")
	eventually(t, func() bool { return w.DroppedUDP() == 1 })
	ask(t, a, "a", "a")
	if err := w.Resume(); err != nil {
		t.Fatal(err)
	}
	ask(t, b, "b", "b")
}

func TestUDP_IdleSessionsEndAndBusyOnesDoNot(t *testing.T) {
	const idle = 300 * time.Millisecond
	w := serveUDPOn(t, "127.0.0.1:0", Listener{Idle: idle}, nil)
	server, at := listenTestUDP(t, "127.0.0.1:0")
	w.h.set(to(at))
	quiet, talker, listener := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	sendTo(t, quiet, "q")
	receiveFrom(t, server)
	sendTo(t, talker, "t")
	receiveFrom(t, server)
	sendTo(t, listener, "l")
	_, session := receiveFrom(t, server)
	begun := time.Now()
	beat := time.NewTicker(idle / 10)
	defer beat.Stop()
	for time.Since(begun) < 3*idle {
		<-beat.C
		sendTo(t, talker, "t")
		receiveFrom(t, server)
		answer(t, server, session, "l")
		expect(t, listener, "l")
	}
	if n := w.h.ends(); n != 1 {
		t.Fatalf("%d sessions ended, want the quiet one alone", n)
	}
	if r := w.h.done(0); r.Cause != CauseIdle || r.Err != nil || r.Duration < idle {
		t.Errorf("result %+v", r)
	}
	eventually(t, func() bool { return w.h.ends() == 3 })
}

func TestUDP_ThousandSessions(t *testing.T) {
	w := serveUDPOn(t, "[::]:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	clients := make([]*net.UDPConn, 1000)
	for i := range clients {
		clients[i] = w.client(t, "127.0.0.1")
		ask(t, clients[i], fmt.Sprint(i), fmt.Sprint(i))
	}
	for i, c := range clients {
		ask(t, c, fmt.Sprint(-i), fmt.Sprint(-i))
	}
	if n := w.free.Load(); n != 10000-1001 {
		t.Errorf("budget has %d, want 1001 less than 10000", n)
	}
	w.cut(errors.New("all at once"))
	if n := w.h.ends(); n != 1000 {
		t.Errorf("%d sessions ended when cut returned", n)
	}
}

func TestUDP_CloseLetsSessionsGoOn(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	a, b := w.client(t, "127.0.0.1"), w.client(t, "127.0.0.1")
	ask(t, a, "a", "a")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sendTo(t, b, "b")
	eventually(t, func() bool { return w.DroppedUDP() == 1 })
	ask(t, a, "still here", "still here")
	w.h.flow(0).Cut(io.EOF)
	<-w.done
	fd, err := BindUDP(w.own.addr)
	if err != nil {
		t.Fatalf("the address is not free again: %v", err)
	}
	unix.Close(fd)
	if err := w.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}

// The idle time is a minute: a process that stops does not wait for that.
func TestUDP_CloseEndsQuietSessionsSoon(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	w.h.set(to(echo(t, "127.0.0.1:0", "")))
	ask(t, w.client(t, "127.0.0.1"), "a", "a")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.done:
	case <-time.After(testnet.Patience):
		t.Fatal("still there")
	}
	if r := w.h.done(0); r.Cause != CauseIdle {
		t.Errorf("result %+v", r)
	}
}

func TestUDP_CloseTakesWhatIsQueued(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	at := echo(t, "127.0.0.1:0", "")
	inNext, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	w.h.set(func(f *Flow, a Attempt) Step {
		once.Do(func() { close(inNext); <-goOn })
		return to(at)(f, a)
	})
	clients := make([]*net.UDPConn, 20)
	for i := range clients {
		clients[i] = w.client(t, "127.0.0.1")
		sendTo(t, clients[i], "queued")
		if i == 0 {
			<-inNext // the others wait in the queue
		}
	}
	closed := make(chan struct{})
	go func() { defer close(closed); _ = w.Close() }()
	eventually(t, func() bool { return w.phase.Load() == udpClosing })
	close(goOn)
	<-closed
	for _, c := range clients {
		expect(t, c, "queued")
	}
}

func TestUDP_CloseWithoutSessionsFreesTheAddress(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	<-w.done
}

func TestUDP_EngineCloseCutsSessions(t *testing.T) {
	testnet.CheckLeaks(t)
	e, err := NewNet(Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := &udpHandler{next: to(echo(t, "127.0.0.1:0", ""))}
	fd, err := BindUDP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	at, err := localUDP(fd)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Serve(Listener{Network: UDP, FD: fd}, h); err != nil {
		t.Fatal(err)
	}
	ask(t, dialTestUDP(t, at), "a", "a")
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if h.ends() != 1 || h.done(0).Cause != CauseCut {
		t.Errorf("%d ends after the engine closed", h.ends())
	}
}
