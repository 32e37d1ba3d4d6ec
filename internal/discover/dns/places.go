package dns

import (
	"cmp"
	"net/netip"
	"slices"

	"legate/internal/discover"
)

// places are the addresses of a name, each once and in an order that does not
// depend on the answer's: name servers rotate it, which would look like a change
// each time. The families alternate, so that a family without a route never
// holds all the first places.
func places(name string, addrs []netip.Addr) []discover.Place {
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	v4, v6 = distinct(v4), distinct(v6)
	list := make([]discover.Place, 0, len(v4)+len(v6))
	for i := range max(len(v4), len(v6)) {
		for _, family := range [][]netip.Addr{v4, v6} {
			if i < len(family) {
				list = append(list, discover.Place{Host: family[i].String(), Name: name, Weight: 1})
			}
		}
	}
	return list
}

func distinct(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// byPriority orders the places of SRV records, which mean nothing by theirs.
func byPriority(a, b discover.Place) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
}
