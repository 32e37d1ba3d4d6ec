package pumptest

import "testing"

// Engine runs what has no direct equal.
func Engine(t *testing.T, newEngine New) {
	for _, group := range []map[string]func(*testing.T, New){
		connecting, closingEarly, parking, ending, accepting, carrying, vanishing, confined,
	} {
		for name, test := range group {
			t.Run(name, func(t *testing.T) { test(t, newEngine) })
		}
	}
}
