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
		simSeed(t, seed, pattern)
		return
	}
	long := simDuration(t)
	base := rand.Uint64() >> 16
	start := time.Now()
	var next, turns atomic.Uint64
	var failed atomic.Bool
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for !failed.Load() && time.Since(start) < long {
				seed := base + next.Add(1)
				hangs := time.AfterFunc(simPatience, func() { panic(fmt.Sprintf("the loop does not come back in seed %d", seed)) })
				n, failure := trySim(seed, pattern)
				hangs.Stop()
				turns.Add(uint64(n))
				if failure != nil && failed.CompareAndSwap(false, true) {
					simSeed(t, seed, pattern)
				}
			}
		})
	}
	workers.Wait()
	took := time.Since(start)
	t.Logf("%d schedules, %d turns of the loop, from seed %d in %v: %.0f schedules a second", next.Load(), turns.Load(), base+1, took.Round(time.Second), float64(next.Load())/took.Seconds())
}

// simPatience is for one schedule, which takes milliseconds: a loop that makes
// no calls any more cannot be stopped in another way than by a panic.
const simPatience = 2 * time.Minute

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
func simSeed(t *testing.T, seed uint64, pattern *simPattern) {
	t.Helper()
	c, failure := runSim(seed, pattern)
	if failure == nil {
		t.Logf("seed %d passes", seed)
		return
	}
	small := shrinkSim(c, failure.kind, pattern)
	s, shrunk := playSim(playSimDraws(small.plan), playSimDraws(small.play), pattern, true)
	t.Errorf("seed %d: %v\n\nas small as it gets (%d of %d choices):\n%s\n%v\n\nreplay: LEGATE_SIM_SEED=%d go test ./internal/pump -run TestSimulation",
		seed, failure, len(small.plan)+len(small.play), len(c.plan)+len(c.play), s.w.story(), shrunk, seed)
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
		{130366758603744, "the last single byte of payload was taken for our FIN"},
		{256121119125079, "the rest of a prefix waited for the client's first byte"},
		{69396960553089, "a splice stood still at out-of-band data"},
		{24402007410296, "a read that filled the buffer was taken for all there is"},
		{148387420633903, "a short read hid the end that came with it"},
		{250352075451801, "a short read stopped at out-of-band data"},
		{85549510554818, "a socket was never written to again"},
		{145266343799744, "a flow that had spent its budget was forgotten"},
		{276552890970091, "an event met the next flow of its slot"},
		{169415315806646, "an event met another leg"},
		{118771045834600, "a reset went unnoticed"},
		{24505238527671, "what was sent before a reset was thrown away"},
		{45282858323367, "an end was not waited for"},
		{177564943719394, "a pipe with bytes in it was lent again"},
		{58097800710247, "a splice that found nothing was tried again and again"},
		{187426209157646, "a leg's turn never came, and the timer fired for ever"},
		{71463173295634, "a leg outlived its time-out"},
		{279857259167115, "a resumed flow had forgotten the end it had read"},
		{26368959105839, "a late close was taken for an early one"},
		{155108247959510, "a listener that had met EMFILE was forgotten"},
	} {
		t.Run(fmt.Sprint(c.seed), func(t *testing.T) {
			if _, failure := runSim(c.seed, pattern); failure != nil {
				t.Logf("found before: %s", c.why)
				simSeed(t, c.seed, pattern)
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
	s, failure := playSim(newSimDraws(seed, 1), newSimDraws(seed, 2), pattern, true)
	return fmt.Sprint(s.w.story(), failure)
}
