package forward

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/testnet"
)

func TestAttempt_RefusingEndpointIsPassedOver(t *testing.T) {
	bad := testnet.RefusingAddr(t, loopback).String()
	w := newWorld(t, nil, bad, say(t, "here"))
	for range 4 {
		w.answers("here")
	}
	w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateDegraded })
	for _, e := range w.status().Endpoints {
		if e.Address == bad && (e.Health != spec.HealthEjected || !strings.Contains(e.LastError, "refused")) {
			t.Errorf("status of the refusing endpoint: %+v", e)
		}
	}
	if n := w.status().Counters.Failed; len(n) != 0 {
		t.Errorf("failed connections %v", n)
	}
}

func TestAttempt_BlackHoleCostsOneAttempt(t *testing.T) {
	hole := testnet.BlackHole(t, loopback).String()
	const timeout = 500 * time.Millisecond
	// The turn of the first connection begins with the second target.
	w := newWorld(t, func(o *spec.Options) { o.ConnectTimeout = timeout }, say(t, "here"), hole)
	start := time.Now()
	w.answers("here")
	if took := time.Since(start); took < timeout {
		t.Fatalf("the first connection took %v: it did not try the black hole", took)
	}
	for range 5 {
		start = time.Now()
		w.answers("here")
		if took := time.Since(start); took >= timeout {
			t.Errorf("a later connection took %v: it tried the black hole again", took)
		}
	}
}

func TestAttempt_ReturnedEndpointIsUsedWithoutAClientFindingOut(t *testing.T) {
	back := testnet.FreePort(t)
	addr := net.JoinHostPort("127.0.0.1", itoa(back))
	w := newWorld(t, nil, addr, say(t, "other"))
	w.answers("other")
	w.answers("other")
	w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateDegraded })
	testnet.ListenAt(t, "tcp4", addr).Handle(testnet.Say("back"))
	w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateUp })
	seen := map[string]bool{}
	for range 4 {
		got, err := read(t, w.dial(), soon)
		if err != nil {
			t.Fatal(err)
		}
		seen[strings.TrimSpace(got)] = true
	}
	if !seen["back"] || !seen["other"] {
		t.Errorf("round robin reached %v", seen)
	}
}

func TestAttempt_EarlyCloseTriesTheNextEndpoint(t *testing.T) {
	for name, closes := range map[string]func(net.Conn){"FIN": func(net.Conn) {}, "RST": reset} {
		t.Run(name, func(t *testing.T) {
			early := testnet.Serve(t, "tcp4", closes).String()
			w := newWorld(t, nil, early, say(t, "here"))
			for range 4 {
				w.answers("here")
			}
			if n := w.status().Counters.EarlyClosed; n == 0 {
				t.Error("no early close was counted: the closing endpoint was never tried")
			}
			testnet.Await(t, "that the sources are asked again", func() bool { return w.suspected.Load() > 0 })
		})
	}
}

func TestAttempt_EarlyCloseByAllIsPassedOnAsItWas(t *testing.T) {
	closing := func(net.Conn) {}
	t.Run("FIN", func(t *testing.T) {
		w := newWorld(t, nil, testnet.Serve(t, "tcp4", closing).String(), testnet.Serve(t, "tcp4", closing).String())
		if got, err := read(t, w.dial(), soon); got != "" || err != nil {
			t.Errorf("got %q, %v; want the end of the file", got, err)
		}
		if n := w.status().Counters.EarlyClosed; n != 1 {
			t.Errorf("%d early closes, want the first one's: the last one's is the answer", n)
		}
	})
	t.Run("RST", func(t *testing.T) {
		w := newWorld(t, nil, testnet.Serve(t, "tcp4", reset).String())
		w.refuses(soon)
	})
}

// A server may say at once that it has nothing to say, and still listen.
func TestAttempt_EarlyHalfCloseOfTheLastEndpointKeepsUploads(t *testing.T) {
	got := make(chan string, 1)
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", func(c net.Conn) {
		_ = c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
	}).String())
	c := w.dial()
	if text, err := read(t, c, soon); text != "" || err != nil {
		t.Fatalf("got %q, %v; want the server's end", text, err)
	}
	if _, err := c.Write([]byte("upload")); err != nil {
		t.Fatal(err)
	}
	c.Close()
	select {
	case text := <-got:
		if text != "upload" {
			t.Errorf("the server got %q", text)
		}
	case <-time.After(soon):
		t.Error("the upload did not arrive")
	}
}

func TestAttempt_SentBytesAreNeverSentAgain(t *testing.T) {
	got := make(chan string, 10)
	taking := func(c net.Conn) {
		b := make([]byte, 100)
		n, _ := c.Read(b)
		got <- string(b[:n])
	}
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", taking).String(), testnet.Serve(t, "tcp4", taking).String())
	c := w.dial()
	if _, err := c.Write([]byte("SET x 1")); err != nil {
		t.Fatal(err)
	}
	if text, err := read(t, c, soon); text != "" || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	c.Close()
	if first := <-got; first != "SET x 1" {
		t.Errorf("the endpoint got %q", first)
	}
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Current == 0 })
	select {
	case again := <-got:
		t.Errorf("the request was sent again: %q", again)
	default:
	}
}

func TestAttempt_SettleLetsASlowServerBeTriedElsewhere(t *testing.T) {
	early := testnet.Serve(t, "tcp4", func(net.Conn) {}).String()
	w := newWorld(t, func(o *spec.Options) { o.Settle = 300 * time.Millisecond }, testnet.Serve(t, "tcp4", testnet.Echo).String(), early)
	exchange(t, w.dial(), "ping") // its turn begins with the endpoint that closes
	if n := w.status().Counters.EarlyClosed; n != 1 {
		t.Errorf("%d early closes", n)
	}
}

func TestAttempt_OwnListenerIsALoop(t *testing.T) {
	w := newWorld(t, func(o *spec.Options) { o.Hold = 0 })
	w.point(w.addr)
	w.refuses(soon)
	w.eventually(func(s spec.LinkStatus) bool {
		return s.State == spec.StateDown && strings.Contains(s.Endpoints[0].LastError, "would loop")
	})
	if s := w.status(); s.Counters.Total != 1 || s.Counters.Failed["loop"] != 1 {
		t.Errorf("%d connections arrived, want the client's alone; failed %v", s.Counters.Total, s.Counters.Failed)
	}
}

func TestLoops_KnowsItsOwnAddresses(t *testing.T) {
	lo := newLoops()
	local := func(host string) spec.Listen { return spec.Listen{Protocol: spec.TCP, Host: host, Port: 6379} }
	for _, c := range []struct {
		listen   spec.Listen
		endpoint string
		want     bool
	}{
		{local(""), "127.0.0.1:6379", true},
		{local(""), "[::1]:6379", true},
		{local(""), "127.0.0.1:6380", false},
		{local(""), "192.0.2.1:6379", false},
		{local("0.0.0.0"), "127.0.0.2:6379", true},
		{local("0.0.0.0"), "[::1]:6379", false},
		{local("::"), "127.0.0.1:6379", true},
		{local("localhost"), "[::1]:6379", true},
		{local("localhost"), "127.0.0.2:6379", false},
		{local("127.0.0.1"), "0.0.0.0:6379", true},
		{local("127.0.0.1"), "127.0.0.2:6379", false},
		{spec.Listen{Protocol: spec.UDP, Port: 6379}, "127.0.0.1:6379", false},
		{spec.Listen{Protocol: spec.Unix, Path: "/run/a"}, "unix:/run/a", true},
		{spec.Listen{Protocol: spec.Unix, Path: "/run/a"}, "unix:/run/b", false},
	} {
		lo.set([]spec.Listen{c.listen})
		_, e := fixed(c.endpoint, spec.TCP)
		if got := lo.has(&e, ""); got != c.want {
			t.Errorf("listening on %v, endpoint %s: loop %v", c.listen, c.endpoint, got)
		}
		if lo.has(&e, "4:5") {
			t.Errorf("listening on %v, endpoint %s of another network namespace: loop", c.listen, c.endpoint)
		}
		c.listen.Namespace = "4:5"
		lo.set([]spec.Listen{c.listen})
		if got := lo.has(&e, "4:5"); got != c.want || lo.has(&e, "") {
			t.Errorf("listening on %v in a network namespace, endpoint %s there: loop %v", c.listen, c.endpoint, got)
		}
	}
}

// An endpoint inside a container's network is reached with sockets of that, and
// means nothing to who cannot make one.
func TestAttempt_EndpointInsideAContainer(t *testing.T) {
	inside := func(address string) spec.Member {
		_, e := fixed(address, spec.TCP)
		e.Container, e.Inside = "0123456789abcdef", true
		return e.Plain()
	}
	serve := func(w *world, m spec.Member) {
		name := spec.Target{Source: spec.SourceDocker, Protocol: spec.TCP, Host: "redis"}
		w.pool.Set(name, spec.Answer{Endpoints: []spec.Member{m}, At: time.Now()})
		w.link.Targets = []spec.Target{name}
		w.apply()
	}
	var made atomic.Int64
	w := newWorld(t, nil)
	w.fw.cfg.Way = func(e *spec.Endpoint) (string, pump.SocketFunc, error) {
		if e.Container != "0123456789abcdef" {
			t.Errorf("asked for the way to %v", *e)
		}
		return "4:5", func(domain, kind int) (int, error) {
			made.Add(1)
			return syscall.Socket(domain, kind|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
		}, nil
	}
	m := inside(say(t, "here"))
	serve(w, m)
	w.answers("here")
	if made.Load() != 1 {
		t.Errorf("%d sockets were made for one connection", made.Load())
	}
	c, err := w.fw.Connect(t.Context(), m.Endpoint)
	if err != nil || made.Load() != 2 {
		t.Fatalf("a question to it: %v, with %d sockets made", err, made.Load())
	}
	c.Close()
	if s := w.status(); s.Endpoints[0].Address != m.Addr.String()+"@0123456789ab" {
		t.Errorf("it is shown as %q", s.Endpoints[0].Address)
	}

	w = newWorld(t, func(o *spec.Options) { o.Hold = 0 })
	serve(w, m)
	w.refuses(soon)
	w.eventually(func(s spec.LinkStatus) bool {
		return strings.Contains(s.Endpoints[0].LastError, "from inside its container's network only")
	})
}

// The other address of a name hides a silent one from whoever dials; a probe
// must find out, or every second connection waits.
func TestAttempt_SilentAddressOfANameIsTriedOnce(t *testing.T) {
	hole, here := testnet.BlackHole(t, loopback).String(), say(t, "here")
	w := newWorld(t, nil)
	name := spec.Target{Source: spec.SourceDNS, Protocol: spec.TCP, Host: "twice.example", Port: 1}
	_, silent := fixed(hole, spec.TCP)
	_, good := fixed(here, spec.TCP)
	w.pool.Set(name, spec.Answer{Endpoints: addressesOf(name, good, silent), At: time.Now()})
	w.link.Targets = []spec.Target{name}
	w.apply()
	w.answers("here")
	w.answers("here")
	w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateDegraded })
	for range 4 {
		start := time.Now()
		w.answers("here")
		if took := time.Since(start); took >= stagger {
			t.Errorf("a connection took %v: it began with the silent address", took)
		}
	}
}

// named points the link at these addresses, all of one name.
func (w *world) named(addresses ...string) {
	w.t.Helper()
	name := spec.Target{Source: spec.SourceDNS, Protocol: spec.TCP, Host: "several.example", Port: 1}
	w.serve(name, addresses...)
	w.link.Targets = []spec.Target{name}
	w.apply()
}

// The other addresses of a name stand by while the first is dialled, and have
// room for others meanwhile.
func TestFull_IsNoAddressThatOnlyStandsBy(t *testing.T) {
	hole := testnet.BlackHole(t, loopback).String()
	w := newWorld(t, func(o *spec.Options) { one(o); o.Hold, o.Balance = 0, spec.BalanceFirst })
	w.named(hole, testnet.Serve(t, "tcp4", testnet.Echo).String(), testnet.Serve(t, "tcp4", testnet.Echo).String())
	first := w.dial()
	w.eventually(func(s spec.LinkStatus) bool { return s.Endpoints[0].Load == 1 })
	second := w.dial()
	exchange(t, second, "x")
	exchange(t, first, "y")
	for _, e := range w.status().Endpoints {
		if e.Current > 1 {
			t.Errorf("%d connections at %s", e.Current, e.Address)
		}
	}
}

// reset closes with RST.
func reset(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }

// The close is the answer, for there is nobody else; but the endpoint is not ok.
func TestAttempt_EarlyCloseOfTheOnlyEndpointIsCounted(t *testing.T) {
	for name, closes := range map[string]func(net.Conn){"FIN": func(net.Conn) {}, "RST": reset} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil, testnet.Serve(t, "tcp4", closes).String())
			for n := 1; n <= endpoints.EarlyCloses; n++ {
				if c, err := testnet.DialErr(w.addr); err == nil { // else a reset has overtaken the connect
					_, _ = read(t, c, soon)
					c.Close()
				}
				w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Failed["closed"] == int64(n) })
				if e := w.status().Endpoints[0]; e.Health == spec.HealthOK || e.Failed["closed"] != int64(n) || !strings.HasPrefix(e.LastError, "closed its last ") {
					t.Errorf("after %d: %s, failed %v, %q", n, e.Health, e.Failed, e.LastError)
				}
			}
			w.eventually(is(w.status().Endpoints[0].Address, spec.HealthEjected))
			if s := w.status().State; s != spec.StateDegraded {
				t.Errorf("the link is %s", s)
			}
			x, err := w.fw.Explain("test", spec.CallerAt(loopback))
			if err != nil || !strings.Contains(x.Verdict, "closed its last 3 connections at once") {
				t.Errorf("verdict %q, %v", x.Verdict, err)
			}
			w.eventually(is(w.status().Endpoints[0].Address, spec.HealthClosing))
		})
	}
}

// It was restarted, and serves again.
func TestAttempt_AnswerMakesGoodWhatWasClosed(t *testing.T) {
	var up atomic.Bool
	addr := testnet.Serve(t, "tcp4", func(c net.Conn) {
		if up.Load() {
			testnet.Echo(c)
		}
	}).String()
	w := newWorld(t, nil, addr)
	c := w.dial()
	_, _ = read(t, c, soon)
	c.Close()
	w.eventually(is(addr, spec.HealthClosing))
	up.Store(true)
	exchange(t, w.dial(), "ping") // and stays
	w.eventually(is(addr, spec.HealthOK))
}

// Clients that come and go without a word say nothing about the server, nor
// does one that only had nothing to say and took what they sent.
func TestAttempt_WhoClosedFirstIsTold(t *testing.T) {
	silent := testnet.Serve(t, "tcp4", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }).String()
	w := newWorld(t, nil, silent)
	for range endpoints.EarlyCloses {
		w.dial().Close()
	}
	w.eventually(func(s spec.LinkStatus) bool {
		return s.Counters.Total == endpoints.EarlyCloses && s.Counters.Current == 0
	})
	taking := testnet.Serve(t, "tcp4", func(c net.Conn) {
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}).String()
	w.point(taking)
	for i, end := range []func(net.Conn){
		func(c net.Conn) { c.Close() },
		func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0); c.Close() },
		func(net.Conn) { w.fw.serving()[0].cutAll() },
	} {
		c := w.dial()
		_, _ = read(t, c, soon)
		if _, err := c.Write([]byte("upload")); err != nil {
			t.Fatal(err)
		}
		w.eventually(func(s spec.LinkStatus) bool { return s.Endpoints[0].BytesIn == uint64((i+1)*len("upload")) })
		end(c)
		w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Current == 0 })
	}
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Current == 0 })
	if s := w.status(); len(s.Counters.Failed) > 0 || !is(taking, spec.HealthOK)(s) {
		t.Errorf("failed %v, endpoints %+v", s.Counters.Failed, s.Endpoints)
	}
}
