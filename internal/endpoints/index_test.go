package endpoints

import (
	"math/rand/v2"
	"testing"

	"legate/internal/spec"
)

// Whatever the hashes are, the index has what was added and not removed.
func TestIndex_IsASet(t *testing.T) {
	for name, hash := range map[string]func(spec.Endpoint) uint64{
		"good":       newIndex().hash,
		"all equal":  func(spec.Endpoint) uint64 { return 1<<64 - 2 },
		"neighbours": func(e spec.Endpoint) uint64 { return uint64(e.Addr.Addr().As4()[3]) / 3 },
	} {
		t.Run(name, func(t *testing.T) {
			x := newIndex()
			x.hash = hash
			has := map[spec.Endpoint]*Live{}
			r := rand.New(rand.NewPCG(1, 2))
			for range 5000 {
				e := tcp(byte(r.IntN(30)))
				if live := has[e]; live == nil {
					has[e] = &Live{Endpoint: e}
					x.add(has[e])
				} else {
					delete(has, e)
					x.remove(live)
				}
				n := 0
				for range x.all() {
					n++
				}
				for i := range byte(30) {
					if x.find(tcp(i)) != has[tcp(i)] || n != len(has) {
						t.Fatalf("%v is lost, or there still; %d of %d", tcp(i), n, len(has))
					}
				}
			}
		})
	}
}
