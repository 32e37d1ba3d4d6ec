package intercept

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// tenant is a process in a network namespace of its own, like a container's
// first.
type tenant struct {
	pid  int
	kill func()
}

func newTenant(t testing.TB) *tenant {
	t.Helper()
	return start(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET})
}

// newContainer is a tenant in the cgroup of a container with that id.
func newContainer(t testing.TB, id string) *tenant { t.Helper(); return newContainerWith(t, id, 0) }

func newContainerWith(t testing.TB, id string, flags uintptr) *tenant {
	t.Helper()
	return newContainerIn(t, id, unix.CLONE_NEWNET|flags)
}

func newContainerIn(t testing.TB, id string, flags uintptr) *tenant {
	t.Helper()
	cgroup := newCgroup(t, id)
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	return start(t, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Cloneflags: flags})
}

// newCgroup makes a directory that the processes of a container would be in.
func newCgroup(t testing.TB, id string) string {
	t.Helper()
	testnet.NeedRoot(t)
	parent, err := os.MkdirTemp(cgroup2(t), "docker-")
	if err != nil {
		t.Fatal(err)
	}
	cgroup := filepath.Join(parent, id)
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		testnet.Eventually(t, testnet.Patience, func() bool { return unix.Rmdir(cgroup) == nil })
		if err := unix.Rmdir(parent); err != nil {
			t.Error(err)
		}
	})
	return cgroup
}

func cgroup2(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); strings.Contains(line, " - cgroup2 ") {
			return f[4]
		}
	}
	testnet.Skip(t, "needs a mounted cgroup2")
	return ""
}

// joinContainer starts a process in the cgroup of another and in the network
// namespace of the calling thread.
func joinContainer(t testing.TB, p *tenant) *tenant {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid))
	if err != nil {
		t.Fatal(err)
	}
	_, path, ok := strings.Cut(string(text), "0::")
	if !ok {
		t.Fatalf("no cgroup2 in %q", text)
	}
	dir, err := os.Open(filepath.Join(cgroup2(t), strings.TrimSpace(path)))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	return start(t, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())})
}

func start(t testing.TB, sys *syscall.SysProcAttr) *tenant {
	t.Helper()
	testnet.NeedRoot(t)
	cmd := exec.Command("sleep", "1000000")
	cmd.SysProcAttr = sys
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &tenant{pid: cmd.Process.Pid}
	killed := false
	p.kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(p.kill)
	return p
}

func (p *tenant) signal(t testing.TB) {
	t.Helper()
	if err := unix.Kill(p.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func (p *tenant) path() string { return fmt.Sprintf("/proc/%d/ns/net", p.pid) }

func (p *tenant) open(t testing.TB) *Namespace {
	t.Helper()
	ns, err := Open(p.path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

// run runs a command inside the namespace.
func run(t testing.TB, ns *Namespace, args ...string) {
	t.Helper()
	if err := ns.Do(func() error {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func loopbackUp(t testing.TB, ns *Namespace) { t.Helper(); run(t, ns, "ip", "link", "set", "lo", "up") }

func link(text string) spec.Link {
	protocol := spec.TCP
	number, udp := strings.CutSuffix(text, "/udp")
	if udp {
		protocol = spec.UDP
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil {
		panic(err)
	}
	return spec.Link{Name: text, Listen: spec.Listen{Protocol: protocol, Host: "localhost", Port: uint16(port)}}
}

// dial connects from inside the namespace.
func dial(ns *Namespace, network, addr string) (c net.Conn, err error) {
	err = ns.Do(func() (err error) {
		c, err = net.DialTimeout(network, addr, testnet.Patience)
		return err
	})
	return c, err
}

func closeAll(t testing.TB, ls []pump.Listener) {
	t.Helper()
	for _, l := range ls {
		if err := unix.Close(l.FD); err != nil {
			t.Error(err)
		}
	}
}

// threads tells in which network namespaces the threads of this process are.
// Testnet's hosts leave the first one behind in theirs.
func threads(t testing.TB) map[string]int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	where := make(map[string]int)
	for _, e := range all {
		if ns, err := os.Readlink("/proc/self/task/" + e.Name() + "/ns/net"); err == nil {
			where[ns]++
		}
	}
	return where
}

func here(t testing.TB) string {
	t.Helper()
	ns, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func wantUserError(t testing.TB, err error, what, hint string) {
	t.Helper()
	var u *spec.UserError
	if !errors.As(err, &u) || !strings.Contains(u.What, what) || !strings.Contains(u.Hint, hint) {
		t.Errorf("error %q, want one for people that has %q and the hint %q", err, what, hint)
	}
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}
