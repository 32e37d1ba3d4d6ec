package discovertest

import (
	"slices"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// The endpoints of the cases. Nobody connects to them.
const (
	one   = "10.77.0.11"
	two   = "10.77.0.12"
	three = "10.77.0.13"
)

var cases = []struct {
	name string
	run  func(testing.TB, *rig)
}{
	{"first_answer", firstAnswer},
	{"change", change},
	{"removal", removal},
	{"removal_of_the_last", removalOfTheLast},
	{"slow", slow},
	{"killed", killed},
	{"restarted_with_its_data", restartedWithItsData},
	{"restarted_without_its_data", restartedWithoutItsData},
	{"garbage", garbage},
	{"not_there_at_the_start", notThereAtTheStart},
	{"credentials_refused", credentialsRefused},
	{"certificates_wrong", certificatesWrong},
	{"paused", paused}, // the longest, whose failure says the least about the others
}

// Cases are the names of all cases, in the order in which they run.
func Cases() []string {
	names := make([]string, 0, len(cases))
	for _, c := range cases {
		names = append(names, c.name)
	}
	return names
}

// Run runs all cases that the adapter does not lack, one after the other, on
// one server.
func Run(t *testing.T, a Adapter) {
	for name := range a.Lacks {
		if !slices.Contains(Cases(), name) {
			t.Errorf("there is no case %q to lack", name)
		}
	}
	bench := a.Start(t)
	for _, c := range cases {
		if why := a.Lacks[c.name]; why != "" {
			t.Logf("%s does not apply: %s", c.name, why)
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(t, &rig{Adapter: a, bench: bench}) })
	}
}

// rig is one case and the server that it has.
type rig struct {
	Adapter
	bench Bench
	down  bool
}

// start has the server name one and two, and follows it.
func (r *rig) start(t testing.TB) *follower {
	t.Helper()
	r.bench.Set(t, one, two)
	f := follow(t, r.bench, "")
	f.finds(one, two)
	return f
}

// can gives the server as one that can do more.
func can[T any](t testing.TB, b Bench) T {
	t.Helper()
	able, ok := b.(T)
	if !ok {
		t.Fatalf("%T cannot be tested with this, and its table does not say why", b)
	}
	return able
}

// kill ends the server, for this case alone.
func (r *rig) kill(t testing.TB) {
	t.Helper()
	can[Mortal](t, r.bench).Kill(t)
	r.down = true
	t.Cleanup(func() {
		if r.down {
			r.restart(t)
		}
	})
}

func (r *rig) restart(t testing.TB) {
	t.Helper()
	r.down = false
	can[Mortal](t, r.bench).Restart(t)
}

// holds checks what people are told of endpoints from before a failure.
func holds(f *follower) {
	f.t.Helper()
	if s := f.report(); !s.Held || s.Error == "" || s.Failed == nil || s.Learned == nil || s.Endpoints != 2 {
		f.t.Errorf("reported as %+v", s)
	}
}

// weakFor is what DESIGN says of weak evidence.
const weakFor = 30 * time.Second

// doubts checks what people are told of endpoints that are missing without
// proof.
func doubts(f *follower, n int) {
	f.t.Helper()
	s := f.report()
	if s.Weak != n || s.Until == nil || time.Until(*s.Until) > weakFor {
		f.t.Errorf("reported as %+v, want %d in doubt", s, n)
	}
}

// weak tells whether an answer has these endpoints, all in doubt.
func weak(addresses ...string) func(spec.Answer) bool {
	doubted := slices.Clone(addresses)
	for i := range doubted {
		doubted[i] += doubt
	}
	return func(a spec.Answer) bool { return slices.Equal(shown(a), doubted) }
}

// repeats waits until the source failed at least once more: by the end of a
// watch, or by a result that says so.
func repeats(f *follower) {
	f.t.Helper()
	until := f.asked.Load() + 2
	testnet.Await(f.t, "another question", func() bool {
		f.d.Suspect(f.target)
		return f.asked.Load() >= until
	})
}
