package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"legate/internal/discover"
	"legate/internal/spec"
)

// partial is how soon to ask again when a part of the answer is missing.
const partial = 5 * time.Second

// answer is a result, and when to ask again.
type answer struct {
	result discover.Result
	pause  time.Duration
}

// search asks for the names that the search list makes of the target's, and
// takes the first that has records.
func (w *watch) search(ctx context.Context, f finder) (answer, error) {
	names := f.settings.names(w.query.Target.Host)
	if len(names) == 0 {
		return answer{}, errors.New("no name server can have such a name: its parts are 1 to 63 bytes long, and all of it at most 253")
	}
	var fails *failure
	var none *absence
	for _, name := range names {
		a, err := w.at(ctx, f, name)
		var failed *failure
		var absent *absence
		switch {
		case err == nil:
			return a, nil
		case errors.As(err, &failed):
			// The name that had records last is the one that is meant. Going on
			// to a wildcard of the next suffix would hand its clients to
			// somebody else.
			if failed.silent || name == w.name {
				return answer{}, failed
			}
			fails = first(fails, failed)
		case errors.As(err, &absent):
			if name == w.name && time.Since(w.met) < discover.Ceiling { // likewise: a container that is started anew has no name
				return answer{}, absent
			}
			none = merge(none, absent)
		}
	}
	// Where one name is not known to be absent, "no such name" is not known.
	if fails != nil {
		return answer{}, fails
	}
	return answer{}, none
}

func first(a, b *failure) *failure {
	if a != nil {
		return a
	}
	return b
}

// merge makes one of two absences: what exists says more, and the shorter
// lived decides.
func merge(a, b *absence) *absence {
	if a == nil {
		return b
	}
	one := *a
	if b.exists && !a.exists {
		one = *b
	}
	one.again = min(a.again, b.again)
	return &one
}

// at asks for one absolute name.
func (w *watch) at(ctx context.Context, f finder, name string) (answer, error) {
	kinds := []uint16{dns.TypeA, dns.TypeAAAA}
	switch w.query.Target.Source {
	case spec.SourceSRV:
		kinds = []uint16{dns.TypeSRV}
	case spec.SourceName:
		kinds = append(kinds, dns.TypeSRV)
	}
	isSRV := func(p part) bool { return p.kind == dns.TypeSRV && p.err == nil }
	parts := f.gather(ctx, name, kinds, isSRV)
	if service := parts[dns.TypeSRV]; service.found != nil {
		w.name, w.met, w.srv = name, time.Now(), time.Now()
		return services(service.found, w.of(name)), nil
	}
	if w.query.Target.Source == spec.SourceSRV {
		return answer{}, parts[dns.TypeSRV].err
	}
	a, err := hosted(strings.TrimSuffix(name, "."), parts[dns.TypeA], parts[dns.TypeAAAA], w.of(name))
	if a, err = w.instead(name, parts[dns.TypeSRV].err, a, err); err == nil {
		w.name, w.met = name, time.Now()
	}
	return a, err
}

// lately is for how long SRV records that are gone matter: longer than from
// one question to the next, and then until weak evidence is believed.
const lately = 3 * discover.Ceiling

// instead judges the addresses of a name that has no SRV records to offer. why
// is nil where it was not asked for any.
func (w *watch) instead(name string, why error, a answer, err error) (answer, error) {
	had := w.name == name && time.Since(w.srv) < lately
	var failed *failure
	if errors.As(why, &failed) {
		if had || err != nil {
			// The addresses of a name whose service is elsewhere are a guess.
			if had {
				w.srv = time.Now()
			}
			return answer{}, failed
		}
		a.pause = min(a.pause, partial)
		a.result.TTL = a.pause
	}
	// A server that was just restarted may not have its SRV records yet.
	a.result.Weak = a.result.Weak || had
	return a, err
}

// of names what was asked for in the end where it is not what people wrote.
func (w *watch) of(name string) string {
	if written, ok := canonical(w.query.Target.Host); ok && written == name {
		return ""
	}
	return " of " + strings.TrimSuffix(name, ".")
}

// hosted makes an answer of A and AAAA records.
func hosted(name string, v4, v6 part, of string) (answer, error) {
	var all []netip.Addr
	var from []string
	a := answer{pause: discover.Ceiling}
	alias := ""
	whole := !strings.Contains(name, ".") // others may be of a server behind that of Docker
	for _, p := range []part{v4, v6} {
		if p.err != nil {
			continue
		}
		whole = whole && isDocker(p.found.server)
		all = append(all, addrs(p.found.records)...)
		from = append(from, dns.TypeToString[p.kind])
		a.pause = min(a.pause, p.found.pause(p.found.ttl))
		alias = p.found.alias
	}
	if len(from) == 0 {
		return answer{}, unite(v4.err, v6.err)
	}
	a.result.Detail = strings.Join(from, " and ") + of + via(alias)
	for _, p := range []part{v4, v6} {
		var failed *failure
		if errors.As(p.err, &failed) {
			// What this family had is not known to be gone.
			a.result.Weak = true
			a.pause = min(a.pause, partial)
			a.result.Detail += fmt.Sprintf("; no %s: %v", dns.TypeToString[p.kind], failed)
		}
	}
	a.result.Whole = whole && !a.result.Weak
	a.result.Places, a.result.TTL = places(name, all), a.pause
	return a, nil
}

// unite says why there are no addresses: a failure, where there is one, since
// there may be some.
func unite(a, b error) error {
	var failed *failure
	if errors.As(a, &failed) || errors.As(b, &failed) {
		return failed
	}
	var one, other *absence
	errors.As(a, &one)
	errors.As(b, &other)
	return merge(one, other)
}

func via(alias string) string {
	if alias == "" {
		return ""
	}
	return ", CNAME to " + strings.TrimSuffix(alias, ".")
}

// pause is when to ask again for something with that TTL.
func (f *found) pause(ttl uint32) time.Duration {
	if isDocker(f.server) {
		return discover.Floor
	}
	return clamp(ttl)
}

// services makes an answer of SRV records (RFC 2782).
func services(f *found, of string) answer {
	a := answer{result: discover.Result{Detail: "SRV" + of + via(f.alias)}}
	ttl := f.ttl
	for _, r := range f.records {
		s := r.(*dns.SRV)
		host := dns.CanonicalName(s.Target)
		if host == "." {
			continue
		}
		p := discover.Place{Host: strings.TrimSuffix(host, "."), Port: s.Port, Priority: s.Priority, Weight: s.Weight}
		glue := append(ofName(f.extra, host, dns.TypeA), ofName(f.extra, host, dns.TypeAAAA)...)
		for _, at := range places(p.Host, addrs(glue)) {
			p.Host, p.Name = at.Host, at.Name
			a.result.Places = append(a.result.Places, p)
		}
		for _, g := range glue {
			ttl = min(ttl, g.Header().Ttl)
		}
		if len(glue) == 0 {
			a.result.Places = append(a.result.Places, p)
		}
	}
	slices.SortFunc(a.result.Places, byPriority)
	// The only record with "." is how a domain says that it decidedly does not
	// offer the service: an answer, not the lack of one.
	if len(a.result.Places) == 0 {
		a.result.Detail += `: the service is decidedly not available (target ".")`
	}
	a.pause = f.pause(ttl)
	a.result.TTL = a.pause
	return a
}
