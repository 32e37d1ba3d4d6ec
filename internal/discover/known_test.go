package discover

import (
	"fmt"
	"testing"
	"time"
)

// The work of a change grows with the names that a source names, and no faster.
func TestHosts_OfManyPlaces(t *testing.T) {
	const n = 100_000
	k := known{}
	for i := range n {
		k.places = append(k.places, kept{Place: Place{Host: fmt.Sprintf("host-%06d.example.org", i%(n/2))}}, kept{Place: Place{Host: "192.0.2.1"}})
	}
	began := time.Now()
	if got := len(k.hosts()); got != n/2 {
		t.Errorf("%d names, want each once: %d", got, n/2)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestLearn_TellsWhatIsNews(t *testing.T) {
	began, k := time.Now(), known{}
	dead := at("192.0.2.1")
	dead.Dead = []string{"0123456789ab"}
	for i, step := range []struct {
		result Result
		news   bool
	}{
		{at(), true}, // the first answer, though it is empty
		{at(), false},
		{at("192.0.2.1", "192.0.2.2"), true},
		{weakly(at("192.0.2.1", "192.0.2.2")), false},
		{weakly(at("192.0.2.1")), true}, // one is in doubt
		{weakly(at("192.0.2.1")), false},
		{Result{Err: errDown}, true},
		{Result{Err: errDown}, false},
		{Result{Err: errNone}, true},
		{Result{Err: errNone, Weak: true}, true}, // both are in doubt
		{Result{Err: errNone, Weak: true}, false},
		{Result{Err: errNone}, true}, // they are not
		{at("192.0.2.1"), true},
		{dead, true},
		{dead, false},
		{at("192.0.2.1"), true},
	} {
		if got := k.learn(step.result, began.Add(time.Duration(i)*time.Second)); got != step.news {
			t.Errorf("step %d, %+v: news %v, want %v", i, step.result, got, step.news)
		}
	}
}
