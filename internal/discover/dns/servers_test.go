package dns

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"

	"legate/internal/discover"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// resolving is a source with a resolv.conf whose servers are on that port.
func resolving(t testing.TB, port int, conf string) *Source {
	t.Helper()
	return newSource(Config{Hosts: text(t, ""), ResolvConf: text(t, conf)}, fmt.Sprint(port))
}

// raw answers every question with bytes that are made of the right answer.
func raw(t testing.TB, good handler, change func(b []byte) [][]byte) handler {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		good(&rewriter{w, t, change}, q)
	}
}

type rewriter struct {
	dns.ResponseWriter
	t      testing.TB
	change func(b []byte) [][]byte
}

func (r *rewriter) WriteMsg(m *dns.Msg) error {
	b, err := m.Pack()
	if err != nil {
		r.t.Error(err)
	}
	for _, b := range r.change(b) {
		if _, err := r.Write(b); err != nil {
			r.t.Error(err)
		}
	}
	return nil
}

func edit(b []byte, at int, to ...byte) []byte {
	b = append([]byte(nil), b...)
	copy(b[at:], to)
	return b
}

func TestServers_NastyMessages(t *testing.T) {
	good := zone(t, "db.test. 7 IN A 192.0.2.1")
	evil := zone(t, "db.test. 7 IN A 192.0.2.66")
	before := func(wrong func(b []byte) []byte) handler { // the wrong one arrives first
		return func(w dns.ResponseWriter, q *dns.Msg) {
			raw(t, evil, func(b []byte) [][]byte { return [][]byte{wrong(b)} })(w, q)
			good(w, q)
		}
	}
	only := func(wrong func(b []byte) []byte) handler {
		return raw(t, evil, func(b []byte) [][]byte { return [][]byte{wrong(b)} })
	}
	wrongID := func(b []byte) []byte { return edit(b, 0, b[0]^1) }
	otherName := func(b []byte) []byte { return edit(b, 13, 'x') }
	// Where the first record begins: after the header and the question.
	const record = 12 + len("\x02db\x04test\x00") + 4
	tests := []struct {
		name   string
		handle handler
		want   string // places, or after "!" what the error ends with
	}{
		{"wrong id", before(wrongID), "192.0.2.1"},
		{"wrong id only", only(wrongID), "!no answer in time"},
		{"another question", before(otherName), "192.0.2.1"},
		{"another type", before(func(b []byte) []byte { return edit(b, record-3, 99) }), "192.0.2.1"},
		{"a question", before(func(b []byte) []byte { return edit(b, 2, b[2]&^response) }), "192.0.2.1"},
		{"nothing", before(func([]byte) []byte { return nil }), "192.0.2.1"},
		{"half a header", before(func(b []byte) []byte { return b[:7] }), "192.0.2.1"},
		{"no question in it", before(func(b []byte) []byte {
			return append(edit(b[:12], 5, 0), b[record:]...)
		}), "192.0.2.1"},
		{"cut", only(func(b []byte) []byte { return b[:record+5] }), "!cannot be read"},
		{"more records promised", only(func(b []byte) []byte { return edit(b, 6, 0xff) }), "!cannot be read"},
		{"one record promised more", raw(t, evil, func(b []byte) [][]byte { // nothing follows: no additions
			return [][]byte{edit(b[:record+(int(b[7]))*(2+10+4+7)], 6, 0, b[7]+1, 0, 0, 0, 0)}
		}), "!cannot be read"},
		{"a name that points at itself", only(func(b []byte) []byte { return edit(b, record, 0xc0, byte(record)) }), "!cannot be read"},
		{"a name that points beyond", only(func(b []byte) []byte { return edit(b, record, 0xff, 0xff) }), "!cannot be read"},
		{"cut, then right", before(func(b []byte) []byte { return b[:record+5] }), "192.0.2.1"},
		{"too long for UDP", raw(t, good, func(b []byte) [][]byte {
			return [][]byte{append(b, make([]byte, udpRoom)...)}
		}), "192.0.2.1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			s := serve(t, "", test.handle)
			source := newSource(Config{Servers: []string{s.addr}, Hosts: text(t, ""), ResolvConf: text(t, "search .\noptions timeout:1 attempts:1\n")}, "53")
			r, err := once(t, source, question(spec.SourceDNS, "db.test"))
			if want, fails := strings.CutPrefix(test.want, "!"); fails {
				if err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("got %q (%v), want a failure %q", shown(r), err, want)
				}
				return
			}
			if got := shown(r); err != nil || r.Err != nil || got != test.want {
				t.Errorf("got %q (%v, %v), want %q", got, r.Err, err, test.want)
			}
		})
	}
}

func TestServers_EDNS(t *testing.T) {
	good := zone(t, "db.test. 7 IN A 192.0.2.1")
	for name, refuse := range map[string]handler{
		"FORMERR": always(t, dns.RcodeFormatError), "NOTIMP": always(t, dns.RcodeNotImplemented), "dropped": silent,
		"FORMERR without the question": func(w dns.ResponseWriter, q *dns.Msg) {
			m := reply(t, q, dns.RcodeFormatError)
			m.Question, m.Extra = nil, nil
			_ = w.WriteMsg(m)
		},
	} {
		t.Run(name, func(t *testing.T) {
			var sizes atomic.Int64
			s := serve(t, "", func(w dns.ResponseWriter, q *dns.Msg) {
				if o := q.IsEdns0(); o != nil {
					sizes.Store(int64(o.UDPSize()))
					refuse(w, q)
					return
				}
				good(w, q)
			})
			r, err := once(t, asking(t, s.addr), question(spec.SourceDNS, "db.test"))
			if err != nil || shown(r) != "192.0.2.1" || sizes.Load() != udpSize {
				t.Errorf("got %q (%v, %v) after EDNS with %d bytes", shown(r), r.Err, err, sizes.Load())
			}
		})
	}
}

func TestServers_TheNextOneIsAsked(t *testing.T) {
	good := zone(t, "db.test. 7 IN A 192.0.2.1")
	for name, h := range map[string]handler{
		"dead": nil, "silent": silent, "SERVFAIL": always(t, dns.RcodeServerFailure), "REFUSED": always(t, dns.RcodeRefused),
	} {
		t.Run(name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			port := testnet.FreePort(t)
			var bad *server
			if h != nil {
				bad = serve(t, fmt.Sprintf("127.0.0.1:%d", port), h)
			}
			serve(t, fmt.Sprintf("127.0.0.2:%d", port), good)
			source := resolving(t, port, "nameserver 127.0.0.1\nnameserver not-an-address\nnameserver 127.0.0.2\nsearch .\n")
			for i := range 3 {
				begin := time.Now()
				r, err := once(t, source, question(spec.SourceDNS, "db.test"))
				if err != nil || shown(r) != "192.0.2.1" {
					t.Fatalf("got %q (%v, %v)", shown(r), r.Err, err)
				}
				// The one that answered is asked first for a while.
				if took := time.Since(begin); i > 0 && took > firstTry/2 || took > firstTry*2 {
					t.Errorf("look-up %d took %v", i, took)
				}
			}
			if name == "silent" && bad.asked.Load() != 2 {
				t.Errorf("the silent server got %d questions, want A and AAAA once", bad.asked.Load())
			}
		})
	}
}

func TestServers_AllFail(t *testing.T) {
	testnet.CheckLeaks(t)
	port := testnet.FreePort(t)
	serve(t, fmt.Sprintf("127.0.0.2:%d", port), always(t, dns.RcodeServerFailure))
	source := resolving(t, port, "nameserver 127.0.0.1\nnameserver 127.0.0.2\nsearch .\noptions rotate\n")
	want := fmt.Sprintf("look up db.test: name server 127.0.0.2:%d: server failure", port)
	for range 3 {
		if r, err := once(t, source, question(spec.SourceDNS, "db.test")); err == nil || err.Error() != want {
			t.Errorf("got %v (%v), want %s each time", err, r, want)
		}
	}
	dead := fmt.Sprintf("127.0.0.3:%d", port)
	want = "look up db.test: name server " + dead + ": connection refused"
	if r, err := once(t, asking(t, dead), question(spec.SourceDNS, "db.test")); err == nil || err.Error() != want {
		t.Errorf("got %v (%v), want %s", err, r, want)
	}
	r, err := once(t, resolving(t, testnet.FreePort(t), ""), question(spec.SourceDNS, "db.test"))
	if err == nil || !strings.Contains(err.Error(), "no name server in ") {
		t.Errorf("without a server: %v (%v)", err, r)
	}
}

func TestServers_SilenceHasAnEnd(t *testing.T) {
	testnet.CheckLeaks(t)
	s := serve(t, "", silent)
	source := newSource(Config{Servers: []string{s.addr, s.addr}, Hosts: text(t, ""), ResolvConf: text(t, "search a.test b.test\noptions attempts:5\n")}, "53")
	begin := time.Now()
	r, err := once(t, source, question(spec.SourceName, "db"))
	if want := "look up db: name server " + s.addr + ": no answer in time"; err == nil || err.Error() != want {
		t.Errorf("got %v (%v), want %s", err, r, want)
	}
	if took := time.Since(begin); took > patience+time.Second {
		t.Errorf("it took %v", took)
	}
}

// Names that become known together do not take the descriptors of connections.
func TestServers_ManyQuestionsTakeTurns(t *testing.T) {
	testnet.CheckLeaks(t)
	s := serve(t, "", silent)
	source := newSource(Config{Servers: []string{s.addr}, Hosts: text(t, ""), ResolvConf: text(t, "")}, "53")
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	began := time.Now()
	for i := range atOnce {
		watching.Go(func() {
			q := discover.Query{Target: question(spec.SourceDNS, fmt.Sprintf("n%d.test", i))}
			_ = source.Watch(ctx, q, func(discover.Result) {})
		})
	}
	testnet.Await(t, "as many questions as there may be", func() bool { return s.asked.Load() >= atOnce })
	<-time.After(firstTry / 8)
	// Later than this the first ones have given their turn away.
	if n := s.asked.Load(); n > atOnce && time.Since(began) < firstTry {
		t.Errorf("%d questions at the same time, want %d of the %d", n, atOnce, 2*atOnce)
	}
	cancel()
	watching.Wait()
}

func TestSearch(t *testing.T) {
	fail := func(name string, next handler) handler {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			if q.Question[0].Name == name {
				always(t, dns.RcodeServerFailure)(w, q)
				return
			}
			next(w, q)
		}
	}
	a, b, bare := "db.a.test. 7 IN A 192.0.2.1", "db.b.test. 7 IN A 192.0.2.2", "db. 7 IN A 192.0.2.3"
	tests := []struct {
		name, host, conf string
		handle           handler
		want             string // places, or after "!" the end of the error
	}{
		{"first", "db", "", zone(t, a, b, bare), "192.0.2.1"},
		{"second", "db", "", zone(t, b, bare), "192.0.2.2"},
		{"bare last", "db", "", zone(t, bare), "192.0.2.3"},
		{"absolute", "db.", "", zone(t, a, b, bare), "192.0.2.3"},
		{"ndots:0", "db", "options ndots:0", zone(t, a, b, bare), "192.0.2.3"},
		{"dots", "db.a", "", zone(t, "db.a. 7 IN A 192.0.2.4", "db.a.a.test. 7 IN A 192.0.2.5"), "192.0.2.4"},
		{"ndots:2", "db.a", "options ndots:2", zone(t, "db.a. 7 IN A 192.0.2.4", "db.a.a.test. 7 IN A 192.0.2.5"), "192.0.2.5"},
		{"no other type", "db", "", zone(t, "db.a.test. 7 IN TXT x", b), "192.0.2.2"},
		{"SERVFAIL goes on", "db", "", fail("db.a.test.", zone(t, b)), "192.0.2.2"},
		{"SERVFAIL is not absence", "db", "", fail("db.b.test.", zone(t)), "!server failure"},
		{"nowhere", "db", "", zone(t), "!no such name"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			s := serve(t, "", test.handle)
			source := New(Config{Servers: []string{s.addr}, Hosts: text(t, ""), ResolvConf: text(t, "search a.test b.test\n"+test.conf)})
			r, err := once(t, source, question(spec.SourceDNS, test.host))
			if want, fails := strings.CutPrefix(test.want, "!"); fails {
				if err == nil {
					err = r.Err
				}
				if err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("got %q (%v), want an error %q", shown(r), err, want)
				}
				return
			}
			if got := shown(r); got != test.want {
				t.Errorf("got %q (%v, %v), want %q", got, r.Err, err, test.want)
			}
		})
	}
}

// A suffix whose server fails for a while is not given up for a wildcard of
// the next.
func TestSearch_TheNameThatWasMeantStays(t *testing.T) {
	testnet.CheckLeaks(t)
	var broken atomic.Bool
	all := zone(t, "db.a.test. 1 IN A 192.0.2.1", "db.b.test. 1 IN A 192.0.2.66")
	s := serve(t, "", func(w dns.ResponseWriter, q *dns.Msg) {
		if broken.Load() && q.Question[0].Name == "db.a.test." {
			always(t, dns.RcodeServerFailure)(w, q)
			return
		}
		all(w, q)
	})
	source := New(Config{Servers: []string{s.addr}, Hosts: text(t, ""), ResolvConf: text(t, "search a.test b.test\n")})
	w := follow(t, source, question(spec.SourceDNS, "db"))
	w.sees(t, "192.0.2.1")
	broken.Store(true)
	testnet.Await(t, "two failures", func() bool { n, _ := w.failed(); return n >= 2 })
	broken.Store(false)
	_, before := w.last()
	testnet.Await(t, "an answer", func() bool { _, n := w.last(); return n > before })
	w.end()
	for _, r := range w.results {
		if shown(r) != "192.0.2.1" {
			t.Errorf("got %q", shown(r))
		}
	}
}

// Nor is one that has no address for a moment, as that of a container which is
// started anew.
func TestSearch_TheNameThatWasMeantIsMissed(t *testing.T) {
	testnet.CheckLeaks(t)
	var gone atomic.Bool
	all := zone(t, "db. 1 IN A 192.0.2.1", "db.corp.test. 1 IN A 192.0.2.66")
	s := serve(t, "", func(w dns.ResponseWriter, q *dns.Msg) {
		if gone.Load() && q.Question[0].Name == "db." {
			always(t, dns.RcodeNameError)(w, q)
			return
		}
		all(w, q)
	})
	source := New(Config{Servers: []string{s.addr}, Hosts: text(t, ""), ResolvConf: text(t, "search corp.test\noptions ndots:0\n")})
	w := follow(t, source, question(spec.SourceDNS, "db"))
	w.sees(t, "192.0.2.1")
	gone.Store(true)
	testnet.Await(t, "that it is missed", func() bool { r, _ := w.last(); return r.Err != nil && r.Weak })
	gone.Store(false)
	w.sees(t, "192.0.2.1")
	w.end()
	for _, r := range w.results {
		if shown(r) == "192.0.2.66" {
			t.Error("its clients were handed to a wildcard")
		}
	}
}

func TestServiceThatFailsIsNotReplacedByAddresses(t *testing.T) {
	testnet.CheckLeaks(t)
	var srv atomic.Pointer[handler]
	set := func(h handler) { srv.Store(&h) }
	all := zone(t, "db.test. 1 IN A 192.0.2.1", "db.test. 1 IN SRV 1 2 3 a.test.")
	s := serve(t, "", func(w dns.ResponseWriter, q *dns.Msg) {
		if q.Question[0].Qtype == dns.TypeSRV {
			(*srv.Load())(w, q)
			return
		}
		all(w, q)
	})
	set(all)
	w := follow(t, asking(t, s.addr), question(spec.SourceName, "db.test"))
	w.sees(t, "a.test:3/1/2")
	set(always(t, dns.RcodeServerFailure))
	testnet.Await(t, "two failures", func() bool { n, _ := w.failed(); return n >= 2 })
	if r, _ := w.last(); shown(r) != "a.test:3/1/2" {
		t.Errorf("got %q", shown(r))
	}
	set(always(t, dns.RcodeSuccess)) // gone
	w.sees(t, "192.0.2.1")
	if r, _ := w.last(); !r.Weak {
		t.Error("that the service is gone is believed at once")
	}
}

func TestParseResolvConf(t *testing.T) {
	tests := []struct {
		text string
		want settings
	}{
		{"nameserver 192.0.2.1\nnameserver fe80::1%eth0 # x\nsearch a.test b.test\noptions ndots:5 timeout:1 attempts:3 rotate\n",
			settings{servers: []string{"192.0.2.1:53", "[fe80::1%eth0]:53"}, search: []string{"a.test", "b.test"}, ndots: 5, timeout: time.Second, attempts: 3, rotate: true}},
		{"; c\n# nameserver 192.0.2.9\ndomain a.test\noptions ndots:99 timeout:9999999999999999999 attempts:99\n",
			settings{servers: []string{"127.0.0.1:53", "[::1]:53"}, assumed: true, search: []string{"a.test"}, ndots: 15, timeout: maxTimeout, attempts: maxAttempts}},
		{"search .\nnameserver\nnameserver ns.test\noptions ndots:x timeout:x attempts:0", settings{servers: []string{"127.0.0.1:53", "[::1]:53"}, assumed: true, search: []string{}, timeout: time.Second, attempts: 1}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, parseResolvConf(test.text, "53"), cmp.AllowUnexported(settings{})); diff != "" {
			t.Errorf("%q: -want +got\n%s", test.text, diff)
		}
	}
}

// The settings of the moment count, and a server that is silent holds up only
// its own questions.
func TestResolvConf_IsReadAgain(t *testing.T) {
	testnet.CheckLeaks(t)
	port := testnet.FreePort(t)
	serve(t, fmt.Sprintf("127.0.0.1:%d", port), zone(t, "db.test. 1 IN A 192.0.2.1"))
	serve(t, fmt.Sprintf("127.0.0.2:%d", port), zone(t, "db.test. 1 IN A 192.0.2.2"))
	source := resolving(t, port, "nameserver 127.0.0.1\nsearch .\n")
	w := follow(t, source, question(spec.SourceDNS, "db.test"))
	w.sees(t, "192.0.2.1")
	rewrite(t, source.resolv.path, "nameserver 127.0.0.2\nsearch .\n")
	w.sees(t, "192.0.2.2")
}

func TestWatch_EndsAtOnceWhileAServerIsSilent(t *testing.T) {
	testnet.CheckLeaks(t)
	s := serve(t, "", silent)
	source := asking(t, s.addr)
	w := follow(t, source, question(spec.SourceName, "db.test"))
	testnet.Await(t, "three questions", func() bool { return s.asked.Load() >= 3 })
	begin := time.Now()
	w.end()
	if took := time.Since(begin); took > time.Second {
		t.Errorf("the end took %v", took)
	}
}

func TestWatch_SuspicionAsksAtOnceButNotMoreThanOnceASecond(t *testing.T) {
	testnet.CheckLeaks(t)
	s := serve(t, "", zone(t, "db.test. 600 IN SRV 1 2 3 a.test."))
	w := follow(t, asking(t, s.addr), question(spec.SourceSRV, "db.test"))
	w.sees(t, "a.test:3/1/2")
	begin := time.Now()
	testnet.Await(t, "three more questions", func() bool { w.doubt(); return s.asked.Load() >= 4 })
	if took := time.Since(begin); took < 2*discover.Floor || took > 6*discover.Floor {
		t.Errorf("three questions in %v", took)
	}
}
