package endpoints

import (
	"hash/maphash"
	"iter"

	"legate/internal/spec"
)

// index finds endpoints by identity. A map of identities would hold each a
// second time, and half as many again in the room that it keeps: a quarter of
// all that an endpoint takes.
type index struct {
	hash  func(spec.Endpoint) uint64
	lives map[uint64]*Live // by hash, or the next number that was free
}

func newIndex() index {
	seed := maphash.MakeSeed()
	return index{
		hash:  func(e spec.Endpoint) uint64 { return maphash.Comparable(seed, e) },
		lives: map[uint64]*Live{},
	}
}

// find returns nil for an endpoint that is not there.
func (x *index) find(e spec.Endpoint) *Live {
	for at := x.hash(e); ; at++ {
		if live := x.lives[at]; live == nil || live.Endpoint == e {
			return live
		}
	}
}

// add takes in one that is not there.
func (x *index) add(e *Live) {
	at := x.hash(e.Endpoint)
	for x.lives[at] != nil {
		at++
	}
	x.lives[at] = e
}

// remove takes e out, and puts those that stand behind it where they would be
// without it.
func (x *index) remove(e *Live) {
	at := x.hash(e.Endpoint)
	for x.lives[at] != e {
		at++
	}
	delete(x.lives, at)
	for at++; x.lives[at] != nil; at++ {
		next := x.lives[at]
		delete(x.lives, at)
		x.add(next)
	}
}

// all are the endpoints in no order.
func (x *index) all() iter.Seq[*Live] {
	return func(yield func(*Live) bool) {
		for _, e := range x.lives {
			if !yield(e) {
				return
			}
		}
	}
}
