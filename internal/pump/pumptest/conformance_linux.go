package pumptest

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"legate/internal/pump"
	"legate/internal/testnet"
)

// directRuns must agree before a schedule says anything about an engine.
const directRuns = 5

// pair is the networks of the two sides.
type pair struct {
	name, client, endpoint string
	retry                  bool
}

var pairs = []pair{
	{name: "tcp-tcp", client: "tcp4", endpoint: "tcp4"},
	{name: "tcp6-tcp6", client: "tcp6", endpoint: "tcp6"},
	{name: "tcp-tcp6", client: "tcp4", endpoint: "tcp6"},
	{name: "tcp6-tcp", client: "tcp6", endpoint: "tcp4"},
	{name: "tcp-unix", client: "tcp4", endpoint: "unix"},
	{name: "unix-tcp", client: "unix", endpoint: "tcp4"},
	{name: "unix-unix", client: "unix", endpoint: "unix"},
}

// Conformance runs every schedule between every pair of networks, without and
// with [pump.Step.Retry]: looking for an early close must not change what comes
// later.
func Conformance(t *testing.T, newEngine New) {
	direct := make(directViews)
	for _, p := range pairs {
		t.Run(p.name, func(t *testing.T) { direct.compareAll(t, newEngine, p, schedules()) })
		if strings.Contains(p.name, "6") {
			continue // the version of IP changes nothing about the retry, only the time that this takes
		}
		p.retry = true
		t.Run(p.name+"-retry", func(t *testing.T) { direct.compareAll(t, newEngine, p, lateCloses(schedules())) })
	}
}

func (d directViews) compareAll(t *testing.T, newEngine New, p pair, all []schedule) {
	for _, s := range all {
		if s.possible(p) {
			t.Run(s.name, func(t *testing.T) { d.compare(t, newEngine, p, s) })
		}
	}
}

// lateCloses has endpoints that would close early do so a little later, when
// that is their answer.
func lateCloses(all []schedule) []schedule {
	for i := range all {
		if s := &all[i]; closesFirst(s.endpoint) {
			s.endpoint = append(steps{testnet.Pause(pump.EarlyClose + 100*time.Millisecond)}, s.endpoint...)
		}
	}
	return all
}

// closesFirst tells whether the first that the other side hears is the end.
func closesFirst(all []testnet.Step) bool {
	for _, s := range all {
		switch text := s.String(); {
		case strings.HasPrefix(text, "tell "), strings.HasPrefix(text, "after "):
		default:
			return slices.Contains([]string{testnet.Close().String(), testnet.HalfClose().String(), testnet.Reset().String()}, text)
		}
	}
	return false
}

// schedule is what the two sides do, and the cause that the engine must report.
type schedule struct {
	name     string
	client   []testnet.Step
	endpoint []testnet.Step
	cause    pump.Cause
}

// possible says no where a unix socket would have to reset: that would be an
// ordinary close there, and another schedule.
func (s schedule) possible(p pair) bool {
	return (p.client != "unix" || !resets(s.client)) && (p.endpoint != "unix" || !resets(s.endpoint))
}

func resets(steps []testnet.Step) bool {
	return slices.ContainsFunc(steps, func(s testnet.Step) bool { return s.String() == testnet.Reset().String() })
}

// views is what the two sides saw.
type views struct{ client, endpoint []string }

// directViews is what each schedule leads to without a proxy, by network and
// name: it is found out once.
type directViews map[[2]string]views

func (d directViews) compare(t *testing.T, newEngine New, p pair, s schedule) {
	want := views{
		client:   translate(d.of(t, p.client, s).client, p.client),
		endpoint: translate(d.of(t, p.endpoint, s).endpoint, p.endpoint),
	}
	got := through(t, newEngine, p, s)
	got.client, got.endpoint = translate(got.client, p.client), translate(got.endpoint, p.endpoint)
	if !slices.Equal(got.client, want.client) {
		t.Errorf("the client saw\n\t%s\nand directly\n\t%s", strings.Join(got.client, ", "), strings.Join(want.client, ", "))
	}
	if !slices.Equal(got.endpoint, want.endpoint) {
		t.Errorf("the endpoint saw\n\t%s\nand directly\n\t%s", strings.Join(got.endpoint, ", "), strings.Join(want.endpoint, ", "))
	}
}

// translate is a side's view in the words that an engine can repeat: a unix
// peer cannot be reset from outside, it gets an end of file.
func translate(saw []string, network string) []string {
	if network != "unix" {
		return saw
	}
	out := slices.Clone(saw)
	for i, s := range out {
		if s == "end "+testnet.RESET {
			out[i] = "end " + testnet.EOF
		}
		if strings.HasPrefix(s, "send fails") {
			out[i] = "send fails"
		}
	}
	return out
}

// of plays the schedule without a proxy, as often as it takes to trust it.
func (d directViews) of(t *testing.T, network string, s schedule) views {
	t.Helper()
	key := [2]string{network, s.name}
	if v, ok := d[key]; ok {
		return v
	}
	var runs [directRuns]views
	var errs [directRuns]error
	var all sync.WaitGroup
	for i := range runs {
		server := testnet.Listen(t, network)
		all.Go(func() { runs[i], errs[i] = play(s, server.String(), server, func() {}) })
	}
	all.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatalf("directly: %v", err)
	}
	for _, v := range runs {
		if !slices.Equal(runs[0].client, v.client) || !slices.Equal(runs[0].endpoint, v.endpoint) {
			t.Fatalf("directly it is not the same each time:\n\t%v\n\t%v", runs[0], v)
		}
	}
	d[key] = runs[0]
	return runs[0]
}

// through plays it once with the engine between the two sides.
func through(t *testing.T, newEngine New, p pair, s schedule) views {
	t.Helper()
	server := testnet.Listen(t, p.endpoint)
	r := start(t, newEngine, setup{network: p.client}, inTurn(fixed(pump.Step{Dial: []pump.Leg{to(server)}, Retry: p.retry})))
	v, err := play(s, r.addr, server, func() { r.isConnected(1) })
	if err != nil {
		t.Fatal(err)
	}
	r.endedWith(1, s.cause)
	return v
}

// play runs the schedule once the two sides are connected and ready returned:
// the kernel completes a connect before the one who asked for it hears of it.
func play(s schedule, addr string, server *testnet.Server, ready func()) (views, error) {
	c, err := testnet.DialErr(addr)
	if err != nil {
		return views{}, err
	}
	e, err := server.AcceptErr()
	if err != nil {
		c.Close()
		return views{}, err
	}
	ready()
	signals := new(testnet.Signals)
	client, endpoint := testnet.NewPeer("client", c, signals), testnet.NewPeer("endpoint", e, signals)
	err = testnet.PlayErr(testnet.Part{Peer: client, Steps: s.client}, testnet.Part{Peer: endpoint, Steps: s.endpoint})
	return views{client.Saw(), endpoint.Saw()}, err
}
