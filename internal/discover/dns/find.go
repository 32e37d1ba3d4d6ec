package dns

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxAliases is how many CNAME records one after the other are followed;
	// name servers themselves give up at 8 to 16.
	maxAliases = 8
	// grace is how much longer than the first good answer the others are
	// waited for, enough for one question that was lost. There are servers
	// that never answer for AAAA or SRV (RFC 4074), which must not make every
	// look-up last as long as one of a dead server.
	grace = firstTry + 500*time.Millisecond
)

// absence is a server's word that a name has no such records.
type absence struct {
	server string
	kind   uint16
	exists bool // the name does; it has other records
	again  time.Duration
}

func (e *absence) Error() string {
	if !e.exists {
		return "name server " + e.server + ": no such name"
	}
	return "name server " + e.server + ": the name has no " + kindName(e.kind) + " record"
}

func kindName(kind uint16) string {
	if kind == dns.TypeSRV {
		return "SRV"
	}
	return "A or AAAA"
}

// found are the records of one type that a name has.
type found struct {
	server  string   // that told them
	records []dns.RR // their names are the last of the aliases
	extra   []dns.RR // what the server added
	alias   string   // the last of the CNAME records; "": there was none
	ttl     uint32   // in seconds, the lowest on the way
}

// finder asks with the settings of one moment.
type finder struct {
	servers  *servers
	settings settings
}

// part is what came of one of the questions for a name: one of both is nil.
type part struct {
	kind  uint16
	found *found
	err   error
}

// gather asks for several types at the same time. When it returns nothing of
// it goes on. enough ends it early.
func (f finder) gather(ctx context.Context, name string, kinds []uint16, enough func(part) bool) map[uint16]part {
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	parts := make(chan part, len(kinds))
	for _, kind := range kinds {
		asking.Go(func() {
			found, err := f.find(ctx, name, kind)
			parts <- part{kind, found, err}
		})
	}
	got := map[uint16]part{}
	var late <-chan time.Time
	for len(got) < len(kinds) {
		select {
		case p := <-parts:
			got[p.kind] = p
			if enough(p) {
				return got
			}
			if p.err == nil && late == nil {
				timer := time.NewTimer(grace)
				defer timer.Stop()
				late = timer.C
			}
		case <-late:
			cancel() // the others fail at once, as questions without an answer
			late = nil
		}
	}
	return got
}

// find asks for the records of one type, and goes where CNAME records lead.
// It returns an *absence or a *failure.
func (f finder) find(ctx context.Context, name string, kind uint16) (*found, error) {
	way := &found{ttl: math.MaxUint32}
	seen := []string{name}
	for {
		if isLocalhost(name) { // an alias may lead there, but no question may (RFC 6761)
			return nil, &absence{server: way.server, kind: kind, again: again(nil)}
		}
		m, server, err := f.servers.ask(ctx, f.settings, dns.Question{Name: name, Qtype: kind, Qclass: dns.ClassINET})
		if err != nil {
			return nil, err
		}
		way.server = server
		if m.Rcode == dns.RcodeNameError {
			return nil, &absence{server: server, kind: kind, again: again(m)}
		}
		before := len(seen)
		if seen, err = way.follow(m, seen, kind); err != nil {
			return nil, &failure{server: server, why: err}
		}
		if len(way.records) > 0 {
			return way, nil
		}
		if len(seen) == before || soa(m) != nil {
			return nil, &absence{server: server, kind: kind, exists: true, again: again(m)}
		}
		name = seen[len(seen)-1]
	}
}

// follow takes what a message has of the last of the names seen, and of those
// that CNAME records of the message lead to. It returns the names seen.
//
// Records of other names are passed over, whatever the server wants to say
// with them: believing them is how caches are poisoned.
func (w *found) follow(m *dns.Msg, seen []string, kind uint16) ([]string, error) {
	for {
		name := seen[len(seen)-1]
		if w.records = ofName(m.Answer, name, kind); len(w.records) > 0 {
			w.extra = m.Extra
			for _, r := range w.records {
				w.ttl = min(w.ttl, r.Header().Ttl)
			}
			return seen, nil
		}
		aliases := ofName(m.Answer, name, dns.TypeCNAME)
		if len(aliases) == 0 {
			return seen, nil
		}
		next, ok := canonical(aliases[0].(*dns.CNAME).Target)
		switch {
		case !ok:
			return nil, errors.New("a CNAME record that leads nowhere")
		case slices.Contains(seen, next):
			return nil, errors.New("CNAME records that lead in a circle")
		case len(seen) > maxAliases:
			return nil, errors.New("too many CNAME records one after the other")
		}
		w.alias, w.ttl = next, min(w.ttl, aliases[0].Header().Ttl)
		seen = append(seen, next)
	}
}

func ofName(records []dns.RR, name string, kind uint16) []dns.RR {
	var list []dns.RR
	for _, r := range records {
		h := r.Header()
		if h.Rrtype == kind && h.Class == dns.ClassINET && dns.CanonicalName(h.Name) == name {
			list = append(list, r)
		}
	}
	return list
}

// addrs returns the addresses in A and AAAA records.
func addrs(records []dns.RR) []netip.Addr {
	var list []netip.Addr
	for _, r := range records {
		var addr netip.Addr
		switch r := r.(type) {
		case *dns.A:
			addr, _ = netip.AddrFromSlice(r.A)
		case *dns.AAAA:
			addr, _ = netip.AddrFromSlice(r.AAAA)
		}
		if addr.IsValid() { // a record without data has none
			list = append(list, addr.Unmap())
		}
	}
	return list
}

func soa(m *dns.Msg) *dns.SOA {
	for _, r := range m.Ns {
		if s, ok := r.(*dns.SOA); ok {
			return s
		}
	}
	return nil
}

// unproven is when to ask again for what is not there, where the server does
// not say for how long that holds.
const unproven = 5 * time.Second

// again returns for how long an absence holds (RFC 2308 section 5). m is nil
// where nobody was asked.
func again(m *dns.Msg) time.Duration {
	if m == nil {
		return unproven
	}
	s := soa(m)
	if s == nil {
		return unproven
	}
	return clamp(min(s.Header().Ttl, s.Minttl))
}

// isDocker tells whether that is the name server in containers on user-defined
// networks. It states a TTL of 600 s for names of containers, which change
// with every restart, and it is on this machine: it is asked every second.
func isDocker(server string) bool { return strings.HasPrefix(server, "127.0.0.11:") }
