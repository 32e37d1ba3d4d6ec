package soak

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/testnet"
)

// A role is what a process of this program does: it reads orders, a word each, and prints reports, a
// line of JSON each.
type role func(stage) error

type stage struct {
	config []byte // JSON
	orders *bufio.Scanner
	out    *json.Encoder
}

func roles() map[string]role {
	return map[string]role{"echo": playEcho, "hold": playHold, "short": playShort, "serve": playServe, "load": playLoad,
		"named": playNamed, "rate": playRate, "queue": playQueue}
}

func play(name, config string) error {
	limit := syscall.Rlimit{Cur: descriptors, Max: descriptors}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit descriptors: %w", err)
	}
	s := stage{config: []byte(config), orders: bufio.NewScanner(os.Stdin), out: json.NewEncoder(os.Stdout)}
	if err := roles()[name](s); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// await returns when the order comes.
func (s stage) await(order string) error {
	if !s.orders.Scan() {
		return fmt.Errorf("waiting for %q: %w", order, io.ErrUnexpectedEOF)
	}
	if got := s.orders.Text(); got != order {
		return fmt.Errorf("ordered %q, want %q", got, order)
	}
	return nil
}

// peer is a process in a role.
type peer struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	orders io.WriteCloser
	out    *json.Decoder
	said   *testnet.Transcript
}

func startPeer(t testing.TB, name string, config any) *peer {
	t.Helper()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	p := &peer{t: t, name: name, cmd: exec.Command(os.Args[0], name, string(text)), said: &testnet.Transcript{}}
	p.cmd.Stderr = p.said
	// A program under the race detector waits for a second at its end.
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if p.orders, err = p.cmd.StdinPipe(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	p.out = json.NewDecoder(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(p.kill)
	return p
}

// kill is also how a server ends unannounced.
func (p *peer) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill() // it may be gone
		_ = p.cmd.Wait()         // killed
	}
}

func (p *peer) tell(order string) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.orders, order); err != nil {
		p.t.Fatalf("order %s of %s: %v\n%s", order, p.name, err, p.said)
	}
}

// hear takes the next report.
func (p *peer) hear(report any) {
	p.t.Helper()
	if err := p.out.Decode(report); err != nil {
		p.kill()
		p.t.Fatalf("report of %s: %v\n%s", p.name, err, p.said)
	}
}

// leave asks it to end in order.
func (p *peer) leave() {
	p.t.Helper()
	p.terminate()
	p.wait()
}

func (p *peer) terminate() { _ = p.cmd.Process.Signal(syscall.SIGTERM) } // if it is gone, so says wait

// wait is for a peer that ends by itself.
func (p *peer) wait() {
	p.t.Helper()
	if err := p.cmd.Wait(); err != nil {
		p.t.Fatalf("%s ended with %v\n%s", p.name, err, p.said)
	}
}

// terminated is closed when somebody asks the process to end.
func terminated() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	return c
}

// tally counts what was done and keeps the first few failures.
type tally struct {
	mu sync.Mutex
	counts
}

// counts is what a tally reports.
type counts struct {
	Done   int
	Failed int
	Errors []string
	Worst  time.Duration // of one exchange
}

const manyErrors = 5

func (t *tally) add(took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Worst = max(t.Worst, took)
	if err == nil {
		t.Done++
		return
	}
	if t.Failed++; len(t.Errors) < manyErrors {
		t.Errors = append(t.Errors, err.Error())
	}
}

func (t *tally) report() counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts
}

func (c counts) plus(o counts) counts {
	return counts{c.Done + o.Done, c.Failed + o.Failed, append(c.Errors, o.Errors...), max(c.Worst, o.Worst)}
}

// err is nil when all of want were done, and nothing failed.
func (c counts) err(want int) error {
	switch {
	case c.Failed > 0:
		return fmt.Errorf("%d failed, the first with %s", c.Failed, strings.Join(c.Errors, "; "))
	case c.Done < want:
		return fmt.Errorf("%d done, want %d", c.Done, want)
	}
	return nil
}

// together calls f for 0 to n-1, at most a number of them at once.
func together(n, atOnce int, f func(i int)) {
	next := make(chan int)
	var all sync.WaitGroup
	for range min(n, atOnce) {
		all.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	all.Wait()
}

var errWrongBytes = errors.New("other bytes came back than were sent")
