package cli

import (
	"bytes"
	"fmt"
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
	snapshot := spec.Snapshot{
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
				{Address: "10.0.0.1:5432", From: "db1:5432", Weight: 1, Health: spec.HealthEjected, Since: ago(90 * time.Second), LastError: "connection refused", LastTried: ago(time.Second), Total: 110, Failed: map[string]int64{"refused": 3}, ConnectMS: 0.42},
				{Address: "10.0.0.2:5432", From: "db2:5432", Weight: 1, Health: spec.HealthUnknown},
			},
		}, {
			Name: "web", Listen: "80", Target: "web:80", State: spec.StatePaused, Mode: &spec.Override{Kind: spec.OverridePause, When: *ago(20 * time.Second)},
			Endpoints: []spec.EndpointStatus{
				{Address: "10.0.0.3:80", From: "web:80", Weight: 2, Near: true, Health: spec.HealthOK, Since: ago(time.Hour), Current: 3},
				{Address: "10.0.0.4:80", From: "web:80", Weight: 1, Health: spec.HealthDrained, Drained: &spec.Override{When: *ago(time.Minute)}},
			},
		}, {
			Name: "cache", Listen: "6379", Target: "10.0.0.5:6379", State: spec.StateDown, Since: ago(123 * time.Second),
		}},
		Warnings: []string{"variable X is not a link"},
	}
	for full, want := range map[bool]string{false: `legate 1.2, pid 7, started 2d 1h ago

LINK   STATE       NOW  TOTAL  FAILED  ENDPOINTS               TARGET
db     holding 2   2    120    4       1 not tried, 1 ejected  db1:5432,db2:5432
  swapped 3m ago, configured: 5432=db0:5432;name=db
  down for 1m 30s
  look up db2: no such name
  2 wait now, 5 waited so far, 1 gave up
  3 reset: the endpoint refused it; 1 reset: the endpoint did not answer
  10.0.0.1:5432 ejected 1m 30s: connection refused, 1s ago
web    paused 20s  0    0      0       1 ok, 1 drained         web:80
  paused 20s ago; end it: legate resume web
  10.0.0.4:80 drained 1m ago; end it: legate resume 10.0.0.4:80
cache  down 2m 3s  0    0      0       none                    10.0.0.5:6379

warning: variable X is not a link
`, true: `legate 1.2, pid 7, started 2d 1h ago

LINK   STATE       NOW  TOTAL  FAILED  ENDPOINTS               TARGET
db     holding 2   2    120    4       1 not tried, 1 ejected  db1:5432,db2:5432
  swapped 3m ago, configured: 5432=db0:5432;name=db
  down for 1m 30s
  look up db2: no such name
  2 wait now, 5 waited so far, 1 gave up
  3 reset: the endpoint refused it; 1 reset: the endpoint did not answer
  10.0.0.1:5432 ejected 1m 30s: connection refused, 1s ago
    ENDPOINT       HEALTH          NOW  TOTAL  FAILED  IN   OUT  CONNECT
    10.0.0.1:5432  ejected 1m 30s  0    110    3       0 B  0 B  0.4 ms   of db1:5432
    10.0.0.2:5432  not tried       0    0      0       0 B  0 B  -        of db2:5432
web    paused 20s  0    0      0       1 ok, 1 drained         web:80
  paused 20s ago; end it: legate resume web
  10.0.0.4:80 drained 1m ago; end it: legate resume 10.0.0.4:80
    ENDPOINT     HEALTH   NOW  TOTAL  FAILED  IN   OUT  CONNECT
    10.0.0.3:80  ok 1h    3    0      0       0 B  0 B  -        near, weight 2
    10.0.0.4:80  drained  0    0      0       0 B  0 B  -        drained 1m ago
cache  down 2m 3s  0    0      0       none                    10.0.0.5:6379

warning: variable X is not a link
`} {
		var out bytes.Buffer
		if err := (report{&out, now, full, ""}).snapshot(snapshot); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, out.String()); d != "" {
			t.Errorf("full %v (-want +got)\n%s", full, d)
		}
	}
}

func TestReport_NamesOnlySomeOfManySickEndpoints(t *testing.T) {
	l := spec.LinkStatus{Name: "web", Listen: "80"}
	for i := range 8 {
		l.Endpoints = append(l.Endpoints, spec.EndpointStatus{Address: fmt.Sprintf("10.0.0.%d:80", i), Health: spec.HealthUnhealthy, LastError: "HTTP status 503"})
	}
	got := report{}.notes(l)
	if len(got) != maxSick+1 || got[0] != "10.0.0.0:80 unhealthy: HTTP status 503" || got[maxSick] != "and 3 more: legate status web" {
		t.Errorf("folded: %q", got)
	}
	if got := (report{full: true}).notes(l); len(got) != 8 {
		t.Errorf("in full: %q", got)
	}
}

// What is over and went well is no news.
func TestNotes_OfHeldConnections(t *testing.T) {
	for want, c := range map[string]spec.LinkCounters{
		"":                                       {HeldTotal: 3},
		"3 waited so far, 1 gave up":             {HeldTotal: 3, Abandoned: 1},
		"1 wait now, 1 waited so far, 0 gave up": {Held: 1, HeldTotal: 1},
		"2 reset: no endpoint in time":           {HeldTotal: 2, Failed: map[string]int64{"down": 2, "refused": 0}},
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

// What is typed instead must not lose what was asked for.
func TestOpenToAll_KeepsOptions(t *testing.T) {
	links := doctorLinks(t, "10.9.0.1:6379;hold=3s;name=db")
	got := strings.Join(openToAll(links), "\n")
	if want := "for this machine only: legate '127.0.0.1:6379=10.9.0.1:6379;hold=3s;name=db' (or"; !strings.Contains(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestReport_NamesAnEndpointThatClosesEarly(t *testing.T) {
	now := time.Now()
	since := now.Add(-3 * time.Second)
	got := shown(t, now, spec.LinkStatus{
		Name: "db", State: spec.StateUp, Target: "10.0.0.1:5432",
		Counters: spec.LinkCounters{Total: 2, Failed: map[string]int64{"closed": 2}},
		Endpoints: []spec.EndpointStatus{
			{Address: "10.0.0.1:5432", Health: spec.HealthClosing, Since: &since, LastError: "closed its last 2 connections at once"},
		},
	})
	for _, want := range []string{
		"db    up     0    2      2       1 closes early  10.0.0.1:5432",
		"  2 ended: the endpoint closed it at once",
		"  10.0.0.1:5432 closes early 3s: closed its last 2 connections at once",
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("got\n%s\nwant %q", got, want)
		}
	}
}

// shown is what status says of one link.
func shown(t *testing.T, now time.Time, l spec.LinkStatus) string {
	t.Helper()
	var b bytes.Buffer
	r := report{w: &b, now: now}
	if err := r.snapshot(spec.Snapshot{Instance: "legate", Links: []spec.LinkStatus{l}}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestReport_SaysWhyALinkServesNobody(t *testing.T) {
	now := time.Now()
	asked := now.Add(-time.Second)
	standby := spec.EndpointStatus{Address: "10.0.0.1:6379", Health: spec.HealthStandby, LastError: "role is master, not replica", CheckedAt: &asked}
	const reason = "10.0.0.1:6379 standby: role is master, not replica, 1s ago"
	for state, want := range map[spec.LinkState]bool{spec.StateDown: true, spec.StateHolding: true, spec.StateUp: false} {
		if got := shown(t, now, spec.LinkStatus{State: state, Endpoints: []spec.EndpointStatus{standby}}); strings.Contains(got, reason) != want {
			t.Errorf("%s: got\n%s", state, got)
		}
	}
	asking := spec.LinkStatus{State: spec.StateHolding, Sources: []spec.SourceStatus{{Target: "db.test:1", Source: "dns"}}}
	if got := shown(t, now, asking); !strings.Contains(got, "  db.test:1: dns, 0 endpoints, no answer yet\n") {
		t.Errorf("got\n%s", got)
	}
	got := shown(t, now, spec.LinkStatus{State: spec.StateUp, Full: true, Counters: spec.LinkCounters{Held: 1, HeldTotal: 1}})
	if !strings.Contains(got, "1 wait now since every endpoint has as many as it may (endpoint-connections), 1 waited so far") {
		t.Errorf("got\n%s", got)
	}
}

func TestReport_SaysWhatBecomesOfOthersAtTheLimit(t *testing.T) {
	at := spec.LinkStatus{Listen: "6379", State: spec.StateUp, Limit: 3, Counters: spec.LinkCounters{Current: 3}}
	udp, drained, below := at, at, at
	udp.Listen, drained.State, below.Counters.Current = "53/udp", spec.StateDrained, 2
	for _, c := range []struct {
		link spec.LinkStatus
		want string
	}{
		{at, "  the limit of 3 connections is reached; others wait in the listen queue\n"},
		{udp, "  the limit of 3 sessions is reached; the datagrams of others are dropped\n"},
		{drained, ""},
		{below, ""},
	} {
		got := shown(t, time.Now(), c.link)
		if c.want == "" && strings.Contains(got, "limit") || !strings.Contains(got, c.want) {
			t.Errorf("want %q, got\n%s", c.want, got)
		}
	}
}
