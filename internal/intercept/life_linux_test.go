package intercept

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"legate/internal/testnet"
)

func newLife(t testing.TB) *Life {
	t.Helper()
	l, err := NewLife()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return l
}

func (l *Life) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.watched)
}

func TestLife_TellsOfTheOneThatEnded(t *testing.T) {
	testnet.CheckLeaks(t)
	l := newLife(t)
	const many = 40 // at once; each is told of once, and no other
	var tenants []*tenant
	ended := make([]atomic.Int32, many)
	for i := range many {
		p := newTenant(t)
		tenants = append(tenants, p)
		if _, err := l.Watch(p.pid, p.open(t), func() { ended[i].Add(1) }); err != nil {
			t.Fatal(err)
		}
	}
	tenants[7].kill()
	testnet.Await(t, "the end of one", func() bool { return ended[7].Load() == 1 })
	for i := range ended {
		if i != 7 && ended[i].Load() != 0 {
			t.Errorf("%d was said to have ended", i)
		}
	}
	for i, p := range tenants {
		if i == 7 {
			continue
		}
		p.signal(t) // not waited for: a zombie has ended, too
	}
	testnet.Await(t, "the end of all", func() bool { return l.count() == 0 })
	for i := range ended {
		testnet.Await(t, "word of it", func() bool { return ended[i].Load() == 1 })
	}
}

func TestLife_StoppedWatchSaysNothing(t *testing.T) {
	testnet.CheckLeaks(t)
	l := newLife(t)
	p, other := newTenant(t), newTenant(t)
	stop, err := l.Watch(p.pid, p.open(t), func() { t.Error("said it though it was stopped") })
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{})
	if _, err := l.Watch(other.pid, other.open(t), func() { close(told) }); err != nil {
		t.Fatal(err)
	}
	stop()
	stop() // does no harm
	p.kill()
	other.kill()
	<-told
}

// A process that was given the number of one that has ended must not stand
// for it.
func TestLife_ProcessThatIsNotTheOneMeant(t *testing.T) {
	testnet.CheckLeaks(t)
	l := newLife(t)
	p, dead := newTenant(t), newTenant(t)
	ns := dead.open(t)
	dead.kill()
	for _, pid := range []int{dead.pid, p.pid} {
		if _, err := l.Watch(pid, ns, func() { t.Error("said it") }); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("watch %d: %v, want %v", pid, err, fs.ErrNotExist)
		}
	}
}

func TestLife_AfterClose(t *testing.T) {
	testnet.CheckLeaks(t)
	l := newLife(t)
	p := newTenant(t)
	stop, err := l.Watch(p.pid, p.open(t), func() { t.Error("said it") })
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := l.Watch(p.pid, p.open(t), func() {}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("watch after close: %v", err)
	}
}

// BenchmarkLife measures from SIGKILL to the word of it.
func BenchmarkLife(b *testing.B) {
	l := newLife(b)
	var took []time.Duration
	for b.Loop() {
		p := newTenant(b)
		ns := p.open(b)
		told := make(chan time.Time, 1)
		if _, err := l.Watch(p.pid, ns, func() { told <- time.Now() }); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		p.signal(b)
		took = append(took, (<-told).Sub(began))
	}
	report(b, took)
}

func report(b *testing.B, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e3, "p50-us")
	b.ReportMetric(float64(took[len(took)*99/100])/1e3, "p99-us")
	b.ReportMetric(float64(took[len(took)-1])/1e3, "max-us")
}
