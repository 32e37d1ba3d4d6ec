package e2e

import "testing"

// What the README shows is compared by words; this is what may differ.
func TestPattern(t *testing.T) {
	shown := []string{"LINK  STATE", "6379  up   12  3m20s  1.5 kB  192.168.1.52:6379", "...", "172.17.0.5:41234 for 2.1s, (3 left): 900 B, v0.5.0"}
	same := "LINK   STATE\n6379   up  1  7s  120 kB  192.168.1.52:6379\n\nanything\n172.17.0.5:50002 for 310ms, (1 left): 1.2 kB, 7ed9a28-dirty\n"
	if p := pattern(shown); !p.MatchString(same) {
		t.Errorf("%s does not match\n%s", p, same)
	}
	for _, other := range []string{
		"LINK   STATE\n6379  down  1  7s  120 kB  192.168.1.52:6379\n172.17.0.5:50002 for 310ms, (1 left): 1.2 kB, 7ed9a28-dirty\n",
		"LINK   STATE\n6379  up  1  7s  120 kB  192.168.1.53:6379\n172.17.0.5:50002 for 310ms, (1 left): 1.2 kB, 7ed9a28-dirty\n",
		"LINK   STATE\n6379  up  1  7s  120 kB  192.168.1.52:6379\n172.17.0.6:50002 for 310ms, (1 left): 1.2 kB, 7ed9a28-dirty\n",
		"LINK   STATE\n5432  up  1  7s  120 kB  192.168.1.52:6379\n172.17.0.5:50002 for 310ms, (1 left): 1.2 kB, 7ed9a28-dirty\n",
		"LINK   STATE\n6379  up  1  7s  120 kB  192.168.1.52:6379\n172.17.0.5:50002 for 310ms, (1 left): 1.2 kB, 7ed9a28-dirty\nmore\n",
	} {
		if p := pattern(shown); p.MatchString(other) {
			t.Errorf("%s matches\n%s", p, other)
		}
	}
}
