package dns

import (
	"path/filepath"
	"testing"

	"github.com/miekg/dns"

	"legate/internal/discover"
)

func TestFuzz_SeedsAreThere(t *testing.T) {
	if seeds, err := filepath.Glob("testdata/fuzz/FuzzAnswer/*"); err != nil || len(seeds) < 5 {
		t.Errorf("FuzzAnswer has %d seeds (%v)", len(seeds), err)
	}
}

var fuzzKinds = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV}

// FuzzAnswer takes b for the answer of the right server to the question for
// db.test: whatever it is, no place is from records of another name, and what
// is believed is whole.
func FuzzAnswer(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, kind byte) {
		q := dns.Question{Name: "db.test.", Qtype: fuzzKinds[int(kind)%len(fuzzKinds)], Qclass: dns.ClassINET}
		query := newQuery(q, true)
		if len(b) >= 2 {
			b[0], b[1] = byte(query.Id>>8), byte(query.Id)
		}
		m, err := read(b, query)
		if err != nil || verdict(m) != nil {
			return
		}
		way := &found{server: "192.0.2.53:53", ttl: 60}
		seen, err := way.follow(m, []string{q.Name}, q.Qtype)
		if err != nil || len(way.records) == 0 {
			return
		}
		if len(seen) > maxAliases+1 {
			t.Errorf("it went through %q", seen)
		}
		if !sameName(m.Question[0].Name, q.Name) {
			t.Errorf("the answer is to %v", m.Question)
		}
		allowed := permitted(m, q.Qtype)
		for _, p := range fuzzPlaces(t, way, q.Qtype) {
			if !allowed[p.Host] {
				t.Errorf("%s is a place, but not of db.test: %v", p.Host, m)
			}
		}
	})
}

func fuzzPlaces(t *testing.T, way *found, kind uint16) []discover.Place {
	if kind == dns.TypeSRV {
		return services(way, "").result.Places
	}
	a, err := hosted("db", part{kind: kind, found: way}, part{err: &absence{}}, "")
	if err != nil {
		t.Error(err)
	}
	return a.result.Places
}

// permitted are the hosts that the message has for db.test, found another way
// than the code under test does: by all names that can be reached at all.
func permitted(m *dns.Msg, kind uint16) map[string]bool {
	names := map[string]bool{"db.test.": true}
	for range m.Answer {
		for _, r := range m.Answer {
			if c, ok := r.(*dns.CNAME); ok && names[dns.CanonicalName(c.Hdr.Name)] {
				names[dns.CanonicalName(c.Target)] = true
			}
		}
	}
	hosts, targets := map[string]bool{}, map[string]bool{}
	for _, r := range m.Answer {
		if s, ok := r.(*dns.SRV); ok && kind == dns.TypeSRV && names[dns.CanonicalName(s.Hdr.Name)] {
			target := dns.CanonicalName(s.Target)
			targets[target], hosts[target[:len(target)-1]] = true, true
		}
	}
	records, owners := m.Answer, names
	if kind == dns.TypeSRV {
		records, owners = m.Extra, targets
	}
	for _, r := range records {
		if owners[dns.CanonicalName(r.Header().Name)] {
			for _, a := range addrs([]dns.RR{r}) {
				hosts[a.String()] = true
			}
		}
	}
	return hosts
}
