package testnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// DNSMasq is a real name server whose names end in .test: a [Process] that can
// be frozen, killed and started again. It does not know of any other name
// server, and for .test it says itself that a name does not exist.
type DNSMasq struct {
	*Process
	hosts, conf string
}

// DNSMasqConfig is a name server. The zero value is one without names on a
// free port of 127.0.0.1.
type DNSMasqConfig struct {
	Addr netip.AddrPort // zero: a free port of 127.0.0.1
	// Hosts are its A and AAAA records, as in a hosts file.
	Hosts string
	// Conf are further lines of dnsmasq.conf, such as
	// "srv-host=_redis._tcp.test,a.test,6379,0,10" (priority, then weight).
	Conf string
	Args []string // further options
}

// StartDNSMasq starts a server and waits until it answers.
func StartDNSMasq(t testing.TB, c DNSMasqConfig) *DNSMasq {
	t.Helper()
	server, dir := find(t, "dnsmasq", "/usr/sbin/dnsmasq"), serverDir(t, "")
	s := &DNSMasq{hosts: filepath.Join(dir, "hosts"), conf: filepath.Join(dir, "conf")}
	addr := loopback(t, c.Addr)
	s.write(t, s.hosts, c.Hosts)
	s.write(t, s.conf, c.Conf)
	args := []string{
		server, "--keep-in-foreground", "--conf-file=" + s.conf, "--no-resolv", "--no-hosts", "--local=/test/", "--addn-hosts=" + s.hosts,
		"--user=", "--pid-file=", "--log-facility=-", "--bind-interfaces", "--listen-address=" + addr.Addr().String(), "--port=" + port(addr),
	}
	s.Process = &Process{Addr: addr}
	s.Process = StartProcess(t, ProcessConfig{Args: append(args, c.Args...), Dir: dir, Addr: addr, Ready: s.answers})
	return s
}

func (s *DNSMasq) write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatalf("write the names of dnsmasq: %v", err)
	}
}

// answers asks for a name that need not exist.
func (s *DNSMasq) answers() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.Addr.String())
	}}
	_, err := r.LookupNetIP(ctx, "ip", "any.test.") // the machine's search list is not the test's
	var failed *net.DNSError
	return err == nil || errors.As(err, &failed) && failed.IsNotFound
}

// SetHosts replaces its A and AAAA records while it runs. It takes a moment
// until they are what it answers.
func (s *DNSMasq) SetHosts(t testing.TB, hosts string) {
	t.Helper()
	s.write(t, s.hosts, hosts)
	s.Signal(unix.SIGHUP)
}

// SetConf replaces the further lines of its configuration, which hold from the
// next Restart on.
func (s *DNSMasq) SetConf(t testing.TB, conf string) {
	t.Helper()
	s.write(t, s.conf, conf)
}

// Restart starts it again, after [Process.Kill] where it runs, and waits until
// it answers.
func (s *DNSMasq) Restart(t testing.TB) {
	t.Helper()
	s.Kill()
	s.Start(t, s.answers)
}
