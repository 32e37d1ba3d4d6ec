package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"legate/internal/spec"
)

// What somebody who was woken up reads.
func TestExplanation_IsReadable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	var out bytes.Buffer
	err := explanation{spec.Explanation{
		Link: "db", Listen: "127.0.0.1:5432", Caller: "192.168.1.7", State: spec.StateDegraded,
		Rule:     "link db, given as an argument, has every caller of 127.0.0.1:5432",
		Target:   "db1:5432,10.0.0.9:5432",
		Override: &spec.Override{Kind: spec.OverrideSwap, Base: "5432=db0:5432;name=db", When: *ago(3 * time.Minute)},
		Mode:     &spec.Override{Kind: spec.OverridePause, When: *ago(20 * time.Second)},
		Sources: []spec.SourceStatus{
			{Target: "db1:5432", Source: "dns", Endpoints: 2, Learned: ago(90 * time.Second), Error: "look up db1: the server does not answer", Weak: 2},
			{Target: "10.0.0.9:5432", Source: "fixed", Endpoints: 1, Learned: ago(time.Hour)},
		},
		Endpoints: []spec.EndpointStatus{
			{Address: "10.0.0.1:5432", Health: spec.HealthOK, Since: ago(3 * time.Hour), Load: 12, ConnectMS: 0.42, Weight: 1, Near: true, Check: "postgres, role primary"},
			{Address: "10.0.0.2:5432", Health: spec.HealthUnhealthy, Since: ago(182 * time.Second), ConnectMS: 12, Weight: 5, Priority: 1, LastError: "role is standby, not primary", LastTried: ago(time.Second)},
			{Address: "10.0.0.9:5432", Health: spec.HealthEjected, Weight: 1, Ejected: ago(-3 * time.Second), Drained: &spec.Override{When: *ago(time.Minute)}},
		},
		Chosen:   "10.0.0.1:5432",
		Verdict:  "the connection waits, since the link is paused; then it goes to 10.0.0.1:5432, and to the next one where that does not answer",
		Notes:    []string{"10.0.0.9:5432 closes every connection at once"},
		Attempts: []spec.AttemptStatus{{Address: "10.0.0.2:5432", Error: "connection refused", Millis: 0.21}, {Address: "10.0.0.1:5432", Connected: true, Millis: 35}},
	}, now, ""}.write(&out)
	if err != nil {
		t.Fatal(err)
	}
	want := `caller    192.168.1.7
link      db, on 127.0.0.1:5432: degraded
          paused 20s ago; end it: legate resume db
rule      link db, given as an argument, has every caller of 127.0.0.1:5432
target    db1:5432,10.0.0.9:5432
          swapped 3m ago, configured: 5432=db0:5432;name=db
source    db1:5432: dns, 2 endpoints, learned 1m 30s ago; look up db1: the server does not
          answer; 2 of them in doubt
source    10.0.0.9:5432: fixed, as written

    ENDPOINT       HEALTH           LOAD  CONNECT
->  10.0.0.1:5432  ok 3h            12    0.4 ms   near, check postgres, role primary
    10.0.0.2:5432  unhealthy 3m 2s  0     12 ms    priority 1, weight 5
      last error 1s ago: role is standby, not primary
    10.0.0.9:5432  ejected          0     -        drained 1m ago, tried last for 3s

verdict   the connection waits, since the link is paused; then it goes to 10.0.0.1:5432, and to
          the next one where that does not answer
note      10.0.0.9:5432 closes every connection at once

attempt   10.0.0.2:5432  0.2 ms  connection refused
attempt   10.0.0.1:5432  35 ms   connected
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	for _, line := range strings.Split(out.String(), "\n") {
		if len(line) > 100 {
			t.Errorf("a line has %d characters: %s", len(line), line)
		}
	}
}

func TestWrap_BreaksAtSpaces(t *testing.T) {
	for text, want := range map[string][]string{
		"":                    {""},
		"one two three":       {"one two", "three"},
		"averyveryverylong a": {"averyveryverylong", "a"},
	} {
		if d := cmp.Diff(want, wrap(text, 8)); d != "" {
			t.Errorf("%q (-want +got)\n%s", text, d)
		}
	}
}
