package spec

import "strings"

// Suggest gives the word of a list that a misspelt one most likely means: the
// nearest with about a quarter of its letters wrong, else the first that has
// the word in it. "" when there is none.
func Suggest(word string, among []string) string {
	best, distance := "", len(word)/4+2
	for _, candidate := range among {
		if d := editDistance(word, candidate); d < distance {
			best, distance = candidate, d
		}
	}
	for _, candidate := range among {
		if best == "" && len(word) > 3 && strings.Contains(candidate, word) {
			return candidate
		}
	}
	return best
}

// editDistance counts the letters to insert, remove, replace or swap with
// their neighbour (optimal string alignment).
func editDistance(a, b string) int {
	before, last, now := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			now[j] = min(now[j-1]+1, last[j]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		before, last, now = last, now, before
	}
	return last[len(b)]
}
