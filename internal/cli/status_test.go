package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"legate/internal/spec"
)

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                   "0s",
		999 * time.Millisecond:         "0s",
		59 * time.Second:               "59s",
		61 * time.Second:               "1m 1s",
		12*time.Minute + 5*time.Second: "12m",
		3 * time.Hour:                  "3h",
		26 * time.Hour:                 "1d 2h",
		400 * 24 * time.Hour:           "400d",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) is %q, want %q", d, got, want)
		}
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 999: "999 B", 1000: "1.0 kB", 9949: "9.9 kB", 9999: "10 kB",
		999_499: "999 kB", 999_500: "1.0 MB", 34_100_000: "34 MB", 4 << 30: "4.3 GB", 1<<64 - 1: "18 EB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) is %q, want %q", n, got, want)
		}
	}
}

// What somebody who was woken up reads.
func TestReport_SaysWhatIsWrongBelowTheTable(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	var out bytes.Buffer
	err := report{&out, now}.snapshot(spec.Snapshot{
		Instance: "legate", Version: "1.2", PID: 7, Started: *ago(49 * time.Hour),
		Links: []spec.LinkStatus{{
			Name: "db", Listen: "5432", Target: "db1:5432,db2:5432", State: spec.StateHolding, Since: ago(90 * time.Second),
			Override: &spec.Override{Target: "db1:5432,db2:5432", Base: "5432=db0:5432;name=db", When: *ago(3 * time.Minute)},
			Error:    "look up db2: no such name",
			Counters: spec.LinkCounters{
				Current: 2, Total: 120, Held: 2, HeldTotal: 5, Abandoned: 1, BytesIn: 12_345, BytesOut: 678,
				Failed: map[string]int64{"refused": 3, "timeout": 1},
			},
			Endpoints: []spec.EndpointStatus{
				{Address: "10.0.0.1:5432", From: "db1:5432", Health: spec.HealthEjected, LastError: "connection refused", LastTried: ago(time.Second), Total: 110, Failed: map[string]int64{"refused": 3}},
				{Address: "10.0.0.2:5432", From: "db2:5432", Health: spec.HealthUnknown},
			},
		}},
		Warnings: []string{"variable X is not a link"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `legate 1.2, pid 7, started 2d 1h ago

LINK             STATE      CURRENT  TOTAL  FAILED  IN     OUT    TARGET
db               holding    2        120    4       12 kB  678 B  db1:5432,db2:5432
  10.0.0.1:5432  ejected    0        110    3       0 B    0 B      db1:5432
  10.0.0.2:5432  not tried  0        0      0       0 B    0 B      db2:5432

db: swapped 3m ago, configured: 5432=db0:5432;name=db
db: down for 1m 30s
db: look up db2: no such name
db: 2 wait now, 5 waited so far, 1 gave up
db: 3 reset: the endpoint refused it; 1 reset: the endpoint did not answer
db: 10.0.0.1:5432: connection refused, 1s ago
warning: variable X is not a link
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

// What is over and went well is no news.
func TestNotes_OfHeldConnections(t *testing.T) {
	for want, c := range map[string]spec.LinkCounters{
		"":                              {HeldTotal: 3},
		"x: 3 waited so far, 1 gave up": {HeldTotal: 3, Abandoned: 1},
		"x: 1 wait now, 1 waited so far, 0 gave up": {Held: 1, HeldTotal: 1},
		"x: 2 reset: no endpoint in time":           {HeldTotal: 2, Failed: map[string]int64{"down": 2, "refused": 0}},
	} {
		l := spec.LinkStatus{Name: "x", Listen: "80", State: spec.StateUp, Counters: c}
		if got := strings.Join(report{}.notes(l), "\n"); got != want {
			t.Errorf("%+v: got %q, want %q", c, got, want)
		}
	}
}

func TestOpenToAll_WarnsOnceWithTheLoopbackForm(t *testing.T) {
	links, err := spec.ParseLinks([]string{"6379=redis:6379", "*:80=web:80", "127.0.0.1:81=web:81", "53/udp=10.0.0.2", "8000-8001=web:8000-8001"},
		spec.ParseConfig{Options: spec.DefaultOptions()})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"6379=redis:6379 53/udp=10.0.0.2 8000-8001=web:8000-8001 listens on every address of this machine; " +
		"for this machine only: legate 127.0.0.1:6379=redis:6379 127.0.0.1:53/udp=10.0.0.2 127.0.0.1:8000-8001=web:8000-8001 (or --bind 127.0.0.1)"}
	if d := cmp.Diff(want, openToAll(links)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
