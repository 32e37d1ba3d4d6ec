package docker

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
)

const (
	// resync is how often the whole list is read although no event asks for
	// it: the engine drops events for a reader that is too slow.
	resync = 30 * time.Second
	// firstResync comes soon: the engine answers that the events have begun
	// a moment before they do.
	firstResync = time.Second
	// deadFor is how long a list is not believed that has a container run
	// which an event said had died: the engine tells the event first.
	deadFor = 2 * time.Second
	// together is how many containers are read with one question.
	together = 50
)

// again is when a container is read after an event: pause, network connect and
// others are told before the list has them.
var again = [...]time.Duration{0, 20 * time.Millisecond, 150 * time.Millisecond, time.Second}

// session follows one engine until it is lost or nobody reads any more.
type session struct {
	table  *Table
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed at its end
	err    error         // why it ended; read after done

	readers int  // guarded by the table's mu
	synced  bool // guarded by the table's mu

	client *Client
	due    map[string][]time.Time // when to read which containers again
	whole  bool                   // the whole list is due
	died   map[string]time.Time   // of which an event said so
	seen   chan string            // containers that somebody else read

	// At most one question is under way. Events are heard meanwhile: a busy
	// engine takes a tenth of a second for an answer, and with one question for
	// each event the last container of many would have to wait for all of them.
	asking  sync.WaitGroup
	asked   bool
	ended   map[string]bool // containers that died or were removed since it was asked
	answers chan answer     // capacity one

	images *asker
}

// answer is what the engine says of some containers, by id; ids nil: of all,
// and known is who was in the table when it was asked.
type answer struct {
	ids, known []string
	at         time.Time // that it was asked
	found      map[string]*Container
	err        error
}

func newSession(t *Table) *session {
	s := &session{
		table: t, done: make(chan struct{}), seen: make(chan string), answers: make(chan answer, 1),
		due: map[string][]time.Time{}, died: map[string]time.Time{}, ended: map[string]bool{}, images: newAsker(),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// run is the session's goroutine: whoever closes its last subscription waits
// for it.
func (s *session) run() {
	err := s.follow()
	t := s.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.session == s {
		t.session, t.failed, t.at = nil, err, time.Now()
	}
	s.end(err)
}

func (s *session) end(err error) {
	s.cancel()
	s.err = err
	close(s.done)
}

func (s *session) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// follow returns when the engine is lost. A client of its own agrees on the
// version of the API anew: the engine may be another one by now.
func (s *session) follow() error {
	c, err := NewClient(s.table.config)
	if err != nil {
		return err
	}
	defer c.Close()
	s.client = c
	stream, err := c.events(s.ctx)
	if err != nil {
		return err
	}
	defer stream.close()
	defer s.asking.Wait()
	defer s.cancel()
	s.whole = true
	s.ask(time.Now())
	if err := s.hear(<-s.answers); err != nil {
		return err
	}
	whole, some := time.NewTimer(firstResync), time.NewTimer(0)
	defer whole.Stop()
	defer some.Stop()
	for {
		s.ask(time.Now())
		s.askImages(time.Now())
		select {
		case <-s.ctx.Done():
			return s.ctx.Err()
		case err := <-stream.lost:
			return c.explain(s.ctx, err)
		case m := <-stream.messages:
			s.note(m, time.Now())
		case id := <-s.seen:
			s.due[id] = append([]time.Time{time.Now()}, s.due[id]...)
		case a := <-s.answers:
			err = s.hear(a)
		case a := <-s.images.answers:
			s.hearImage(a, time.Now())
		case <-some.C:
		case <-whole.C:
			s.whole = true
			whole.Reset(resync)
		}
		if err != nil {
			return err
		}
		some.Reset(s.untilDue(time.Now()))
	}
}

// note acts on an event. That a container died is believed at once.
func (s *session) note(m events.Message, now time.Time) {
	id := m.Actor.ID
	if m.Type == events.NetworkEventType {
		id = m.Actor.Attributes["container"]
	}
	if id == "" {
		return
	}
	switch m.Action {
	case events.ActionDie:
		s.died[id] = now
		s.ended[id] = true
		delete(s.due, id)
		s.due[id] = []time.Time{now.Add(deadFor + 100*time.Millisecond)}
		s.dead(id)
		return
	case events.ActionDestroy:
		delete(s.due, id)
		delete(s.died, id)
		s.ended[id] = true
		s.change(func(t *Table) { t.remove(id) })
		return
	case events.ActionStart:
		delete(s.died, id)
	}
	s.due[id] = nil
	for _, pause := range again {
		s.due[id] = append(s.due[id], now.Add(pause))
	}
}

// dead records that a container runs no more, without asking: the engine says
// otherwise for a moment.
func (s *session) dead(id string) {
	s.change(func(t *Table) {
		before := t.all[id]
		if before == nil || !before.Runs() {
			return
		}
		now := *before
		now.State, now.Health, now.Networks, now.Ports = StateExited, "", nil, nil
		t.put(&now)
	})
}

// change changes the table, unless the session is not the table's any more.
func (s *session) change(f func(*Table)) {
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	if s.table.session == s {
		f(s.table)
	}
}

// untilDue is the time until the next container is to be read, or an image
// again; while a question is under way its answer comes first.
func (s *session) untilDue(now time.Time) time.Duration {
	pause := s.untilImage(now)
	if !s.asked {
		for _, times := range s.due {
			pause = min(pause, times[0].Sub(now))
		}
	}
	return max(pause, 0)
}

// ask reads the whole list or the containers whose time has come, if there is
// any, and unless it reads already.
func (s *session) ask(now time.Time) {
	if s.asked {
		return
	}
	a := answer{at: now}
	if s.whole {
		s.change(func(t *Table) { a.known = slices.Collect(maps.Keys(t.all)) })
	} else if a.ids = s.takeDue(now); a.ids == nil {
		return
	}
	s.whole, s.asked = false, true
	clear(s.ended)
	s.asking.Go(func() {
		a.found, a.err = s.client.list(s.ctx, a.ids)
		s.answers <- a
	})
}

// takeDue returns the containers whose time has come, as many as are read
// together.
func (s *session) takeDue(now time.Time) (ids []string) {
	for id, times := range s.due {
		if times[0].After(now) || len(ids) == together {
			continue
		}
		ids = append(ids, id)
		if s.due[id] = times[1:]; len(times) == 1 {
			delete(s.due, id)
		}
	}
	return ids
}

// hear records an answer. Of who ended while it was under way it says nothing,
// also if that one has been started again.
func (s *session) hear(a answer) error {
	s.asked = false
	if a.err != nil {
		return a.err
	}
	ids := a.ids
	if ids == nil {
		ids = slices.AppendSeq(a.known, maps.Keys(a.found))
	}
	s.change(func(t *Table) {
		for _, id := range ids {
			if !s.ended[id] {
				s.learn(t, id, a.found[id], a.at)
			}
		}
		if a.ids == nil {
			maps.DeleteFunc(s.died, func(_ string, at time.Time) bool { return a.at.Sub(at) > deadFor })
			t.forgetImages()
			s.welcome(t)
		}
	})
	return nil
}

// learn records one container as it was listed; nil: it was not. The table's
// mu is held.
func (s *session) learn(t *Table, id string, c *Container, asked time.Time) {
	if at, dead := s.died[id]; dead && asked.Sub(at) < deadFor && c != nil && c.Runs() {
		return
	}
	if c == nil {
		t.remove(id)
		return
	}
	t.put(c)
}

// welcome has those look who came before the table was complete. The table's
// mu is held.
func (s *session) welcome(t *Table) {
	if s.synced {
		return
	}
	s.synced = true
	for _, readers := range t.readers {
		for r := range readers {
			if r.session == s {
				r.poke()
			}
		}
	}
}

var errForeign = errors.New("the answer is not a list of containers")

// list reads the containers with these ids, or all for none, by id.
func (c *Client) list(ctx context.Context, ids []string) (map[string]*Container, error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	o := client.ContainerListOptions{All: true}
	if len(ids) > 0 {
		o.Filters = client.Filters{}.Add("id", ids...)
	}
	r, err := c.api.ContainerList(limited, o)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	found := make(map[string]*Container, len(r.Items))
	for _, s := range r.Items {
		if s.ID == "" { // what we know is not gone because somebody else has another list there
			return nil, c.explain(ctx, errForeign)
		}
		found[s.ID] = containerOf(s)
	}
	return found, nil
}

// stream is the engine's events. Its owner calls close.
type stream struct {
	messages <-chan events.Message
	lost     <-chan error
	cancel   context.CancelFunc
}

// events returns when the engine has begun to tell them, or refused, which is
// told by the stream. Questions of its health checks are left out: a container
// with one makes three events each time.
func (c *Client) events(ctx context.Context) (*stream, error) {
	inner, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(timeout, cancel)
	r := c.api.Events(inner, client.EventsListOptions{Filters: client.Filters{}.Add("type", "container", "network").
		Add("event", "create", "start", "die", "destroy", "rename", "pause", "unpause", "update", "health_status", "connect", "disconnect")})
	s := &stream{messages: r.Messages, lost: r.Err, cancel: cancel}
	if late.Stop() {
		return s, nil
	}
	s.close()
	return nil, c.explain(ctx, context.DeadlineExceeded)
}

// close ends the stream and waits for it.
func (s *stream) close() {
	s.cancel()
	for range s.lost { // until its goroutine has ended
	}
}
