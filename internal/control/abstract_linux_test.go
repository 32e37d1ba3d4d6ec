package control

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// abstractPlaces are of a system where no directory can be written.
func abstractPlaces(t *testing.T) Places {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	prefix := fmt.Sprintf("@legate-test-%d-%s/", os.Getpid(), t.Name())
	return Places{Dirs: []string{filepath.Join(file, "dir")}, Abstract: prefix, Search: prefix}
}

type fixed struct {
	Instance
	pid int
}

func (f fixed) Snapshot() spec.Snapshot { return spec.Snapshot{PID: f.pid} }

func serveAbstract(t *testing.T, p Places) *Socket {
	t.Helper()
	s, err := Listen("", p)
	if err != nil {
		t.Fatal(err)
	}
	server := Serve(s, fixed{pid: 5}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { server.Close() })
	return s
}

func TestAbstract_ServesWhereNothingCanBeWritten(t *testing.T) {
	p := abstractPlaces(t)
	s := serveAbstract(t, p)
	if s.Address != p.Abstract+"legate.sock" {
		t.Errorf("it is at %s", s.Address)
	}
	for _, where := range []string{"", "legate", s.Address} {
		c, err := Find(t.Context(), where, p)
		if err != nil {
			t.Fatalf("find %q: %v", where, err)
		}
		if got, err := c.Snapshot(t.Context()); err != nil || got.PID != 5 {
			t.Errorf("%q: got %v, %v", where, got, err)
		}
	}
	second := serveAbstract(t, p)
	if want := fmt.Sprintf("legate-%d", os.Getpid()); second.Name != want {
		t.Errorf("the second one is %s, want %s", second.Name, want)
	}
}

// asUser runs f on a thread of its own with another effective user, which is
// what the kernel notes for SO_PEERCRED. The thread ends with f.
func asUser(t *testing.T, uid int, f func()) {
	t.Helper()
	testnet.NeedRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread must not be used again
		const same = ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
			t.Errorf("become user %d: %v", uid, errno)
			return
		}
		f()
	}()
	<-done
}

// askPrefixes makes the test binary print what it would be found by.
const askPrefixes = "LEGATE_TEST_PREFIXES"

func TestAbstract_PrintPrefixes(t *testing.T) {
	if os.Getenv(askPrefixes) == "" {
		return
	}
	p := DefaultPlaces(os.Getenv)
	fmt.Fprintf(os.Stderr, "%s %s\n", p.Abstract, p.Search)
}

// Containers that share a network namespace see each other's abstract names.
func TestAbstract_PIDNamespacesAreApart(t *testing.T) {
	prefixes := func(flags uintptr) string {
		c := exec.Command(os.Args[0], "-test.run=^TestAbstract_PrintPrefixes$")
		c.Env = append(os.Environ(), askPrefixes+"=1")
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		var out strings.Builder
		c.Stderr = &out
		if err := c.Run(); err != nil {
			testnet.Skip(t, fmt.Sprintf("start a process in a namespace: %v", err))
		}
		return out.String()
	}
	same := prefixes(0)
	other := prefixes(syscall.CLONE_NEWPID)
	if first := DefaultPlaces(os.Getenv); same != first.Abstract+" "+first.Search+"\n" {
		t.Errorf("in one namespace: %+v and %q", first, same)
	}
	a, b := strings.Fields(same), strings.Fields(other)
	if len(a) != 2 || len(b) != 2 || strings.HasPrefix(b[0], a[1]) || strings.HasPrefix(a[0], b[1]) {
		t.Errorf("two pid namespaces have %q and %q: one finds the other's", same, other)
	}
}

func TestAbstract_ServerRefusesOtherUsers(t *testing.T) {
	s := serveAbstract(t, abstractPlaces(t))
	asUser(t, 65533, func() {
		c, err := net.Dial("unix", s.Address)
		if err != nil {
			t.Errorf("connect: %v", err)
			return
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(testnet.Patience)); err != nil {
			t.Errorf("set deadline: %v", err)
		}
		fmt.Fprint(c, "GET /v1/snapshot HTTP/1.1\r\nHost: legate\r\nConnection: close\r\n\r\n")
		if answer, _ := io.ReadAll(c); len(answer) > 0 {
			t.Errorf("a stranger got %q", answer)
		}
	})
}

func TestAbstract_ClientDistrustsOtherUsers(t *testing.T) {
	address := abstractPlaces(t).Abstract + "legate.sock"
	var l net.Listener
	asUser(t, 65532, func() {
		var err error
		if l, err = net.Listen("unix", address); err != nil {
			t.Errorf("listen: %v", err)
		}
	})
	if l == nil {
		return
	}
	defer l.Close()
	asUser(t, 65533, func() {
		if _, err := dial(t.Context(), address); !errors.Is(err, os.ErrPermission) {
			t.Errorf("a stranger's socket: %v, want permission denied", err)
		}
	})
	asUser(t, 65532, func() {
		c, err := dial(t.Context(), address)
		if err != nil {
			t.Errorf("the own socket: %v", err)
			return
		}
		c.Close()
	})
}

// Root finds the instances of all users, its own first.
func TestAbstract_OthersDoNotHideTheOwn(t *testing.T) {
	p := abstractPlaces(t)
	p.Search = p.Abstract
	p.Abstract += "0/"
	other := Places{Dirs: p.Dirs, Abstract: p.Search + "65533/"}
	theirs := serveAbstract(t, other)
	for _, where := range []string{"", "legate"} {
		if c, err := Find(t.Context(), where, p); err != nil || c.Address != theirs.Address {
			t.Errorf("%q without an own one: got %v, %v", where, c, err)
		}
	}
	own := serveAbstract(t, p)
	for _, where := range []string{"", "legate"} {
		if c, err := Find(t.Context(), where, p); err != nil || c.Address != own.Address {
			t.Errorf("%q with an own one: got %v, %v", where, c, err)
		}
	}
}
