package pump

import "math/rand/v2"

// simDraws is where every choice of a simulation comes from. What was drawn is
// kept, so that it can be played again, cut shorter and made smaller: whatever
// list of numbers is played is a valid simulation, and 0 is always the plainest
// choice.
type simDraws struct {
	rng  *rand.Rand // nil when a list is played: past its end all is 0
	list []uint32
	pos  int
}

func newSimDraws(seed uint64, stream uint64) *simDraws {
	return &simDraws{rng: rand.New(rand.NewPCG(seed, stream))}
}

func playSimDraws(list []uint32) *simDraws { return &simDraws{list: list} }

// n draws one of 0..choices-1.
func (d *simDraws) n(choices int) int {
	if choices <= 1 {
		return 0
	}
	if d.rng != nil {
		v := d.rng.IntN(choices)
		d.list = append(d.list, uint32(v))
		d.pos++
		return v
	}
	if d.pos >= len(d.list) {
		d.pos++
		return 0
	}
	v := int(d.list[d.pos]) % choices
	d.pos++
	return v
}

// chance is true in so many percent of cases; the plain choice is false.
func (d *simDraws) chance(percent int) bool {
	return percent > 0 && d.n(100) >= 100-percent
}

// pick draws one of the values, of which the first is the plainest.
func simPick[T any](d *simDraws, values ...T) T { return values[d.n(len(values))] }

// used is the part of the list that was looked at.
func (d *simDraws) used() []uint32 { return d.list[:min(d.pos, len(d.list))] }
