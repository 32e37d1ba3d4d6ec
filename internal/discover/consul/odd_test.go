package consul

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"legate/internal/discover"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// odd is a server that answers as a test says, and then keeps the question.
type odd struct {
	addr string

	mu    sync.Mutex
	asked []*http.Request // guarded by mu
}

// turn is one answer. headers are "Name: value".
type turn struct {
	status  int // 0: 200
	index   string
	headers []string
	body    string
}

func oddServer(t *testing.T, turns ...turn) *odd {
	t.Helper()
	o := &odd{}
	o.addr = serve(t, func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		o.asked = append(o.asked, r)
		n := len(o.asked) - 1
		o.mu.Unlock()
		if n >= len(turns) {
			<-r.Context().Done()
			return
		}
		turns[n].write(w)
	})
	return o
}

func serve(t *testing.T, handler http.HandlerFunc) (addr string) {
	t.Helper()
	testnet.CheckLeaks(t)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	return server.Listener.Addr().String()
}

func (a turn) write(w http.ResponseWriter) {
	if a.index != "" {
		w.Header().Set("X-Consul-Index", a.index)
	}
	for _, h := range a.headers {
		name, value, _ := strings.Cut(h, ": ")
		w.Header().Set(name, value)
	}
	w.WriteHeader(cmp.Or(a.status, http.StatusOK))
	_, _ = io.WriteString(w, a.body)
}

func (o *odd) indices() (list []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.asked {
		list = append(list, r.URL.Query().Get("index"))
	}
	return list
}

// have is an answer with instances on those ports.
func have(ports ...int) string {
	var b strings.Builder
	for i, port := range ports {
		if i > 0 {
			b.WriteString(",")
		}
		fmt.Fprintf(&b, `{"Node":{"Node":"n","Address":"10.0.0.1"},"Service":{"ID":"i","Port":%d},"Checks":[]}`, port)
	}
	return "[" + b.String() + "]"
}

func TestIndex(t *testing.T) {
	const none = "weak, error: no instance of redis is registered in Consul at "
	for _, c := range []struct {
		name    string
		turns   []turn
		want    []string
		indices []string
		err     string // the end of the error; "": it goes on
	}{
		{"moves on", []turn{{index: "10", body: have(1, 2)}, {index: "11", body: have(1)}, {index: "12", body: have()}, {index: "13", body: have(3)}},
			[]string{"weak, 10.0.0.1:1*1, 10.0.0.1:2*1", "10.0.0.1:1*1", "", "10.0.0.1:3*1"}, []string{"", "10", "11", "12", "13"}, ""},
		{"stays", []turn{{index: "10", body: have(1)}, {index: "10", body: have()}, {index: "10", body: "not even read"}, {index: "11", body: have(2)}},
			[]string{"weak, 10.0.0.1:1*1", "10.0.0.1:2*1"}, []string{"", "10", "10", "10", "11"}, ""},
		{"none so far", []turn{{index: "10", body: have()}, {index: "11", body: have()}, {index: "12", body: have(1)}, {index: "13", body: have()}},
			[]string{none, none, "10.0.0.1:1*1", ""}, []string{"", "10", "11", "12", "13"}, ""},
		{"backwards", []turn{{index: "10", body: have(1, 2)}, {index: "3", body: have()}, {index: "3", body: have()}, {index: "4", body: have(1)}, {index: "5", body: have(1, 2)}},
			[]string{"weak, 10.0.0.1:1*1, 10.0.0.1:2*1", none, none, "10.0.0.1:1*1", "10.0.0.1:1*1, 10.0.0.1:2*1"}, []string{"", "10", "", "3", "4", "5"}, ""},
		{"backwards with something", []turn{{index: "10", body: have(1, 2)}, {index: "3", body: have(1)}, {index: "3", body: have()}, {index: "4", body: have()}},
			[]string{"weak, 10.0.0.1:1*1, 10.0.0.1:2*1", "weak, 10.0.0.1:1*1", "weak", ""}, []string{"", "10", "", "3", "4"}, ""},
		{"0 is never asked for", []turn{{index: "0", body: have(1)}, {index: "0", body: have(1)}, {index: "0", body: have(1)}},
			[]string{"weak, 10.0.0.1:1*1", "weak, 10.0.0.1:1*1", "weak, 10.0.0.1:1*1"}, []string{"", "1", "", "1"}, ""},
		{"largest", []turn{{index: "18446744073709551615", body: have(1)}}, []string{"weak, 10.0.0.1:1*1"}, []string{"", "18446744073709551615"}, ""},
		{"negative", []turn{{index: "10", body: have(1)}, {index: "-1", body: have()}}, []string{"weak, 10.0.0.1:1*1"}, []string{"", "10"}, `X-Consul-Index is "-1"`},
		{"text", []turn{{index: "many", body: have()}}, nil, []string{""}, `X-Consul-Index is "many"`},
		{"missing", []turn{{body: have()}}, nil, []string{""}, `X-Consul-Index is ""`},
		{"nothing without a token", []turn{{index: "10", body: have(1)}, {index: "11", headers: []string{"X-Consul-Default-Acl-Policy: deny"}, body: have()}},
			[]string{"weak, 10.0.0.1:1*1", "weak"}, []string{"", "10", "11"}, ""},
		{"some hidden", []turn{{index: "10", body: have(1)}, {index: "11", headers: []string{"X-Consul-Results-Filtered-By-ACLs: true"}, body: have(2)}},
			[]string{"weak, 10.0.0.1:1*1", "weak, 10.0.0.1:2*1"}, []string{"", "10", "11"}, ""},
		{"all hidden", []turn{{index: "10", body: have(1)}, {index: "11", headers: []string{"X-Consul-Results-Filtered-By-ACLs: true"}, body: have()}},
			[]string{"weak, 10.0.0.1:1*1"}, []string{"", "10"}, "permission denied"},
		{"no leader", []turn{{index: "10", body: have(1)}, {index: "11", headers: []string{"X-Consul-KnownLeader: false"}, body: have()}},
			[]string{"weak, 10.0.0.1:1*1"}, []string{"", "10"}, "it has no leader"},
		{"no leader, says the streaming back end", []turn{{index: "10", body: have(1)}, {index: "11", headers: []string{"X-Consul-KnownLeader: false", "X-Consul-Query-Backend: streaming"}, body: have(2)}},
			[]string{"weak, 10.0.0.1:1*1", "10.0.0.1:2*1"}, []string{"", "10", "11"}, ""},
		{"closes after each answer", []turn{{index: "10", headers: []string{"Connection: close"}, body: have(1)}, {index: "11", headers: []string{"Connection: close"}, body: have()}},
			[]string{"weak, 10.0.0.1:1*1", ""}, []string{"", "10", "11"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := oddServer(t, c.turns...)
			w := begin(t, environment{envAddr: o.addr}.source(), redis())
			testnet.Await(t, "the last question", func() bool { return w.fate() != nil || len(o.indices()) == len(c.indices) })
			if c.err != "" {
				testnet.Await(t, "the failure", func() bool { return w.fate() != nil })
				if !strings.HasSuffix(w.fate().Error(), c.err) {
					t.Errorf("the error is %v, want %s", w.fate(), c.err)
				}
			} else if w.fate() != nil {
				t.Errorf("it failed: %v", w.fate())
			}
			var got []string
			for _, r := range w.all() {
				got = append(got, strings.TrimSuffix(say(r), o.addr))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("it said\n%q, want\n%q", got, c.want)
			}
			if !slices.Equal(o.indices(), c.indices) {
				t.Errorf("it asked for %q, want %q", o.indices(), c.indices)
			}
		})
	}
}

func TestNotConsul(t *testing.T) {
	addrHint := "set CONSUL_HTTP_ADDR to the address of Consul's HTTP API"
	tokenHint := "set CONSUL_HTTP_TOKEN to a token that may read service redis"
	foreign := "the answer is not one of Consul's"
	for _, c := range []struct {
		name       string
		turn       turn
		what, hint string
	}{
		{"a web page", turn{index: "1", body: "<html>\n<p>hello"}, foreign + `: it begins with "<html>"`, addrHint},
		{"an object", turn{index: "1", body: `{"a":[]}`}, foreign + `: it begins with "{\"a\":[]}"`, addrHint},
		{"null", turn{index: "1", body: `null`}, foreign + `: it begins with "null"`, addrHint},
		{"nothing", turn{index: "1"}, foreign + `: it begins with ""`, addrHint},
		{"a null in it", turn{index: "1", body: `[null]`}, foreign, addrHint},
		{"no service", turn{index: "1", body: `[{"Node":{}}]`}, foreign, addrHint},
		{"cut off", turn{index: "1", body: `[{"Node":{}`}, foreign + ": unexpected end of JSON input", addrHint},
		{"two lists", turn{index: "1", body: `[][]`}, foreign + ": invalid character '[' after top-level value", addrHint},
		{"a text for a port", turn{index: "1", body: `[{"Node":{},"Service":{"Port":"x"}}]`}, foreign + ": json: cannot unmarshal string into Go struct field .Service.Port of type int", addrHint},
		{"too long", turn{index: "1", body: "[" + strings.Repeat(" ", answerLimit)}, "the answer is longer than 16 MiB", ""},
		{"a redirect", turn{status: 302, headers: []string{"Location: http://other/"}}, foreign + `: it redirects to "http://other/"`, addrHint},
		{"not found", turn{status: 404, body: "404 page not found"}, foreign + ": it answers 404", addrHint},
		{"not authorised", turn{status: 401}, "permission denied", tokenHint},
		{"denied", turn{status: 403, body: "Permission denied: token with AccessorID 'x' lacks permission"}, "permission denied: token with AccessorID 'x' lacks permission", tokenHint},
		{"too many", turn{status: 429, body: "Your IP is issuing too many concurrent connections, please rate limit your calls\n"}, "it answers 429: Your IP is issuing too many concurrent connections, please rate limit your calls",
			"raise limits.http_max_conns_per_client in Consul's configuration: each service that is watched takes one connection"},
		{"broken", turn{status: 500, body: "No cluster leader\nand \x1b[31mmore"}, "it answers 500: No cluster leader", ""},
		{"escapes", turn{status: 503, body: "\x1b[31mred\x00"}, "it answers 503: [31mred", ""},
		{"without words", turn{status: 502}, "it answers 502", ""},
		{"endless words", turn{status: 502, body: strings.Repeat("x", 1<<20)}, "it answers 502: " + strings.Repeat("x", 200) + "...", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := oddServer(t, c.turn, c.turn)
			for range 2 {
				w := begin(t, environment{envAddr: o.addr}.source(), redis())
				w.fails("ask Consul at "+o.addr+" for redis: "+c.what, c.hint)
				if len(w.all()) > 0 {
					t.Errorf("it said %s", say(w.all()[0]))
				}
			}
		})
	}
}

// What is behind a port may be no HTTP at all.
func TestNoHTTP(t *testing.T) {
	testnet.CheckLeaks(t)
	const addrHint = "set CONSUL_HTTP_ADDR to the address of Consul's HTTP API"
	for _, c := range []struct {
		name, says, what, hint string
	}{
		{"another protocol", "SSH-2.0-OpenSSH_9.2\r\n", `the answer is not one of Consul's: malformed HTTP response "SSH-2.0-OpenSSH_9.2"`, addrHint},
		{"closes", "", "the connection was lost", ""},
		{"cut off", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nX-Consul-Index: 1\r\n\r\n[", "the connection was lost", ""},
		{"endless header", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 1<<20), "the answer is not one of Consul's: net/http: server response headers exceeded 65536 bytes; aborted", addrHint},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := raw(t, c.says)
			for range 3 {
				err := environment{envAddr: addr}.source().Watch(t.Context(), discover.Query{Target: redis()}, func(r discover.Result) { t.Errorf("it said %s", say(r)) })
				checkError(t, err, "ask Consul at "+addr+" for redis: "+c.what, c.hint)
			}
		})
	}
}

// raw is a server that reads a request, says that and closes.
func raw(t *testing.T, says string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 4096))
				_, _ = io.WriteString(c, says)
			})
		}
	})
	t.Cleanup(open.Wait)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// An answer that comes in drops is not waited for without end either.
func TestDribble(t *testing.T) {
	addr := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Index", "1")
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			if _, err := io.WriteString(w, "["); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-tick.C:
			}
		}
	})
	s := environment{envAddr: addr}.source()
	s.pace.answer = 200 * time.Millisecond
	begin(t, s, redis()).fails("ask Consul at "+addr+" for redis: no answer in time", "")
}

// A server that comes back at once, without what it knew, is asked from the
// beginning; package net/http alone would go on with the old index.
func TestLostConnectionIsNotMendedInSilence(t *testing.T) {
	var asked, again int
	var mu sync.Mutex
	var server *httptest.Server
	testnet.CheckLeaks(t)
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch asked++; asked {
		case 1:
			turn{index: "1000", body: have(1)}.write(w)
		case 2:
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				c.Close()
			}
		default:
			again++
			turn{index: "1001", body: have()}.write(w)
		}
	}))
	t.Cleanup(server.Close)
	addr := server.Listener.Addr().String()
	w := begin(t, environment{envAddr: addr}.source(), redis())
	w.fails("ask Consul at "+addr+" for redis: the connection was lost", "")
	if all := w.all(); len(all) != 1 {
		t.Errorf("it said %d things, the last one %s", len(all), say(all[len(all)-1]))
	}
}

func TestRequest(t *testing.T) {
	o := oddServer(t, turn{index: "7", body: have(1)})
	env := environment{envAddr: "http://" + o.addr + "/consul/", envToken: "secret", envAuth: "user:pass:word", envNamespace: "team", envPartition: "part"}
	w := begin(t, env.source(), spec.Target{Source: spec.SourceConsul, Host: "re dis", Tag: "v1&x", Datacenter: "eu"})
	testnet.Await(t, "two questions", func() bool { return len(o.indices()) == 2 })
	r := o.asked[1]
	if want := "/consul/v1/health/service/re%20dis?dc=eu&index=7&ns=team&partition=part&tag=v1%26x&wait=50000ms"; r.RequestURI != want {
		t.Errorf("it asked %s, want %s", r.RequestURI, want)
	}
	if user, password, _ := r.BasicAuth(); user != "user" || password != "pass:word" || r.Header.Get("X-Consul-Token") != "secret" {
		t.Errorf("it was %s:%s with %v", user, password, r.Header)
	}
	w.stop()
	if k := (keys{path: "a b/c%"}).query(); k.path != "/v1/kv/a%20b/c%25" {
		t.Errorf("the key is %s", k.path)
	}
}

func TestUnixSocket(t *testing.T) {
	testnet.CheckLeaks(t)
	path := testnet.SocketPath(t)
	env := environment{envAddr: "unix://" + path}
	begin(t, env.source(), redis()).fails("ask Consul at unix://"+path+" for redis: no such file or directory", "")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("index") != "" {
			<-r.Context().Done()
		}
		turn{index: "1", body: have(1)}.write(w)
	})}}
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	begin(t, env.source(), redis()).await("weak, 10.0.0.1:1*1")
}

// The token of the environment is for no other server than the one that is
// asked, wherever that one sends us.
func TestRedirectGetsNoToken(t *testing.T) {
	other := oddServer(t)
	o := oddServer(t, turn{status: 307, headers: []string{"Location: http://" + other.addr + "/"}})
	w := begin(t, environment{envAddr: o.addr, envToken: "secret"}.source(), redis())
	testnet.Await(t, "the failure", func() bool { return w.fate() != nil })
	if len(other.indices()) > 0 {
		t.Error("it went there")
	}
}

func TestWhere(t *testing.T) {
	for _, c := range []struct {
		addr, ssl, host string
		want            string // base and socket, or the error
	}{
		{"", "", "", "http://127.0.0.1:8500"},
		{"10.0.0.1:8500", "", "", "http://10.0.0.1:8500"},
		{"10.0.0.1:8501", "true", "", "https://10.0.0.1:8501"},
		{"http://10.0.0.1:8501", "1", "", "https://10.0.0.1:8501"},
		{"https://consul.test/x/", "", "", "https://consul.test/x"},
		{"[fd00::1]:8500", "", "", "http://[fd00::1]:8500"},
		{"unix:///run/consul.sock", "", "", "http://localhost /run/consul.sock"},
		{"https://10.0.0.1:8501", "", "10.0.0.2:8500", "http://10.0.0.2:8500"},
		{"https://10.0.0.1:8501", "true", "[fd00::2]:8500", "https://[fd00::2]:8500"},
		{"http://u:secret@10.0.0.1:8500", "", "", "the address of the Consul server 10.0.0.1:8500 has a user in it"},
		{"ftp://u:secret@10.0.0.1", "", "", `"10.0.0.1" is no address of a Consul server`},
		{"ftp://10.0.0.1", "", "", `"ftp://10.0.0.1" is no address of a Consul server`},
		{"http://", "", "", `"http://" is no address of a Consul server`},
		{"a b", "", "", `"http://a b" is no address of a Consul server`},
		{"", "perhaps", "", `CONSUL_HTTP_SSL is "perhaps"`},
	} {
		env := environment{envAddr: c.addr, envSSL: c.ssl}
		s, err := where(func(name string) string { return env[name] }, c.host)
		got := strings.TrimSpace(s.base.String() + " " + s.unix)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%+v: %s, want %s", c, got, c.want)
		}
	}
}

func TestUnhealthy(t *testing.T) {
	for _, c := range []struct {
		checks []healthCheck
		want   string
	}{
		{nil, ""},
		{[]healthCheck{{Status: "passing", Output: "x"}, {Status: "passing", CheckID: "_node_maintenance"}}, ""},
		{[]healthCheck{{Status: "warning", Name: "a"}, {Status: "critical", Name: "b", Output: "\n  one \ntwo"}, {Status: "critical", Name: "c"}}, "Consul: check b is critical: one"},
		{[]healthCheck{{Status: "warning", CheckID: "id", Output: "x\x1b[0m\tz"}}, "Consul: check id is warning: x [0m z"},
		{[]healthCheck{{Status: "odd", Name: "a"}}, "Consul: check a is odd"},
		{[]healthCheck{{Status: "critical", Name: "b"}, {Status: "critical", CheckID: "_service_maintenance:redis", Notes: "disk", Output: "o"}}, "Consul: service is in maintenance: disk"},
		{[]healthCheck{{Status: "critical", CheckID: "_node_maintenance"}}, "Consul: node is in maintenance"},
		{[]healthCheck{{Status: "critical", Name: "a", Output: strings.Repeat("é", 300)}}, "Consul: check a is critical: " + strings.Repeat("é", 200) + "..."},
	} {
		if got := unhealthy(c.checks); got != c.want {
			t.Errorf("%+v:\n%s, want\n%s", c.checks, got, c.want)
		}
	}
}

func TestPlaces(t *testing.T) {
	const node = `{"Node":{"Node":"n1","Address":"10.0.0.9"},"Service":`
	r, err := service{name: "redis"}.read(answer{body: []byte("[" + strings.Join([]string{
		node + `{"ID":"a","Address":"b.test","Port":0,"Weights":{"Passing":0}}}`,
		node + `{"ID":"b","Port":65535,"Weights":{"Passing":70000}}}`,
		node + `{"ID":"c","Address":"10.0.0.1","Port":65536}}`,
		node + `{"ID":"d","Address":"10.0.0.1","Port":-1}}`,
		node + `{"ID":"e","Address":"a b","Port":1}}`,
		node + `{"ID":"f","Address":"fd00::1","Port":1,"Weights":{"Passing":-5}}}`,
		`{"Node":{"Node":"n2","Address":""},"Service":{"ID":"g","Port":1}}`,
	}, ",") + "]")})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := say(r), "10.0.0.9:65535*65535, b.test:0*1, fd00::1:1*1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if want := `left out: c on n1 has the port 65536; d on n1 has the port -1; e on n1 has the address "a b"; and 1 more`; r.Detail != want {
		t.Errorf("%s, want %s", r.Detail, want)
	}
	r, err = service{name: "redis"}.read(answer{body: []byte("[" + node + `{"ID":"c","Port":-1}}]`)})
	if err != nil || say(r) != "error: nothing that Consul has can be used: left out: c on n1 has the port -1" {
		t.Errorf("%s, %v", say(r), err)
	}
}

// Whichever Consul lists first, and though nobody takes the old one back.
func TestPlaces_OfOneAddressThePassingOneIsFirst(t *testing.T) {
	old := `{"Node":{"Node":"n1"},"Service":{"ID":"old","Address":"10.0.0.1","Port":1},"Checks":[{"Name":"tcp","Status":"critical"}]}`
	anew := `{"Node":{"Node":"n1"},"Service":{"ID":"new","Address":"10.0.0.1","Port":1},"Checks":[{"Name":"tcp","Status":"passing"}]}`
	for _, body := range []string{"[" + old + "," + anew + "]", "[" + anew + "," + old + "]"} {
		r, err := service{name: "redis"}.read(answer{body: []byte(body)})
		if err != nil || len(r.Places) != 2 || r.Places[0].Unhealthy != "" {
			t.Errorf("%s: %+v (%v)", body, r.Places, err)
		}
	}
}

// A quiet question is asked at once and so are a few more; one that is answered
// without end is asked at its pace, and saves up nothing meanwhile.
func TestBudget(t *testing.T) {
	b := budget{floor: 20 * time.Millisecond}
	now := time.Now()
	for i := range 2 {
		for n := range burst {
			if pause := b.take(now); pause > 0 {
				t.Errorf("round %d: question %d waits %v", i, n, pause)
			}
		}
		for range 100 {
			pause := b.take(now)
			if pause != b.floor {
				t.Fatalf("round %d: it waits %v", i, pause)
			}
			now = now.Add(pause)
		}
		now = now.Add(time.Hour)
	}
}

func TestParseValue(t *testing.T) {
	for _, c := range []struct{ value, want string }{
		{"10.0.0.1:1", "10.0.0.1:1"},
		{" 10.0.0.1:1\n", "10.0.0.1:1"},
		{"10.0.0.1:1,10.0.0.2:2\r\n[fd00::1]:3 tcp://h:4,", "10.0.0.1:1 10.0.0.2:2 fd00::1:3 h:4"},
		{"h", "h:0"},
		{"", "!an empty value"},
		{" ,\n", "!an empty value"},
		{"unix:/run/x, h:1", `h:1 !"unix:/run/x": "unix:/run/x" is a unix socket, and those are of this machine`},
	} {
		places, bad := parseValue(c.value)
		var got []string
		for _, p := range places {
			got = append(got, fmt.Sprintf("%s:%d", p.Host, p.Port))
		}
		for _, b := range bad {
			got = append(got, "!"+b)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q: %q, want %q", c.value, got, c.want)
		}
	}
}

func TestBodyLimitLeavesRoom(t *testing.T) {
	body := append([]byte("["), bytes.Repeat([]byte(" "), answerLimit-2)...)
	o := oddServer(t, turn{index: "1", body: string(append(body, ']'))})
	w := begin(t, environment{envAddr: o.addr}.source(), redis())
	w.await("weak, error: no instance of redis is registered in Consul at " + o.addr)
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		path  string
		keys  []string
		want  []string
		below bool
	}{
		{"a/b", []string{"a/b", "a/b-old/x", "a/bc"}, []string{"a/b"}, false},
		{"a/b", []string{"a/b", "a/b/", "a/b/dir/"}, []string{"a/b"}, false},
		{"a/b", []string{"a/b", "a/b/", "a/b/x", "a/b/y/z"}, []string{"a/b/x", "a/b/y/z"}, true},
		{"a/b", []string{"a/bc"}, nil, false},
		{"", []string{"x", "y/", "y/z"}, []string{"x", "y/z"}, true},
	} {
		var pairs []pair
		for _, name := range c.keys {
			pairs = append(pairs, pair{Key: &name})
		}
		chosen, below, err := keys{path: c.path}.choose(pairs)
		var got []string
		for _, one := range chosen {
			got = append(got, *one.Key)
		}
		if err != nil || !slices.Equal(got, c.want) || below != c.below {
			t.Errorf("%q of %q: %q, below %t, %v; want %q, below %t", c.path, c.keys, got, below, err, c.want, c.below)
		}
	}
}

// A watch that failed keeps no connection, which nobody would use again.
func TestFailureClosesTheConnection(t *testing.T) {
	testnet.CheckLeaks(t)
	closed := make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { turn{status: 403}.write(w) }))
	server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			close(closed)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	begin(t, environment{envAddr: server.Listener.Addr().String()}.source(), redis())
	select {
	case <-closed:
	case <-time.After(testnet.Patience):
		t.Error("the connection is still open")
	}
}

// The same failure gives the same text each time: ports, name servers and the
// time of day are not in it.
func TestExplain(t *testing.T) {
	from, to := &net.TCPAddr{Port: 50123}, &net.TCPAddr{Port: 8500}
	read := func(err error) error {
		return &url.Error{Op: "Get", URL: "http://x", Err: &net.OpError{Op: "read", Net: "tcp", Source: from, Addr: to, Err: err}}
	}
	expired := x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 2026-01-01T00:00:00Z is after 2025-01-01T00:00:00Z"}
	for _, c := range []struct {
		err        error
		want, hint string
	}{
		{read(os.NewSyscallError("read", syscall.ECONNRESET)), "the connection was lost", ""},
		{read(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), "no route to host", ""},
		{read(errors.New("odd")), "odd", ""},
		{read(io.EOF), "the connection was lost", ""},
		{read(&net.DNSError{Err: "no such host", Name: "consul.test", Server: "10.0.0.1:53", IsNotFound: true}), "look up consul.test: no such host", ""},
		{read(&net.DNSError{Err: "read udp 10.0.0.2:40000->10.0.0.1:53: i/o timeout", Name: "consul.test", Server: "10.0.0.1:53", IsTimeout: true}), "look up consul.test: no answer in time", ""},
		{read(&net.DNSError{Err: "read udp 10.0.0.2:40000->10.0.0.1:53: read: connection refused", Name: "consul.test", Server: "10.0.0.1:53"}), "look up consul.test: the name server does not answer", ""},
		{read(&net.DNSError{Err: "server misbehaving", Name: "consul.test", Server: "10.0.0.1:53"}), "look up consul.test: server misbehaving", ""},
		{read(os.ErrDeadlineExceeded), "no answer in time", ""},
		{&tls.CertificateVerificationError{Err: expired}, "its certificate has expired or is not yet valid", "renew the server's certificate"},
	} {
		if got := explain(c.err); got != c.want || hintFor(c.err) != c.hint {
			t.Errorf("%v:\n%s (%s), want\n%s (%s)", c.err, got, hintFor(c.err), c.want, c.hint)
		}
	}
}
