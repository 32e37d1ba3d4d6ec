package forward

import (
	"context"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// handler is a link as an engine sees it, up and with nobody listening.
func handler(t testing.TB, targets ...string) *link {
	t.Helper()
	return probing(t, syscall.ECONNREFUSED, targets...)
}

// probing is handler where probes find that.
func probing(t testing.TB, found error, targets ...string) *link {
	t.Helper()
	var fw *Forwarder
	pool := endpoints.New(endpoints.Config{
		Dial:    func(context.Context, spec.Endpoint, time.Duration) error { return found },
		Changed: func(target spec.Target) { fw.Changed(target) },
	})
	t.Cleanup(pool.Close)
	fw = New(Config{Pool: pool})
	s := spec.Link{Name: "test", Listen: spec.Listen{Protocol: spec.TCP, Port: 6379}, Options: spec.DefaultOptions()}
	for _, text := range targets {
		tg, e := fixed(text, spec.TCP)
		s.Targets = append(s.Targets, tg)
		pool.Set(tg, spec.Answer{Endpoints: spec.Members(e), At: time.Now()})
	}
	fw.loops.set([]spec.Listen{s.Listen})
	l := newLink(fw, s)
	l.set(s)
	return l
}

// connection is the life of one that is accepted, connected and ended.
func (l *link) connection(p *pump.Flow) {
	if len(l.Next(p, pump.Attempt{}).Dial) == 0 {
		panic("nothing to dial")
	}
	l.Connected(p, 0)
	l.Done(p, pump.Result{Cause: pump.CauseEOF, Counters: pump.Counters{In: 1, Out: 1}})
}

func BenchmarkConnection(b *testing.B) {
	l := handler(b, "192.0.2.1:80", "192.0.2.2:80")
	b.ReportAllocs()
	var p pump.Flow
	for b.Loop() {
		l.connection(&p)
	}
}

func TestConnection_AllocatesNothing(t *testing.T) {
	const a, b, c = "192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"
	for name, targets := range map[string][]string{"one endpoint": {a}, "several": {a, b, c}, "own port": {"192.0.2.1:6379"}} {
		t.Run(name, func(t *testing.T) {
			l := handler(t, targets...)
			var p pump.Flow
			if n := testing.AllocsPerRun(1000, func() { l.connection(&p) }); n != 0 {
				t.Errorf("%v allocations per connection", n)
			}
			flows := make([]pump.Flow, 200)
			atOnce := func() {
				for i := range flows {
					l.Next(&flows[i], pump.Attempt{})
					l.Connected(&flows[i], 0)
				}
				for i := range flows {
					l.Done(&flows[i], pump.Result{}) // silent: its sources are asked
				}
			}
			if n := testing.AllocsPerRun(10, atOnce); n != 0 {
				t.Errorf("%v allocations for %d connections at once", n, len(flows))
			}
		})
	}
}

func TestConnection_WithoutEndpointAllocatesNothing(t *testing.T) {
	l := handler(t)
	l.spec.Options.Hold = 0
	var p pump.Flow
	if n := testing.AllocsPerRun(1000, func() {
		if l.Next(&p, pump.Attempt{}).End == nil {
			t.Fatal("the connection goes somewhere")
		}
		l.Done(&p, pump.Result{})
	}); n != 0 {
		t.Errorf("%v allocations per connection", n)
	}
}

func TestConnection_EstablishedTakesLittleMemory(t *testing.T) {
	const n, most = 10_000, 300
	l := handler(t, "192.0.2.1:80", "192.0.2.2:80")
	flows := make([]pump.Flow, n)
	before := heap()
	for i := range flows {
		l.Next(&flows[i], pump.Attempt{})
		l.Connected(&flows[i], 0)
	}
	if each := (heap() - before) / n; each > most {
		t.Errorf("%d bytes per connection, want %d at most", each, most)
	}
	for i := range flows {
		l.Done(&flows[i], pump.Result{})
	}
	if left := heap() - before; left > 256<<10 {
		t.Errorf("%d bytes are left when they are gone", left)
	}
	runtime.KeepAlive(flows)
	runtime.KeepAlive(l)
}

// heap is what is alive on it.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Who waits for one connection must not end the next that has its memory.
func TestConnection_IsNotTakenForTheNextOne(t *testing.T) {
	l := handler(t, "192.0.2.1:80")
	var p pump.Flow // no engine: cutting it would panic
	l.Next(&p, pump.Attempt{})
	f := p.Data.(*flow)
	old := f.ticket()
	l.Done(&p, pump.Result{})
	l.Next(&p, pump.Attempt{})
	if p.Data.(*flow) != f {
		t.Fatal("the memory was not used again")
	}
	if l.cutStrays([]ticket{old}) != 0 || !l.awaitStray(t.Context(), old) {
		t.Error("the ended connection is taken for the new one")
	}
	if !f.ticket().isLive() {
		t.Error("the new one is not live")
	}
}

// dialled is the endpoint that a step tries first, and whether another is left.
func dialled(s pump.Step) (string, bool) {
	if len(s.Dial) == 0 {
		return "", false
	}
	return s.Dial[0].Addr.String(), s.Retry
}

// What was tried is known no more once a connection is established; an early
// close must find its way all the same.
func TestConnection_TriesEachEndpointOnce(t *testing.T) {
	const a, b, c = "192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80"
	closed := pump.Attempt{Kind: pump.ClosedEarly, Err: io.EOF}
	for name, outcomes := range map[string]string{"all close": "ccc", "one refuses": "fcc", "one refuses later": "cfc", "two refuse": "ffc"} {
		t.Run(name, func(t *testing.T) {
			l := handler(t, a, b, c)
			var p pump.Flow
			seen := map[string]bool{}
			step := l.Next(&p, pump.Attempt{})
			for i, outcome := range outcomes {
				e, retry := dialled(step)
				if seen[e] || e == "" || retry != (i < len(outcomes)-1) {
					t.Fatalf("attempt %d is at %q, with another one after it: %v", i, e, retry)
				}
				seen[e] = true
				if outcome == 'f' {
					step.Dial[0].Err = syscall.ECONNREFUSED
					step = l.Next(&p, pump.Attempt{Kind: pump.DialFailed})
					continue
				}
				l.Connected(&p, 0)
				if retry {
					step = l.Next(&p, closed)
				}
			}
			l.Done(&p, pump.Result{Counters: pump.Counters{Out: 1}})
			for _, es := range l.stats.endpoints {
				if es.current != 0 {
					t.Errorf("%v still has %d connections", es.endpoint, es.current)
				}
			}
		})
	}
}

// Lists of thousands of endpoints come and go; none may stay with a spare pass.
func TestConnection_LeavesNoListBehind(t *testing.T) {
	l := handler(t, "192.0.2.1:80", "192.0.2.2:80")
	var p pump.Flow
	step := l.Next(&p, pump.Attempt{})
	step.Dial[0].Err = syscall.ECONNREFUSED
	l.Next(&p, pump.Attempt{Kind: pump.DialFailed})
	l.Connected(&p, 0)
	l.Done(&p, pump.Result{})
	for _, ps := range l.passes {
		for _, c := range ps.candidates[:cap(ps.candidates)] {
			if c != nil {
				t.Errorf("a spare pass has %s", c.Endpoint)
			}
		}
	}
}

func TestConnection_EarlyCloseFollowsASwap(t *testing.T) {
	l := handler(t, "192.0.2.1:80", "192.0.2.2:80")
	s := l.linkSpec()
	tg, e := fixed("192.0.2.9:80", spec.TCP)
	s.Targets = []spec.Target{tg}
	l.fw.cfg.Pool.Set(tg, spec.Answer{Endpoints: spec.Members(e), At: time.Now()})
	var p pump.Flow
	for range 2 { // both serve: one more success is no news
		l.connection(&p)
	}
	l.Next(&p, pump.Attempt{})
	l.Connected(&p, 0)
	l.set(s)
	if got, _ := dialled(l.Next(&p, pump.Attempt{Kind: pump.ClosedEarly, Err: io.EOF})); got != "192.0.2.9:80" {
		t.Errorf("dialled %q, a former endpoint", got)
	}
	l.Done(&p, pump.Result{})
}
