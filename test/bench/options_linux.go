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
	Rounds  int           // of most rows; 0: as many as each row wants
	Limit   time.Duration // no round begins that would end after it
	Quick   bool          // short and few: to see that it works, not to compare
	Full    bool          // every load for all rows
	Write   bool          // the results become docs/benchmarks.*
	Compare string        // commit to build and compare with, "" for none
	Rows    []string      // nil: all
	Peers   []string      // nil: all
	// Part is what is measured instead of that, on a Docker host: agent or links.
	Part string
}

const (
	quickRounds  = 1
	maxRounds    = 99
	defaultLimit = 38 * time.Minute
	fullLimit    = 2 * time.Hour
)

// names are those that ONLY may have.
type names struct{ rows, peers []string }

func optionsFrom(getenv func(string) string, known func(full bool) names) (o options, err error) {
	for name, to := range map[string]*bool{"QUICK": &o.Quick, "FULL": &o.Full, "WRITE": &o.Write} {
		switch value := getenv(name); value {
		case "", "0":
		case "1":
			*to = true
		default:
			return o, fmt.Errorf("%s=%s: it can be 1 or 0", name, value)
		}
	}
	o.Limit = defaultLimit
	if o.Full {
		o.Limit = fullLimit
	}
	if o.Quick {
		o.Rounds = quickRounds
	}
	if text := getenv("ROUNDS"); text != "" {
		o.Rounds, err = strconv.Atoi(text)
		if err != nil || o.Rounds < 1 || o.Rounds > maxRounds {
			return o, fmt.Errorf("ROUNDS=%s: it can be 1 to %d", text, maxRounds)
		}
	}
	if o.Quick && o.Write {
		return o, fmt.Errorf("WRITE=1 with QUICK=1: such numbers are not for comparing")
	}
	if text := getenv("LIMIT"); text != "" {
		if o.Limit, err = time.ParseDuration(text); err != nil || o.Limit <= 0 {
			return o, fmt.Errorf("LIMIT=%s: it can be a time, such as 15m", text)
		}
	}
	o.Compare = getenv("COMPARE")
	return o, o.only(getenv("ONLY"), known(o.Full))
}

// only tells rows from peers.
func (o *options) only(text string, known names) error {
	if text == "" {
		return nil
	}
	for name := range strings.SplitSeq(text, ",") {
		switch {
		case slices.Contains(known.rows, name):
			o.Rows = append(o.Rows, name)
		case slices.Contains(known.peers, name):
			o.Peers = append(o.Peers, name)
		default:
			return fmt.Errorf("ONLY=%s: there is no row and no peer %q; rows are %s; peers are %s", text, name,
				strings.Join(known.rows, ", "), strings.Join(known.peers, ", "))
		}
	}
	return nil
}
