package machine

import (
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Spin times the same piece of work on every CPU at once and returns the
// slowest CPU's median: it takes longer when the clock goes down, and when
// something else runs there.
func Spin() time.Duration {
	cpus := runtime.NumCPU()
	took := make([]time.Duration, cpus)
	var all sync.WaitGroup
	for cpu := range cpus {
		all.Go(func() { took[cpu] = spinOn(cpu) })
	}
	all.Wait()
	return slices.Max(took)
}

const (
	spinTimes = 5
	spinSteps = 2_000_000
)

// spinOn gives its thread back: one that ended would take the processes with it
// that were started on it (PR_SET_PDEATHSIG is about the thread).
func spinOn(cpu int) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if unix.SchedGetaffinity(0, &all) == nil && pin(cpu) == nil {
		defer func() { _ = unix.SchedSetaffinity(0, &all) }() // what it was a moment ago
	}
	took := make([]time.Duration, spinTimes)
	x := uint64(88172645463325252)
	for i := range took {
		start := time.Now()
		work(&x, spinSteps)
		took[i] = time.Since(start)
	}
	slices.Sort(took)
	return took[spinTimes/2]
}

// work takes x through a chain of steps each of which needs the one before.
//
//go:noinline
func work(x *uint64, steps int) {
	for range steps {
		*x ^= *x << 13
		*x ^= *x >> 7
		*x ^= *x << 17
	}
}

// Noise watches whether the machine is the benchmark's alone.
type Noise struct {
	Reference time.Duration // of [Spin], on a quiet machine
}

// Limits beyond which what was measured is void.
const (
	StealLimit = .01
	SpinLimit  = .05
	// ForeignLimit is for work of other processes. Interrupts and the way out of
	// idle are in it, too, up to some percent; it finds what runs only
	// while Spin does not.
	ForeignLimit = .10
)

const referenceTimes = 24

// NewNoise takes the lower quartile of some runs as what the machine does: the
// fastest may have been a moment of a higher clock, after which everything would
// seem slow.
func NewNoise() *Noise {
	took := make([]time.Duration, referenceTimes)
	for i := range took {
		took[i] = Spin()
	}
	slices.Sort(took)
	return &Noise{Reference: took[referenceTimes/4]}
}

// Quiet tells whether a measurement between two runs of [Spin] counts.
func (n *Noise) Quiet(before, after time.Duration, stolen, foreign float64) bool {
	slow := float64(max(before, after)) / float64(n.Reference)
	return stolen <= StealLimit && slow <= 1+SpinLimit && foreign <= ForeignLimit
}
