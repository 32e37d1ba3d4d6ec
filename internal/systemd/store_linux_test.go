package systemd_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/systemd"
	"legate/internal/systemd/systemdtest"
	"legate/internal/testnet"
)

// next starts what stands for a process of the service: it has copies of what
// is kept, one after the other from some number on.
func next(t *testing.T, p *systemdtest.Played, log *bytes.Buffer, more ...string) *systemd.Manager {
	t.Helper()
	files, names := p.Pass(t)
	first := 700
	for i, f := range files {
		if err := unix.Dup3(int(f.Fd()), first+i, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	m, err := systemd.New(systemd.Config{
		Environ: append(more, "NOTIFY_SOCKET="+p.Path, fmt.Sprintf("LISTEN_FDS=%d", len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":")),
		First:   first, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func bound(t *testing.T, address string) (fd int, at netip.AddrPort) {
	t.Helper()
	at = netip.AddrPortFrom(netip.MustParseAddr(address), uint16(testnet.FreePort(t)))
	fd, err := pump.BindTCP(at)
	if err != nil {
		t.Fatal(err)
	}
	return fd, at
}

func closed(t *testing.T, fd int) {
	t.Helper()
	if err := unix.Close(fd); err != nil {
		t.Error(err)
	}
}

func accepts(at netip.AddrPort) bool {
	c, err := net.Dial("tcp", at.String())
	if err == nil {
		c.Close()
	}
	return err == nil
}

func TestStore_ComesBack(t *testing.T) {
	p := systemdtest.Play(t)
	testnet.CheckLeaks(t)
	var log bytes.Buffer
	m := next(t, p, &log)
	fd, at := bound(t, "127.0.0.1")
	number := systemdtest.Number(fd)
	name := m.Store(fd)
	if again := m.Store(fd); again != name || name == "" || strings.ContainsAny(name, ": \n=") {
		t.Errorf("names %q and %q", name, again)
	}
	testnet.Await(t, "the socket at the manager", func() bool { return p.Kept() == 1 })
	closed(t, fd)
	m.Close()
	m = next(t, p, &log)
	if _, ok := m.Take(systemd.Socket{Protocol: spec.UDP, Address: at}); ok {
		t.Error("a TCP socket was given for UDP")
	}
	fd, ok := m.Take(systemd.Socket{Protocol: spec.TCP, Address: at})
	if !ok || systemdtest.Number(fd) != number {
		t.Fatalf("got another socket (%v):\n%s", ok, log.String())
	}
	if _, twice := m.Take(systemd.Socket{Protocol: spec.TCP, Address: at}); twice {
		t.Error("it was given twice")
	}
	m.Remove(true, name)
	if n := p.Kept(); n != 0 {
		t.Errorf("%d sockets are kept after Remove returned", n)
	}
	closed(t, fd)
	if accepts(at) {
		t.Error("somebody still listens")
	}
	for _, f := range []int{fd, 700} {
		if _, err := unix.FcntlInt(uintptr(f), unix.F_GETFD, 0); err == nil {
			t.Errorf("descriptor %d is left", f)
		}
	}
}

// A socket has its address in its own namespace alone, and one whose container
// has ended keeps nothing alive.
func TestTake_InItsNamespaceAlone(t *testing.T) {
	p := systemdtest.Play(t)
	inside, outside := testnet.NewHost(t), testnet.NewHost(t)
	var log bytes.Buffer
	m := next(t, p, &log)
	at := netip.MustParseAddrPort("127.0.0.1:6379")
	bind := func(h *testnet.Host) (number uint64) {
		h.Do(t, func() error {
			fd, err := pump.BindTCP(at)
			if err != nil {
				return err
			}
			number = systemdtest.Number(fd)
			m.Store(fd)
			return unix.Close(fd)
		})
		return number
	}
	want := map[*testnet.Host]uint64{inside: bind(inside), outside: bind(outside)}
	testnet.Await(t, "the sockets at the manager", func() bool { return p.Kept() == 2 })
	m.Close()
	m = next(t, p, &log)
	if _, ok := m.Take(systemd.Socket{Protocol: spec.TCP, Address: at}); ok {
		t.Error("a socket of another namespace was given")
	}
	inside.Do(t, func() error {
		fd, ok := m.Take(systemd.Socket{Protocol: spec.TCP, Address: at})
		if !ok || systemdtest.Number(fd) != want[inside] {
			return fmt.Errorf("got socket %d, %v, want %d", systemdtest.Number(fd), ok, want[inside])
		}
		return unix.Close(fd)
	})
	m.DropRest()
	testnet.Await(t, "the end of the other socket", func() bool { return p.Kept() == 1 })
	outside.Do(t, func() error {
		if accepts(at) {
			return fmt.Errorf("somebody still listens where nobody has taken the socket up")
		}
		return nil
	})
}

// What stands in the way of an address is gone when Take returns.
func TestTake_MakesRoom(t *testing.T) {
	p := systemdtest.Play(t)
	var log bytes.Buffer
	m := next(t, p, &log)
	fd, all := bound(t, "::")
	beside, other := bound(t, "127.0.0.1")
	m.Store(fd)
	m.Store(beside)
	testnet.Await(t, "the sockets at the manager", func() bool { return p.Kept() == 2 })
	closed(t, fd)
	closed(t, beside)
	m.Close()
	m = next(t, p, &log)
	at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), all.Port())
	if _, ok := m.Take(systemd.Socket{Protocol: spec.TCP, Address: at}); ok {
		t.Error("a socket of every address was given for one")
	}
	fd, err := pump.BindTCP(at)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	closed(t, fd)
	if !accepts(other) {
		t.Error("a socket that was in nobody's way is gone")
	}
}

// What nobody can serve is not kept: a socket that does not listen, a file.
func TestNew_LetsUselessDescriptorsGo(t *testing.T) {
	p := systemdtest.Play(t)
	var log bytes.Buffer
	fd, at := bound(t, "127.0.0.1")
	if err := unix.Shutdown(fd, unix.SHUT_RD); err != nil {
		t.Fatal(err)
	}
	p.Keep(t, "legate-shut", fd)
	closed(t, fd)
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	p.Keep(t, "legate-null", int(file.Fd()))
	p.Keep(t, "somebody", int(file.Fd()))
	file.Close()
	m := next(t, p, &log)
	if n := p.Kept(); n != 1 {
		t.Errorf("%d descriptors are kept, want that of somebody else", n)
	}
	if _, ok := m.Take(systemd.Socket{Protocol: spec.TCP, Address: at}); ok {
		t.Error("a socket was given that does not listen")
	}
	if n := strings.Count(log.String(), "no listening socket"); n != 3 {
		t.Errorf("it warned %d times:\n%s", n, log.String())
	}
}

// Whoever does not answer is not waited for.
func TestRemove_WaitsNoLongerThanASecond(t *testing.T) {
	p := systemdtest.Play(t)
	var log bytes.Buffer
	m := next(t, p, &log)
	release := p.Hang()
	defer release()
	began := time.Now()
	m.Remove(true, "legate-x")
	if took := time.Since(began); took < time.Second/2 || took > testnet.Patience/2 || !strings.Contains(log.String(), "may still keep sockets") {
		t.Errorf("it took %v:\n%s", took, log.String())
	}
}

// While the service does not answer for itself there is no ping.
func TestWatch_StopsWhenItHangs(t *testing.T) {
	p := systemdtest.Play(t)
	var log bytes.Buffer
	m := next(t, p, &log, "WATCHDOG_USEC=20000")
	ctx, cancel := context.WithCancel(t.Context())
	hang, hanging, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	asked := 0
	go func() {
		defer close(ended)
		m.Watch(ctx, func() {
			if asked++; asked == 4 {
				close(hanging)
				<-hang
			}
		})
	}()
	<-hanging
	testnet.Await(t, "three pings", func() bool { return p.Said("WATCHDOG=1") == 3 })
	<-time.After(100 * time.Millisecond)
	if n := p.Said("WATCHDOG=1"); n != 3 {
		t.Errorf("%d pings, the last ones while it hung", n)
	}
	close(hang)
	testnet.Await(t, "pings again", func() bool { return p.Said("WATCHDOG=1") > 4 })
	cancel()
	<-ended
}

func TestManager_IsQuietWhereThereIsNone(t *testing.T) {
	testnet.CheckLeaks(t)
	alone, err := systemd.New(systemd.Config{})
	if err != nil {
		t.Fatal(err)
	}
	fd, at := bound(t, "127.0.0.1")
	defer closed(t, fd)
	for _, m := range []*systemd.Manager{nil, alone} {
		m.Ready("x")
		m.Watch(t.Context(), func() { t.Error("there is no watchdog") })
		if name := m.Store(fd); name != "" {
			t.Errorf("it is kept as %q", name)
		}
		if _, ok := m.Take(systemd.Socket{Protocol: spec.TCP, Address: at}); ok {
			t.Error("there is a socket")
		}
		m.Remove(true, "legate-1")
		m.DropRest()
		m.Stopping("x")
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A text in a status must not become a variable.
func TestReady_IsOneMessage(t *testing.T) {
	p := systemdtest.Play(t)
	var log bytes.Buffer
	next(t, p, &log).Ready("fine\nMAINPID=1")
	testnet.Await(t, "READY=1", func() bool { return p.Said("READY=1") == 1 })
	if p.Said("STATUS=fine MAINPID=1") != 1 || p.Said("MAINPID=1") != 0 {
		t.Errorf("it said %q", p.All())
	}
}
