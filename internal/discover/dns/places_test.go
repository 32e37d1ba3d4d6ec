package dns

import (
	"net/netip"
	"slices"
	"testing"

	"legate/internal/discover"
)

func TestPlaces_AreDistinctAndInAStableOrder(t *testing.T) {
	var want []discover.Place
	for _, host := range []string{"192.0.2.1", "2001:db8::1", "192.0.2.5", "192.0.2.9"} {
		want = append(want, discover.Place{Host: host, Name: "db", Weight: 1})
	}
	for _, answer := range [][]string{
		{"192.0.2.9", "2001:db8::1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.5"},
		{"192.0.2.5", "192.0.2.9", "2001:db8::1", "192.0.2.1"}, // as a name server rotates it
	} {
		var addrs []netip.Addr
		for _, a := range answer {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		if got := places("db", addrs); !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", answer, got, want)
		}
	}
}
