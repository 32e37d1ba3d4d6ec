package docker

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"time"

	"legate/internal/discover"
)

const (
	// deadFor is how long the death of a container is told, and how long a
	// name of our own project that is missing is not looked for in others:
	// Compose removes a container before it makes the new one.
	deadFor = time.Minute
	// mostDead bounds what is told of a service that dies all the time.
	mostDead = 64
)

// life is one life of a container, at one address of those that it has.
type life struct {
	addr          netip.Addr
	start, behind int // of the container, and of the one whose network it lives in
}

// memory is what was told to one question.
type memory struct {
	told   map[string]life // by container id, of those in places
	places []discover.Place
	dead   map[string]time.Time
	begun  bool      // something was told
	known  bool      // there once was an answer
	ours   time.Time // when the name was last found in our own project
	left   time.Time // when the last watch ended
}

// next waits for news, or until time alone changes what is to be told: no event
// says that a name of our own project has been missing for long enough.
func (m *memory) next(ctx context.Context, news func(context.Context) error) error {
	at := m.ours.Add(deadFor)
	if !time.Now().Before(at) {
		return news(ctx)
	}
	limit, cancel := context.WithDeadline(ctx, at)
	defer cancel()
	err := news(limit)
	if err != nil && limit.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// look judges the scene and returns what to tell, in order. Where a container
// lives again, its former life is told to be over first: its id alone cannot
// say both.
func (m *memory) look(s scene, now time.Time) []discover.Result {
	m.begun = true
	s.ours, s.told = now.Sub(m.ours) < deadFor, m.told
	v := s.judge()
	if v.ours {
		m.ours = now
	}
	over := m.bury(s, now)
	r := discover.Result{Err: v.err, Detail: v.detail}
	if v.missing && m.known {
		r.Err, r.Detail = nil, v.err.Error()
	}
	if r.Err == nil {
		r.Places = v.places
	}
	var all []discover.Result
	if before, twice := m.between(r, over); twice {
		all = append(all, before)
	}
	if r.Err == nil {
		m.told, m.places = v.lives, r.Places
		m.known = m.known || !v.missing
		for id := range v.lives {
			delete(m.dead, id) // it lives again
		}
	}
	r.Dead = m.deadBut(r.Places)
	return append(all, r)
}

// bury notes whose life that was told is over.
func (m *memory) bury(s scene, now time.Time) (over map[string]bool) {
	over = map[string]bool{}
	for id, told := range m.told {
		if !s.goesOn(id, told) {
			over[id] = true
			m.dead[id] = now
			delete(m.told, id)
		}
	}
	m.places = without(m.places, over)
	maps.DeleteFunc(m.dead, func(_ string, at time.Time) bool { return now.Sub(at) >= deadFor })
	for len(m.dead) > mostDead {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(m.dead)), func(a, b string) int { return m.dead[a].Compare(m.dead[b]) })
		delete(m.dead, oldest)
	}
	return over
}

// between is the result that comes before r; false: none has to. After one with
// an error nothing would be known to have left.
func (m *memory) between(r discover.Result, over map[string]bool) (discover.Result, bool) {
	if r.Err != nil {
		return discover.Result{Places: m.places, Dead: m.deadBut(nil)}, len(over) > 0
	}
	rest := without(r.Places, over)
	return discover.Result{Places: rest, Dead: m.deadBut(rest), Detail: r.Detail}, len(rest) < len(r.Places)
}

// deadBut returns the dead, sorted, but those that live in places.
func (m *memory) deadBut(places []discover.Place) []string {
	var ids []string
	for id := range m.dead {
		if !slices.ContainsFunc(places, func(p discover.Place) bool { return p.Container == id }) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func without(places []discover.Place, ids map[string]bool) []discover.Place {
	return slices.DeleteFunc(slices.Clone(places), func(p discover.Place) bool { return ids[p.Container] })
}
