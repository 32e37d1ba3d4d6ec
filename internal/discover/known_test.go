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
