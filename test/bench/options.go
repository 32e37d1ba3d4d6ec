package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// options of a run, from the environment.
type options struct {
	Rounds int
	Budget time.Duration // for the rounds in all; 0 where their number was asked for
	Quick  bool          // a tenth of the load: to see that it works, not to compare
	Only   []string      // rows; nil means all
}

const (
	defaultRounds = 7
	defaultBudget = 270 * time.Second
	quickRounds   = 2
	maxRounds     = 99
)

func optionsFrom(getenv func(string) string) (o options, err error) {
	switch quick := getenv("QUICK"); quick {
	case "", "0":
		o.Rounds, o.Budget = defaultRounds, defaultBudget
	case "1":
		o.Quick, o.Rounds = true, quickRounds
	default:
		return o, fmt.Errorf("QUICK=%s: it can be 1 or 0", quick)
	}
	if text := getenv("ROUNDS"); text != "" {
		o.Budget = 0
		o.Rounds, err = strconv.Atoi(text)
		if err != nil || o.Rounds < 1 || o.Rounds > maxRounds {
			return o, fmt.Errorf("ROUNDS=%s: it can be 1 to %d", text, maxRounds)
		}
	}
	if text := getenv("ONLY"); text != "" {
		o.Only = strings.Split(text, ",")
	}
	for _, name := range o.Only {
		if !slices.Contains(rowNames(), name) {
			return o, fmt.Errorf("ONLY=%s: there is no row %q, but %s", strings.Join(o.Only, ","), name, strings.Join(rowNames(), ", "))
		}
	}
	return o, nil
}

// workload is one kind of load, and the unit in which its cost is told.
type workload struct {
	Name  string  `json:"name"`
	Title string  `json:"title"`
	Kind  kind    `json:"-"`
	Conns int     `json:"connections"`
	Count int64   `json:"count"` // requests, bytes or connections, in all
	Unit  float64 `json:"unit"`  // so many of them is what a number stands for
}

func workloads(quick bool) []workload {
	list := []workload{
		{"requests", "100k requests", kindRequests, 50, 100_000, 100_000},
		{"bulk", "1 GB", kindBulk, 1, 2_000_000_000, 1_000_000_000},
		{"connections", "10k connections", kindConnections, 50, 10_000, 10_000},
	}
	if quick {
		for i := range list {
			list[i].Count /= 10
		}
	}
	return list
}

// warmup fills what a fresh process has yet to allocate and start.
func warmup() workload {
	return workload{"warm-up", "warm-up", kindRequests, 50, 5_000, 1}
}
