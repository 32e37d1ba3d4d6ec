package soak

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"legate/internal/testnet"
)

// The links and the servers of the soak. Only the endpoint that a swap took the new connections
// from is restarted, and only those of the broken link are killed.
const (
	steady       = "127.0.0.1:1100"
	broken       = "127.0.0.1:1200"
	datagrams    = "127.0.0.1:1300"
	firstSteady  = "127.0.1.1:1000"
	secondSteady = "127.0.1.2:1000"
	firstBroken  = "127.0.1.3:1000"
	secondBroken = "127.0.1.4:1000"
	echoing      = "127.0.1.5:1000"
)

// Every kind of traffic at once, while the target is swapped and servers are restarted and killed: each
// operation is verified, and what the process held after a while it holds at the end.
func TestSoak(t *testing.T) {
	arrange(t)
	lasting, long := asked(t)
	warm := max(3*time.Second, min(time.Minute, lasting/5))
	binary := product()
	if !long { // whose checks change what happens when: for long, what users have is worth more
		binary = checked(t)
	}
	w := newSoak(t, binary)
	w.run("warming up", warm)
	before := w.l.usage()
	w.run("soak", max(lasting-warm, warm))
	w.l.checkBack(fmt.Sprintf("%v of everything at once", lasting), before)
	w.l.checkGoroutines(sessions)
}

// soak is what changes while the load runs.
type soak struct {
	t       testing.TB
	l       *legate
	servers map[string]*peer // by address
	socket  string           // path of the steady link's other entrance
	current string           // endpoint of the steady link
	phase   int

	swaps, restarts, kills int
}

func newSoak(t testing.TB, binary string) *soak {
	t.Helper()
	w := &soak{t: t, servers: make(map[string]*peer), current: firstSteady, socket: testnet.SocketPath(t)}
	for _, addr := range []string{firstSteady, secondSteady, firstBroken, secondBroken} {
		w.serve(addr)
	}
	p := startPeer(t, "echo", []string{echoing})
	var ready string
	p.hear(&ready)
	w.l = setup{binary: binary, files: 4096, links: []string{
		steady + "=" + firstSteady,
		"unix:" + w.socket + "=" + firstSteady,
		broken + "=" + firstBroken + "," + secondBroken,
		datagrams + "/udp=" + echoing,
	}}.start(t)
	return w
}

func (w *soak) serve(addr string) {
	w.t.Helper()
	p := startPeer(w.t, "serve", addr)
	var ready string
	p.hear(&ready)
	w.servers[addr] = p
}

const (
	stepEvery     = 100 * time.Millisecond
	swapEvery     = 3 // steps
	restartEvery  = 20
	killEvery     = 15
	progressEvery = 10 * time.Second
)

// run has the load on for d and returns when nothing of it is left.
func (w *soak) run(what string, d time.Duration) {
	w.t.Helper()
	w.phase++
	load := startPeer(w.t, "load", loading{Steady: steady, Socket: w.socket, Broken: broken, Datagrams: datagrams, Seed: uint64(w.phase) << 32})
	f := &follower{done: make(chan struct{})}
	go f.follow(load)
	began := time.Now()
	said := began
	for step := 1; time.Since(began) < d && f.report().failed() == 0; step++ {
		<-time.After(stepEvery)
		w.disturb(step)
		if time.Since(said) >= progressEvery {
			said = time.Now()
			w.say(what, time.Since(began), f.report())
		}
	}
	load.terminate()
	<-f.done // running operations are done to their end
	load.wait()
	w.l.awaitIdle()
	w.say(what, time.Since(began), f.report())
	w.judge(f.report())
}

// follower keeps the last report of a load.
type follower struct {
	done chan struct{} // closed when there will be no more

	mu   sync.Mutex
	last progress // guarded by mu
}

// follow ends with the process.
func (f *follower) follow(load *peer) {
	defer close(f.done)
	for {
		var p progress
		if load.out.Decode(&p) != nil {
			return
		}
		f.mu.Lock()
		f.last = p
		f.mu.Unlock()
	}
}

func (f *follower) report() progress {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

func (w *soak) disturb(step int) {
	w.t.Helper()
	if step%swapEvery == 0 {
		w.swap()
	}
	if step%restartEvery == 0 {
		w.restart()
	}
	if step%killEvery == 0 {
		w.kill(step / killEvery)
	}
}

// other is the steady endpoint that gets no new connections.
func (w *soak) other() string {
	if w.current == firstSteady {
		return secondSteady
	}
	return firstSteady
}

func (w *soak) swap() {
	w.t.Helper()
	to := w.other()
	for _, link := range []string{steady, "unix:" + w.socket} {
		if _, err := w.l.verb("swap", link, to); err != nil {
			w.t.Fatal(err)
		}
	}
	w.current = to
	w.swaps++
}

// restart has a server end as one does that is updated: out of the way first, then the last connection
// runs to its end.
func (w *soak) restart() {
	w.t.Helper()
	former := w.other()
	testnet.Await(w.t, "the end of the last connection to "+former, func() bool { return !w.busy(former) })
	w.servers[former].leave()
	w.serve(former)
	w.restarts++
}

func (w *soak) busy(addr string) bool {
	for link := range 2 {
		for _, e := range w.l.status(link).Endpoints {
			if e.Address == addr && e.Current > 0 {
				return true
			}
		}
	}
	return false
}

// kill has one server vanish without a word, or all that the link has: then its clients are held.
func (w *soak) kill(n int) {
	w.t.Helper()
	victims := [][]string{{firstBroken}, {secondBroken}, {firstBroken, secondBroken}}[n%3]
	for _, addr := range victims {
		w.servers[addr].kill()
		w.kills++
	}
	for _, addr := range victims {
		w.serve(addr)
	}
}

// say prints at once: a soak is long, and the output of a test comes at its end.
func (w *soak) say(what string, after time.Duration, p progress) {
	var ops []string
	for _, name := range slices.Sorted(maps.Keys(p.Ops)) {
		ops = append(ops, fmt.Sprintf("%s %d", name, p.Ops[name].Done))
	}
	_, _ = fmt.Fprintf(os.Stdout, "%s, %v: %s; %.1f GB; %d swaps, %d restarts, %d kills; %v; %d failed\n", what, after.Round(time.Second),
		strings.Join(ops, ", "), float64(p.Bytes)/1e9, w.swaps, w.restarts, w.kills, w.l.usage(), p.failed())
}

func (w *soak) judge(p progress) {
	w.t.Helper()
	if !p.Over {
		w.t.Fatal("the load ended without a last report")
	}
	for _, op := range operations() {
		if err := p.Ops[op.name].err(1); err != nil {
			w.t.Errorf("%s: %v", op.name, err)
		}
	}
	if w.t.Failed() {
		w.t.FailNow()
	}
}
