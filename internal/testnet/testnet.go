// Package testnet is the hostile half of the network for tests: peers that
// reset, stall, half-close and dribble, addresses that swallow or refuse
// connects, hosts in namespaces of their own whose cable can be cut, and the
// checks that nothing was left behind.
//
// It is imported by tests only; nothing of it may be linked into the product.
// Everything that opens something takes the test and closes it at its end.
package testnet

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// Patience is how long a step of a peer may take before it counts as hung.
// Longer than any honest wait in the tests, short enough that a hang says
// where it is before the whole binary is killed.
const Patience = 20 * time.Second

// Skip skips the test and says why. With CI=true it fails instead: a skip
// that nobody reads is a test that does not exist.
func Skip(t testing.TB, why string) {
	t.Helper()
	if on, _ := strconv.ParseBool(os.Getenv("CI")); on {
		t.Fatalf("skipped under CI: %s", why)
	}
	t.Skip(why)
}

// NeedRoot skips unless the test runs as root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root, for network namespaces")
	}
}

// Eventually asks cond again and again and fails the test when it is not true
// within timeout. Between two questions it waits 1 ms, later up to 20 ms.
func Eventually(t testing.TB, timeout time.Duration, cond func() bool) {
	t.Helper()
	if !poll(timeout, cond) {
		t.Fatalf("not true within %v", timeout)
	}
}

// Await is Eventually with [Patience] that names what it waits for.
func Await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !poll(Patience, cond) {
		t.Fatalf("hung: %s never came", what)
	}
}

func poll(timeout time.Duration, cond func() bool) bool {
	deadline := time.Now().Add(timeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		if cond() {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause) //nolint:forbidigo // between two looks at the condition
	}
}

// FreePort returns a TCP and UDP port that nobody used on loopback a moment
// ago. Where the code under test can report its own port, bind 0 instead.
func FreePort(t testing.TB) int {
	t.Helper()
	return FreePorts(t, 1)[0]
}

// FreePorts returns n such ports, all different.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, 0, n)
	for tries := 0; len(ports) < n; tries++ {
		if tries > 100*n {
			t.Fatalf("find %d free ports: gave up", n)
		}
		port, release, err := claimPort()
		if err != nil {
			continue
		}
		defer release()
		ports = append(ports, port)
	}
	return ports
}

// claimPort holds the port in all four ways, so that what is free for TCP on
// v4 is not taken by somebody's UDP socket on v6. A machine without IPv6
// still gets a port.
func claimPort() (port int, release func(), err error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, nil, fmt.Errorf("listen on a free port: %w", err)
	}
	held := []interface{ Close() error }{l}
	release = func() {
		for _, h := range held {
			h.Close()
		}
	}
	port = l.Addr().(*net.TCPAddr).Port
	u, err := net.ListenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		release()
		return 0, nil, fmt.Errorf("bind the same port for UDP: %w", err)
	}
	held = append(held, u)
	if !hasIPv6() {
		return port, release, nil
	}
	l6, err := net.Listen("tcp6", fmt.Sprintf("[::1]:%d", port))
	if err != nil {
		release()
		return 0, nil, fmt.Errorf("listen on the same port for v6: %w", err)
	}
	held = append(held, l6)
	u6, err := net.ListenPacket("udp6", fmt.Sprintf("[::1]:%d", port))
	if err != nil {
		release()
		return 0, nil, fmt.Errorf("bind the same port for UDP on v6: %w", err)
	}
	held = append(held, u6)
	return port, release, nil
}

func hasIPv6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// NeedIPv6 skips where loopback has no ::1.
func NeedIPv6(t testing.TB) {
	t.Helper()
	if !hasIPv6() {
		Skip(t, "needs ::1 on loopback")
	}
}

// SocketPath returns a path for a unix socket, short enough for sun_path
// (108 bytes), which t.TempDir of a test with a long name is not.
func SocketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tn")
	if err != nil {
		t.Fatalf("make socket directory: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir + "/s"
}
