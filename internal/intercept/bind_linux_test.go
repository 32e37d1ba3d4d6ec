package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/forward"
	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/testnet"
)

func bind(t testing.TB, ns *Namespace, text string) []pump.Listener {
	t.Helper()
	ls, err := Bind(ns, link(text), forward.Bind)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(t, ls) })
	return ls
}

func TestBind_ServesInsideFromOutside(t *testing.T) {
	testnet.CheckLeaks(t)
	ns := newTenant(t).open(t)
	loopbackUp(t, ns)
	ls := bind(t, ns, "6379")
	if len(ls) != 2 {
		t.Fatalf("%d listeners, want 127.0.0.1 and ::1", len(ls))
	}
	for i, addr := range []string{"127.0.0.1:6379", "[::1]:6379"} {
		serveOnce(t, ns, ls[i].FD, addr)
	}
	if c, err := net.Dial("tcp", "127.0.0.1:6379"); err == nil {
		c.Close()
		t.Error("it listens outside, too")
	}
}

// serveOnce connects inside and answers outside.
func serveOnce(t testing.TB, ns *Namespace, listening int, addr string) {
	t.Helper()
	c, err := dial(ns, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	poll := []unix.PollFd{{Fd: int32(listening), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, int(testnet.Patience/time.Millisecond)); n != 1 {
		t.Fatalf("no connection at %s: %v", addr, err)
	}
	fd, _, err := unix.Accept4(listening, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(fd, []byte("hello")); err != nil {
		t.Error(err)
	}
	unix.Close(fd)
	if got, err := io.ReadAll(c); err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v at %s", got, err, addr)
	}
}

func TestBind_UDP(t *testing.T) {
	testnet.CheckLeaks(t)
	ns := newTenant(t).open(t)
	loopbackUp(t, ns)
	ls := bind(t, ns, "53/udp")
	for i, addr := range []string{"127.0.0.1:53", "[::1]:53"} {
		answerOnce(t, ns, ls[i].FD, addr)
	}
}

// answerOnce asks inside and answers outside.
func answerOnce(t testing.TB, ns *Namespace, bound int, addr string) {
	t.Helper()
	c, err := dial(ns, "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, from, err := unix.Recvfrom(bound, buf, 0)
	if err != nil || string(buf[:n]) != "question" {
		t.Fatalf("got %q, %v at %s", buf[:n], err, addr)
	}
	if err := unix.Sendto(bound, []byte("answer"), 0, from); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(testnet.Patience))
	if n, err := c.Read(buf); err != nil || !bytes.Equal(buf[:n], []byte("answer")) {
		t.Errorf("got %q, %v at %s", buf[:n], err, addr)
	}
}

// A container has ::1 once it is connected to a network of IPv6, which may be later.
func TestBind_WhereThereIsNoIPv6Yet(t *testing.T) {
	testnet.CheckLeaks(t)
	ns := newTenant(t).open(t)
	loopbackUp(t, ns)
	setIPv6 := func(off string) {
		t.Helper()
		// The thread that opens it decides whose setting it is.
		if err := ns.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte(off), 0)
		}); err != nil {
			t.Fatal(err)
		}
	}
	setIPv6("1")
	both := map[string][]pump.Listener{}
	for _, text := range []string{"6379", "53/udp"} {
		if both[text] = bind(t, ns, text); len(both[text]) != 2 {
			t.Fatalf("%d listeners for %s, want 127.0.0.1 and ::1", len(both[text]), text)
		}
	}
	serveOnce(t, ns, both["6379"][0].FD, "127.0.0.1:6379")
	if c, err := dial(ns, "tcp", "[::1]:6379"); err == nil {
		c.Close()
		t.Error("there is ::1")
	}
	setIPv6("0")
	serveOnce(t, ns, both["6379"][1].FD, "[::1]:6379")
	answerOnce(t, ns, both["53/udp"][1].FD, "[::1]:53")
}

// The engine reports a namespace before it has brought its loopback up.
func TestBind_BeforeLoopbackIsUp(t *testing.T) {
	testnet.CheckLeaks(t)
	ns := newTenant(t).open(t)
	ls := bind(t, ns, "6379")
	if len(ls) != 2 {
		t.Fatalf("%d listeners, want 127.0.0.1 and ::1", len(ls))
	}
	loopbackUp(t, ns)
	serveOnce(t, ns, ls[0].FD, "127.0.0.1:6379")
	serveOnce(t, ns, ls[1].FD, "[::1]:6379")
}

func TestBind_WhatTheContainerServesItself(t *testing.T) {
	testnet.CheckLeaks(t)
	ns := newTenant(t).open(t)
	loopbackUp(t, ns)
	for _, test := range []struct{ network, own, link string }{
		{"tcp", "127.0.0.1:6379", "6379"},
		{"tcp", "0.0.0.0:6380", "6380"},
		{"tcp", "[::1]:6381", "6381"}, // after ours on 127.0.0.1 was made
		{"udp", "127.0.0.1:53", "53/udp"},
	} {
		release := holdInside(t, ns, test.network, test.own)
		ls, err := Bind(ns, link(test.link), forward.Bind)
		wantUserError(t, err, "something in the container already listens on localhost", "another port")
		if ls != nil {
			t.Errorf("%d listeners and an error", len(ls))
		}
		release()
		bind(t, ns, test.link)
	}
}

func holdInside(t testing.TB, ns *Namespace, network, addr string) (release func()) {
	t.Helper()
	var c io.Closer
	if err := ns.Do(func() (err error) {
		if network == "udp" {
			c, err = net.ListenPacket(network, addr)
		} else {
			c, err = net.Listen(network, addr)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return func() { c.Close() }
}

func TestBind_OtherErrorsAreTheBinders(t *testing.T) {
	testnet.CheckLeaks(t)
	want := errors.New("no")
	ls, err := Bind(newTenant(t).open(t), link("1"), func(spec.Link) ([]pump.Listener, error) { return nil, want })
	if ls != nil || !errors.Is(err, want) {
		t.Errorf("%v, %v, want %v", ls, err, want)
	}
}

// What keeps a namespace alive keeps its interfaces, and the address of the
// container that had it.
func TestBind_NothingKeepsANamespaceAlive(t *testing.T) {
	testnet.CheckLeaks(t)
	host := testnet.NewHost(t)
	p := newTenant(t)
	host.Do(t, func() error {
		return command("ip", "link", "add", "outer", "type", "veth", "peer", "name", "inner", "netns", fmt.Sprint(p.pid))
	})
	ns := p.open(t)
	loopbackUp(t, ns)
	ls, err := Bind(ns, link("6379"), forward.Bind)
	if err != nil {
		t.Fatal(err)
	}
	there := func() bool {
		var err error
		host.Do(t, func() error { err = command("ip", "link", "show", "outer"); return nil })
		return err == nil
	}
	p.kill()
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	if !there() {
		t.Fatal("the namespace ended before its sockets did: the test tests nothing")
	}
	closeAll(t, ls)
	testnet.Await(t, "the end of the namespace", func() bool { return !there() })
}

func TestBind_AThousandListeners(t *testing.T) {
	testnet.CheckLeaks(t)
	var all []pump.Listener
	for range 5 {
		ns := newTenant(t).open(t)
		loopbackUp(t, ns)
		for port := range 100 {
			ls, err := Bind(ns, link(fmt.Sprint(2000+port)), forward.Bind)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, ls...)
		}
		serveOnce(t, ns, all[len(all)-2].FD, "127.0.0.1:2099")
	}
	if len(all) != 1000 {
		t.Errorf("%d listeners", len(all))
	}
	closeAll(t, all)
}

// BenchmarkOpenLink measures the target "opening a link below 1 ms": a handle
// on the namespace and two listening sockets.
func BenchmarkOpenLink(b *testing.B) {
	p := newTenant(b)
	loopbackUp(b, p.open(b))
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		ns, err := Open(p.path())
		if err != nil {
			b.Fatal(err)
		}
		ls, err := Bind(ns, link("6379"), forward.Bind)
		if err != nil {
			b.Fatal(err)
		}
		ns.Close()
		took = append(took, time.Since(began))
		closeAll(b, ls)
	}
	report(b, took)
}
