package pump

import "time"

// shrinkFor bounds how long a failure is made smaller.
const shrinkFor = 20 * time.Second

// shrinkSim makes the lists of choices shorter and their numbers smaller for as
// long as the simulation fails in the same way.
func shrinkSim(c simChoices, kind string, pattern *simPattern) simChoices {
	until := time.Now().Add(shrinkFor)
	try := func(x simChoices) bool {
		_, failure := playSim(x.source(), pattern, false)
		return failure != nil && failure.kind == kind
	}
	for better := true; better && time.Now().Before(until); {
		better = false
		for _, list := range []func(*simChoices) *[]uint32{
			func(x *simChoices) *[]uint32 { return &x.play },
			func(x *simChoices) *[]uint32 { return &x.more },
			func(x *simChoices) *[]uint32 { return &x.plan },
		} {
			better = shrinkList(&c, list, try, until) || better
		}
	}
	return c
}

// shrinkList cuts, zeroes and lowers pieces of one list, large ones first.
func shrinkList(c *simChoices, list func(*simChoices) *[]uint32, try func(simChoices) bool, until time.Time) (better bool) {
	accept := func(l []uint32) bool {
		x := *c
		*list(&x) = l
		if !try(x) {
			return false
		}
		*c, better = x, true
		return true
	}
	for size := len(*list(c)); size > 0; size /= 2 {
		for at := 0; at < len(*list(c)) && time.Now().Before(until); {
			l := *list(c)
			end := min(at+size, len(l))
			if accept(append(l[:at:at], l[end:]...)) {
				continue
			}
			if zeroed := zeroSim(l, at, end); zeroed != nil {
				accept(zeroed)
			}
			at = end
		}
	}
	for at := 0; at < len(*list(c)) && time.Now().Before(until); at++ {
		for l := *list(c); l[at] > 0; l = *list(c) {
			lower := append([]uint32(nil), l...)
			lower[at] /= 2
			if !accept(lower) {
				break
			}
		}
	}
	return better
}

// zeroSim is the list with zeros from at to end, or nil when it has them.
func zeroSim(l []uint32, at, end int) []uint32 {
	zeroed := append([]uint32(nil), l...)
	clear(zeroed[at:end])
	for i := at; i < end; i++ {
		if l[i] != 0 {
			return zeroed
		}
	}
	return nil
}
