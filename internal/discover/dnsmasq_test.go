package discover

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// dnsmasq is a real name server on loopback, whose names are in a file.
type dnsmasq struct {
	process *exec.Cmd
	ended   chan struct{}
	addr    string
	records string
}

func startDNSMasq(t *testing.T, records string) *dnsmasq {
	t.Helper()
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		path = "/usr/sbin/dnsmasq" // not in everybody's PATH
	}
	if _, err := os.Stat(path); err != nil {
		testnet.Skip(t, "needs dnsmasq (package dnsmasq-base)")
	}
	s := &dnsmasq{records: file(t, records), ended: make(chan struct{})}
	port := freePort(t)
	s.addr = net.JoinHostPort("127.0.0.1", port)
	// --local=/test/: the server says itself that a name below it does not exist.
	s.process = exec.Command(path, "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts",
		"--local=/test/", "--addn-hosts="+s.records, "--user=", "--pid-file=", "--listen-address=127.0.0.1", "--bind-interfaces", "--port="+port)
	s.process.Stderr = os.Stderr
	if err := os.Chmod(s.records, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.ended)
		_ = s.process.Wait()
	}()
	t.Cleanup(s.kill)
	testnet.Eventually(t, testnet.Patience, func() bool {
		_, err := s.lookup(t.Context(), "any.test")
		return err == nil || notFound(err)
	})
	return s
}

// freePort returns a port that is free for both UDP and TCP.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err == nil {
			c.Close()
			return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		}
	}
	t.Fatal("no port is free for both UDP and TCP")
	return ""
}

func (s *dnsmasq) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.addr)
	}}
	return r.LookupNetIP(ctx, "ip", name+".") // the machine's search list is not the test's
}

func (s *dnsmasq) change(t *testing.T, records string) {
	t.Helper()
	if err := os.WriteFile(s.records, []byte(records), 0o644); err != nil {
		t.Fatal(err)
	}
	s.signal(t, syscall.SIGHUP)
}

func (s *dnsmasq) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := s.process.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

func (s *dnsmasq) kill() {
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		panic(err)
	}
	<-s.ended
}

// serve returns a Discovery that takes the server for the one that resolvConf
// names.
func serve(t *testing.T, s *dnsmasq, resolvConf string) (*Discovery, *notebook) {
	n := &notebook{}
	d := New(Config{Set: n.set, Lookup: s.lookup, Hosts: emptyFile(t), ResolvConf: file(t, resolvConf)})
	t.Cleanup(d.Close)
	return d, n
}

func eventually(t *testing.T, n *notebook, target spec.Target, want func(spec.Answer) bool) {
	t.Helper()
	var last spec.Answer
	defer func() {
		if t.Failed() {
			t.Logf("%v: still %v (%v)", target, addresses(last), last.Err)
		}
	}()
	testnet.Eventually(t, testnet.Patience, func() bool {
		var ok bool
		last, ok = n.last(target)
		return ok && want(last)
	})
}

func has(addrs ...string) func(spec.Answer) bool {
	return func(a spec.Answer) bool { return slices.Equal(addresses(a), addrs) && a.Err == nil }
}

func TestDNSMasq_ChangesAreFollowed(t *testing.T) {
	testnet.CheckLeaks(t)
	s := startDNSMasq(t, "192.0.2.1 db.test\n2001:db8::1 db.test\n")
	d, n := serve(t, s, "nameserver 127.0.0.11\n")
	db := dnsTarget("db.test")
	d.Apply([]spec.Target{db})
	eventually(t, n, db, has("192.0.2.1:5432", "[2001:db8::1]:5432"))
	s.change(t, "192.0.2.2 db.test\n")
	eventually(t, n, db, has("192.0.2.2:5432")) // nobody suspects anything: the period
}

func TestDNSMasq_SuspicionAsksAtOnce(t *testing.T) {
	testnet.CheckLeaks(t)
	s := startDNSMasq(t, "192.0.2.1 db.test\n")
	d, n := serve(t, s, "")
	db := dnsTarget("db.test")
	d.Apply([]spec.Target{db})
	eventually(t, n, db, has("192.0.2.1:5432"))
	s.change(t, "192.0.2.3 db.test\n")
	start := time.Now()
	for { // SIGHUP takes effect when the server comes to it
		d.Suspect(db)
		if a, _ := n.last(db); has("192.0.2.3:5432")(a) {
			break
		}
		if time.Since(start) > period*9/10 {
			t.Fatal("suspicion brought no question before the period did")
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestDNSMasq_NoSuchName(t *testing.T) {
	testnet.CheckLeaks(t)
	s := startDNSMasq(t, "192.0.2.1 db.test\n")
	d, n := serve(t, s, "nameserver 127.0.0.11\n")
	db, missing := dnsTarget("db.test"), dnsTarget("missing.test")
	d.Apply([]spec.Target{db, missing})
	eventually(t, n, db, has("192.0.2.1:5432"))
	eventually(t, n, missing, func(a spec.Answer) bool { return a.Err != nil && len(a.Endpoints) == 0 })
	s.change(t, "192.0.2.1 missing.test\n")
	eventually(t, n, missing, has("192.0.2.1:5432"))
	eventually(t, n, db, func(a spec.Answer) bool { return a.Err != nil && len(a.Endpoints) == 1 })
}

func TestDNSMasq_KilledOrStoppedServerIsHarmless(t *testing.T) {
	testnet.CheckLeaks(t)
	s := startDNSMasq(t, "192.0.2.1 db.test\n")
	d, n := serve(t, s, "nameserver 127.0.0.11\n")
	db := dnsTarget("db.test")
	d.Apply([]spec.Target{db})
	eventually(t, n, db, has("192.0.2.1:5432"))

	// Stopped: questions hang, nothing else does.
	s.signal(t, syscall.SIGSTOP)
	d.Suspect(db)
	start := time.Now()
	for i := range uint16(100) {
		fix := spec.Target{Source: spec.SourceFixed, Protocol: spec.TCP, Host: "192.0.2.1", Port: i}
		d.Suspect(db)
		d.Apply([]spec.Target{db, dnsTarget("other.test"), fix})
		eventually(t, n, fix, has(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), i).String()))
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("100 changes beside a silent name server took %v", took)
	}
	if a, _ := n.last(db); !has("192.0.2.1:5432")(a) {
		t.Errorf("a silent name server changed the answer: %v %v", addresses(a), a.Err)
	}

	s.kill()
	eventually(t, n, db, func(a spec.Answer) bool { return a.Err != nil })
	if a, _ := n.last(db); len(a.Endpoints) != 1 || a.At.IsZero() {
		t.Errorf("a dead name server took the endpoints: %+v", a)
	}
	a, _ := n.last(db)
	if text := a.Err.Error(); !strings.HasSuffix(text, ": connection refused") || strings.Contains(text, "->") {
		t.Errorf("error %q, want what happened without the port the question came from", text)
	}
}
