package pump

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestSimulation plays random schedules of a simulated kernel, network and
// peers to the loop, each from a seed, for as long as LEGATE_SIM says, on all
// cores. LEGATE_SIM_SEED=n plays one seed and tells its story. A failure is
// made as small as it gets before it is told.
func TestSimulation(t *testing.T) {
	pattern := newSimPattern()
	if s := os.Getenv("LEGATE_SIM_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("LEGATE_SIM_SEED=%q is no seed: %v", s, err)
		}
		simSeed(t, seed, simOf(seed), pattern)
		return
	}
	long := simDuration(t)
	base := rand.Uint64() >> 16
	start := time.Now()
	var next, turns atomic.Uint64
	var failed atomic.Bool
	var workers sync.WaitGroup
	progress := simEvery(time.Minute, func() { t.Logf("%d schedules so far", next.Load()) })
	defer progress()
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			var present atomic.Uint64
			defer simWatch(&present)()
			for !failed.Load() && time.Since(start) < long {
				seed := base + next.Add(1)
				present.Store(seed)
				s, failure := playSim(simOf(seed), pattern, false)
				turns.Add(uint64(s.turns))
				if failure != nil && failed.CompareAndSwap(false, true) {
					simSeed(t, seed, simOf(seed), pattern)
				}
			}
		})
	}
	workers.Wait()
	took := time.Since(start)
	t.Logf("%d schedules, %d turns of the loop, from seed %d in %v: %.0f schedules a second", next.Load(), turns.Load(), base+1, took.Round(time.Second), float64(next.Load())/took.Seconds())
}

// simEvery calls f now and then, until what it returns is called.
func simEvery(pause time.Duration, f func()) (stop func()) {
	ended := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		t := time.NewTicker(pause)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				f()
			case <-ended:
				return
			}
		}
	})
	return func() { close(ended); done.Wait() }
}

// simPatience is the seconds that one schedule may take, which takes
// milliseconds.
const simPatience = 120

// simWatch panics when the seed stays the same: a loop that makes no calls any
// more cannot be stopped in another way. It counts seconds in which it ran, so
// that a process that was stopped for a while is not taken for one that hangs.
func simWatch(present *atomic.Uint64) (stop func()) {
	last, same := uint64(0), 0
	return simEvery(time.Second, func() {
		seed := present.Load()
		if seed != last {
			last, same = seed, 0
		} else if same++; same > simPatience {
			panic(fmt.Sprintf("the loop does not come back in seed %d", seed))
		}
	})
}

// simDuration is LEGATE_SIM, or what fits into an ordinary run.
func simDuration(t *testing.T) time.Duration {
	if s := os.Getenv("LEGATE_SIM"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			t.Fatalf("LEGATE_SIM=%q is no duration (%v), write LEGATE_SIM=1h", s, err)
		}
		return d
	}
	if testing.Short() {
		return 2 * time.Second
	}
	return 20 * time.Second
}

// simSeed plays one seed; when it fails it shrinks what was drawn and tells the
// story of what is left.
func simSeed(t *testing.T, seed uint64, x simSource, pattern *simPattern) {
	t.Helper()
	_, failure := playSim(x, pattern, false)
	c := simChoices{x.plan.used(), x.more.used(), x.play.used()}
	if failure == nil {
		t.Logf("seed %d passes", seed)
		return
	}
	small := shrinkSim(c, failure.kind, pattern)
	s, shrunk := playSim(small.source(), pattern, true)
	t.Errorf("seed %d: %v\n\nas small as it gets (%d of %d choices):\n%s\n%v\n\nreplay: LEGATE_SIM_SEED=%d go test -tags pumpcheck -run 'TestSimulation$' ./internal/pump",
		seed, failure, small.size(), c.size(), s.w.story(), shrunk, seed)
}

// TestSimulation_Seeds plays schedules that found something: in the loop, or in
// one that was broken on purpose. A seed means another schedule once simPlan or
// the simulated kernel draws in another order.
func TestSimulation_Seeds(t *testing.T) {
	pattern := newSimPattern()
	for _, c := range []struct {
		seed uint64
		why  string
	}{
		{150326482881405, "the last single byte of payload was taken for our FIN"},
		{171777065228074, "the rest of a prefix waited for the client's first byte"},
		{3047457041944, "a splice stood still at out-of-band data"},
		{4622946994165, "a read that filled the buffer was taken for all there is"},
		{74645762916589, "a short read hid the end that came with it"},
		{226782767996657, "a short read stopped at out-of-band data"},
		{42663543360571, "a socket was never written to again"},
		{147475869307114, "a flow that had spent its budget was forgotten"},
		{130373847617552, "a flow had more than its budget"},
		{56763534711149, "an event met the next flow of its slot"},
		{251444439656457, "a command met the next flow of its slot"},
		{140294928759315, "an event met another leg"},
		{242385913531554, "a reset went unnoticed"},
		{152601767854948, "what was sent before a reset was thrown away"},
		{120197183505662, "what was held when a side broke was thrown away"},
		{239184452031235, "an end was not waited for"},
		{129881228459341, "a pipe with bytes in it was lent again"},
		{16760203967052, "a splice that found nothing was tried again and again"},
		{154094119256518, "a leg outlived its time-out"},
		{198886501358548, "a leg was dialled after the deadline"},
		{126401207140123, "a frozen flow lost what was held"},
		{25402782958783, "a resumed flow had forgotten the end it had read"},
		{227678658125011, "a late close was taken for an early one"},
		{68654435309678, "a listener that had met EMFILE was forgotten"},
		{43323383038435, "a listener whose client had waited was forgotten"},
		{118677700522468, "a command did not end the wait"},
		{115819347426330, "a wake that came before the park was forgotten"},
		{136638169204796, "a flow began with the flags of the one before"},
	} {
		t.Run(fmt.Sprint(c.seed), func(t *testing.T) {
			if _, failure := playSim(simBefore(c.seed), pattern, false); failure != nil {
				t.Logf("found before: %s", c.why)
				simSeed(t, c.seed, simBefore(c.seed), pattern)
			}
		})
	}
}

// TestSimulation_Replays plays seeds twice: not a choice may differ, and a list
// of choices must lead where its seed did.
func TestSimulation_Replays(t *testing.T) {
	pattern := newSimPattern()
	for seed := range uint64(50) {
		a, b := tellSim(seed, pattern), tellSim(seed, pattern)
		if a != b {
			t.Fatalf("seed %d tells two stories:\n%s\n\n%s", seed, a, b)
		}
	}
}

func tellSim(seed uint64, pattern *simPattern) string {
	s, failure := playSim(simOf(seed), pattern, true)
	return fmt.Sprint(s.w.story(), failure)
}
