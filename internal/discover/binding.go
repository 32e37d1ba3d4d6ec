package discover

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"legate/internal/spec"
)

// binding is one target that is watched: its source's places as endpoints.
type binding struct {
	target   spec.Target
	constant spec.Answer // where main is nil

	// The Discovery's mutex guards the following.
	main  *topic            // nil: the target says itself where to connect
	names map[string]*topic // of the places that are names
	said  *spec.Answer
	told  time.Time
	since time.Time // when it began to wait for names; zero: it does not
	// owed are answers with a death. They are told one by one: a container
	// that is started again with the same address would be the same one, and
	// who is connected to its former life would wait for ever.
	owed []spec.Answer

	telling sync.Mutex // held during Set; guards the following
	stopped bool       // Set is not called any more
	heard   bool       // it was called
	last    spec.Answer
}

// stop waits for a Set that is under way.
func (b *binding) stop() {
	b.telling.Lock()
	defer b.telling.Unlock()
	b.stopped = true
}

// fixed is the answer for a target that is an address.
func fixed(t spec.Target) spec.Answer {
	now := time.Now()
	if t.Protocol == spec.Unix {
		return spec.Answer{Endpoints: spec.Members(spec.Endpoint{Protocol: spec.Unix, Path: t.Path}), At: now}
	}
	addr, err := netip.ParseAddr(t.Host)
	if err != nil {
		return spec.Answer{Err: fmt.Errorf("read address: %w", err)}
	}
	return spec.Answer{Endpoints: spec.Members(spec.Endpoint{Protocol: t.Protocol, Addr: netip.AddrPortFrom(addr.Unmap(), t.Port)}), At: now}
}

// differs tells whether somebody who knows what was said learns anything. A
// later confirmation of the same endpoints is nothing new.
func (b *binding) differs(a spec.Answer) bool {
	switch {
	case b.said == nil:
		return true
	case (b.said.Err == nil) != (a.Err == nil) || b.said.At.IsZero() != a.At.IsZero():
		return true
	}
	return !slices.Equal(b.said.Endpoints, a.Endpoints) || !slices.Equal(b.said.Dead, a.Dead) ||
		a.Err != nil && a.Err.Error() != b.said.Err.Error()
}

// nameTime is how long names that are looked up for the first time are waited
// for. Without an end to it a silent name server would hold up endpoints beside
// these names, and the removal of others.
const nameTime = time.Second

// ready returns what there is to tell; false: what was said before stays for
// the time being, but it is to be asked again after left. That is so until the
// names were looked up, for a while, and then as long as nothing else is known:
// a source that replaces one name by another did not say that there is nothing.
func (b *binding) ready(now time.Time) (a spec.Answer, left time.Duration, ok bool) {
	if !b.waits() {
		b.since = time.Time{}
		return b.answer(now), 0, true
	}
	if b.since.IsZero() {
		b.since = now
	}
	if left = b.since.Add(nameTime).Sub(now); left > 0 {
		return a, left, false
	}
	a = b.answer(now)
	return a, nameTime, len(a.Endpoints) > 0
}

// waits tells whether a name is still to be looked up for the first time.
func (b *binding) waits() bool {
	for _, t := range b.names {
		if !t.known.answered() {
			return true
		}
	}
	return !b.main.known.answered()
}

// answer is what is known of the target.
func (b *binding) answer(now time.Time) spec.Answer {
	k := &b.main.known
	a := spec.Answer{Err: k.err, At: k.changedAt, Dead: k.dead, Endpoints: make([]spec.Member, 0, len(k.places))}
	seen := make(map[spec.Endpoint]int, len(k.places))
	for i := range k.places {
		if err := b.append(&a, seen, &k.places[i]); err != nil && a.Err == nil {
			a.Err = err
		}
	}
	if b.said != nil && slices.Equal(b.said.Endpoints, a.Endpoints) {
		a.At = b.said.At
	} else if !a.At.IsZero() {
		a.At = now
	}
	return a
}

// append adds the endpoints of a place: one, or all that its name has.
func (b *binding) append(a *spec.Answer, seen map[spec.Endpoint]int, p *kept) error {
	port := p.Port
	if port == 0 {
		port = b.target.Port
	}
	switch addr, err := netip.ParseAddr(p.Host); {
	case p.Path != "":
		return b.add(a, seen, p, spec.Endpoint{Protocol: spec.Unix, Path: p.Path, Container: p.Container})
	case port == 0:
		return fmt.Errorf("find endpoints of %s: its source names %s without a port", b.target, p.Host)
	case err == nil:
		return b.add(a, seen, p, spec.Endpoint{Protocol: b.target.Protocol, Addr: netip.AddrPortFrom(addr.Unmap().WithZone(""), port), Container: p.Container, Inside: p.Inside})
	}
	t := b.names[p.Host]
	if t == nil {
		return nil // it is about to be looked up
	}
	for i := range t.known.places {
		found := t.known.places[i]
		addr, err := netip.ParseAddr(found.Host)
		if err != nil {
			continue
		}
		whole := *p
		whole.Name = p.Host
		whole.weak = p.weak || found.weak
		e := spec.Endpoint{Protocol: b.target.Protocol, Addr: netip.AddrPortFrom(addr.Unmap(), port), Container: p.Container}
		if err := b.add(a, seen, &whole, e); err != nil {
			return err
		}
	}
	return t.known.err
}

// add adds an endpoint once; one that is named for certain is so though
// another place names it in doubt.
func (b *binding) add(a *spec.Answer, seen map[spec.Endpoint]int, p *kept, e spec.Endpoint) error {
	if (e.Protocol == spec.UDP) != (b.target.Protocol == spec.UDP) {
		return fmt.Errorf("find endpoints of %s: its source names the unix socket %s, which carries no datagrams", b.target, e.Path)
	}
	m := spec.Member{Endpoint: e, Weight: p.Weight, Priority: p.Priority, Host: p.On, Name: p.Name, Weak: p.weak, Unhealthy: p.Unhealthy}
	at, twice := seen[e]
	switch {
	case !twice:
		seen[e] = len(a.Endpoints)
		a.Endpoints = append(a.Endpoints, m)
	case a.Endpoints[at].Weak && !m.Weak:
		a.Endpoints[at] = m
	}
	return nil
}

// report is what people are told of the source.
func (b *binding) report() spec.SourceStatus {
	s := spec.SourceStatus{Target: b.target.String(), Source: b.target.Source}
	if b.main == nil {
		s.Endpoints = len(b.constant.Endpoints)
		s.Learned = moment(b.constant.At)
		s.Error, s.Hint = words(b.constant.Err)
		return s
	}
	k := &b.main.known
	s.Answered, s.Detail, s.TTL = moment(k.answeredAt), k.detail, k.ttl.Seconds()
	s.Until = moment(b.expires())
	if b.said == nil {
		return s
	}
	s.Endpoints, s.Learned = len(b.said.Endpoints), moment(b.said.At)
	for i := range b.said.Endpoints {
		if b.said.Endpoints[i].Weak {
			s.Weak++
		}
	}
	if s.Error, s.Hint = words(b.said.Err); s.Error != "" {
		of := b.failing()
		s.Failed = moment(of.failedAt)
		s.Held = s.Endpoints > 0 && of.err != nil && len(of.places) > 0
	}
	return s
}

// failing is what is known of the question whose error is told: the target's
// own, or that of one of the names which its source named.
func (b *binding) failing() *known {
	k := &b.main.known
	for i := range k.places {
		if t := b.names[k.places[i].Host]; k.err == nil && t != nil && t.known.err != nil {
			return &t.known
		}
	}
	return k
}

// expires returns when the next endpoint is given up; zero: none is in doubt.
func (b *binding) expires() time.Time {
	at := b.main.known.expires()
	for _, t := range b.names {
		if u := t.known.expires(); at.IsZero() || !u.IsZero() && u.Before(at) {
			at = u
		}
	}
	return at
}

// words are an error and what to do about it, for people.
func words(err error) (what, hint string) {
	if err == nil {
		return "", ""
	}
	return err.Error(), spec.HintOf(err)
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
