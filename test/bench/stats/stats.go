// Package stats sums up repeated measurements: spreads, ratios that are paired
// by round, and how sure one can be of them.
package stats

import (
	"math/rand/v2"
	"slices"
)

// Spread sums up the same measurement of several rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	// Low and High bound the median with 95 % confidence, see [Interval].
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Rounds int     `json:"rounds"`
}

// Over returns the spread of values, in any order; the zero Spread of none.
func Over(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	s := slices.Sorted(slices.Values(values))
	low, high := Interval(s)
	return Spread{Quantile(s, .5), s[0], s[len(s)-1], low, high, len(s)}
}

// Median returns that of values in any order; 0 of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return Quantile(slices.Sorted(slices.Values(values)), .5)
}

// Quantile lies between the two nearest values, in proportion. It needs at
// least one.
func Quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

const resamples = 2_000

// Interval is the 95 % bootstrap interval of the median (Efron's percentile
// method). The same values give the same interval: the seed is fixed, for two
// people who look at one result must not see two verdicts.
func Interval(values []float64) (low, high float64) {
	if len(values) == 0 {
		return 0, 0
	}
	random := rand.New(rand.NewPCG(1, 2))
	medians, draw := make([]float64, resamples), make([]float64, len(values))
	for i := range medians {
		for j := range draw {
			draw[j] = values[random.IntN(len(values))]
		}
		slices.Sort(draw)
		medians[i] = Quantile(draw, .5)
	}
	slices.Sort(medians)
	return Quantile(medians, .025), Quantile(medians, .975)
}

// Ratios divides what was measured in the same round: what the machine did
// meanwhile hit both. Rounds that only one has are left out, and so are those
// whose divisor is not positive.
func Ratios(of, to map[int]float64) []float64 {
	var list []float64
	for round, v := range of {
		if base := to[round]; base > 0 {
			list = append(list, v/base)
		}
	}
	slices.Sort(list)
	return list
}
