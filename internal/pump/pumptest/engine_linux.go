package pumptest

import (
	"maps"
	"slices"
	"testing"
)

// Engine runs what has no direct equal.
func Engine(t *testing.T, newEngine New) {
	for _, group := range []map[string]func(*testing.T, New){
		connecting, closingEarly, parking, prefacing, ending, parting, accepting, carrying, vanishing, confined,
	} {
		runGroup(t, group, newEngine)
	}
}

func runGroup(t *testing.T, group map[string]func(*testing.T, New), newEngine New) {
	for _, name := range slices.Sorted(maps.Keys(group)) {
		t.Run(name, func(t *testing.T) { group[name](t, newEngine) })
	}
}
