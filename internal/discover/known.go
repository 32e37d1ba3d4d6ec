package discover

import (
	"net/netip"
	"slices"
	"time"
)

// weakFor is how long places stay that their source no longer names, without
// proof: a name server that was just restarted, or a registry in which
// services are registered anew, knows nothing for a while.
const weakFor = 30 * time.Second

// known is what is known of one question. It is a pure state: time is given.
type known struct {
	places []kept
	dead   []string
	err    error
	ttl    time.Duration
	detail string

	changedAt  time.Time // when the places became these
	answeredAt time.Time // the last good answer
	failedAt   time.Time // since when err holds
}

// kept is a place.
type kept struct {
	Place
	weak  bool      // its source does not name it any more, without proof
	until time.Time // when it is given up for that; zero: not while its source fails
}

// answered tells whether there was an answer yet, be it a bad one.
func (k *known) answered() bool { return !k.answeredAt.IsZero() || k.err != nil }

// diesIn tells whether a result says that a container runs no more which was
// there.
func (k *known) diesIn(r Result) bool {
	return slices.ContainsFunc(k.places, func(p kept) bool { return p.Container != "" && slices.Contains(r.Dead, p.Container) })
}

// learn takes over a result. It tells whether that is news to those who use the
// places: with thousands of names a confirmation comes all the time.
func (k *known) learn(r Result, now time.Time) (news bool) {
	news = !k.answered() || (r.Err == nil) != (k.err == nil) || r.Err != nil && k.err.Error() != r.Err.Error()
	if r.Err == nil || k.err == nil || k.err.Error() != r.Err.Error() {
		k.failedAt = now
	}
	k.err = r.Err
	if r.Err != nil && !r.Weak {
		// A source that cannot be asked proves nothing: the weak evidence
		// before it must be repeated for its whole time. It is no proof of the
		// contrary either: what was in doubt stays a last resort.
		for i := range k.places {
			news = news || !k.places[i].until.IsZero()
			k.places[i].until = time.Time{}
		}
		return news
	}
	if r.Err == nil {
		k.answeredAt, k.ttl, k.detail = now, r.TTL, r.Detail
	}
	return k.take(r, now) || news
}

// take replaces the places by those of a result, and keeps those that are
// missing without proof. It tells whether something is another than before.
func (k *known) take(r Result, now time.Time) (news bool) {
	places := make([]kept, 0, len(r.Places))
	named := make(map[identity]bool, len(r.Places))
	if r.Err == nil {
		for _, p := range r.Places {
			if !named[p.identity()] {
				named[p.identity()] = true
				places = append(places, kept{Place: p})
			}
		}
	}
	for _, p := range k.places {
		switch {
		case named[p.identity()] || p.Container != "" && slices.Contains(r.Dead, p.Container):
			continue
		case !p.until.IsZero() && !r.Whole: // its time runs already, whatever was said since
		case r.Weak:
			p.weak, p.until = true, now.Add(weakFor)
		default:
			continue
		}
		places = append(places, p)
	}
	news = !slices.Equal(r.Dead, k.dead)
	k.dead = r.Dead
	if !slices.Equal(places, k.places) || k.changedAt.IsZero() && r.Err == nil {
		k.places, k.changedAt, news = places, now, true
	}
	return news
}

// identity is what makes a place the same one when it is named again.
type identity struct {
	host, path, container string
	port                  uint16
}

func (p *Place) identity() identity { return identity{p.Host, p.Path, p.Container, p.Port} }

// expires returns when the next place is given up if nothing else is learned;
// zero: never.
func (k *known) expires() (at time.Time) {
	for i := range k.places {
		if u := k.places[i].until; !u.IsZero() && (at.IsZero() || u.Before(at)) {
			at = u
		}
	}
	return at
}

// expire gives up what nobody has named again.
func (k *known) expire(now time.Time) {
	k.places = slices.DeleteFunc(slices.Clone(k.places), func(p kept) bool { return !p.until.IsZero() && !p.until.After(now) })
	k.changedAt = now
}

// hosts returns the names among the places.
func (k *known) hosts() map[string]bool {
	names := map[string]bool{}
	for i := range k.places {
		if host := k.places[i].Host; host != "" && !isAddr(host) {
			names[host] = true
		}
	}
	return names
}

func isAddr(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}
