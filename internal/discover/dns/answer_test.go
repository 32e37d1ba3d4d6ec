package dns

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"legate/internal/discover"
	"legate/internal/spec"
	"legate/internal/testnet"
)

func TestAnswer_WhatRecordsSay(t *testing.T) {
	const db = "db.test. 7 IN "
	tests := []struct {
		name    string
		source  string // "": spec.SourceDNS
		host    string // "": db.test
		records []string
		want    string
		detail  string
		ttl     time.Duration
	}{
		{"both families", "", "", []string{db + "A 192.0.2.1", db + "A 192.0.2.2", "db.test. 9 IN AAAA 2001:db8::1"}, "192.0.2.1 192.0.2.2 2001:db8::1", "A and AAAA", 7 * time.Second},
		{"one family", "", "", []string{db + "AAAA 2001:db8::1"}, "2001:db8::1", "AAAA", 7 * time.Second},
		{"v4 in v6", "", "", []string{db + "AAAA ::ffff:192.0.2.1"}, "192.0.2.1", "AAAA", 7 * time.Second},
		{"TTL 0", "", "", []string{"db.test. 0 IN A 192.0.2.1"}, "192.0.2.1", "A", time.Second},
		{"TTL 4e9", "", "", []string{"db.test. 4000000000 IN A 192.0.2.1"}, "192.0.2.1", "A", 30 * time.Second},
		{"mixed case", "", "dB.Test", []string{"DB.tesT. 7 IN A 192.0.2.1"}, "192.0.2.1", "A", 7 * time.Second},
		{"absolute", "", "db.test.", []string{db + "A 192.0.2.1"}, "192.0.2.1", "A", 7 * time.Second},
		{"not ASCII", "", "bücher.test", []string{`b\195\188cher.test. 7 IN A 192.0.2.1`}, "192.0.2.1", "A", 7 * time.Second},
		{"CNAME out of the answer", "", "", []string{"db.test. 3 IN CNAME a.Test.", "a.test. 9 IN CNAME b.test.", "b.test. 8 IN A 192.0.2.1"}, "192.0.2.1", "A, CNAME to b.test", 3 * time.Second},
		{"SRV", spec.SourceSRV, "", []string{db + "SRV 1 65535 6379 A.test.", db + "SRV 0 0 6380 b.test."}, "a.test:6379/1/65535 b.test:6380/0/0", "SRV", 7 * time.Second},
		{"SRV of an alias", spec.SourceSRV, "", []string{db + "CNAME x.test.", "x.test. 7 IN SRV 1 2 3 a.test."}, "a.test:3/1/2", "SRV, CNAME to x.test", 7 * time.Second},
		{"no service", spec.SourceSRV, "", []string{db + "SRV 0 0 0 ."}, "", `SRV: the service is decidedly not available (target ".")`, 7 * time.Second},
		{"SRV or A: both", spec.SourceName, "", []string{db + "SRV 1 2 3 a.test.", db + "A 192.0.2.1"}, "a.test:3/1/2", "SRV", 7 * time.Second},
		{"SRV or A: A", spec.SourceName, "", []string{db + "A 192.0.2.1"}, "192.0.2.1", "A", 7 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			source, host := test.source, test.host
			if source == "" {
				source = spec.SourceDNS
			}
			if host == "" {
				host = "db.test"
			}
			s := serve(t, "", zone(t, test.records...))
			r, err := once(t, asking(t, s.addr), question(source, host))
			if err != nil {
				t.Fatal(err)
			}
			if got := shown(r); got != test.want || r.Err != nil || r.Weak {
				t.Errorf("got %q (%v, weak %v), want %q", got, r.Err, r.Weak, test.want)
			}
			if r.Detail != test.detail || r.TTL != test.ttl {
				t.Errorf("got %q for %v, want %q for %v", r.Detail, r.TTL, test.detail, test.ttl)
			}
		})
	}
}

// Answers made up of whole messages.
func TestAnswer_WhatIsBelieved(t *testing.T) {
	tests := []struct {
		name   string
		source string
		reply  []string
		want   string
	}{
		{"glue by name, not by place", spec.SourceSRV, []string{
			"db.test. 7 IN SRV 1 10 1 a.test.", "db.test. 7 IN SRV 1 10 2 b.test.", "+",
			"B.test. 2 IN A 192.0.2.2", "a.test. 7 IN A 192.0.2.1", "b.test. 7 IN AAAA 2001:db8::2", "evil.test. 7 IN A 192.0.2.66",
		}, "192.0.2.1:1/1/10 192.0.2.2:2/1/10 2001:db8::2:2/1/10"},
		{"other names", spec.SourceDNS, []string{"evil.test. 7 IN A 192.0.2.66", "db.test. 7 IN A 192.0.2.1", "db.test. 7 CH A 192.0.2.67"}, "192.0.2.1"},
		{"chain in the answer", spec.SourceDNS, []string{"c.test. 7 IN A 192.0.2.1", "b.test. 7 IN CNAME c.test.", "db.test. 7 IN CNAME b.test."}, "192.0.2.1"},
		{"addresses as additions", spec.SourceDNS, []string{"+", "db.test. 7 IN A 192.0.2.66"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := serve(t, "", func(w dns.ResponseWriter, q *dns.Msg) {
				if q.Question[0].Qtype == dns.TypeAAAA {
					_ = w.WriteMsg(reply(t, q, dns.RcodeSuccess))
					return
				}
				_ = w.WriteMsg(reply(t, q, dns.RcodeSuccess, test.reply...))
			})
			r, err := once(t, asking(t, s.addr), question(test.source, "db.test"))
			if err != nil {
				t.Fatal(err)
			}
			if got := shown(r); got != test.want || (r.Err != nil) != (test.want == "") {
				t.Errorf("got %q (%v), want %q", got, r.Err, test.want)
			}
		})
	}
}

func TestAnswer_ManyAnswersOneName(t *testing.T) {
	testnet.CheckLeaks(t)
	var records []string
	for i := range 2000 { // 32 kB
		records = append(records, fmt.Sprintf("db.test. 7 IN A 192.0.%d.%d", 2+i/250, i%250))
	}
	s := serve(t, "", func(w dns.ResponseWriter, q *dns.Msg) {
		m := reply(t, q, dns.RcodeSuccess)
		if q.Question[0].Qtype == dns.TypeA {
			m = reply(t, q, dns.RcodeSuccess, records...)
			m.Compress = true
		}
		if w.RemoteAddr().Network() == "udp" {
			m.Truncate(512)
		}
		_ = w.WriteMsg(m)
	})
	r, err := once(t, asking(t, s.addr), question(spec.SourceDNS, "db.test"))
	if err != nil || len(r.Places) != len(records) {
		t.Errorf("%d places (%v, %v), want %d: over TCP after truncation", len(r.Places), r.Err, err, len(records))
	}
}

// A server answers each type of question in its own way.
type ways map[uint16]handler

func (c ways) handle(w dns.ResponseWriter, q *dns.Msg) {
	if h := c[q.Question[0].Qtype]; h != nil {
		h(w, q)
	}
}

func TestAnswer_OneTypeFails(t *testing.T) {
	good := zone(t, "db.test. 20 IN A 192.0.2.1", "db.test. 20 IN AAAA 2001:db8::1", "db.test. 20 IN SRV 1 2 3 a.test.")
	fails, none, refuses := always(t, dns.RcodeServerFailure), always(t, dns.RcodeSuccess), always(t, dns.RcodeRefused)
	no := always(t, dns.RcodeNameError)
	const v4, v6, srv = dns.TypeA, dns.TypeAAAA, dns.TypeSRV
	tests := []struct {
		name   string
		source string
		ways   ways
		want   string // places, or after "!" what the error ends with
		weak   bool
	}{
		{"AAAA fails", spec.SourceDNS, ways{v4: good, v6: fails}, "192.0.2.1", true},
		{"A fails", spec.SourceDNS, ways{v4: refuses, v6: good}, "2001:db8::1", true},
		{"AAAA is never answered", spec.SourceDNS, ways{v4: good, v6: silent}, "192.0.2.1", true},
		{"no AAAA", spec.SourceDNS, ways{v4: good, v6: none}, "192.0.2.1", false},
		{"AAAA denies the name", spec.SourceDNS, ways{v4: good, v6: no}, "192.0.2.1", false},
		{"A fails, no AAAA", spec.SourceDNS, ways{v4: fails, v6: none}, "!: server failure", false},
		{"neither", spec.SourceDNS, ways{v4: none, v6: none}, "the name has no A or AAAA record", true},
		{"SRV fails", spec.SourceName, ways{v4: good, v6: good, srv: fails}, "192.0.2.1 2001:db8::1", false},
		{"SRV is never answered", spec.SourceName, ways{v4: good, v6: good, srv: silent}, "192.0.2.1 2001:db8::1", false},
		{"SRV fails, no A", spec.SourceName, ways{v4: none, v6: none, srv: refuses}, "!: refused", false},
		{"SRV while A is silent", spec.SourceName, ways{v4: silent, v6: silent, srv: good}, "a.test:3/1/2", false},
		{"no SRV", spec.SourceSRV, ways{srv: none}, "the name has no SRV record", true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			s := serve(t, "", test.ways.handle)
			begin := time.Now()
			r, err := once(t, asking(t, s.addr), question(test.source, "db.test"))
			if took := time.Since(begin); took > grace+time.Second {
				t.Errorf("it took %v", took)
			}
			if want, fails := strings.CutPrefix(test.want, "!"); fails {
				if err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("got %v (%v), want a failure %q", r, err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := shown(r)
			if r.Err != nil {
				got = r.Err.Error()[strings.LastIndex(r.Err.Error(), ": ")+2:]
			}
			if got != test.want || r.Weak != test.weak {
				t.Errorf("got %q (weak %v), want %q (%v)", got, r.Weak, test.want, test.weak)
			}
			if r.Weak && r.Err == nil && !strings.Contains(r.Detail, "; no A") {
				t.Errorf("detail %q does not say what is missing", r.Detail)
			}
		})
	}
}

func TestAnswer_Failures(t *testing.T) {
	soa := []string{"-", "test. 60 IN SOA ns.test. x.test. 1 2 3 4 11"}
	answer := func(rcode int, records ...string) handler {
		return func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(reply(t, q, rcode, records...)) }
	}
	closing := func(w dns.ResponseWriter, q *dns.Msg) {
		if w.RemoteAddr().Network() == "tcp" {
			w.Close()
			return
		}
		m := reply(t, q, dns.RcodeSuccess)
		m.Truncated = true
		_ = w.WriteMsg(m)
	}
	endless := func(w dns.ResponseWriter, q *dns.Msg) { // a.test, aa.test, ...
		name := q.Question[0].Name
		_ = w.WriteMsg(reply(t, q, dns.RcodeSuccess, name+" 7 IN CNAME a"+name))
	}
	lame := func(w dns.ResponseWriter, q *dns.Msg) {
		m := reply(t, q, dns.RcodeSuccess, "-", "test. 7 IN NS ns.test.")
		m.RecursionAvailable = false
		_ = w.WriteMsg(m)
	}
	tests := []struct {
		name   string
		handle handler
		want   string
		again  time.Duration // 0: a failure
	}{
		{"NXDOMAIN", always(t, dns.RcodeNameError), "no such name", unproven},
		{"NXDOMAIN with its time", answer(dns.RcodeNameError, soa...), "no such name", 11 * time.Second},
		{"NXDOMAIN of an alias", answer(dns.RcodeNameError, "db.test. 7 IN CNAME a.test."), "no such name", unproven},
		{"NODATA of an alias", answer(dns.RcodeSuccess, append([]string{"db.test. 7 IN CNAME a.test."}, soa...)...), "the name has no A or AAAA record", 11 * time.Second},
		{"alias to localhost", answer(dns.RcodeSuccess, "db.test. 7 IN CNAME localhost."), "no such name", unproven},
		{"SERVFAIL", always(t, dns.RcodeServerFailure), "server failure", 0},
		{"REFUSED", always(t, dns.RcodeRefused), "refused", 0},
		{"NOTIMP", always(t, dns.RcodeNotImplemented), "it does not answer such questions", 0},
		{"NOTAUTH", always(t, dns.RcodeNotAuth), "it answers NOTAUTH", 0},
		{"referral", lame, "it knows other servers for the name, and does not ask them", 0},
		{"CNAME to itself", answer(dns.RcodeSuccess, "db.test. 7 IN CNAME db.test."), "CNAME records that lead in a circle", 0},
		{"CNAME circle", answer(dns.RcodeSuccess, "db.test. 7 IN CNAME a.test.", "a.test. 7 IN CNAME db.test."), "CNAME records that lead in a circle", 0},
		{"CNAME without end", endless, "too many CNAME records one after the other", 0},
		{"TCP closes", closing, "the connection was closed before the answer", 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			s := serve(t, "", test.handle)
			r, err := once(t, asking(t, s.addr), question(spec.SourceDNS, "db.test"))
			if test.again != 0 {
				if !r.Weak || r.TTL != test.again {
					t.Errorf("weak %v, for %v, want weak for %v", r.Weak, r.TTL, test.again)
				}
				err = r.Err
			}
			if want := "look up db.test: name server " + s.addr + ": " + test.want; err == nil || err.Error() != want {
				t.Errorf("got %v (result %+v), want %s", err, r, want)
			}
		})
	}
}

func TestAnswer_NotANameAtAll(t *testing.T) {
	for _, host := range []string{"", ".", "a..test", strings.Repeat("a", 64) + ".test", strings.Repeat("a.", 130) + "test"} {
		if r, err := once(t, asking(t, "127.0.0.1:1"), question(spec.SourceDNS, host)); err == nil || !strings.Contains(err.Error(), "no name server can have") {
			t.Errorf("%q: got %v (%v)", host, r, err)
		}
	}
}

func TestAnswer_DockersResolverIsAskedEverySecond(t *testing.T) {
	testnet.CheckLeaks(t)
	s := serve(t, fmt.Sprintf("127.0.0.11:%d", testnet.FreePort(t)), zone(t, "db.test. 600 IN A 192.0.2.1"))
	for host, wantErr := range map[string]bool{"db.test": false, "none.test": true} {
		r, err := once(t, asking(t, s.addr), question(spec.SourceDNS, host))
		if err != nil || r.TTL != discover.Floor || (r.Err != nil) != wantErr {
			t.Errorf("%s: got %+v (%v)", host, r, err)
		}
	}
}

func TestParseServer(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.53": "192.0.2.53:53", "127.0.0.1:8600": "127.0.0.1:8600", "2001:db8::1": "[2001:db8::1]:53",
		"[2001:db8::1]": "[2001:db8::1]:53", "[::1]:54": "[::1]:54",
		"": "", "ns.test": "", "ns.test:53": "", "192.0.2.53:": "", "192.0.2.53:0": "", "192.0.2.53:99999": "", "[::1": "",
	} {
		got, err := ParseServer(text)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("%q: got %v (%v), want %q", text, got, err, want)
		}
		var user *spec.UserError
		if err != nil && (!errors.As(err, &user) || user.Hint == "") {
			t.Errorf("%q: %v has no hint", text, err)
		}
	}
	if _, err := once(t, asking(t, "ns.test"), question(spec.SourceDNS, "db.test")); err == nil || !strings.Contains(err.Error(), `"ns.test"`) {
		t.Errorf("a wrong server: %v", err)
	}
}

// Docker's own answer is all that there is; what it only passes on need not be.
func TestHosted_KnowsWhetherItIsWhole(t *testing.T) {
	v4 := func(server string) part {
		return part{kind: dns.TypeA, found: &found{server: server}}
	}
	fails := part{kind: dns.TypeAAAA, err: &failure{why: errors.New("server failure")}}
	for _, c := range []struct {
		name string
		a, b part
		want bool
	}{
		{"db", v4("127.0.0.11:53"), v4("127.0.0.11:53"), true},
		{"db", v4("127.0.0.11:53"), fails, false},
		{"db.example.org", v4("127.0.0.11:53"), v4("127.0.0.11:53"), false},
		{"db", v4("192.0.2.53:53"), v4("192.0.2.53:53"), false},
	} {
		got, err := hosted(c.name, c.a, c.b, "")
		if err != nil || got.result.Whole != c.want {
			t.Errorf("%s from %s: whole %t, %v", c.name, c.a.found.server, got.result.Whole, err)
		}
	}
}
