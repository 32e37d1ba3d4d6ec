package soak

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/control"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// setup is how a Legate is started.
type setup struct {
	binary string
	files  int // its limit of descriptors
	links  []string
	flags  []string
}

// product is what `make build` makes.
func product() string { return filepath.Join(repository(), "bin", "legate") }

// checked is the same with the pump's invariants checked at every step: it panics where one is broken.
func checked(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "legate")
	cmd := exec.Command("go", "build", "-tags", "pumpcheck", "-o", binary, "./cmd/legate")
	cmd.Dir = repository()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build legate with checks: %v\n%s", err, out)
	}
	return binary
}

// legate is one process under strain.
type legate struct {
	setup
	t       testing.TB
	cmd     *exec.Cmd
	control string // path of its socket
	client  *control.Client
	said    *testnet.Transcript
	ended   chan error
}

// start returns when the links are open.
func (s setup) start(t testing.TB) *legate {
	t.Helper()
	l := &legate{setup: s, t: t, control: testnet.SocketPath(t), said: &testnet.Transcript{}, ended: make(chan error, 1)}
	l.client = control.NewClient(l.control)
	limited := []string{"-c", `ulimit -n "$1" && shift && exec "$@"`, "sh", strconv.Itoa(s.files), s.binary, "run", "--control", l.control}
	l.cmd = exec.Command("sh", append(append(limited, s.flags...), s.links...)...)
	ours := func(variable string) bool { return strings.HasPrefix(variable, "LEGATE_") } // it would read them as its own
	l.cmd.Env = append(slices.DeleteFunc(os.Environ(), ours), "GOTRACEBACK=all")
	l.cmd.Stderr = l.said
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := l.cmd.Start(); err != nil {
		t.Fatalf("start legate: %v", err)
	}
	go func() { l.ended <- l.cmd.Wait() }()
	t.Cleanup(l.finish)
	testnet.Await(t, "the control socket of legate", func() bool { return l.mustRun() && l.answers() })
	return l
}

// mustRun fails the test when the process has ended.
func (l *legate) mustRun() bool {
	l.t.Helper()
	select {
	case err := <-l.ended:
		l.ended <- err
		l.t.Fatalf("legate ended: %v\n%s", err, l.said)
	default:
	}
	return true
}

func (l *legate) answers() bool {
	s, err := l.client.Snapshot(context.Background())
	return err == nil && len(s.Links) == len(l.links)
}

// finish has it end as an operator would, which must be clean.
func (l *legate) finish() {
	_ = l.cmd.Process.Signal(syscall.SIGTERM) // it may be gone
	select {
	case err := <-l.ended:
		l.ended <- nil
		if err != nil && !l.t.Failed() {
			l.t.Errorf("legate ended with %v", err)
		}
	case <-time.After(patience):
		l.t.Errorf("legate did not end on SIGTERM")
		_ = l.cmd.Process.Kill()
		_ = <-l.ended // killed
	}
	if l.t.Failed() {
		log, _, _ := strings.Cut(l.said.String(), "SIGQUIT: quit")
		l.t.Logf("legate said:\n%s", log)
	}
}

// goroutines ends the process with a dump of them and counts all but the runtime's own, which it starts
// when it first collects garbage.
func (l *legate) goroutines() int {
	l.t.Helper()
	if err := l.cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		l.t.Fatalf("ask legate for its goroutines: %v", err)
	}
	_ = <-l.ended // by SIGQUIT
	l.ended <- nil
	count := 0
	for _, stack := range strings.Split(l.said.String(), "\n\n") {
		if strings.HasPrefix(stack, "goroutine ") && !strings.Contains(stack, "\ncreated by runtime.") {
			count++
		}
	}
	if count == 0 {
		l.t.Fatalf("legate dumped no goroutines:\n%s", l.said)
	}
	return count
}

// checkGoroutines ends the process and compares it with one that has done nothing yet. UDP sessions that
// are still there have a goroutine each.
func (l *legate) checkGoroutines(sessions int) {
	l.t.Helper()
	dump := l.goroutines()
	text := l.said.String()
	fresh := l.start(l.t).goroutines()
	l.t.Logf("goroutines: %d, of a fresh process %d", dump, fresh)
	if dump > fresh+sessions+moreGoroutines {
		l.t.Errorf("%d goroutines are left, and a fresh process has %d:\n%s", dump, fresh, text)
	}
}

// status is one link in what `legate status --json` reports.
func (l *legate) status(link int) spec.LinkStatus {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := l.client.Snapshot(ctx)
	if err != nil {
		l.t.Fatalf("ask legate for its status: %v\n%s", err, l.said)
	}
	return s.Links[link]
}

// verb runs a command against it, as an operator does.
func (l *legate) verb(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, product(), append(args, "--control", l.control)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("legate %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// usage is what a process holds.
type usage struct {
	Descriptors, Threads int
	RSS                  int64 // bytes
}

func (u usage) String() string {
	return fmt.Sprintf("%d descriptors, %d threads, %.1f MiB", u.Descriptors, u.Threads, float64(u.RSS)/(1<<20))
}

func (l *legate) usage() usage {
	l.t.Helper()
	l.mustRun()
	u, err := usageOf(l.cmd.Process.Pid)
	if err != nil {
		l.t.Fatalf("look at legate: %v", err)
	}
	return u
}

func usageOf(pid int) (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	files, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return u, err
	}
	text, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return u, err
	}
	u.Descriptors = len(files)
	_, threads, _ := strings.Cut(string(text), "\nThreads:")
	_, rss, _ := strings.Cut(string(text), "\nVmRSS:")
	if _, err := fmt.Sscanf(threads, "%d", &u.Threads); err != nil {
		return u, fmt.Errorf("read the number of threads: %w", err)
	}
	if _, err := fmt.Sscanf(rss, "%d kB", &u.RSS); err != nil {
		return u, fmt.Errorf("read the resident memory: %w", err)
	}
	u.RSS <<= 10
	return u, nil
}

// What may be more after a strain than before it, when the same strain had been there before.
const (
	moreDescriptors = 24      // pipes that are kept for the next stream
	moreThreads     = 16      // the runtime starts one for each blocking call that takes long, and keeps it
	moreGoroutines  = 2       // requests on the control socket that are just ending
	moreRSS         = 8 << 20 // and a quarter: where the collector happens to stand
)

// checkBack waits until the process holds what it held before.
func (l *legate) checkBack(after string, before usage) {
	l.t.Helper()
	var now usage
	back := func() bool {
		now = l.usage()
		return now.Descriptors <= before.Descriptors+moreDescriptors && now.Threads <= before.Threads+moreThreads &&
			now.RSS <= before.RSS+before.RSS/4+moreRSS
	}
	deadline := time.Now().Add(patience)
	for !back() && time.Now().Before(deadline) {
		<-time.After(20 * time.Millisecond)
	}
	l.t.Logf("after %s: %v; before: %v", after, now, before)
	if !back() {
		l.t.Errorf("after %s it holds %v, and before %v", after, now, before)
	}
}

// returned is how long the runtime may take to give memory back: it collects garbage after two minutes
// in which nothing else made it (forcegcperiod in runtime/proc.go), and releases pages little by little.
const returned = 6 * time.Minute

// checkMemoryReturned waits until the process has given back what it needed for a crowd.
func (l *legate) checkMemoryReturned(start usage) {
	l.t.Helper()
	began, peak := time.Now(), l.usage()
	now := peak
	for now.RSS > 2*start.RSS+moreRSS && time.Since(began) < returned {
		<-time.After(time.Second)
		now = l.usage()
	}
	l.t.Logf("%v later: %v; after the last crowd: %v; at the start: %v", time.Since(began).Round(time.Second), now, peak, start)
	if now.RSS > 2*start.RSS+moreRSS {
		l.t.Errorf("memory did not return: %v, and at the start %v", now, start)
	}
}

// awaitIdle returns when no connection is left. A UDP session is, for a minute.
func (l *legate) awaitIdle() {
	l.t.Helper()
	for i := range l.links {
		if strings.Contains(l.links[i], "/udp=") {
			continue
		}
		testnet.Await(l.t, fmt.Sprintf("the end of the last connection of %s", l.links[i]), func() bool {
			return l.status(i).Counters.Current == 0
		})
	}
}
