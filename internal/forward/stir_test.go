package forward

import (
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// However operators, sources and checks stir a link, it serves when they stop,
// and nothing is left over.
func TestStirred_LinkServesAfterwards(t *testing.T) {
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	r := rand.New(rand.NewPCG(seed, 0))
	all := []string{testnet.RefusingAddr(t, loopback).String()}
	for range 3 {
		all = append(all, testnet.Serve(t, "tcp4", testnet.Echo).String())
	}
	w := newWorld(t, nil)
	w.serve(several, all...)
	w.link.Targets = []spec.Target{several}
	w.apply()
	leave := w.visit(20)
	pause := time.NewTicker(5 * time.Millisecond)
	defer pause.Stop()
	for range 300 {
		w.stir(r, all)
		w.apply()
		<-pause.C
	}
	w.link.Mode, w.link.Options = spec.ModeServe, spec.DefaultOptions()
	w.link.Options.EndpointConnections = 1
	w.pool.Drain(nil)
	w.serve(several, all...)
	w.apply()
	before := w.status().Counters
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Total > before.Total+200 })
	leave()
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Current == 0 && w.load() == 0 })
	w.isUnburdened()
}

// visit has clients come one after the other, n at a time, until leave is
// called. What becomes of them is not looked at.
func (w *world) visit(n int) (leave func()) {
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				c, err := net.DialTimeout("tcp4", w.addr, time.Second)
				if err != nil {
					continue
				}
				_ = c.SetDeadline(time.Now().Add(time.Second))
				if _, err := c.Write([]byte("x")); err == nil {
					_, _ = c.Read(make([]byte, 1))
				}
				c.Close()
			}
		})
	}
	return func() { close(stop); clients.Wait() }
}

// stir changes something about the link or its endpoints.
func (w *world) stir(r *rand.Rand, all []string) {
	o := &w.link.Options
	some := slices.DeleteFunc(slices.Clone(all), func(string) bool { return r.IntN(2) == 0 })
	switch r.IntN(9) {
	case 0:
		w.link.Mode = []spec.Mode{spec.ModeServe, spec.ModePause, spec.ModeDrain}[r.IntN(3)]
	case 1:
		o.EndpointConnections, o.CallerConnections, o.CallerRate = r.IntN(4), r.IntN(2)*15, r.IntN(2)*1000
	case 2:
		o.MaxConnections = 50 + r.IntN(2) // another socket
	case 3:
		fates := []spec.Fate{{}, {Kind: spec.FateCut}, {Kind: spec.FateDrain, Within: 20 * time.Millisecond}}
		o.OnRemoved, o.OnUnhealthy = fates[r.IntN(3)], fates[r.IntN(3)]
		o.Rebalance = time.Duration(r.IntN(2)) * 10 * time.Millisecond
	case 4:
		w.serve(several, some...)
	case 5:
		w.sick.Clear()
		for _, a := range some {
			w.sick.Store(a, true)
		}
		checked(o)
	case 6:
		drained := map[string]time.Time{}
		for _, a := range some {
			_, e := fixed(a, spec.TCP)
			drained[e.String()] = time.Now()
		}
		w.pool.Drain(drained)
	case 7:
		o.Balance = []spec.Balance{"", spec.BalanceLeast, spec.BalanceRandom, spec.BalanceFirst, spec.BalanceHash}[r.IntN(5)]
		o.AllUnhealthy = []spec.AllUnhealthy{"", spec.AllUnhealthyTry, spec.AllUnhealthyHold}[r.IntN(3)]
	case 8:
		o.WhenDown = []spec.WhenDown{"", spec.WhenDownRefuse}[r.IntN(2)]
		o.Hold = time.Duration(r.IntN(2)) * 300 * time.Millisecond
		w.fw.Apply(nil)
	}
}

// isUnburdened fails the test unless everything that was counted is uncounted.
func (w *world) isUnburdened() {
	w.t.Helper()
	testnet.Eventually(w.t, soon, func() bool {
		w.fw.mu.Lock()
		defer w.fw.mu.Unlock()
		return len(w.fw.retired) == 0
	})
	l := w.fw.serving()[0]
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.queue.starting != 0 || len(l.queue.waiting) != 0 {
		w.t.Errorf("%d are starting, %d wait", l.queue.starting, len(l.queue.waiting))
	}
	for c := range maps.Values(l.callers.known) {
		if c.connections != 0 {
			w.t.Errorf("a caller has %d connections", c.connections)
		}
	}
	for _, es := range l.stats.endpoints {
		if es.current != 0 || es.fate.timer != nil {
			w.t.Errorf("%s has %d connections, and a fate %v", es.endpoint, es.current, es.fate)
		}
	}
}
