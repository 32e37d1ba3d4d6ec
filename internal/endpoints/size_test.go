package endpoints

import (
	"context"
	"runtime"
	"testing"
	"time"

	"legate/internal/spec"
)

// endpointBytes returns what n endpoints take that one link leads to, with a
// check each, its list and the source's answer included.
func endpointBytes(t testing.TB, n int) float64 {
	before := heapAlloc()
	p := New(Config{Check: func(context.Context, spec.Endpoint, spec.Check) error { return nil }})
	defer p.Close()
	v := checked(redisCheck(), one)
	v.Check.Interval = time.Hour
	p.Watch("link", *v, Idle)
	p.Set(one, spec.Answer{Endpoints: spec.Members(many(n)...), At: time.Now()})
	deadline := time.Now().Add(time.Minute)
	l := p.List(v, nil)
	for unchecked(l) {
		if time.Now().After(deadline) {
			t.Fatal("not all were checked")
		}
		runtime.Gosched()
		l = p.List(v, l)
	}
	taken := float64(heapAlloc()-before) / float64(n)
	runtime.KeepAlive(l)
	return taken
}

func unchecked(l *List) bool {
	for i := range l.All {
		if l.All[i].Checked.IsZero() {
			return true
		}
	}
	return false
}

func heapAlloc() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestEndpoint_TakesLittleMemory(t *testing.T) {
	const most = 1000
	if n := endpointBytes(t, 10_000); n > most {
		t.Errorf("%.0f bytes per endpoint", n)
	}
}

func BenchmarkEndpointMemory(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(endpointBytes(b, 10_000), "B/endpoint")
	}
}
