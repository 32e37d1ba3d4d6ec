package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"legate/test/bench/load"
	"legate/test/bench/peers"
)

// cost is what a peer needs of one request in example, in nanoseconds.
type cost struct {
	peer      string
	cpu, busy time.Duration
}

// example has three rounds of the requests, the second twice as slow for all,
// and five of idle connections.
func example(costs ...cost) *result {
	list := rows(false, false)
	list = []row{list[0], list[len(list)-3]}
	list[0].Rounds = 3
	r := newResult(options{}, list)
	r.Commit = "abc1234"
	add := func(s sample) { r.Samples = append(r.Samples, s) }
	costs = append([]cost{{peers.Direct, 0, 1000}}, costs...)
	var all []peers.Peer
	for _, c := range costs {
		all = append(all, peers.Peer{Name: c.peer, Ours: strings.HasPrefix(c.peer, peers.Legate)})
		for round := 1; round <= 3; round++ {
			slow := time.Duration(1 + round%2)
			result := load.Result{Units: 1000, Wall: time.Second, P50: c.busy * slow, P99: c.busy * 2, P999: c.busy * 3}
			add(sample{Row: "requests", Peer: c.peer, Round: round, CPU: 1000 * c.cpu * slow, Busy: 1000 * c.busy * slow, Result: result})
		}
		for round := 1; round <= 5; round++ {
			add(sample{Row: "mem-idle", Peer: c.peer, Round: round, User: float64(c.cpu), Kernel: 100 + float64(c.busy)})
		}
	}
	r.complete(all)
	return r
}

func typical() *result {
	return example(cost{peers.Legate, 800, 2800}, cost{peers.HAProxy, 1500, 4000}, cost{peers.Tuned, 1000, 3000}, cost{peers.Nginx, 900, 3500})
}

func TestCells(t *testing.T) {
	c := typical().Cells["requests"][peers.Legate]
	for _, check := range []struct {
		name      string
		got, want float64
	}{
		{"own CPU of 100k", c.Values[own].Median, .16},
		{"machine without what it does without a proxy", c.Values[whole].Median, .36},
		{"to the better HAProxy", c.Ratios[own][haproxy].Median, .8},
		{"to nginx", c.Ratios[own][nginx].Median, 800. / 900},
		{"to the best, which here is nginx", c.Ratios[own][best].Median, 800. / 900},
		{"machine, to the best, which here is HAProxy", c.Ratios[whole][best].Median, .9},
		{"paired: the slow round changes nothing", c.Ratios[own][best].Max - c.Ratios[own][best].Min, 0},
	} {
		if math.Abs(check.got-check.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", check.name, check.got, check.want)
		}
	}
	idle := typical().Cells["mem-idle"][peers.Legate]
	if idle.Values[user].Median != 800 || idle.Values[kernel].Median != 1800 {
		t.Errorf("memory %+v", idle.Values)
	}
}

func outcomes(r *result) map[string]outcome {
	list := map[string]outcome{}
	for _, v := range r.Verdicts {
		list[strings.Join([]string{v.Row, string(v.Column), v.To}, " ")] = v.Outcome
	}
	return list
}

func TestTargets(t *testing.T) {
	got := outcomes(typical())
	for name, want := range map[string]outcome{
		"requests own haproxy": met, "requests own nginx": met, "requests machine haproxy": met,
		"mem-idle user ": met, "mem-idle kernel best": met,
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q: %v", name, got[name], want, got)
		}
	}
	got = outcomes(example(cost{peers.Legate, 1200, 3900}, cost{peers.HAProxy, 1200, 3900}))
	for name, want := range map[string]outcome{
		"requests own haproxy": missed, "requests own nginx": open, "mem-idle user ": missed, "mem-idle kernel best": met,
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q: %v", name, got[name], want, got)
		}
	}
}

// A little over the target is within what the harness can tell, and more is not.
func TestTarget_Tolerance(t *testing.T) {
	bound := target{Most: 1}
	for high, want := range map[float64]outcome{1.03: met, 1.04: missed} {
		s := typical().Cells["requests"][peers.Legate].Values[own]
		s.Low, s.High = .5, high
		if got, _ := bound.reach(s, 3); got != want {
			t.Errorf("%v: %v", high, got)
		}
		if got, why := bound.reach(s, 4); got != open || why == "" {
			t.Errorf("with too few rounds: %v", got)
		}
	}
}

func TestCalls_AreJudged(t *testing.T) {
	r := typical()
	r.Calls = []calls{
		{Peer: peers.Legate, Of: "requests", Each: 6.1}, {Peer: peers.Legate, Of: "churn", Each: 24},
		{Peer: peers.Nginx, Of: "requests", Each: 99},
	}
	got := r.judgeCalls()
	if len(got) != 2 || got[0].Outcome != missed || got[1].Outcome != met {
		t.Errorf("%+v", got)
	}
}

// Instead of a wrong number.
func TestNoise_TakesTheNumbers(t *testing.T) {
	r := typical()
	if len(r.lacking()) != 0 {
		t.Errorf("lacking %v", rowNames(r.lacking()))
	}
	for i, s := range r.Samples {
		r.Samples[i].Void = s.Row == "requests" && s.Round != 2
	}
	if got := rowNames(r.lacking()); len(got) != 1 || got[0] != "requests" {
		t.Errorf("lacking %v", got)
	}
	r.complete(nil)
	if values := r.Cells["requests"][peers.Legate].Values; len(values) != 0 {
		t.Errorf("numbers of a noisy machine: %+v", values)
	}
	if got := outcomes(r)["requests own haproxy"]; got != open {
		t.Errorf("judged %q", got)
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil || !strings.Contains(out.String(), "the machine is noisy: 1 of 3 rounds count") {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestLosses_DoNotCount(t *testing.T) {
	r := typical()
	for i, s := range r.Samples {
		if s.Peer == peers.Legate && s.Row == "requests" && s.Round == 1 {
			r.Samples[i].Lost = 1000
		}
	}
	r.complete(nil)
	if c := r.Cells["requests"][peers.Legate]; c.Values[own].Rounds != 2 || c.Lost != .5 {
		t.Errorf("%+v", c)
	}
}

// A round without a loss at the third try is one of a proxy that loses.
func TestRetries_AreTold(t *testing.T) {
	r := typical()
	for i, s := range r.Samples {
		if s.Peer == peers.Nginx && s.Row == "requests" {
			r.Samples[i].Tries = s.Round
		}
	}
	r.complete(nil)
	if c := r.Cells["requests"][peers.Nginx]; c.Retried != 2 || c.Rounds != 3 {
		t.Errorf("%+v", c)
	}
	var out bytes.Buffer
	if err := r.print(&out); err != nil || !strings.Contains(out.String(), "nginx: 1 of 3 rounds without a loss at the first try") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "legate: 3 of 3") {
		t.Error("it names who needed no second try")
	}
}

func TestSetRates_TakesTheSlowest(t *testing.T) {
	r := newResult(options{}, rows(false, false)[:2])
	for peer, units := range map[string]float64{"a": 5000, "b": 1000, "c": 3000} {
		r.maximum(sample{Row: "requests", Peer: peer, Result: load.Result{Units: units, Wall: time.Second}})
	}
	r.maximum(sample{Row: "requests", Peer: "broken", Error: "refused"})
	r.setRates()
	if len(r.Rows) != 2 || r.Rows[0].Shape.Rate != 500 || r.Rows[1].Shape.Rate != 200 {
		t.Errorf("%+v", r.Rows)
	}
}

func TestVerdict_IsAboutLegate(t *testing.T) {
	r := &result{Peers: []peerSum{{Peer: peers.HAProxy, Note: "not installed"}, {Peer: peers.Legate}}}
	r.Samples = []sample{{Peer: peers.Socat, Error: "slow"}}
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
	r.Samples[0].Peer = peers.Legate
	if r.verdict() == nil {
		t.Error("nobody hears that Legate fails in a row")
	}
	r.Samples, r.Peers[1].Note = nil, "it fails the gate"
	if r.verdict() == nil {
		t.Error("nobody hears that Legate fails the gate")
	}
}

func TestResult_Tables(t *testing.T) {
	var out bytes.Buffer
	if err := typical().print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"0.160", "0.89", "0.80", "0.90 of haproxy", "0.80 kB", "met"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestResult_Files(t *testing.T) {
	dir, r := t.TempDir(), typical()
	if err := r.write(dir, "run"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back result
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if got := back.Cells["requests"][peers.Legate].Ratios[own][haproxy]; math.Abs(got.Median-.8) > 1e-9 || got.Rounds != 3 {
		t.Errorf("the ratio is %+v", got)
	}
	if got := back.Samples[1]; got.Peer != peers.Direct || got.Units != 1000 {
		t.Errorf("the sample is %+v", got)
	}
	plot, err := os.ReadFile(filepath.Join(dir, "run.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(plot)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not XML: %v\n%s", err, plot)
		}
	}
	if n := bytes.Count(plot, []byte(`<rect class="`)); n != 1+2*4 {
		t.Errorf("%d bars:\n%s", n-1, plot)
	}
}

func TestPage_KeepsWhatPeopleWrote(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	r := typical()
	if err := r.writePage(file); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const words = "## Where a target is missed\n\nBecause.\n"
	page := strings.Replace(string(first), "## Where a target is missed\n", words, 1)
	if err := os.WriteFile(file, []byte("intro\n"+page), 0o644); err != nil {
		t.Fatal(err)
	}
	r.Commit = "def5678"
	if err := r.writePage(file); err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"intro\n", words, "def5678", "| requests | own CPU | 0.90 of haproxy | 0.80 |"} {
		if !strings.Contains(string(second), want) {
			t.Errorf("no %q in\n%s", want, second)
		}
	}
	if strings.Contains(string(second), "abc1234") {
		t.Error("the old part is still there")
	}
	if r.Part = partAgent; r.writePage(file) == nil {
		t.Error("the part of one measurement was overwritten by another")
	}
	if err := os.WriteFile(file, []byte("no such lines"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r.writePage(file) == nil {
		t.Error("a page without the lines was overwritten")
	}
}

func TestNeutral(t *testing.T) {
	for _, c := range []struct{ peer, command, want string }{
		{peers.HAProxy, "/usr/sbin/haproxy -db -f " + os.TempDir() + "/legate-bench-1/config-2/haproxy.cfg", "haproxy -db -f FILE"},
		{peers.Nginx, "/usr/sbin/nginx -c " + os.TempDir() + "/a/nginx.conf -p " + os.TempDir() + "/a", "nginx -c FILE -p DIR"},
		{peers.Go, "/root/.cache/x/bench relay 127.0.0.1:1 127.0.0.1:2", "bench relay 127.0.0.1:1 127.0.0.1:2"},
		{peers.Legate, "bin/legate run 127.0.0.1:1=127.0.0.1:2", "legate run 127.0.0.1:1=127.0.0.1:2"},
	} {
		if got := neutral(c.command, c.peer); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestParseStrace(t *testing.T) {
	const text = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.00    0.010000          10      1000           read
 40.00    0.005000           5       200        12 epoll_wait
------ ----------- ----------- --------- --------- ----------------
100.00    0.015000          12      1200        12 total
`
	got := parseStrace(text)
	if len(got) != 2 || got["read"] != 1000 || got["epoll_wait"] != 200 {
		t.Errorf("%v", got)
	}
}

func TestGibibytes(t *testing.T) {
	if got := gibibytes("24684092 kB"); got != "23.5 GiB" {
		t.Errorf("%q", got)
	}
}

// A page without a number would take the place of one with numbers.
func TestSave_KeepsThePageWhenNothingCounts(t *testing.T) {
	t.Chdir(t.TempDir())
	r := typical()
	for i := range r.Samples {
		r.Samples[i].Void = true
	}
	if err := r.save(io.Discard, options{Write: true}); err == nil || !strings.Contains(err.Error(), "noisy") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(docsDir); err == nil {
		t.Error("it was written")
	}
	if err := typical().save(io.Discard, options{Write: true}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(docsDir, docsName+".md")); err != nil {
		t.Error(err)
	}
}

func TestSystem(t *testing.T) {
	if got := system("NAME=x\nPRETTY_NAME=\"Some Linux 12\"\n"); got != "Some Linux 12" {
		t.Errorf("%q", got)
	}
}
