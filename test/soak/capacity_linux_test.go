package soak

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"
)

// echoServers starts processes that echo, and returns the target that is all of them. A process under
// the race detector has at most 8,128 goroutines.
func echoServers(t testing.TB, n int) (target string) {
	t.Helper()
	for i := range n {
		addr := fmt.Sprintf("127.0.1.%d:1000", i+1)
		p := startPeer(t, "echo", []string{addr})
		var ready string
		p.hear(&ready)
		if target != "" {
			target += ","
		}
		target += addr
	}
	return target
}

// entrances are addresses of one listener on all: each has local ports of its own for clients.
func entrances(port int) (addrs []string) {
	for i := range 8 {
		addrs = append(addrs, fmt.Sprintf("127.0.0.%d:%d", i+1, port))
	}
	return addrs
}

// One process carries as many idle connections, and as many active ones, as 20,000 descriptors allow:
// an idle connection takes two, an active one may take a pipe as well. Then once more, because what the
// first time costs once (the heap, the threads) must not be taken for a leak, nor a leak for that.
func TestCapacity(t *testing.T) {
	arrange(t)
	l := setup{binary: product(), files: descriptors, links: []string{"1100=" + echoServers(t, 2)}}.start(t)
	start := l.usage()
	idle := crowd{conns: 9000}
	active := crowd{conns: 4500, every: time.Second, least: 3}
	idle.visit(t, l)
	active.visit(t, l)
	once := l.usage()
	idle.visit(t, l)
	if _, long := asked(t); long {
		active.visit(t, l)
		idle.visit(t, l)
	}
	l.checkBack("the same connections again", once)
	if _, long := asked(t); long {
		l.checkMemoryReturned(start)
	}
	if now := l.usage(); now.Descriptors > start.Descriptors+moreDescriptors {
		t.Errorf("%d descriptors are open, and at the start %d", now.Descriptors, start.Descriptors)
	}
	l.checkGoroutines(0)
}

// crowd is clients that come, stay and leave.
type crowd struct {
	conns int
	every time.Duration // 0: idle
	least int           // messages of each active one
}

const crowdProcesses = 2

func (c crowd) visit(t testing.TB, l *legate) {
	t.Helper()
	began, before := time.Now(), l.usage()
	peers := make([]*peer, crowdProcesses)
	share := c.conns / crowdProcesses
	for i := range peers {
		peers[i] = startPeer(t, "hold", holding{Addrs: entrances(1100), Conns: share, Every: c.every, Least: c.least})
	}
	c.expect(t, "open", share, peers)
	up := time.Since(began)
	if open := l.status(0).Counters.Current; open != int64(c.conns) {
		t.Errorf("%d connections are open, want %d", open, c.conns)
	}
	full := l.usage()
	all := c.order(t, "check", share*max(1, c.least), peers)
	c.order(t, "leave", share, peers)
	for _, p := range peers {
		p.wait()
	}
	l.awaitIdle()
	t.Logf("%d connections, a message every %v: opened in %v, %d exchanges, the slowest took %v; legate with them: %v (%.1f KiB each); in all %v",
		c.conns, c.every, up.Round(time.Millisecond), all.Done, all.Worst.Round(time.Millisecond), full,
		float64(full.RSS-before.RSS)/1024/float64(c.conns), time.Since(began).Round(time.Millisecond))
}

// order gives an order to all and checks that each process does at least want of what it means.
func (c crowd) order(t testing.TB, order string, want int, peers []*peer) counts {
	t.Helper()
	for _, p := range peers {
		p.tell(order)
	}
	return c.expect(t, order, want, peers)
}

func (c crowd) expect(t testing.TB, what string, want int, peers []*peer) (all counts) {
	t.Helper()
	for _, p := range peers {
		var r counts
		p.hear(&r)
		if err := r.err(want); err != nil {
			t.Fatalf("%s %d connections: %v", what, c.conns, err)
		}
		all = all.plus(r)
	}
	return all
}

// Short connections at the highest rate that the machine sustains: every one is served, and nothing of
// them is left.
func TestShortConnections(t *testing.T) {
	arrange(t)
	conns := 20_000
	if _, long := asked(t); long {
		conns = 600_000
	}
	l := setup{binary: product(), files: descriptors, links: []string{"1100=" + echoServers(t, 2)}}.start(t)
	hurry(t, l, conns/10)
	l.awaitIdle()
	before := l.usage()
	began := time.Now()
	hurry(t, l, conns)
	took := time.Since(began)
	l.awaitIdle()
	t.Logf("%d short connections in %v, %.0f/s", conns, took.Round(time.Millisecond), float64(conns)/took.Seconds())
	if got, want := l.status(0).Counters.Total, int64(conns+conns/10); got != want {
		t.Errorf("legate counted %d connections, want %d", got, want)
	}
	l.checkBack(fmt.Sprintf("%d short connections", conns), before)
	l.checkGoroutines(0)
}

func hurry(t testing.TB, l *legate, conns int) {
	t.Helper()
	defer l.tellProgress()()
	peers := make([]*peer, 2)
	for i := range peers {
		peers[i] = startPeer(t, "short", shorts{Addrs: entrances(1100), Conns: conns / len(peers), AtOnce: 32})
	}
	for _, p := range peers {
		var r counts
		p.hear(&r)
		if err := r.err(conns / len(peers)); err != nil {
			t.Fatalf("short connections: %v", err)
		}
		p.wait()
	}
}

// tellProgress prints now and then how many connections there were, until its result is called.
func (l *legate) tellProgress() (stop func()) {
	ended := make(chan struct{})
	var teller sync.WaitGroup
	teller.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
			}
			if s, err := l.client.Snapshot(context.Background()); err == nil { // else the test says so
				_, _ = fmt.Fprintf(os.Stdout, "short connections: %d\n", s.Links[0].Counters.Total)
			}
		}
	})
	return func() {
		close(ended)
		teller.Wait()
	}
}
