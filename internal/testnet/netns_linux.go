package testnet

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Host is a network namespace that stands for a machine. It is gone with the
// process, however that ends: nothing but a descriptor keeps it.
type Host struct {
	V4, V6 netip.Addr // on the cable; zero before Join

	ns   *os.File
	here bool // the namespace that the process is in
}

// NewHost makes a namespace with nothing but loopback. Needs root.
func NewHost(t testing.TB) *Host {
	t.Helper()
	NeedRoot(t)
	var ns *os.File
	err := inThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		if err := command("ip", "link", "set", "lo", "up"); err != nil {
			return err
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return &Host{ns: ns}
}

// Self is the namespace that the process is in: only in a [Child] with OwnNet,
// so that nobody's real network is touched.
func Self(t testing.TB) *Host {
	t.Helper()
	if os.Getenv(childVariable) == "" {
		t.Fatal("only a child with OwnNet may change its own network")
	}
	ns, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatalf("open own namespace: %v", err)
	}
	t.Cleanup(func() { ns.Close() })
	return &Host{ns: ns, here: true}
}

// Do runs f in the namespace. A socket stays in the one where it was opened,
// so connections and listeners made by f, in its own goroutine, can be used
// anywhere afterwards.
func (h *Host) Do(t testing.TB, f func() error) {
	t.Helper()
	if err := h.do(f); err != nil {
		t.Fatal(err)
	}
}

func (h *Host) do(f func() error) error {
	if h.here {
		return f()
	}
	return inThread(func() error {
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the namespace: %w", err)
		}
		return f()
	})
}

// inThread runs f on a thread that is thrown away: a goroutine that ends
// locked takes its thread, and the namespace it is in, with it.
func inThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the test was stopped")
		defer func() { done <- err }() // also when f calls t.Fatal
		runtime.LockOSThread()
		err = f()
	}()
	return <-done
}

func (h *Host) ip(args ...string) error {
	return h.do(func() error { return command("ip", args...) })
}

func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// Cable joins two hosts through a switch, so that when it is cut neither
// notices: no link goes down, no route is lost, packets just do not arrive.
type Cable struct {
	middle *Host // the switch
}

// The addresses on a cable. They exist in the two namespaces only.
const (
	left4, left6   = "10.77.0.1", "fd77::1"
	right4, right6 = "10.77.0.2", "fd77::2"
	leftMAC        = "02:00:00:00:77:01"
	rightMAC       = "02:00:00:00:77:02"
)

// Join lays a cable between two hosts and sets their addresses. A host has
// room for one cable.
func Join(t testing.TB, left, right *Host) *Cable {
	t.Helper()
	c := &Cable{middle: NewHost(t)}
	left.V4, left.V6 = netip.MustParseAddr(left4), netip.MustParseAddr(left6)
	right.V4, right.V6 = netip.MustParseAddr(right4), netip.MustParseAddr(right6)
	plug := func(h *Host, port, mac string) {
		must(t, c.middle.ip("link", "add", port, "type", "veth", "peer", "name", "cable0", "address", mac, "netns", h.path()))
		must(t, c.middle.ip("link", "set", port, "master", "switch0", "up"))
		must(t, h.ip("addr", "add", h.V4.String()+"/24", "dev", "cable0"))
		must(t, h.ip("addr", "add", h.V6.String()+"/64", "dev", "cable0", "nodad"))
		must(t, h.ip("link", "set", "cable0", "up"))
	}
	must(t, c.middle.ip("link", "add", "switch0", "type", "bridge"))
	must(t, c.middle.ip("link", "set", "switch0", "up"))
	plug(left, "left", leftMAC)
	plug(right, "right", rightMAC)
	know(t, left, right, rightMAC)
	know(t, right, left, leftMAC)
	return c
}

// know tells a host the other's MAC for good: without an answer to its
// question for it the kernel would report an unreachable host instead of
// silence.
func know(t testing.TB, h, other *Host, mac string) {
	t.Helper()
	for _, a := range []netip.Addr{other.V4, other.V6} {
		must(t, h.ip("neigh", "replace", a.String(), "lladdr", mac, "dev", "cable0", "nud", "permanent"))
	}
}

func (h *Host) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.ns.Fd()) }

// Cut lets nothing through any more.
func (c *Cable) Cut(t testing.TB) {
	t.Helper()
	must(t, c.middle.ip("link", "set", "right", "nomaster"))
}

// Restore mends the cable.
func (c *Cable) Restore(t testing.TB) {
	t.Helper()
	must(t, c.middle.ip("link", "set", "right", "master", "switch0"))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
