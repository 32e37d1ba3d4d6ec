package testnet

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"runtime"
	"sort"
	"strings"
	"testing"
	"time"
)

// CheckLeaks fails the test if, when it ends and its earlier clean-ups ran,
// goroutines or descriptors are left that were not there at the call. Call it
// first: clean-ups run last in, first out. Not for parallel tests, which
// would see each other's.
func CheckLeaks(t testing.TB) {
	t.Helper()
	warmUp()
	goroutines, files := goroutineStacks(), openFiles()
	t.Cleanup(func() {
		if t.Failed() {
			return // what failed half-way did not tidy up either; its own message matters
		}
		var left []string
		if !poll(5*time.Second, func() bool {
			left = leftovers(goroutines, files)
			return len(left) == 0
		}) {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
}

// warmUp opens what the runtime opens once and keeps: its poller.
func warmUp() {
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close()
	}
}

func leftovers(goroutines, files map[string]string) (left []string) {
	// Pipes that package net keeps for splice are closed by finalisers of a
	// sync.Pool: two collections until they are gone.
	runtime.GC()
	runtime.GC()
	for id, stack := range goroutineStacks() {
		if _, was := goroutines[id]; !was {
			left = append(left, stack)
		}
	}
	for fd, name := range openFiles() {
		if was, ok := files[fd]; !ok || was != name {
			left = append(left, fmt.Sprintf("descriptor %s: %s", fd, name))
		}
	}
	sort.Strings(left)
	return left
}

var goroutineHeader = regexp.MustCompile(`^goroutine (\d+) `)

// goroutineStacks returns every goroutine's stack by its number, which the
// runtime never gives out twice; the testing package's own and the caller's
// are left out.
func goroutineStacks() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	stacks := make(map[string]string)
	for i, stack := range strings.Split(string(buf), "\n\n") {
		id := goroutineHeader.FindStringSubmatch(stack)
		if i == 0 || id == nil || runtimesOwn(stack) {
			continue
		}
		stacks[id[1]] = stack
	}
	return stacks
}

func runtimesOwn(stack string) bool {
	for _, own := range []string{"testing.(*M).", "testing.runTests", "testing.(*T).Run(", "testing.tRunner.func", "os/signal.loop", "runtime.ReadTrace", "runtime/pprof."} {
		if strings.Contains(stack, own) {
			return true
		}
	}
	return false
}

// openFiles returns what every descriptor of this process refers to. The
// descriptor that lists them is not among them: it is closed when read.
func openFiles() map[string]string {
	files := make(map[string]string)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return files // no /proc: not Linux
	}
	for _, e := range entries {
		if name, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files[e.Name()] = name
		}
	}
	return files
}
