package dns

import (
	"os"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func TestHosts_ComeFirstAndAreWatched(t *testing.T) {
	testnet.CheckLeaks(t)
	s := serve(t, "", zone(t, "db.test. 600 IN A 192.0.2.9"))
	source := asking(t, s.addr)
	path := source.hosts.path
	rewrite(t, path, "192.0.2.1 x DB.test. y # db2.test\n")
	w := follow(t, source, question(spec.SourceName, "db.test"))
	w.sees(t, "192.0.2.1")
	if r, _ := w.last(); r.Detail != path || r.TTL != 0 || r.Places[0].Weight != 1 {
		t.Errorf("got %+v", r)
	}
	if n := s.asked.Load(); n != 0 {
		t.Errorf("%d questions for a name that the file has", n)
	}
	rewrite(t, path, "192.0.2.2 db.test\n2001:db8::1 db.test\n::ffff:192.0.2.3 db.test\n")
	w.sees(t, "192.0.2.2 192.0.2.3 2001:db8::1")

	// Of the same length, and as a new file.
	next := path + ".new"
	rewrite(t, next, "192.0.2.4 db.test\n2001:db8::1 db.test\n::ffff:192.0.2.3 db.test\n")
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
	w.sees(t, "192.0.2.3 192.0.2.4 2001:db8::1")
	rewrite(t, path, "192.0.2.5 db.test\n2001:db8::1 db.test\n::ffff:192.0.2.3 db.test\n")
	w.sees(t, "192.0.2.3 192.0.2.5 2001:db8::1")

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	w.sees(t, "192.0.2.9") // from the name server
	rewrite(t, path, "not an address db.test\n192.0.2.6\n192.0.2.6 db.test")
	w.sees(t, "192.0.2.6") // long before the TTL of 600 s
}

// Other names' changes are no reason to ask a name server.
func TestHosts_AChangeOfAnotherNameAsksNobody(t *testing.T) {
	testnet.CheckLeaks(t)
	s := serve(t, "", zone(t, "db.test. 600 IN A 192.0.2.9"))
	source := asking(t, s.addr)
	w := follow(t, source, question(spec.SourceDNS, "db.test"))
	other := follow(t, source, question(spec.SourceDNS, "other.test"))
	w.sees(t, "192.0.2.9")
	testnet.Await(t, "an answer", func() bool { _, n := other.last(); return n > 0 })
	before := s.asked.Load()
	rewrite(t, source.hosts.path, "192.0.2.1 other.test\n")
	other.sees(t, "192.0.2.1")
	if n := s.asked.Load(); n != before {
		t.Errorf("%d questions after a change of the hosts file", n-before)
	}
}

func TestHosts_DoNotMatterForSRV(t *testing.T) {
	s := serve(t, "", zone(t, "db.test. 600 IN SRV 1 2 3 a.test."))
	source := asking(t, s.addr)
	rewrite(t, source.hosts.path, "192.0.2.1 db.test\n")
	if r, err := once(t, source, question(spec.SourceSRV, "db.test")); err != nil || shown(r) != "a.test:3/1/2" {
		t.Errorf("got %q (%v)", shown(r), err)
	}
}

func TestLocalhost_NeverReachesANameServer(t *testing.T) {
	testnet.CheckLeaks(t)
	s := serve(t, "", zone(t, "localhost. 600 IN A 192.0.2.66", "db.localhost. 600 IN A 192.0.2.66"))
	source := asking(t, s.addr)
	rewrite(t, source.hosts.path, "192.0.2.66 localhost db.localhost\n")
	for _, host := range []string{"localhost", "LocalHost.", "db.localhost"} {
		for _, kind := range []string{spec.SourceDNS, spec.SourceName} {
			r, err := once(t, source, question(kind, host))
			if got := shown(r); err != nil || got != "127.0.0.1" && got != "127.0.0.1 ::1" || r.Detail != "localhost" {
				t.Errorf("%s: got %q (%v)", host, got, err)
			}
		}
	}
	if r, err := once(t, source, question(spec.SourceSRV, "localhost")); err != nil || r.Err == nil {
		t.Errorf("SRV: got %+v (%v)", r, err)
	}
	if n := s.asked.Load(); n != 0 {
		t.Errorf("%d questions", n)
	}
}

// A file that is not one must not hold up anything.
func TestHosts_OtherThanAFile(t *testing.T) {
	s := serve(t, "", zone(t, "db.test. 600 IN A 192.0.2.9"))
	for _, path := range []string{"/dev/zero", t.TempDir(), "/does/not/exist"} {
		source := New(Config{Servers: []string{s.addr}, Hosts: path, ResolvConf: path})
		begin := time.Now()
		if r, err := once(t, source, question(spec.SourceDNS, "db.test")); err != nil || shown(r) != "192.0.2.9" || time.Since(begin) > 5*time.Second {
			t.Errorf("%s: got %q (%v)", path, shown(r), err)
		}
	}
}
