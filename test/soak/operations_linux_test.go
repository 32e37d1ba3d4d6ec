package soak

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"legate/internal/testnet"
)

// shift is how strong and how long an operation is loaded.
type shift struct {
	rate int           // short connections per second
	half time.Duration // before the operation, and after it
}

func shiftOf(t testing.TB) shift {
	t.Helper()
	if _, long := asked(t); long {
		return shift{2000, 5 * time.Second}
	}
	return shift{300, time.Second}
}

const inFront = 1100 // port of the link

// Backends by their number.
func backend(n int) string { return fmt.Sprintf("127.0.1.%d:1000", n) }

// backends starts servers that say who they are.
func backends(t testing.TB, n int) (all []*peer, target string) {
	t.Helper()
	var addrs []string
	for i := range n {
		all = append(all, serveName(t, i+1))
		addrs = append(addrs, backend(i+1))
	}
	return all, strings.Join(addrs, ",")
}

func serveName(t testing.TB, n int) *peer {
	t.Helper()
	p := startPeer(t, "named", naming{Name: fmt.Sprint(n), Addr: backend(n)})
	var ready string
	p.hear(&ready)
	return p
}

func forwarding(t testing.TB, links ...string) *legate {
	t.Helper()
	return setup{binary: product(), files: descriptors, links: links}.start(t)
}

// operate has the load on before, during and after what an operator does, and returns what became of it.
func (s shift) operate(t testing.TB, what string, do func()) rated {
	t.Helper()
	return s.operateOn(t, what, rating{Addrs: entrances(inFront), Rate: s.rate}, do)
}

func (s shift) operateOn(t testing.TB, what string, load rating, do func()) (r rated) {
	t.Helper()
	p := startPeer(t, "rate", load)
	var ready string
	p.hear(&ready)
	<-time.After(s.half)
	began := time.Now()
	do()
	took := time.Since(began)
	<-time.After(s.half)
	p.terminate()
	p.hear(&r)
	p.wait()
	var by []string
	for _, name := range slices.Sorted(maps.Keys(r.Servers)) {
		by = append(by, fmt.Sprintf("%d by %s", r.Servers[name].Count, name))
	}
	t.Logf("%s (%v) at %d/s: %d answered (%s), the slowest after %v; %d failed", what, took.Round(time.Millisecond), load.Rate,
		r.Done, strings.Join(by, ", "), r.Worst.Round(time.Millisecond), len(r.Failures))
	if least := int(2*s.half.Seconds()) * load.Rate / 2; r.Done+len(r.Failures) < least {
		t.Fatalf("the load was %d connections, want %d", r.Done+len(r.Failures), least)
	}
	return r
}

// mustServeAll: nobody may have noticed.
func (r rated) mustServeAll(t testing.TB) {
	t.Helper()
	if len(r.Failures) > 0 {
		t.Errorf("%d connections failed, the first ones %v", len(r.Failures), r.Failures[:min(5, len(r.Failures))])
	}
}

func (l *legate) do(args ...string) string {
	l.t.Helper()
	out, err := l.verb(args...)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

// Whoever connects after swap returned is served by the new target, and nobody fails.
func TestOperations_Swap(t *testing.T) {
	arrange(t)
	backends(t, 2)
	l := forwarding(t, fmt.Sprintf("%d=%s", inFront, backend(1)))
	var returned time.Time
	r := shiftOf(t).operate(t, "swap", func() {
		l.do("swap", fmt.Sprint(inFront), backend(2))
		returned = time.Now()
	})
	r.mustServeAll(t)
	if r.Servers["1"] == nil || r.Servers["2"] == nil {
		t.Fatalf("both targets must have served: %v", r.Servers)
	}
	if last := r.Servers["1"].Last; last.After(returned) {
		t.Errorf("a client that came %v after swap had returned was served by the former target", last.Sub(returned))
	}
}

// Three backends, of which one after the other stops accepting, finishes, and is replaced.
func TestOperations_RollingReplacement(t *testing.T) {
	arrange(t)
	servers, target := backends(t, 3)
	forwarding(t, fmt.Sprintf("%d=%s", inFront, target))
	shift := shiftOf(t)
	r := shift.operate(t, "rolling replacement", func() {
		for i, s := range servers {
			s.leave()
			<-time.After(shift.half / 5)
			servers[i] = serveName(t, i+1)
			<-time.After(shift.half / 5)
		}
	})
	r.mustServeAll(t)
	for i := range servers {
		if r.Servers[fmt.Sprint(i+1)] == nil {
			t.Errorf("backend %d served nobody", i+1)
		}
	}
}

// Nobody who comes after the end of one of three backends notices it. Those who were being served by it
// are counted apart.
func TestOperations_Kill(t *testing.T) {
	arrange(t)
	servers, target := backends(t, 3)
	forwarding(t, fmt.Sprintf("%d=%s", inFront, target))
	var dead time.Time
	r := shiftOf(t).operate(t, "kill -9 of one of three", func() {
		servers[1].kill()
		dead = time.Now()
	})
	before := slices.IndexFunc(r.Failures, func(f failure) bool { return f.Began.After(dead) })
	inFlight := slices.DeleteFunc(slices.Clone(r.Failures), func(f failure) bool { return f.Began.After(dead) })
	t.Logf("%d requests were in flight in the killed server", len(inFlight))
	if before >= 0 {
		t.Errorf("%d of those who came later failed, as %v", len(r.Failures)-len(inFlight), r.Failures[before])
	}
	for _, f := range inFlight {
		if dead.Sub(f.Began) > time.Second {
			t.Errorf("it failed without a cause: %v", f)
		}
	}
	if s := r.Servers["2"]; s == nil || s.Last.After(dead) {
		t.Errorf("the killed one served %+v", s)
	}
}

// While a link is down, those who come in the time of hold wait for it, the later ones are reset at once;
// clients that know two hosts do not notice.
func TestOperations_LinkDown(t *testing.T) {
	arrange(t)
	servers, _ := backends(t, 2)
	hold, down := time.Second, 3*time.Second
	if _, long := asked(t); long {
		hold, down = 10*time.Second, time.Minute
	}
	const other = 1200
	forwarding(t, fmt.Sprintf("%d=%s;hold=%v", inFront, backend(1), hold), fmt.Sprintf("%d=%s", other, backend(2)))
	shift := shiftOf(t)
	var o outage
	both := startPeer(t, "rate", rating{Addrs: entrances(inFront), Rate: 20, Second: fmt.Sprintf("127.0.0.1:%d", other)})
	var said string
	both.hear(&said)
	// Fewer at once than may wait.
	r := shift.operateOn(t, "down", rating{Addrs: entrances(inFront), Rate: 50}, func() {
		o.killed = time.Now()
		servers[0].kill()
		o.dead = time.Now()
		<-time.After(down)
		serveName(t, 1)
		o.up = time.Now()
		testnet.Await(t, "the link to be up", func() bool { _, err := askName(fmt.Sprintf("127.0.0.1:%d", inFront), 1); return err == nil })
	})
	judgeDown(t, r, o, hold)
	both.terminate()
	var failedOver rated
	both.hear(&failedOver)
	both.wait()
	failedOver.mustServeAll(t)
	t.Logf("clients with two hosts: %d answered, %d of them by the second", failedOver.Done, failedOver.Seconds)
	if failedOver.Seconds == 0 {
		t.Error("no client went to the second host")
	}
}

// outage is the time in which a link had no endpoint. Between killed and dead a client may be the first to
// find that out, or the last to be served.
type outage struct{ killed, dead, up time.Time }

func judgeDown(t testing.TB, r rated, o outage, hold time.Duration) {
	t.Helper()
	waited, atOnce := 0, 0
	for _, f := range r.Failures {
		// Somebody must come before the link is known to be down, and the clock of hold begins then.
		since := f.Began.Sub(o.dead)
		switch {
		case since < -time.Second || f.Began.After(o.up.Add(2*time.Second)):
			t.Errorf("it failed without a cause: %v", f)
		case !f.reset():
			t.Errorf("it was not reset: %v", f)
		case since < 0: // was being served
		case f.Began.Add(f.Took).Before(o.killed.Add(hold)):
			t.Errorf("it came %v after the end, and failed before %v were over: %v", since, hold, f)
		case since < hold:
			waited++
		default:
			atOnce++
			if f.Took > hold/2 {
				t.Errorf("it came when the link had been down for %v, and was kept waiting: %v", since, f)
			}
		}
	}
	t.Logf("%d waited until the end of hold, %d were reset at once", waited, atOnce)
	if waited == 0 || atOnce == 0 {
		t.Errorf("%d waited, %d were reset at once: want some of both", waited, atOnce)
	}
}
