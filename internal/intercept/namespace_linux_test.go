package intercept

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"legate/internal/testnet"
)

func TestOpen_OneNamespaceIsOneID(t *testing.T) {
	testnet.CheckLeaks(t)
	a, b := newTenant(t), newTenant(t)
	first, again, other := a.open(t), a.open(t), b.open(t)
	if first.ID() != again.ID() {
		t.Errorf("two handles on one namespace: %s and %s", first.ID(), again.ID())
	}
	if first.ID() == other.ID() {
		t.Errorf("two namespaces have the id %s", first.ID())
	}
	f, err := Of(a.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Namespace.Close()
	if f.Namespace.ID() != first.ID() || f.PID != a.pid || f.Container != "" || f.Host {
		t.Errorf("found %+v, want namespace %s of process %d in no container", f, first.ID(), a.pid)
	}
}

func TestOf_TheHost(t *testing.T) {
	testnet.CheckLeaks(t)
	f, err := Of(start(t, &syscall.SysProcAttr{}).pid)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Namespace.Close()
	if !f.Host {
		t.Error("a process of this network is said to be in another")
	}
}

func TestOpen_WhatIsNoNetworkNamespace(t *testing.T) {
	testnet.CheckLeaks(t)
	dir := t.TempDir()
	pipe, empty := filepath.Join(dir, "pipe"), filepath.Join(dir, "empty")
	if err := errors.Join(unix.Mkfifo(pipe, 0o600), os.WriteFile(empty, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		pipe: ErrNoNamespace, empty: ErrNoNamespace, dir: ErrNoNamespace, os.DevNull: ErrNoNamespace,
		"/proc/self/ns/mnt": ErrNoNamespace, "/proc/self/ns/user": ErrNoNamespace,
		filepath.Join(dir, "none"): fs.ErrNotExist, "/proc/999999999/ns/net": fs.ErrNotExist,
	} {
		if ns, err := Open(path); !errors.Is(err, want) {
			t.Errorf("open %s: %v, %v, want %v", path, ns, err, want)
		}
	}
}

// To open a pipe or a device is to use it.
func TestOpen_DoesNotTouchWhatIsNone(t *testing.T) {
	testnet.CheckLeaks(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, pipe, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(pipe); !errors.Is(err, ErrNoNamespace) {
		t.Errorf("open a pipe: %v", err)
	}
	if n, err := unix.Read(fd, make([]byte, 1024)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("%d bytes of events, %v: it was opened", n, err)
	}
}

func TestResident_Before(t *testing.T) {
	early, late := resident{pid: 9, started: 1}, resident{pid: 3, started: 2} // numbers went round
	sure := resident{pid: 12, started: 3, first: true}
	for name, test := range map[string]struct{ a, b resident }{
		"the older one":                     {early, late},
		"the first of its namespace":        {sure, early},
		"the lower number in the same tick": {late, resident{pid: 4, started: 2}},
	} {
		if !test.a.before(test.b) || test.b.before(test.a) {
			t.Errorf("not %s", name)
		}
	}
}

func TestDo_IsInsideAndComesBack(t *testing.T) {
	testnet.CheckLeaks(t)
	home := here(t)
	tenants := []*tenant{newTenant(t), newTenant(t), newTenant(t)}
	var all sync.WaitGroup
	for i := range 24 {
		p := tenants[i%len(tenants)]
		ns := p.open(t)
		want, err := os.Readlink(p.path())
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for range 100 {
				var inside string
				err := ns.Do(func() (err error) {
					inside, err = os.Readlink("/proc/thread-self/ns/net")
					return err
				})
				if err != nil || inside != want {
					t.Errorf("inside %s, %v, want %s", inside, err, want)
				}
				if outside, err := os.Readlink("/proc/thread-self/ns/net"); err != nil || outside != home {
					t.Errorf("afterwards in %s, %v, want %s", outside, err, home)
				}
			}
		})
	}
	all.Wait()
	where := threads(t)
	for _, p := range tenants {
		if foreign, err := os.Readlink(p.path()); err != nil || where[foreign] != 0 {
			t.Errorf("%d threads stayed in %s, %v", where[foreign], foreign, err)
		}
	}
}

func TestDo_OfALockedCallerStaysHome(t *testing.T) {
	testnet.CheckLeaks(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, ns := here(t), newTenant(t).open(t)
	before := unix.Gettid()
	if err := ns.Do(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if here(t) != home || unix.Gettid() != before {
		t.Errorf("thread %d in %s, want %d in %s", unix.Gettid(), here(t), before, home)
	}
}

// A thread that stayed in a container's namespace would run other goroutines
// there: their connections would come from the container.
func TestDo_AThreadThatCannotComeBackDies(t *testing.T) {
	home, p := here(t), newTenant(t)
	ns := p.open(t)
	foreign, err := os.Readlink(p.path())
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		err := ns.Do(func() error { return loseWayHome(home) })
		if err != nil {
			t.Fatal(err)
		}
	}
	testnet.Await(t, "end of the threads", func() bool { return threads(t)[foreign] == 0 })
	if here(t) != home {
		t.Errorf("the test is in %s", here(t))
	}
}

// loseWayHome puts something else in the place of every descriptor of the
// namespace home.
func loseWayHome(home string) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	lost := false
	for _, e := range all {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); to == home {
			fd, err := strconv.Atoi(e.Name())
			if err != nil {
				return err
			}
			lost = unix.Dup3(int(null.Fd()), fd, unix.O_CLOEXEC) == nil
		}
	}
	if !lost {
		return errors.New("there is no way home")
	}
	return nil
}

// The first thread of a process does not die: one that cannot come back would
// stay, and the namespace with it.
func TestDo_NotOnTheFirstThread(t *testing.T) {
	testnet.Child{}.Run(t, func() {
		p := newTenant(t)
		raw, err := p.open(t).file.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		visitor := 0
		onFirstThread(t, func() {
			done := make(chan error, 1)
			err := raw.Control(func(fd uintptr) {
				visit(int(fd), func() error { visitor = unix.Gettid(); return nil }, done)
			})
			if err := errors.Join(err, <-done); err != nil {
				t.Error(err)
			}
		})
		if visitor == 0 || visitor == os.Getpid() {
			t.Errorf("thread %d of process %d was inside", visitor, os.Getpid())
		}
	})
}

// onFirstThread holds threads until it has the first one, and runs f there.
func onFirstThread(t testing.TB, f func()) {
	t.Helper()
	release := make(chan struct{})
	var all sync.WaitGroup
	defer all.Wait()
	defer close(release)
	for range 100 {
		was := make(chan bool)
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			first := unix.Gettid() == unix.Getpid()
			if first {
				f()
			}
			was <- first
			<-release
		})
		if <-was {
			return
		}
	}
	t.Fatal("the first thread is never free")
}

func TestDo_WorkThatEndsItsGoroutineIsAnError(t *testing.T) {
	testnet.CheckLeaks(t)
	p := newTenant(t)
	err := p.open(t).Do(func() error { runtime.Goexit(); return nil })
	if !errors.Is(err, errEnded) {
		t.Errorf("error %v, want %v", err, errEnded)
	}
	foreign, err := os.Readlink(p.path())
	if err != nil {
		t.Fatal(err)
	}
	testnet.Await(t, "end of the thread", func() bool { return threads(t)[foreign] == 0 })
}

func TestDo_AfterCloseIsAnError(t *testing.T) {
	testnet.CheckLeaks(t)
	ns := newTenant(t).open(t)
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { t.Error("entered"); return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("error %v, want %v", err, os.ErrClosed)
	}
}

// The connect is made outside, as pump does it.
func TestSocket_ConnectsFromInside(t *testing.T) {
	testnet.CheckLeaks(t)
	ns := newTenant(t).open(t)
	loopbackUp(t, ns)
	var l net.Listener
	if err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", "127.0.0.1:7001")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := ns.Socket(unix.AF_INET, unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: 7001, Addr: [4]byte{127, 0, 0, 1}})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %x, %v: it would block who connects it", flags, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %x, %v: children would inherit it", flags, err)
	}
}

func TestOf_ProcessThatHasEnded(t *testing.T) {
	testnet.CheckLeaks(t)
	dead := newTenant(t)
	dead.kill()
	_, err := Of(dead.pid)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", dead.pid)) {
		t.Errorf("error %v, want that there is no process %d", err, dead.pid)
	}
}
