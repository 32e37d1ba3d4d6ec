// Package soak strains bin/legate as a whole, from outside: as many connections as its descriptors
// allow and more, short ones at the highest rate, and every kind of traffic at once for as long as
// `make test SOAK=30m` says. Clients and servers are processes of their own, in a network namespace
// that is made for the run. Everything that is carried is verified, and afterwards descriptors,
// memory, threads and goroutines must be back where they were.
package soak

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/testnet"
)

const (
	// inside is set in the process that has the namespace.
	inside = "LEGATE_SOAK_INSIDE"
	// lasting says how long the soak takes, and that there is time for the long version of the rest.
	lasting = "LEGATE_SOAK"
	// patience is longer than any honest wait on a busy machine.
	patience = 30 * time.Second
	// descriptors is the limit of every process.
	descriptors = 20000
)

// The test binary is also the clients and servers.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && roles()[os.Args[1]] != nil {
		if err := play(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(inside) != "" || os.Geteuid() != 0 {
		m.Run()
		return
	}
	if err := moveInside(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// moveInside runs this program again with nothing but loopback, after it built the Legate to strain.
func moveInside() error {
	if out, err := exec.Command("make", "--no-print-directory", "-C", repository(), "build").CombinedOutput(); err != nil {
		return fmt.Errorf("make build: %w\n%s", err, out)
	}
	runtime.LockOSThread() // whose end would be taken for ours by Pdeathsig, prctl(2)
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	// A Ctrl-C reaches the one inside, too; what that prints must not be lost.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	err := cmd.Run()
	if _, failed := errors.AsType[*exec.ExitError](err); failed {
		os.Exit(1)
	}
	return err
}

func repository() string { return filepath.Join("..", "..") }

// arrange prepares the namespace for a test; without root there is none.
func arrange(t testing.TB) {
	t.Helper()
	testnet.NeedRoot(t)
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("bring loopback up: %v: %s", err, out)
	}
	// Below 2048 is for those who listen; the default would leave 28,000 for those who connect.
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("2048 65535"), 0); err != nil {
		t.Fatalf("widen the range of local ports: %v", err)
	}
	// A connection that is over keeps its local port for a minute, and nobody can listen there
	// (TIME_WAIT and SO_REUSEADDR, socket(7)): the servers of the README have theirs to themselves.
	const wellKnown = "2379-2380,6379-6383,8300-8302,8500-8503,8600,10000"
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_reserved_ports", []byte(wellKnown), 0); err != nil {
		t.Fatalf("reserve the ports of the README: %v", err)
	}
}

// asked is how long the soak shall take; long tells that a person asked for it and waits.
func asked(t testing.TB) (d time.Duration, long bool) {
	t.Helper()
	text := os.Getenv(lasting)
	if text == "" {
		return 10 * time.Second, false
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		t.Fatalf("%s=%q is not a duration; hint: make test SOAK=30m", lasting, text)
	}
	return d, true
}
