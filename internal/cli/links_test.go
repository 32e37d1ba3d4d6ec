package cli

import (
	"slices"
	"testing"
)

// Whoever writes it twice, as people do for docker, does not lose the first.
func TestDNSFlag_AddsUp(t *testing.T) {
	var servers []string
	f := dnsFlag{&servers}
	for _, text := range []string{"192.0.2.1,192.0.2.2:5353", "::1"} {
		if err := f.Set(text); err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"192.0.2.1", "192.0.2.2:5353", "::1"}; !slices.Equal(servers, want) {
		t.Errorf("servers %q, want %q", servers, want)
	}
	if err := f.Set("nowhere"); err == nil || len(servers) != 3 {
		t.Errorf("a bad one leaves %q (%v)", servers, err)
	}
}
