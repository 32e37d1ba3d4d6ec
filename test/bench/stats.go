package main

import "slices"

// spread sums up the same measurement of several rounds.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Q1     float64 `json:"q1"`
	Q3     float64 `json:"q3"`
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"`
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	s := slices.Sorted(slices.Values(values))
	return spread{quantile(s, .5), s[0], quantile(s, .25), quantile(s, .75), s[len(s)-1], len(s)}
}

// quantile lies between the two nearest values, in proportion.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

// ratios divides what was measured in the same round: what the machine did
// meanwhile hit both.
func ratios(of, to map[int]float64) []float64 {
	var list []float64
	for round, v := range of {
		if base := to[round]; base > 0 {
			list = append(list, v/base)
		}
	}
	return list
}
