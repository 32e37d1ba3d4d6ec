package discover

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"legate/internal/spec"
)

// notebook collects what a Discovery says.
type notebook struct {
	mu      sync.Mutex
	answers map[spec.Target][]spec.Answer
}

func (n *notebook) set(t spec.Target, a spec.Answer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.answers == nil {
		n.answers = map[spec.Target][]spec.Answer{}
	}
	n.answers[t] = append(n.answers[t], a)
}

func (n *notebook) all(t spec.Target) []spec.Answer {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.answers[t])
}

// last returns the latest answer; the zero answer and false before the first.
func (n *notebook) last(t spec.Target) (spec.Answer, bool) {
	all := n.all(t)
	if len(all) == 0 {
		return spec.Answer{}, false
	}
	return all[len(all)-1], true
}

// zone is the content of the DNS, as the resolver would tell it.
type zone struct {
	mu    sync.Mutex
	addrs []netip.Addr
	err   error
	block bool
	asked []time.Time
}

func (z *zone) lookup(ctx context.Context, _ string) ([]netip.Addr, error) {
	z.mu.Lock()
	z.asked = append(z.asked, time.Now())
	addrs, err, block := z.addrs, z.err, z.block
	z.mu.Unlock()
	if block {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return addrs, err
}

func (z *zone) answer(err error, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.err, z.addrs = err, nil
	for _, a := range addrs {
		z.addrs = append(z.addrs, netip.MustParseAddr(a))
	}
}

func (z *zone) questions() []time.Time {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.Clone(z.asked)
}

var errServer = &net.DNSError{Err: "server misbehaving", Name: "db", Server: "192.0.2.53:53"}
var errNoName = &net.DNSError{Err: "no such host", Name: "db", Server: "192.0.2.53:53", IsNotFound: true}

func dnsTarget(host string) spec.Target {
	return spec.Target{Source: spec.SourceDNS, Protocol: spec.TCP, Host: host, Port: 5432}
}

func addresses(a spec.Answer) []string { return texts(a.Endpoints) }

func emptyFile(t *testing.T) string { return file(t, "") }

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// bench is a Discovery over a zone, on the clock of a synctest bubble.
func bench(t *testing.T, z *zone) (*Discovery, *notebook) {
	n := &notebook{}
	d := New(Config{Set: n.set, Lookup: z.lookup, Hosts: emptyFile(t), ResolvConf: emptyFile(t)})
	t.Cleanup(d.Close)
	return d, n
}

// pass lets time pass on the clock of the bubble, and what is due happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestFixed_AnsweredAtOnce(t *testing.T) {
	tests := map[string]struct {
		target spec.Target
		want   spec.Endpoint
	}{
		"v4": {
			spec.Target{Source: spec.SourceFixed, Protocol: spec.TCP, Host: "192.0.2.1", Port: 80},
			spec.Endpoint{Protocol: spec.TCP, Addr: netip.MustParseAddrPort("192.0.2.1:80")},
		},
		"v6 and UDP": {
			spec.Target{Source: spec.SourceFixed, Protocol: spec.UDP, Host: "fd00::2", Port: 53},
			spec.Endpoint{Protocol: spec.UDP, Addr: netip.MustParseAddrPort("[fd00::2]:53")},
		},
		"mapped v4": {
			spec.Target{Source: spec.SourceFixed, Protocol: spec.TCP, Host: "::ffff:192.0.2.1", Port: 80},
			spec.Endpoint{Protocol: spec.TCP, Addr: netip.MustParseAddrPort("192.0.2.1:80")},
		},
		"unix": {
			spec.Target{Source: spec.SourceFixed, Protocol: spec.Unix, Path: "/run/redis.sock"},
			spec.Endpoint{Protocol: spec.Unix, Path: "/run/redis.sock"},
		},
	}
	for label, test := range tests {
		t.Run(label, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, n := bench(t, &zone{})
				d.Apply([]spec.Target{test.target})
				synctest.Wait()
				a, _ := n.last(test.target)
				if !slices.Equal(a.Endpoints, spec.Members(test.want)) || a.Err != nil || a.At.IsZero() {
					t.Errorf("answer %+v, want %v", a, test.want)
				}
			})
		})
	}
}

func TestApply_UnusableTargetSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, n := bench(t, &zone{})
		odd := spec.Target{Source: "carrier pigeon", Host: "db"}
		bad := spec.Target{Source: spec.SourceFixed, Protocol: spec.TCP, Host: "db"}
		d.Apply([]spec.Target{odd, bad})
		synctest.Wait()
		for _, target := range []spec.Target{odd, bad} {
			if a, ok := n.last(target); !ok || a.Err == nil || len(a.Endpoints) != 0 {
				t.Errorf("%v: answer %+v, want an error", target, a)
			}
		}
	})
}

func TestDNS_OrderIsStableAndDistinct(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.answer(nil, "192.0.2.9", "2001:db8::1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.5")
		d, n := bench(t, z)
		d.Apply([]spec.Target{dnsTarget("db")})
		synctest.Wait()
		a, _ := n.last(dnsTarget("db"))
		want := []string{"192.0.2.1:5432", "[2001:db8::1]:5432", "192.0.2.5:5432", "192.0.2.9:5432"}
		if got := addresses(a); !slices.Equal(got, want) {
			t.Errorf("endpoints %v, want %v", got, want)
		}
		z.answer(nil, "192.0.2.5", "192.0.2.9", "2001:db8::1", "192.0.2.1")
		pass(time.Minute)
		if all := n.all(dnsTarget("db")); len(all) != 1 {
			t.Errorf("a rotated answer was told as a change: %v", all)
		}
	})
}

func TestDNS_ChangeIsFollowedWithinThePeriod(t *testing.T) {
	tests := map[string]struct {
		resolvConf string
		within     time.Duration
	}{
		"ordinary name server": {"nameserver 192.0.2.53\nnameserver 127.0.0.11\n", period},
		"Docker's":             {"search lan\nnameserver 127.0.0.11\noptions ndots:0\n", floor},
	}
	for label, test := range tests {
		t.Run(label, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				z, n := &zone{}, &notebook{}
				z.answer(nil, "192.0.2.1")
				d := New(Config{Set: n.set, Lookup: z.lookup, Hosts: emptyFile(t), ResolvConf: file(t, test.resolvConf)})
				defer d.Close()
				d.Apply([]spec.Target{dnsTarget("db")})
				pass(time.Hour)
				if asked, most := len(z.questions()), int(time.Hour/(test.within*9/10))+1; asked > most {
					t.Errorf("asked %d times in an hour, at most %d expected", asked, most)
				}
				z.answer(nil, "192.0.2.2")
				pass(test.within)
				if a, _ := n.last(dnsTarget("db")); !slices.Equal(addresses(a), []string{"192.0.2.2:5432"}) {
					t.Errorf("endpoints %v after %v", addresses(a), test.within)
				}
			})
		})
	}
}

func TestSuspect_AsksAtOnceButOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.answer(nil, "192.0.2.1")
		d, n := bench(t, z)
		d.Apply([]spec.Target{dnsTarget("db")})
		pass(2 * time.Second)
		z.answer(nil, "192.0.2.2")
		d.Suspect(dnsTarget("db"))
		synctest.Wait()
		if a, _ := n.last(dnsTarget("db")); !slices.Equal(addresses(a), []string{"192.0.2.2:5432"}) {
			t.Errorf("endpoints %v right after a suspicion", addresses(a))
		}
		before := len(z.questions())
		for range 1000 {
			d.Suspect(dnsTarget("db"))
			pass(10 * time.Millisecond)
		}
		if asked := len(z.questions()) - before; asked < 9 || asked > 11 {
			t.Errorf("asked %d times in 10 s of suspicion, want once a second", asked)
		}
		d.Suspect(dnsTarget("nobody watches this")) // and nothing happens
	})
}

func TestDNS_FailureKeepsTheLastGoodAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.answer(nil, "192.0.2.1")
		d, n := bench(t, z)
		d.Apply([]spec.Target{dnsTarget("db")})
		synctest.Wait()
		z.answer(errServer)
		pass(24 * time.Hour)
		a, _ := n.last(dnsTarget("db"))
		if !slices.Equal(addresses(a), []string{"192.0.2.1:5432"}) || a.Err == nil {
			t.Fatalf("answer %v %v, want the last good endpoints and an error", addresses(a), a.Err)
		}
		if want := "look up db: name server 192.0.2.53:53: server misbehaving"; a.Err.Error() != want {
			t.Errorf("error %q, want %q", a.Err, want)
		}
		if age := time.Since(a.At); age < 24*time.Hour || age > 24*time.Hour+period {
			t.Errorf("age %v, want that of the last good answer", age)
		}
		if all := n.all(dnsTarget("db")); len(all) != 2 {
			t.Errorf("told %d times, want the answer and the error once each", len(all))
		}

		// The pauses have reached the ceiling; a suspicion does not wait.
		q := z.questions()
		if last := q[len(q)-1].Sub(q[len(q)-2]); last < ceiling*9/10 || last > ceiling {
			t.Errorf("last pause %v, want about %v", last, ceiling)
		}
		pass(time.Until(q[len(q)-1].Add(ceiling + floor)))
		z.answer(nil, "192.0.2.2")
		d.Suspect(dnsTarget("db"))
		pass(floor)
		if a, _ := n.last(dnsTarget("db")); !slices.Equal(addresses(a), []string{"192.0.2.2:5432"}) || a.Err != nil {
			t.Errorf("answer %v %v a second after a suspicion", addresses(a), a.Err)
		}
	})
}

func TestDNS_NoSuchNameIsBelievedAfter30Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.answer(nil, "192.0.2.1")
		d, n := bench(t, z)
		d.Apply([]spec.Target{dnsTarget("db")})
		synctest.Wait()
		z.answer(errNoName)
		d.Suspect(dnsTarget("db"))
		pass(floor)
		if a, _ := n.last(dnsTarget("db")); len(a.Endpoints) != 1 || a.Err == nil || !a.Weak {
			t.Errorf("answer %+v, want the old endpoint as a last resort, and the error", a)
		}
		pass(weakFor - time.Millisecond)
		if a, _ := n.last(dnsTarget("db")); len(a.Endpoints) != 1 {
			t.Errorf("the endpoint is gone before its time: %v", a)
		}
		pass(time.Millisecond)
		if a, _ := n.last(dnsTarget("db")); len(a.Endpoints) != 0 || a.Err == nil || a.Weak {
			t.Errorf("answer %+v, want none and the error", a)
		}
		z.answer(nil, "192.0.2.1")
		pass(period)
		if a, _ := n.last(dnsTarget("db")); len(a.Endpoints) != 1 || a.Err != nil || a.Weak {
			t.Errorf("answer %v %v after the name came back", addresses(a), a.Err)
		}
	})
}

func TestDNS_ServerThatFailsAfterNoSuchNameProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.answer(nil, "192.0.2.1")
		d, n := bench(t, z)
		d.Apply([]spec.Target{dnsTarget("db")})
		synctest.Wait()
		z.answer(errNoName)
		pass(2 * period)
		z.answer(errServer)
		pass(time.Hour)
		if a, _ := n.last(dnsTarget("db")); len(a.Endpoints) != 1 || a.Weak {
			t.Errorf("one answer during a restart of the name server emptied the target: %+v", a)
		}
	})
}

func TestDNS_NameMissingAtStartIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.answer(errNoName)
		d, n := bench(t, z)
		d.Apply([]spec.Target{dnsTarget("db")})
		synctest.Wait()
		a, ok := n.last(dnsTarget("db"))
		if !ok || a.Err == nil || len(a.Endpoints) != 0 || !a.At.IsZero() {
			t.Fatalf("answer %+v, want an error at once", a)
		}
		if want := "look up db: name server 192.0.2.53:53: no such name"; a.Err.Error() != want {
			t.Errorf("error %q, want %q", a.Err, want)
		}
	})
}

func TestDNS_SilentServerBlocksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{block: true}
		d, n := bench(t, z)
		start := time.Now()
		fix := spec.Target{Source: spec.SourceFixed, Protocol: spec.TCP, Host: "192.0.2.1", Port: 80}
		d.Apply([]spec.Target{dnsTarget("db")})
		d.Suspect(dnsTarget("db"))
		d.Apply([]spec.Target{dnsTarget("db"), fix})
		synctest.Wait()
		if _, ok := n.last(fix); !ok {
			t.Error("another target waits for the silent name server")
		}
		if _, ok := n.last(dnsTarget("db")); ok {
			t.Error("an answer from a silent name server")
		}
		pass(patience)
		if a, _ := n.last(dnsTarget("db")); !errors.Is(a.Err, context.DeadlineExceeded) {
			t.Errorf("error %v after %v, want the time-out", a.Err, patience)
		}
		d.Apply([]spec.Target{fix})
		d.Close()
		if waited := time.Since(start); waited != patience {
			t.Errorf("Apply or Close waited %v for the name server", waited-patience)
		}
	})
}

func TestDNS_LocalhostIsLoopback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z, n := &zone{}, &notebook{}
		z.answer(nil, "192.0.2.1")
		d := New(Config{Set: n.set, Lookup: z.lookup, Hosts: file(t, "192.0.2.7 localhost\n"), ResolvConf: emptyFile(t)})
		defer d.Close()
		for _, host := range []string{"localhost", "LocalHost", "db.localhost"} {
			d.Apply([]spec.Target{dnsTarget(host)})
			synctest.Wait()
			a, _ := n.last(dnsTarget(host))
			if len(a.Endpoints) == 0 {
				t.Errorf("%s: no endpoints", host)
			}
			for _, e := range a.Endpoints {
				if !e.Addr.Addr().IsLoopback() {
					t.Errorf("%s: endpoint %v", host, e)
				}
			}
		}
		if len(z.questions()) != 0 {
			t.Error("a name server was asked for localhost")
		}
	})
}

func TestDNS_HostsFileComesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := file(t, "127.0.0.1\tlocalhost\n192.0.2.7\tother DB aad41cda9ecb aa # not db2\n2001:db8::7 db\nnonsense db\n")
		z, n := &zone{}, &notebook{}
		z.answer(errNoName)
		d := New(Config{Set: n.set, Lookup: z.lookup, Hosts: hosts, ResolvConf: emptyFile(t)})
		defer d.Close()
		d.Apply([]spec.Target{dnsTarget("db"), dnsTarget("db2")})
		synctest.Wait()
		if a, _ := n.last(dnsTarget("db")); !slices.Equal(addresses(a), []string{"192.0.2.7:5432", "[2001:db8::7]:5432"}) {
			t.Errorf("endpoints %v", addresses(a))
		}
		if a, _ := n.last(dnsTarget("db2")); a.Err == nil {
			t.Errorf("a name in a comment has endpoints %v", addresses(a))
		}
		if err := os.WriteFile(hosts, []byte("192.0.2.8\tdb aad41cda9ecb aa\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		pass(floor)
		if a, _ := n.last(dnsTarget("db")); !slices.Equal(addresses(a), []string{"192.0.2.8:5432"}) {
			t.Errorf("endpoints %v after the file changed", addresses(a))
		}
	})
}

func TestApply_SharesWatchesAndLeavesThemAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.answer(nil, "192.0.2.1")
		d, n := bench(t, z)
		d.Apply([]spec.Target{dnsTarget("db"), dnsTarget("db")})
		synctest.Wait()
		d.Apply([]spec.Target{dnsTarget("db"), dnsTarget("other")})
		synctest.Wait()
		if asked := len(z.questions()); asked != 2 {
			t.Errorf("%d questions, want one per name", asked)
		}
		d.Apply([]spec.Target{dnsTarget("other")})
		z.answer(nil, "192.0.2.2")
		pass(period)
		if all := n.all(dnsTarget("db")); len(all) != 1 {
			t.Errorf("a dropped target was told of: %v", all)
		}
		if all := n.all(dnsTarget("other")); len(all) != 2 {
			t.Errorf("the other one was told %d answers, want 2", len(all))
		}
		d.Apply([]spec.Target{dnsTarget("db")})
		synctest.Wait()
		if all := n.all(dnsTarget("db")); len(all) != 2 {
			t.Errorf("a target that came back was told %d answers in all, want 2", len(all))
		}
	})
}

func TestDNS_TargetsOfOneNameShareTheQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{}
		z.answer(nil, "192.0.2.1")
		d, n := bench(t, z)
		var targets []spec.Target
		for port := range uint16(100) {
			targets = append(targets, spec.Target{Source: spec.SourceDNS, Protocol: spec.TCP, Host: "db", Port: 8000 + port})
		}
		d.Apply(targets)
		pass(time.Hour)
		if asked, most := len(z.questions()), int(time.Hour/(period*9/10))+1; asked > most {
			t.Errorf("100 targets asked %d times in an hour, one asks %d times", asked, most)
		}

		// An answer from before a suspicion does not allay it.
		d.Suspect(targets[0])
		pass(floor)
		z.answer(nil, "192.0.2.2")
		d.Suspect(targets[1])
		pass(floor)
		if a, _ := n.last(targets[1]); !slices.Equal(addresses(a), []string{"192.0.2.2:8001"}) {
			t.Errorf("endpoints %v a second after the suspicion", addresses(a))
		}
	})
}

func TestDNS_TargetDroppedInItsQuestionSpoilsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{block: true}
		d, n := bench(t, z)
		asks, waits := dnsTarget("db"), dnsTarget("db")
		waits.Port++
		d.Apply([]spec.Target{asks})
		synctest.Wait()
		d.Apply([]spec.Target{asks, waits})
		synctest.Wait()
		z.mu.Lock()
		z.block = false
		z.mu.Unlock()
		z.answer(nil, "192.0.2.1")
		d.Apply([]spec.Target{waits})
		pass(floor)
		if all := n.all(waits); len(all) != 1 || all[0].Err != nil || len(all[0].Endpoints) != 1 {
			t.Errorf("answers %+v, want one good one", all)
		}
	})
}

// Not in a bubble, whose clock stands still while a goroutine waits for a mutex.
func TestApply_WaitsForASetUnderWay(t *testing.T) {
	var d *Discovery
	entered, release := make(chan struct{}), make(chan struct{})
	var over atomic.Bool
	set := func(target spec.Target, _ spec.Answer) {
		close(entered)
		<-release
		d.Suspect(target) // as a pool does that tries the endpoints at once
		over.Store(true)
	}
	d = New(Config{Set: set})
	d.Apply([]spec.Target{{Source: spec.SourceFixed, Protocol: spec.Unix, Path: "/s"}})
	<-entered
	dropped := make(chan bool)
	go func() {
		d.Apply(nil)
		dropped <- over.Load()
	}()
	for range 1000 {
		runtime.Gosched() // lets an Apply that does not wait return too early
	}
	close(release)
	if !<-dropped {
		t.Error("Apply returned while the target that it dropped was still being set")
	}
	d.Close()
}

func TestClose_LeavesNothingBehind(t *testing.T) {
	// synctest.Test fails when a goroutine of the bubble is still there.
	synctest.Test(t, func(t *testing.T) {
		n := &notebook{}
		d := New(Config{Set: n.set, Lookup: (&zone{block: true}).lookup, Hosts: emptyFile(t), ResolvConf: emptyFile(t)})
		d.Apply([]spec.Target{dnsTarget("a"), dnsTarget("b"), {Source: spec.SourceFixed, Protocol: spec.Unix, Path: "/s"}})
		d.Close()
		d.Apply([]spec.Target{dnsTarget("c")})
		d.Close()
		if _, ok := n.last(dnsTarget("c")); ok {
			t.Error("a watch began after Close")
		}
	})
}
