package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"legate/internal/discover"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// The server is a process, not the one that can be embedded: only a process
// can be killed and frozen.

// follower is one watch that is called again whenever it fails, as the core
// does, and what it said.
type follower struct {
	mu      sync.Mutex
	results []discover.Result
	errs    []error
}

// again is the pause of a follower. Less than the core's, to save time.
const again = 50 * time.Millisecond

func watching(t *testing.T, s *Source, host, path string) *follower {
	t.Helper()
	f := &follower{}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			err := s.Watch(ctx, query(host, path), f.set)
			f.mu.Lock()
			if ctx.Err() == nil {
				f.errs = append(f.errs, err)
			}
			f.mu.Unlock()
			select {
			case <-time.After(again):
			case <-ctx.Done():
			}
		}
	}()
	return f
}

func query(host, path string) discover.Query {
	return discover.Query{Target: spec.Target{Source: spec.SourceEtcd, Host: host, Path: path}}
}

func (f *follower) set(r discover.Result) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.results = append(f.results, r)
}

func (f *follower) all() ([]discover.Result, []error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.results), slices.Clone(f.errs)
}

func (f *follower) last() discover.Result {
	results, _ := f.all()
	if len(results) == 0 {
		return discover.Result{Err: errors.New("nothing was said")}
	}
	return results[len(results)-1]
}

// hosts waits until the last result has exactly these endpoints, and gives it.
func (f *follower) hosts(t *testing.T, want ...string) (r discover.Result) {
	t.Helper()
	ok := false
	for until := time.Now().Add(2 * testnet.Patience); !ok && time.Now().Before(until); {
		_ = waitFor(again, func() bool {
			r = f.last()
			ok = r.Err == nil && slices.Equal(addresses(r), want)
			return ok
		})
	}
	if !ok {
		_, errs := f.all()
		t.Fatalf("endpoints are %q (%v), want %q; errors: %v", addresses(r), r.Err, want, errs)
	}
	return r
}

func waitFor(timeout time.Duration, cond func() bool) bool {
	end := time.NewTimer(timeout)
	defer end.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if cond() {
			return true
		}
		select {
		case <-tick.C:
		case <-end.C:
			return false
		}
	}
}

func addresses(r discover.Result) []string {
	all := []string{}
	for _, p := range r.Places {
		all = append(all, net.JoinHostPort(p.Host, fmt.Sprint(p.Port)))
	}
	return all
}

// fails waits for an error of Watch with this text.
func (f *follower) fails(t *testing.T, text string) error {
	t.Helper()
	var found error
	var errs []error
	if !waitFor(2*testnet.Patience, func() bool {
		_, errs = f.all()
		for _, err := range errs {
			if strings.Contains(err.Error(), text) {
				found = err
				return true
			}
		}
		return false
	}) {
		t.Fatalf("no error says %q: %v", text, errs)
	}
	return found
}

func hint(err error) string {
	var u *spec.UserError
	if errors.As(err, &u) {
		return u.Hint
	}
	return ""
}

// source is one with these variables.
func source(variables ...string) *Source {
	return New(Config{Getenv: func(name string) string {
		for _, v := range variables {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value
			}
		}
		return ""
	}})
}

// onBoth runs a test against a current server and against Debian's.
func onBoth(t *testing.T, test func(t *testing.T, c testnet.EtcdConfig)) {
	for name, c := range map[string]testnet.EtcdConfig{"current": {}, "3.4": {Old: true}} {
		t.Run(name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			test(t, c)
		})
	}
}

func TestWatch_FirstAnswerThenEveryChange(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		e := testnet.StartEtcd(t, c)
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		e.Put(t, "/redis-2/a", "10.9.9.9:6379")
		f := watching(t, source(), e.Addr.String(), "redis")
		if r := f.hosts(t, "10.0.0.1:6379"); !r.Weak {
			t.Error("what was read at the start is strong evidence")
		}
		e.Put(t, "redis/b", `{"Op":0,"Addr":"10.0.0.2:6379","Metadata":{"weight":3,"priority":1}}`)
		r := f.hosts(t, "10.0.0.1:6379", "10.0.0.2:6379")
		if p := r.Places[1]; p.Weight != 3 || p.Priority != 1 || r.Places[0].Weight != 1 {
			t.Errorf("weights and priorities are wrong: %+v", r.Places)
		}
		if !r.Weak {
			t.Error("that one registers is strong evidence against others")
		}
		e.Put(t, "redis/b", "10.0.0.3:6379")
		if r := f.hosts(t, "10.0.0.1:6379", "10.0.0.3:6379"); r.Weak {
			t.Error("a replaced value is weak evidence")
		}
		e.Delete(t, "/redis/a")
		if r := f.hosts(t, "10.0.0.3:6379"); r.Weak {
			t.Error("a delete is weak evidence")
		}
		e.Delete(t, "redis/b")
		if r := f.hosts(t); r.Weak {
			t.Error("the last delete is weak evidence")
		}
		if _, errs := f.all(); len(errs) > 0 {
			t.Errorf("watches failed: %v", errs)
		}
	})
}

func TestWatch_OneTransactionIsOneResult(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		e := testnet.StartEtcd(t, c)
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		f := watching(t, source(), e.Addr.String(), "redis")
		f.hosts(t, "10.0.0.1:6379")
		e.Swap(t, "/redis/b", "10.0.0.2:6379", "/redis/a")
		f.hosts(t, "10.0.0.2:6379")
		if results, _ := f.all(); len(results) != 2 {
			t.Errorf("%d results, want 2: %+v", len(results), results)
		}
	})
}

func TestWatch_ValueAtTheKeyUntilItHasChildren(t *testing.T) {
	e := testnet.StartEtcd(t, testnet.EtcdConfig{})
	f := watching(t, source(), e.Addr.String(), "redis")
	want := "nothing is at /redis in etcd at " + e.Addr.String()
	testnet.Await(t, "the answer that nothing is there", func() bool { return f.last().Err.Error() == want && f.last().Weak })
	e.Put(t, "redis", "10.0.0.1")
	f.hosts(t, "10.0.0.1:0")
	e.Put(t, "redis/a", "tcp://10.0.0.2:6379")
	f.hosts(t, "10.0.0.2:6379")
	e.Put(t, "redis/b", "!")
	testnet.Await(t, "the detail", func() bool { return strings.Contains(f.last().Detail, `left out "redis/b"`) })
	e.Put(t, "redis/a", "?")
	testnet.Await(t, "an error of values", func() bool { return f.last().Err != nil })
	if r := f.last(); r.Weak || !strings.Contains(r.Err.Error(), "no value is an address") {
		t.Errorf("values that are all wrong: %+v", r)
	}
}

func TestWatch_LeaseThatRunsOutIsBelieved(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		e := testnet.StartEtcd(t, c)
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		e.PutLeased(t, "/redis/b", "10.0.0.2:6379", 2)
		f := watching(t, source(), e.Addr.String(), "redis")
		f.hosts(t, "10.0.0.1:6379", "10.0.0.2:6379")
		if r := f.hosts(t, "10.0.0.1:6379"); r.Weak {
			t.Error("the end of a lease is weak evidence")
		}
	})
}

func TestWatch_KilledAndBackWithItsData(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		e := testnet.StartEtcd(t, c)
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		f := watching(t, source(), e.Addr.String(), "redis")
		f.hosts(t, "10.0.0.1:6379")
		e.Kill()
		_ = f.fails(t, "ask etcd at "+e.Addr.String()+" for /redis: connection refused")
		e.Restart(t)
		e.Put(t, "/redis/b", "10.0.0.2:6379")
		f.hosts(t, "10.0.0.1:6379", "10.0.0.2:6379")
		for _, err := range second(f.all()) {
			if text := err.Error(); !strings.Contains(text, "connection refused") && !strings.Contains(text, "it closed the connection") {
				t.Errorf("an error that is new each time? %q", text)
			}
		}
	})
}

func second[A, B any](_ A, b B) B { return b }

// A client that resumes its watch after the last revision which it saw would
// wait here for ever.
func TestWatch_BackWithoutDataIsReadAnew(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		e := testnet.StartEtcd(t, c)
		for i := range 50 {
			e.Put(t, "/other", fmt.Sprint(i))
		}
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		e.Put(t, "/redis/b", "10.0.0.2:6379")
		f := watching(t, source(), e.Addr.String(), "redis")
		f.hosts(t, "10.0.0.1:6379", "10.0.0.2:6379")
		e.Kill()
		e.Lose(t)
		e.Restart(t)
		testnet.Await(t, "the answer that nothing is there", func() bool { return f.last().Err != nil && f.last().Weak })
		e.Put(t, "/redis/b", "10.0.0.2:6379")
		if r := f.hosts(t, "10.0.0.2:6379"); !r.Weak {
			t.Error("that one registered anew is strong evidence against the others")
		}
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		f.hosts(t, "10.0.0.1:6379", "10.0.0.2:6379")
	})
}

func TestWatch_FrozenServerIsNoticed(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		e := testnet.StartEtcd(t, c)
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		s := source()
		f := watching(t, s, e.Addr.String(), "redis")
		f.hosts(t, "10.0.0.1:6379")
		e.Put(t, "/redis/a", "10.0.0.3:6379")
		f.hosts(t, "10.0.0.3:6379") // it watches
		e.Freeze()
		began := time.Now()
		_ = f.fails(t, "it stopped answering")
		took := time.Since(began).Round(time.Millisecond)
		t.Logf("a frozen server was noticed after %v", took)
		if took > pingEvery+2*pingWait {
			t.Error("that is later than pings would notice it")
		}
		_ = f.fails(t, "no answer")
		e.Thaw()
		e.Put(t, "/redis/b", "10.0.0.2:6379")
		f.hosts(t, "10.0.0.3:6379", "10.0.0.2:6379")
	})
}

func TestWatch_CompactedWhileItWasAway(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		e := testnet.StartEtcd(t, c)
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		relay := startRelay(t, e.Addr.String())
		f := watching(t, source(), relay.addr, "redis")
		f.hosts(t, "10.0.0.1:6379")
		relay.stop()
		_ = f.fails(t, "refused")
		e.Put(t, "/redis/b", "10.0.0.2:6379")
		e.Delete(t, "/redis/a")
		e.Compact(t)
		relay.start(t)
		if r := f.hosts(t, "10.0.0.2:6379"); !r.Weak {
			t.Error("what was missed is strong evidence")
		}
		e.Put(t, "/redis/c", "10.0.0.3:6379")
		f.hosts(t, "10.0.0.2:6379", "10.0.0.3:6379")
	})
}

// A watch of a history that is gone is answered by a new reading, at once.
func TestFollow_CompactedRevision(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		e := testnet.StartEtcd(t, c)
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		s := source()
		client, err := s.acquire(e.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer s.release(client, false)
		w := &watch{client: client, path: "redis", set: func(discover.Result) {}, values: map[string]string{}}
		if err := w.read(context.Background()); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			e.Put(t, "/redis/b", "10.0.0.2:6379")
		}
		e.Compact(t)
		if err := w.follow(context.Background()); !errors.Is(err, errCompacted) {
			t.Errorf("follow: %v, want %v", err, errCompacted)
		}
		w.revision += 1000
		if err := w.follow(context.Background()); !errors.Is(err, errWentBack) {
			t.Errorf("follow: %v, want %v", err, errWentBack)
		}
	})
}

func TestWatch_AllQuestionsShareOneConnection(t *testing.T) {
	testnet.CheckLeaks(t)
	e := testnet.StartEtcd(t, testnet.EtcdConfig{})
	relay := startRelay(t, e.Addr.String())
	s := source()
	var all []*follower
	for i := range 50 {
		e.Put(t, fmt.Sprintf("s%d/a", i), fmt.Sprintf("10.0.0.%d:1", i))
		all = append(all, watching(t, s, relay.addr, fmt.Sprintf("s%d", i)))
	}
	for i, f := range all {
		f.hosts(t, fmt.Sprintf("10.0.0.%d:1", i))
	}
	if n := relay.accepted(); n != 1 {
		t.Errorf("%d connections for 50 questions, want 1", n)
	}
	relay.stop()
	for _, f := range all {
		_ = f.fails(t, "refused")
	}
	relay.start(t)
	for i, f := range all {
		e.Put(t, fmt.Sprintf("s%d/a", i), fmt.Sprintf("10.0.1.%d:1", i))
		f.hosts(t, fmt.Sprintf("10.0.1.%d:1", i))
	}
	if n := relay.open(); n != 1 {
		t.Errorf("%d connections after a break, want 1", n)
	}
}

func TestWatch_MembersComeAndGo(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		members := testnet.StartEtcdCluster(t, 3, c)
		var list []string
		for _, m := range members {
			list = append(list, "http://"+m.Addr.String())
		}
		f := watching(t, source("ETCDCTL_ENDPOINTS="+strings.Join(list, ",")), "", "redis")
		members[0].Put(t, "/redis/a", "10.0.0.1:6379")
		f.hosts(t, "10.0.0.1:6379")
		leader := slices.IndexFunc(members, func(m *testnet.Etcd) bool { return m.Leads(t) })
		members[leader].Kill()
		rest := slices.Delete(slices.Clone(members), leader, leader+1)
		rest[0].Put(t, "/redis/b", "10.0.0.2:6379")
		f.hosts(t, "10.0.0.1:6379", "10.0.0.2:6379")
		// Without a majority the last one has no leader, and knows no changes.
		rest[0].Kill()
		_ = f.fails(t, "it has no leader")
		rest[0].Restart(t)
		rest[0].Put(t, "/redis/c", "10.0.0.3:6379")
		f.hosts(t, "10.0.0.1:6379", "10.0.0.2:6379", "10.0.0.3:6379")
	})
}

func TestWatch_Users(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		c.Args = append(c.Args, "--auth-token", "simple", "--auth-token-ttl", "2")
		if c.Old {
			c.Args = c.Args[:2]
		}
		e := testnet.StartEtcd(t, c)
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		e.Put(t, "/mysql/a", "10.0.0.9:3306")
		before := watching(t, source("ETCDCTL_USER=bob:pw"), e.Addr.String(), "redis")
		before.hosts(t, "10.0.0.1:6379")
		e.AddUser(t, "bob", "pw", "/redis/")
		for name, c := range map[string]struct {
			path, what, hint string
			variables        []string
		}{
			"none":     {"redis", "it wants a user", "set ETCDCTL_USER=USER:PASSWORD", nil},
			"refused":  {"redis", "the user or the password is wrong", "check ETCDCTL_USER and ETCDCTL_PASSWORD", []string{"ETCDCTL_USER=bob:no"}},
			"no right": {"mysql", "the user may not read it", "etcdctl role grant-permission ROLE read --prefix /mysql", []string{"ETCDCTL_USER=bob:pw"}},
		} {
			err := watching(t, source(c.variables...), e.Addr.String(), c.path).fails(t, c.what)
			if want := "ask etcd at " + e.Addr.String() + " for /" + c.path + ": " + c.what; err.Error() != want || hint(err) != c.hint {
				t.Errorf("%s: %q (%q), want %q (%q)", name, err, hint(err), want, c.hint)
			}
		}
		s := source("ETCDCTL_USER=bob", "ETCDCTL_PASSWORD=pw")
		f := watching(t, s, e.Addr.String(), "redis")
		f.hosts(t, "10.0.0.1:6379")
		// The token is of a server that runs no more.
		e.Kill()
		_ = f.fails(t, "connection refused")
		e.Restart(t)
		f.hosts(t, "10.0.0.1:6379")
	})
}

// A question that comes long after the others finds that the token ran out.
func TestWatch_TokenRunsOut(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		e := testnet.StartEtcd(t, c)
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		e.AddUser(t, "bob", "pw", "/redis/")
		s := source("ETCDCTL_USER=bob:pw")
		watching(t, s, e.Addr.String(), "redis").hosts(t, "10.0.0.1:6379")
		client := s.clients[e.Addr.String()]
		<-client.turn
		client.token = "wrong.1"
		client.turn <- struct{}{}
		f := watching(t, s, e.Addr.String(), "redis")
		f.hosts(t, "10.0.0.1:6379")
		if _, errs := f.all(); len(errs) > 0 {
			t.Errorf("it was not renewed at once: %v", errs)
		}
	})
}

func TestWatch_TLS(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		ca, stranger := testnet.NewCA(t), testnet.NewCA(t)
		cert, key := ca.Client(t, "legate")
		foreign, foreignKey := stranger.Client(t, "legate")
		plain := testnet.StartEtcd(t, c)
		c.CA, c.ClientCerts = ca, true
		e := testnet.StartEtcd(t, c)
		e.Put(t, "/redis/a", "10.0.0.1:6379")
		c.Names = []string{"etcd.example", "localhost"}
		named := testnet.StartEtcd(t, c)
		addr := e.Addr.String()
		good := []string{"ETCDCTL_CACERT=" + ca.File, "ETCDCTL_CERT=" + cert, "ETCDCTL_KEY=" + key}
		watching(t, source(good...), addr, "redis").hosts(t, "10.0.0.1:6379")
		watching(t, source("ETCDCTL_ENDPOINTS=https://"+addr, "ETCDCTL_INSECURE_SKIP_TLS_VERIFY=true", good[1], good[2]), "", "redis").hosts(t, "10.0.0.1:6379")
		for name, c := range map[string]struct {
			addr, what, hint string
			variables        []string
		}{
			"unknown CA":     {addr, "its certificate is from an unknown authority", "ETCDCTL_CACERT", []string{"ETCDCTL_CACERT=" + stranger.File, good[1], good[2]}},
			"wrong name":     {named.Addr.String(), "its certificate has another name", "name of its certificate", good},
			"no certificate": {addr, "it wants a certificate", "ETCDCTL_CERT", good[:1]},
			"foreign one":    {addr, "it refuses our certificate", "ETCDCTL_CERT", []string{good[0], "ETCDCTL_CERT=" + foreign, "ETCDCTL_KEY=" + foreignKey}},
			"plain client":   {addr, "it speaks TLS only", "https://", nil},
			"plain server":   {plain.Addr.String(), "it speaks no TLS", "ETCDCTL_CACERT", good},
		} {
			f := watching(t, source(c.variables...), c.addr, "redis")
			if !waitFor(testnet.Patience, func() bool { return len(second(f.all())) >= 5 }) {
				t.Errorf("%s: it did not fail often: %+v", name, f.last())
			}
			for _, err := range second(f.all()) {
				if want := "ask etcd at " + c.addr + " for /redis: " + c.what; err.Error() != want || !strings.Contains(hint(err), c.hint) {
					t.Errorf("%s: %q (%q), want %q (%q)", name, err, hint(err), want, c.hint)
					break
				}
			}
		}
	})
}

// Servers that are not etcd, or not one that is spoken here. Each is asked
// several times, and has to fail in the same words.
func TestWatch_OtherServers(t *testing.T) {
	v2 := `{"etcdserver":"2.3.8","etcdcluster":"2.3.0"}`
	for name, c := range map[string]struct {
		serve      func(net.Conn)
		handler    http.Handler
		what, hint string
	}{
		"etcd with v2 only": {handler: respond(v2), what: "this etcd (2.3.8) has only the v2 API", hint: "upgrade"},
		"another over HTTP": {handler: respond("hello"), what: "an HTTP server that is not etcd is there", hint: "address"},
		"an HTTP gateway":   {handler: respond(`{"etcdserver":"3.5.9"}`), what: "it does not speak etcd's protocol", hint: "server"},
		"garbage": {serve: func(c net.Conn) {
			fmt.Fprint(c, strings.Repeat("garbage\r\n", 1000))
			_, _ = io.Copy(io.Discard, c)
		}, what: "it does not speak etcd's protocol", hint: "another server"},
		"closes":    {serve: func(net.Conn) {}, what: "it closed the connection"},
		"says none": {serve: func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, what: "no answer"},
	} {
		t.Run(name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var serving sync.WaitGroup
			t.Cleanup(serving.Wait)
			t.Cleanup(func() { l.Close() })
			if c.handler != nil {
				server := &http.Server{Handler: c.handler}
				t.Cleanup(func() { server.Close() })
				serving.Go(func() { _ = server.Serve(l) })
			} else {
				serving.Go(func() { acceptAll(l, c.serve) })
			}
			f := watching(t, source("ETCDCTL_DIAL_TIMEOUT=300ms"), l.Addr().String(), "redis")
			if !waitFor(testnet.Patience, func() bool { return len(second(f.all())) >= 4 }) {
				t.Errorf("it did not fail often")
			}
			texts := map[string]bool{}
			for _, err := range second(f.all()) {
				texts[err.Error()] = true
				if !strings.Contains(err.Error(), "for /redis: "+c.what) || !strings.Contains(hint(err), c.hint) {
					t.Errorf("%q (%q), want %q (%q)", err, hint(err), c.what, c.hint)
				}
			}
			if len(texts) != 1 {
				t.Errorf("it fails in other words each time: %v", texts)
			}
		})
	}
}

func respond(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			fmt.Fprint(w, text)
			return
		}
		http.NotFound(w, r)
	})
}

func acceptAll(l net.Listener, serve func(net.Conn)) {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		all.Go(func() {
			defer c.Close()
			serve(c)
		})
	}
}

// The time from a put, as it is acknowledged, to the result. Only to be read:
// it is the machine's.
func TestWatch_Latency(t *testing.T) {
	onBoth(t, func(t *testing.T, c testnet.EtcdConfig) {
		e := testnet.StartEtcd(t, c)
		said := make(chan discover.Result, 16)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = source().Watch(ctx, query(e.Addr.String(), "redis"), func(r discover.Result) { said <- r })
		}()
		defer func() {
			cancel()
			<-ended
		}()
		<-said
		var took []time.Duration
		for i := range 200 {
			began := time.Now()
			e.Put(t, "/redis/a", fmt.Sprintf("10.0.0.1:%d", i+1))
			put := time.Now()
			<-said
			took = append(took, time.Since(began), max(0, time.Since(put)))
		}
		var whole, after []time.Duration
		for i := 0; i < len(took); i += 2 {
			whole, after = append(whole, took[i]), append(after, took[i+1])
		}
		t.Logf("from the begin of Put: p50 %v p99 %v; from its end: p50 %v p99 %v", at(whole, 50), at(whole, 99), at(after, 50), at(after, 99))
	})
}

func at(all []time.Duration, percent int) time.Duration {
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	return all[len(all)*percent/100].Round(time.Microsecond)
}

// relay is a cable to a server that can be pulled.
type relay struct {
	addr, to string
	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]bool
	count    int
	ended    sync.WaitGroup
}

func startRelay(t *testing.T, to string) *relay {
	t.Helper()
	r := &relay{addr: "127.0.0.1:0", to: to}
	r.start(t)
	r.addr = r.listener.Addr().String()
	t.Cleanup(r.stop)
	return r
}

func (r *relay) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.listener, r.conns = l, map[net.Conn]bool{}
	r.mu.Unlock()
	r.ended.Go(func() { acceptAll(l, r.carry) })
}

func (r *relay) carry(c net.Conn) {
	s, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer s.Close()
	r.mu.Lock()
	r.conns[c], r.count = true, r.count+1
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.conns, c)
		r.mu.Unlock()
	}()
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(c, s)
		c.Close()
	}()
	_, _ = io.Copy(s, c)
	s.Close()
	<-back
}

func (r *relay) stop() {
	r.mu.Lock()
	r.listener.Close()
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.ended.Wait()
}

func (r *relay) accepted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

func (r *relay) open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.conns)
}

// Who does what the hint says needs to do no more.
func TestWatch_FindsWhatMayBeReadLater(t *testing.T) {
	e := testnet.StartEtcd(t, testnet.EtcdConfig{})
	e.Put(t, "/redis/a", "10.0.0.1:6379")
	e.AddUser(t, "bob", "pw", "redis/") // as one spells it who knows paths without a slash in front
	s := source("ETCDCTL_USER=bob:pw")
	s.reread = discover.Floor
	f := watching(t, s, e.Addr.String(), "redis")
	testnet.Await(t, "a hint", func() bool { return strings.Contains(hint(f.last().Err), "read --prefix /redis") })
	e.Grant(t, "bob", "/redis")
	f.hosts(t, "10.0.0.1:6379")
}

// A signed token is of the users and roles that there were when it was made.
func TestWatch_RenewsSignedTokens(t *testing.T) {
	private, public := testnet.KeyPair(t)
	e := testnet.StartEtcd(t, testnet.EtcdConfig{Args: []string{"--auth-token", "jwt,pub-key=" + public + ",priv-key=" + private + ",sign-method=ES256,ttl=10m"}})
	e.Put(t, "/redis/a", "10.0.0.1:6379")
	e.AddUser(t, "bob", "pw", "/redis/")
	s := source("ETCDCTL_USER=bob:pw")
	watching(t, s, e.Addr.String(), "redis").hosts(t, "10.0.0.1:6379") // it holds the connection, and the token
	e.Grant(t, "bob", "/postgres")
	watching(t, s, e.Addr.String(), "redis").hosts(t, "10.0.0.1:6379")
}
