package soak

import (
	"slices"
	"testing"
	"time"
)

// changes is how often the endpoint is another one.
const changes = 200

// How long it takes from the answer of the registry that it took a change to the first connection at the
// new endpoint, by a client that asks again and again. `make bench ONLY=registry` shows it; nothing is
// asserted, since the machine may have other things to do.
func BenchmarkRegistry_ChangeToFirstConnection(b *testing.B) {
	for _, name := range []string{"consul", "etcd"} {
		b.Run(name, func(b *testing.B) {
			arrange(b)
			r := registries()[name](b)
			backends(b, 2)
			r.set(b, 1)
			l := lead(b, r)
			l.awaitEndpoints(1)
			var took []time.Duration
			for i := range changes {
				to := 1 + (i+1)%2
				r.set(b, to)
				took = append(took, firstAt(b, []string{"1", "2"}[to-1]))
			}
			slices.Sort(took)
			ms := func(share int) float64 { return took[(len(took)-1)*share/100].Seconds() * 1000 }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ms(50), "p50-ms")
			b.ReportMetric(ms(99), "p99-ms")
			b.ReportMetric(ms(100), "max-ms")
		})
	}
}

// firstAt asks until the named server answers, and returns how long that took.
func firstAt(b testing.TB, name string) time.Duration {
	b.Helper()
	began := time.Now()
	for n := 0; time.Since(began) < patience; n++ {
		server, err := askName(entrances(inFront)[0], n)
		if err != nil {
			b.Fatalf("a connection failed during a change: %v", err)
		}
		if server == name {
			return time.Since(began)
		}
	}
	b.Fatalf("nobody reached server %s", name)
	return 0
}
