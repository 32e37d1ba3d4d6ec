package discovertest

import (
	"cmp"
	"path/filepath"
	"strings"
	"testing"

	"legate/internal/discover"
	"legate/internal/discover/dns"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// dnsBench is a name server.
type dnsBench struct {
	*testnet.DNSMasq
	srv bool
}

func startDNS(t testing.TB) Bench {
	return &dnsBench{DNSMasq: testnet.StartDNSMasq(t, testnet.DNSMasqConfig{})}
}

func startSRV(t testing.TB) Bench {
	hosts := ""
	for _, a := range []string{one, two, three} {
		hosts += a + " " + hostname(a) + "\n"
	}
	return &dnsBench{DNSMasq: testnet.StartDNSMasq(t, testnet.DNSMasqConfig{Hosts: hosts}), srv: true}
}

func hostname(address string) string { return "h" + strings.ReplaceAll(address, ".", "-") + ".test" }

func (b *dnsBench) Target() spec.Target {
	if b.srv {
		return spec.Target{Source: spec.SourceSRV, Protocol: spec.TCP, Host: "_redis._tcp.test", Port: 10000}
	}
	return spec.Target{Source: spec.SourceDNS, Protocol: spec.TCP, Host: "redis.test", Port: 6379}
}

func (b *dnsBench) Sources(t testing.TB, at string) map[string]discover.Source {
	t.Helper()
	nothing := filepath.Join(t.TempDir(), "nothing")
	replace(t, nothing, "")
	s := dns.New(dns.Config{Servers: []string{cmp.Or(at, b.Addr.String())}, Hosts: nothing, ResolvConf: nothing})
	return map[string]discover.Source{spec.SourceDNS: s, spec.SourceSRV: s}
}

// Set has records of services read by starting the server anew, which is the
// only way with dnsmasq.
func (b *dnsBench) Set(t testing.TB, addresses ...string) {
	t.Helper()
	text := ""
	for _, a := range addresses {
		if b.srv {
			text += "srv-host=_redis._tcp.test," + hostname(a) + ",6379,0,1\n"
		} else {
			text += a + " redis.test\n"
		}
	}
	if !b.srv {
		b.SetHosts(t, text)
		return
	}
	b.SetConf(t, text)
	b.Restart(t)
}

func (b *dnsBench) Kill(testing.TB) { b.DNSMasq.Kill() }

func (b *dnsBench) Lose(t testing.TB) {
	t.Helper()
	b.SetConf(t, "")
	if !b.srv { // else the records lead to names that are not lost
		b.SetHosts(t, "")
	}
}

func (b *dnsBench) Address() (network, address string) { return "udp", b.Addr.String() }
