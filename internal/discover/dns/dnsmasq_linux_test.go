package dns

import (
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func startDNSMasq(t *testing.T, hosts string, conf ...string) (*testnet.DNSMasq, *Source) {
	t.Helper()
	s := testnet.StartDNSMasq(t, testnet.DNSMasqConfig{Hosts: hosts, Conf: strings.Join(conf, "\n") + "\n"})
	return s, asking(t, s.Addr.String())
}

func TestDNSMasq_ChangesAreFollowed(t *testing.T) {
	testnet.CheckLeaks(t)
	s, source := startDNSMasq(t, "192.0.2.1 db.test\n2001:db8::1 db.test\n")
	db := follow(t, source, question(spec.SourceName, "db.test"))
	db.sees(t, "192.0.2.1 2001:db8::1")
	if r, _ := db.last(); r.Detail != "A and AAAA" || r.TTL != time.Second { // dnsmasq states 0
		t.Errorf("got %+v", r)
	}
	s.SetHosts(t, "192.0.2.2 db.test\n")
	db.sees(t, "192.0.2.2")
	s.SetHosts(t, "")
	testnet.Await(t, "weak absence", func() bool { r, _ := db.last(); return r.Err != nil })
	if r, _ := db.last(); !r.Weak || r.Err.Error() != "look up db.test: name server "+s.Addr.String()+": no such name" {
		t.Errorf("got %+v", r)
	}
	s.SetHosts(t, "192.0.2.3 db.test\n")
	testnet.Await(t, "the new address at a suspicion", func() bool {
		db.doubt()
		r, _ := db.last()
		return shown(r) == "192.0.2.3"
	})
}

func TestDNSMasq_SRV(t *testing.T) {
	testnet.CheckLeaks(t)
	s, source := startDNSMasq(t, "192.0.2.1 a.test\n2001:db8::1 a.test\n192.0.2.2 b.test\n",
		"srv-host=_redis._tcp.test,a.test,6379,0,10", "srv-host=_redis._tcp.test,b.test,6380,1,20", "srv-host=_none._tcp.test")
	redis := follow(t, source, question(spec.SourceSRV, "_redis._tcp.test"))
	redis.sees(t, "192.0.2.1:6379/0/10 192.0.2.2:6380/1/20 2001:db8::1:6379/0/10")
	none, err := once(t, source, question(spec.SourceSRV, "_none._tcp.test"))
	if err != nil || none.Err != nil || none.Weak || len(none.Places) != 0 {
		t.Errorf("got %+v (%v)", none, err)
	}
	s.SetConf(t, "srv-host=_redis._tcp.test,elsewhere.example,6381,0,0\n")
	s.Restart(t)
	testnet.Await(t, "the new service at a suspicion", func() bool {
		redis.doubt()
		r, _ := redis.last()
		return shown(r) == "elsewhere.example:6381/0/0"
	})
}

func TestDNSMasq_CNAME(t *testing.T) {
	s, source := startDNSMasq(t, "192.0.2.1 a.test\n", "cname=db.test,a.test")
	r, err := once(t, source, question(spec.SourceDNS, "db.test"))
	if err != nil || shown(r) != "192.0.2.1" || r.Detail != "A, CNAME to a.test" {
		t.Errorf("got %+v (%v)", r, err)
	}
	if r, err := once(t, source, question(spec.SourceDNS, "db.example.org")); err == nil || err.Error() != "look up db.example.org: name server "+s.Addr.String()+": refused" {
		t.Errorf("a name that it does not serve: %+v (%v)", r, err)
	}
}

func TestDNSMasq_KilledFrozenRestarted(t *testing.T) {
	testnet.CheckLeaks(t)
	s, source := startDNSMasq(t, "192.0.2.1 db.test\n")
	db := follow(t, source, question(spec.SourceDNS, "db.test"))
	db.sees(t, "192.0.2.1")
	fails := func(with string) {
		t.Helper()
		testnet.Await(t, with, func() bool {
			_, err := db.failed()
			return err != nil && err.Error() == "look up db.test: name server "+s.Addr.String()+": "+with
		})
		if r, _ := db.last(); shown(r) != "192.0.2.1" {
			t.Errorf("%s changed the answer: %+v", with, r)
		}
	}
	s.Kill()
	fails("connection refused")
	s.Restart(t)
	_, before := db.last()
	testnet.Await(t, "an answer after the restart", func() bool { _, n := db.last(); return n > before })
	s.Freeze()
	fails("no answer in time")
	s.Thaw()
	_, before = db.last()
	testnet.Await(t, "an answer after the pause", func() bool { _, n := db.last(); return n > before })
}
