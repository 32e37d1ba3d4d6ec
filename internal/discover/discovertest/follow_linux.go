package discovertest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"legate/internal/discover"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// doubt marks an endpoint that is missing without proof.
const doubt = "?"

// follower is a user of a target, who notes all that is said of it.
type follower struct {
	t      testing.TB
	d      *discover.Discovery
	target spec.Target
	asked  atomic.Int64 // calls of Watch and results of it

	mu   sync.Mutex
	said []spec.Answer // guarded by mu
}

// follow asks the server of a bench, at another address than its own where one
// is given, until the end of the test.
func follow(t testing.TB, b Bench, at string) *follower {
	t.Helper()
	f := prepare(t, b, at)
	f.d.Apply([]spec.Target{f.target})
	return f
}

// prepare makes a follower that does not ask yet.
func prepare(t testing.TB, b Bench, at string) *follower {
	t.Helper()
	f := &follower{t: t, target: b.Target()}
	sources := b.Sources(t, at)
	for name, s := range sources {
		sources[name] = counted{s, &f.asked}
	}
	f.d = discover.New(discover.Config{Sources: sources, Set: f.set})
	t.Cleanup(func() {
		f.d.Close()
		if t.Failed() {
			t.Logf("it was told\n%s", f)
		}
	})
	return f
}

// counted counts how often a source is asked and answers.
type counted struct {
	discover.Source
	n *atomic.Int64
}

func (c counted) Watch(ctx context.Context, q discover.Query, set func(discover.Result)) error {
	c.n.Add(1)
	return c.Source.Watch(ctx, q, func(r discover.Result) {
		c.n.Add(1)
		set(r)
	})
}

func (f *follower) set(_ spec.Target, a spec.Answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said = append(f.said, a)
}

func (f *follower) String() string {
	var b strings.Builder
	for _, a := range f.since(0) {
		b.WriteString("\t" + strings.Join(shown(a), " "))
		if a.Err != nil {
			b.WriteString(" error: " + a.Err.Error())
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// shown are the addresses of an answer, sorted. A wrong port is shown, too.
func shown(a spec.Answer) []string {
	list := make([]string, 0, len(a.Endpoints))
	for _, m := range a.Endpoints {
		text := m.Addr.Addr().String()
		if m.Addr.Port() != 6379 {
			text = m.Addr.String()
		}
		if m.Weak {
			text += doubt
		}
		list = append(list, text)
	}
	slices.Sort(list)
	return list
}

// mark is a moment, for since.
func (f *follower) mark() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.said)
}

func (f *follower) since(mark int) []spec.Answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.said[mark:])
}

// report is what people are told of the source.
func (f *follower) report() spec.SourceStatus {
	f.t.Helper()
	s, watched := f.d.Report(f.target)
	if !watched {
		f.t.Fatal("nothing is reported")
	}
	return s
}

// sees waits until the last answer is as wanted.
func (f *follower) sees(what string, good func(spec.Answer) bool) spec.Answer {
	f.t.Helper()
	var last spec.Answer
	testnet.Await(f.t, what, func() bool {
		all := f.since(0)
		if len(all) == 0 {
			return false
		}
		last = all[len(all)-1]
		return good(last)
	})
	return last
}

// finds waits for exactly these endpoints, without a doubt or an error.
func (f *follower) finds(addresses ...string) {
	f.t.Helper()
	f.sees("endpoints "+strings.Join(addresses, " "), func(a spec.Answer) bool {
		return a.Err == nil && !a.At.IsZero() && slices.Equal(shown(a), addresses)
	})
}

// fails waits for an error with that text.
func (f *follower) fails(text string) spec.Answer {
	f.t.Helper()
	return f.sees("the error "+text, func(a spec.Answer) bool { return a.Err != nil && strings.Contains(a.Err.Error(), text) })
}

// had checks that these endpoints were in every answer since then, in doubt or
// not.
func (f *follower) had(mark int, addresses ...string) {
	f.t.Helper()
	for _, a := range f.since(mark) {
		list := shown(a)
		for _, address := range addresses {
			if !slices.Contains(list, address) && !slices.Contains(list, address+doubt) {
				f.t.Errorf("%s was missing: %v", address, list)
				return
			}
		}
	}
}

// neverDoubted checks that nothing was in doubt since then.
func (f *follower) neverDoubted(mark int) {
	f.t.Helper()
	for _, a := range f.since(mark) {
		if slices.ContainsFunc(a.Endpoints, func(m spec.Member) bool { return m.Weak }) {
			f.t.Errorf("something was in doubt: %v", shown(a))
			return
		}
	}
}
