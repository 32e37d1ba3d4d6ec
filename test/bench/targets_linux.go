package main

import (
	"maps"
	"slices"

	"legate/test/bench/peers"
	"legate/test/bench/stats"
)

// target is a bound for one number of Legate's.
type target struct {
	Row    string  `json:"row"`
	Column column  `json:"column"`
	To     string  `json:"to"` // a group whose best it is a ratio to; "" for a number as it is
	Most   float64 `json:"most"`
}

// tolerance is by how much the upper end of the interval may lie above a
// target.
const tolerance = 1.03

// Bounds for what strace counts, per request and per short connection.
const (
	mostCallsPerRequest    = 5.5
	mostCallsPerConnection = 24.0
)

const kilobyte = 1000

func targets() (list []target) {
	cpu := func(row, to string, most float64) {
		list = append(list, target{row, own, to, most}, target{row, whole, to, most})
	}
	cpu("requests", haproxy, .90)
	cpu("requests", nginx, 1)
	cpu("pipelined", best, .95)
	cpu("download", best, 1)
	cpu("upload", best, 1)
	cpu("churn", haproxy, .80)
	cpu("churn", nginx, 1)
	list = append(list,
		target{"mem-idle", user, "", kilobyte},
		target{"mem-idle", kernel, best, 1},
		target{"latency-1", p50, best, 1},
		target{"latency-64", p50, best, 1},
	)
	cpu("udp-64", nginx, .75)
	cpu("udp-1200", nginx, .75)
	cpu("gso-64", nginx, .3)
	cpu("gso-1200", nginx, .3)
	for _, w := range bridgeRows(false) {
		list = append(list, target{w.Name, own, haproxy, 1}, target{w.Name, p50, haproxy, 1}, target{w.Name, p99, haproxy, 1})
	}
	return list
}

// verdict is what became of a target.
type verdict struct {
	target
	Value   stats.Spread `json:"value"`
	Outcome outcome      `json:"outcome"`
	Why     string       `json:"why,omitempty"` // where it is open
}

type outcome string

const (
	met    outcome = "met"
	missed outcome = "missed"
	open   outcome = "open"
)

// judge holds what was measured against the targets. Rows that were not asked
// for have none.
func (r *result) judge() (list []verdict) {
	for _, t := range targets() {
		i := slices.IndexFunc(r.Rows, func(w row) bool { return w.Name == t.Row })
		if i >= 0 {
			list = append(list, r.judgeOne(t, r.Rows[i]))
		}
	}
	return append(list, r.judgeCalls()...)
}

func (r *result) judgeOne(t target, w row) verdict {
	v := verdict{target: t, Outcome: open}
	if v.Why = r.noisy(w); v.Why != "" {
		return v
	}
	if t.To == "" {
		v.Value = stats.Over(slices.Collect(maps.Values(r.byRound(w, peers.Legate, t.Column))))
	} else {
		v.Value = r.ratio(w, t.Column, peers.Legate, t.To)
	}
	wanted := w.Rounds
	if t.To != "" && r.rival(w, t.Column, t.To) == peers.Socat {
		wanted = min(wanted, fewRounds) // it takes part in every other round
	}
	v.Outcome, v.Why = t.reach(v.Value, wanted)
	return v
}

// reach says whether the upper end of the interval is low enough, if there were
// rounds enough.
func (t target) reach(s stats.Spread, wanted int) (outcome, string) {
	switch {
	case s.Rounds == 0:
		return open, "nothing to compare"
	case s.Rounds < wanted:
		return open, "too few rounds"
	case s.High <= t.Most*tolerance:
		return met, ""
	}
	return missed, ""
}

// judgeCalls holds the counts of strace against their bounds.
func (r *result) judgeCalls() (list []verdict) {
	for _, c := range r.Calls {
		if c.Peer != peers.Legate {
			continue
		}
		t := target{Row: c.Of, Column: "system calls", Most: mostCallsPerRequest}
		if c.Of == "churn" {
			t.Most = mostCallsPerConnection
		}
		v := verdict{target: t, Value: stats.Over([]float64{c.Each}), Outcome: missed}
		if c.Each <= t.Most {
			v.Outcome = met
		}
		list = append(list, v)
	}
	return list
}
