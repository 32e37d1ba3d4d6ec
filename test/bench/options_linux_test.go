package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"legate/test/bench/load"
	"legate/test/bench/peers"
)

func env(list map[string]string) func(string) string {
	return func(name string) string { return list[name] }
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want options
	}{
		{nil, options{Limit: defaultLimit}},
		{map[string]string{"QUICK": "0"}, options{Limit: defaultLimit}},
		{map[string]string{"QUICK": "1"}, options{Limit: defaultLimit, Rounds: quickRounds, Quick: true}},
		{map[string]string{"FULL": "1", "WRITE": "1"}, options{Limit: fullLimit, Full: true, Write: true}},
		{map[string]string{"ROUNDS": "9", "COMPARE": "main"}, options{Limit: defaultLimit, Rounds: 9, Compare: "main"}},
		{map[string]string{"ONLY": "churn,legate,nginx"}, options{Limit: defaultLimit, Rows: []string{"churn"}, Peers: []string{"legate", "nginx"}}},
	} {
		if got, err := optionsFrom(env(c.env), knownNames); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %+v, %v; want %+v", c.env, got, err, c.want)
		}
	}
	for name, bad := range map[string]string{"ROUNDS": "0", "LIMIT": "soon", "QUICK": "yes", "FULL": "2", "WRITE": "x", "ONLY": "envoy"} {
		if _, err := optionsFrom(env(map[string]string{name: bad}), knownNames); err == nil || !strings.Contains(err.Error(), name+"="+bad) {
			t.Errorf("%s=%s: error %v", name, bad, err)
		}
	}
	if _, err := optionsFrom(env(map[string]string{"QUICK": "1", "WRITE": "1"}), knownNames); err == nil {
		t.Error("quick numbers would be written into the documentation")
	}
}

func TestOptions_FullHasMoreRows(t *testing.T) {
	if _, err := optionsFrom(env(map[string]string{"ONLY": "churn-80"}), knownNames); err == nil {
		t.Error("churn-80 is a row without FULL=1")
	}
	if _, err := optionsFrom(env(map[string]string{"ONLY": "churn-80", "FULL": "1"}), knownNames); err != nil {
		t.Error(err)
	}
}

func TestRows_AreTheTable(t *testing.T) {
	usual := rowNames(rows(false, false))
	for _, target := range targets() {
		if !slices.Contains(slices.Concat(usual, rowNames(bridgeRows(false))), target.Row) {
			t.Errorf("target %+v has no row", target)
		}
	}
	full := rows(true, false)
	for _, r := range full {
		if r.Like != "" && !slices.Contains(usual, r.Like) {
			t.Errorf("%s has the rate of %s, which is no row", r.Name, r.Like)
		}
		if r.Shape.Mode != load.Churn && r.Shape.Depth == 0 && r.Kind == kindLoad {
			t.Errorf("%s never sends", r.Name)
		}
	}
	for _, name := range []string{"requests-20", "churn-20", "upload-max", "gso-64-80", "latency-1-max"} {
		if !slices.Contains(rowNames(full), name) {
			t.Errorf("%s is not in %v", name, rowNames(full))
		}
	}
}

// Every row of every round of the usual table, with what stands around it, must
// fit into its limit.
func TestRows_FitIntoTheLimit(t *testing.T) {
	all, few := 0, 0
	for _, p := range peers.List(peers.Config{}) {
		if all++; p.Seldom {
			few++
		}
	}
	var sum time.Duration
	for _, r := range rows(false, false) {
		at := r.Shape.Time + 100*time.Millisecond
		cells := r.Rounds*(all-few) + (r.Rounds+1)/2*few
		if r.Kind == kindUDP {
			cells = r.Rounds * 3
		}
		sum += at * time.Duration(cells)
	}
	if sum > defaultLimit*85/100 {
		t.Errorf("the cells alone take %s", sum)
	}
}

func TestRateOf(t *testing.T) {
	most := load.Result{Units: 1000, Wall: 500 * time.Millisecond}
	if got := rateOf(row{Share: .5, Shape: load.Shape{Units: 16}}, most); got != 62.5 {
		t.Errorf("%v", got)
	}
	if got := rateOf(row{Share: .5, Kind: kindUDP, Shape: load.Shape{Units: 1}}, most); got != 1000./load.Burst {
		t.Errorf("%v", got)
	}
}

// Backwards in every other round, and those that are slow in every other.
func TestOrder(t *testing.T) {
	b := &campaign{result: &result{Peers: []peerSum{{Peer: "out", Note: "it fails the gate"}}}}
	b.peers = []peers.Peer{{Name: "out"}}
	for _, name := range []string{"a", "b", "c"} {
		b.peers = append(b.peers, peers.Peer{Name: name})
	}
	b.peers = append(b.peers, peers.Peer{Name: "slow", Seldom: true})
	first := map[string]bool{}
	for number := 1; number <= 8; number++ {
		names := b.order(number)
		first[names[0]] = true
		if got := slices.Contains(names, "slow"); got != (number%2 == 1) {
			t.Errorf("round %d: %v", number, names)
		}
		if want := 3 + number%2; len(names) != want {
			t.Errorf("round %d: %v", number, names)
		}
	}
	if len(first) < 3 {
		t.Errorf("only %v are ever first", first)
	}
}
