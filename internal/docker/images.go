package docker

import (
	"maps"
	"slices"
	"time"
)

const (
	// imagesAtOnce is how many images are asked about at a time.
	imagesAtOnce = 4
	// After a failure an image is asked about again, more and more seldom: a
	// busy engine answers soon, a proxy that refuses never does.
	firstRegret   = time.Second
	longestRegret = 30 * time.Second
)

// asker has a session's questions about images, of which each is asked once. It
// is guarded by the table's mu, but for answers.
type asker struct {
	known   map[string]bool  // those that are or were in one of the following
	next    []string         // not asked about yet
	failed  []string         // to be asked about again
	asked   int              // questions that are under way
	pause   time.Duration    // after a failure; 0: the last answer was good
	at      time.Time        // when failed are due
	answers chan imageAnswer // capacity imagesAtOnce
}

// imageAnswer is what the engine says of one image.
type imageAnswer struct {
	id    string
	again bool // it failed before
	image Image
	err   error
}

func newAsker() *asker {
	return &asker{known: map[string]bool{}, answers: make(chan imageAnswer, imagesAtOnce)}
}

// want has an image asked about soon, if that is not under way.
func (a *asker) want(id string) {
	if !a.known[id] {
		a.known[id] = true
		a.next = append(a.next, id)
	}
}

// take returns the next image to ask about. What failed one image will fail the
// others, too, mostly: after a failure one at a time is asked about again.
func (a *asker) take(now time.Time) (id string, again, ok bool) {
	switch {
	case a.asked == imagesAtOnce:
		return "", false, false
	case len(a.next) > 0:
		last := len(a.next) - 1 // what came last may be about to start
		id, a.next = a.next[last], a.next[:last]
	case len(a.failed) > 0 && !now.Before(a.at):
		id, a.failed, again = a.failed[0], a.failed[1:], true
		a.at = now.Add(a.pause)
	default:
		return "", false, false
	}
	a.asked++
	return id, again, true
}

// hear takes in whether a question had an answer. A good one lets those that
// failed try at once.
func (a *asker) hear(answer imageAnswer, now time.Time) {
	a.asked--
	if answer.err == nil {
		a.pause, a.at = 0, now
		return
	}
	a.failed = append(a.failed, answer.id)
	if answer.again {
		a.pause *= 2
	}
	a.pause = min(max(a.pause, firstRegret), longestRegret)
	a.at = now.Add(a.pause)
}

// forget lets go of the images that nobody has any more.
func (a *asker) forget(unused func(id string) bool) {
	a.next, a.failed = slices.DeleteFunc(a.next, unused), slices.DeleteFunc(a.failed, unused)
	maps.DeleteFunc(a.known, func(id string, _ bool) bool { return unused(id) })
}

// askImages asks about images whose time has come, as many as are asked about
// at once. They are asked about as soon as there is a container of them: one
// that starts needs the answer at its start, and is created before.
func (s *session) askImages(now time.Time) {
	s.change(func(*Table) {
		for {
			id, again, ok := s.images.take(now)
			if !ok {
				return
			}
			s.asking.Go(func() {
				image, err := s.client.Image(s.ctx, id)
				s.images.answers <- imageAnswer{id, again, image, err}
			})
		}
	})
}

// untilImage is the time until an image is to be asked about again.
func (s *session) untilImage(now time.Time) time.Duration {
	pause := resync
	s.change(func(*Table) {
		if a := s.images; len(a.failed) > 0 && a.asked < imagesAtOnce {
			pause = min(pause, a.at.Sub(now))
		}
	})
	return pause
}

// hearImage records what an image has for its containers, or why that is not
// known.
func (s *session) hearImage(a imageAnswer, now time.Time) {
	if s.ctx.Err() != nil {
		return
	}
	s.change(func(t *Table) {
		s.images.hear(a, now)
		if a.err == nil {
			t.images[a.id] = &a.image
			delete(t.doubts, a.id)
		} else {
			t.doubts[a.id] = a.err
		}
		for _, c := range t.of(a.id) {
			again := *c
			t.put(&again)
		}
	})
}

// image is what is known of an image, or why nothing is. If nobody asks, it is
// asked about: by the next session while the engine is lost. mu is held.
func (t *Table) image(id string) (*Image, error) {
	if known := t.images[id]; known != nil {
		return known, nil
	}
	if t.session != nil {
		t.session.images.want(id)
	}
	return nil, t.doubts[id]
}

// of returns the containers of an image. mu is held.
func (t *Table) of(image string) (list []*Container) {
	for _, c := range t.all {
		if c.ImageID == image {
			list = append(list, c)
		}
	}
	return list
}

// forgetImages lets go of images that no container has any more: a host that
// builds has a new one every minute. mu is held.
func (t *Table) forgetImages() {
	used := map[string]bool{}
	for _, c := range t.all {
		used[c.ImageID] = true
	}
	unused := func(id string) bool { return !used[id] }
	maps.DeleteFunc(t.images, func(id string, _ *Image) bool { return unused(id) })
	maps.DeleteFunc(t.doubts, func(id string, _ error) bool { return unused(id) })
	t.session.images.forget(unused)
}
