// Package consul asks Consul for the instances of a service and for addresses
// in its key-value store, and hears of changes by blocking queries.
//
// It speaks HTTP by itself, a few requests deep. Consul's own client would fill
// every setting that is left empty from the environment of the process, so that
// two Legates in one process could not ask two Consuls; it reads its token and
// certificates once and for ever; and nothing bounds how much it reads.
//
// https://developer.hashicorp.com/consul/api-docs/features/blocking
package consul

import (
	"context"
	"os"
	"time"

	"legate/internal/discover"
	"legate/internal/spec"
)

// Config says how Consul is reached. The zero value is what the environment of
// the process says, as Consul's own command reads it.
type Config struct {
	// Getenv gives the CONSUL_ variables: HTTP_ADDR, HTTP_TOKEN,
	// HTTP_TOKEN_FILE, HTTP_AUTH, HTTP_SSL, HTTP_SSL_VERIFY, CACERT, CAPATH,
	// CLIENT_CERT, CLIENT_KEY, TLS_SERVER_NAME, NAMESPACE and PARTITION. nil:
	// os.Getenv. It is asked anew by every Watch, and the files that they name
	// are read anew, the token's at every question.
	Getenv func(string) string
}

// Source answers for [spec.SourceConsul] and [spec.SourceConsulKV].
type Source struct {
	getenv func(string) string
	pace   patience
}

// patience is how long things may take.
type patience struct {
	answer time.Duration // until a question that asks for no change is answered
	wait   time.Duration // how long Consul may keep a question until something changes
	floor  time.Duration // between two questions, after the first ones of a burst
}

// New makes a source. It connects to nothing before it is watched.
func New(c Config) *Source {
	if c.Getenv == nil {
		c.Getenv = os.Getenv
	}
	return &Source{getenv: c.Getenv, pace: patience{
		answer: 10 * time.Second,
		// With the sixteenth that Consul adds at random it stays below the 60
		// seconds after which many a load balancer ends an idle connection,
		// and a server that was stopped is noticed within a minute.
		wait:  50 * time.Second,
		floor: 20 * time.Millisecond,
	}}
}

// Watch asks one question on one connection until ctx ends, as
// [discover.Source] says. Errors name the server and what it was asked.
func (s *Source) Watch(ctx context.Context, q discover.Query, set func(discover.Result)) error {
	c, err := s.connect(q.Target)
	if err != nil {
		return err
	}
	defer c.close()
	w := watch{client: c, topic: topicOf(q.Target), budget: budget{floor: c.pace.floor}}
	for {
		r, err := w.next(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		if r != nil {
			set(*r)
		}
	}
}

// topic is what a question is about.
type topic interface {
	// query is the request of the question, without where and how long to wait.
	query() query
	// read makes a result of an answer, without regard to how weak it is; an
	// error where the answer is none of Consul's.
	read(a answer) (discover.Result, error)
	// none says that there is nothing, as far as the server at that address knows.
	none(server string) error
}

func topicOf(t spec.Target) topic {
	if t.Source == spec.SourceConsulKV {
		return keys{path: trimSlashes(t.Path)}
	}
	return service{name: t.Host, tag: t.Tag, datacenter: t.Datacenter}
}

// watch is one question that is asked again and again.
type watch struct {
	client *client
	topic  topic
	budget budget
	index  uint64 // of the last answer; 0: what it was proves nothing about the next one
	seen   bool   // places were known since index was last 0
	// limited: something may have been hidden from the last answer. What a token
	// may read can change without the index.
	limited bool
}

// next asks, and returns what is new, nil if nothing is.
//
// That there is nothing is believed where there was something before in the
// same history of the index: somebody removed it. Where there never was, it may
// only be not registered yet.
func (w *watch) next(ctx context.Context) (*discover.Result, error) {
	if err := w.budget.wait(ctx); err != nil {
		return nil, err
	}
	a, err := w.client.ask(ctx, w.topic.query(), w.index)
	if err != nil {
		return nil, err
	}
	moved := w.move(a.index)
	if moved == same && w.limited {
		// An answer to a wait is of the rights that it began with.
		w.index, w.limited = 0, false
		return nil, nil
	}
	w.limited = a.filtered || a.guarded
	if moved == same && !a.filtered {
		return nil, nil
	}
	r, err := w.topic.read(a)
	if err != nil {
		return nil, w.client.failed(w.topic.query(), err)
	}
	if len(r.Places) > 0 || r.Err != nil {
		w.seen = true
		r.Weak = r.Err == nil && (moved != onward || a.filtered)
		return &r, nil
	}
	if a.filtered {
		return nil, w.client.hidden(w.topic.query())
	}
	// Consul does not tell those without a token that it hides something from
	// them, only that it would.
	r.Weak = moved != onward || a.guarded
	if !w.seen {
		r.Err, r.Weak = w.topic.none(w.client.name), true
		if a.guarded {
			r.Err = w.client.unseen(r.Err)
		}
	}
	return &r, nil
}

// motion is what became of the index.
type motion int

const (
	same   motion = iota // the wait ended and nothing changed
	onward               // something changed after the last answer
	afresh               // there is no last answer to compare with
)

// move takes the index of an answer. One that went backwards is of another
// history, of a server whose data were lost or restored: the next question
// asks for the state, not for a change.
func (w *watch) move(index uint64) motion {
	last := w.index
	switch {
	case index < last:
		w.index, w.seen = 0, false
		return afresh
	case last == 0:
		// Waiting for 0 is answered at once, for ever: at least 1 is asked for.
		w.index = max(index, 1)
		return afresh
	case index == last:
		return same
	}
	w.index = index
	return onward
}
