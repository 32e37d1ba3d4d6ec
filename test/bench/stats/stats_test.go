package stats

import (
	"math"
	"slices"
	"testing"
)

func TestOver(t *testing.T) {
	s := Over([]float64{4, 1, 2, 3})
	if s.Median != 2.5 || s.Min != 1 || s.Max != 4 || s.Rounds != 4 {
		t.Errorf("%+v", s)
	}
	if one := Over([]float64{7}); one != (Spread{7, 7, 7, 7, 7, 1}) {
		t.Errorf("%+v", one)
	}
	if none := Over(nil); none != (Spread{}) {
		t.Errorf("%+v", none)
	}
}

func TestQuantile(t *testing.T) {
	if got := Quantile([]float64{1, 2, 3, 4}, .25); got != 1.75 {
		t.Errorf("%v", got)
	}
}

// The second round was twice as slow for all: paired, that changes nothing.
func TestRatios_ArePairedByRound(t *testing.T) {
	got := Ratios(map[int]float64{1: 3, 2: 6, 3: 5, 5: 1}, map[int]float64{1: 2, 2: 4, 4: 1, 5: 0})
	if !slices.Equal(got, []float64{1.5, 1.5}) {
		t.Errorf("got %v", got)
	}
}

func TestInterval(t *testing.T) {
	same := []float64{2, 2, 2, 2}
	if low, high := Interval(same); low != 2 || high != 2 {
		t.Errorf("%v..%v", low, high)
	}
	// Of 11 values the median's interval leaves out one or two on each side:
	// by the binomial distribution, the second or third counts.
	values := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	low, high := Interval(values)
	if low < 2 || low > 4 || high < 8 || high > 10 {
		t.Errorf("%v..%v", low, high)
	}
	again, _ := Interval(values)
	if again != low {
		t.Errorf("%v, and then %v", low, again)
	}
	// An outlier does not move it far.
	values[10] = 1e6
	if _, high := Interval(values); high > 10 {
		t.Errorf("the outlier is in it: %v", high)
	}
	if low, high := Interval(nil); low != 0 || high != 0 || math.IsNaN(low) {
		t.Errorf("%v..%v", low, high)
	}
}
