package main

import (
	"maps"
	"slices"
	"strings"

	"legate/test/bench/peers"
	"legate/test/bench/stats"
)

// column is one of the numbers of a cell.
type column string

const (
	own     column = "own"     // CPU seconds of the proxy per unit
	whole   column = "machine" // CPU seconds of the machine per unit, less those without proxy
	p50     column = "p50"     // seconds, as are the following
	p99     column = "p99"
	p999    column = "p999"
	user    column = "user"   // bytes per connection
	kernel  column = "kernel" // bytes per connection, less those without proxy; pipes included
	pipes   column = "pipes"  // per connection
	reached column = "rate"   // units per second; for rows that go as fast as they can
)

// columns are those that a row has.
func (r row) columns() []column {
	switch {
	case r.Kind == kindMemory:
		return []column{user, kernel, pipes}
	case r.Share == 0:
		return []column{own, whole, p50, p99, p999, reached}
	}
	return []column{own, whole, p50, p99, p999}
}

// The groups that ratios are told to: the best of each counts.
const (
	best    = "best"
	haproxy = "haproxy"
	nginx   = "nginx"
)

// cell is one row of one peer over all rounds that count.
type cell struct {
	Values map[column]stats.Spread `json:"values"`
	// Ratios are paired by round, by column and by what they are to.
	Ratios map[column]map[string]stats.Spread `json:"ratios"`
	// Lost is the share of datagrams that did not arrive in the worst round;
	// rounds with losses do not count.
	Lost float64 `json:"lost,omitempty"`
	// Retried is in how many rounds it was measured more than once, since it had
	// lost datagrams; of Rounds, which all were.
	Retried int    `json:"retried,omitempty"`
	Rounds  int    `json:"rounds"`
	Error   string `json:"error,omitempty"`
}

// value is one number of a sample.
func (r row) value(c column, s, without sample) float64 {
	per := func(n, units float64) float64 { return n / units * r.Unit }
	switch c {
	case own:
		return per(s.CPU.Seconds(), s.Units)
	case whole:
		return per(s.Busy.Seconds(), s.Units) - per(without.Busy.Seconds(), without.Units)
	case p50:
		return s.P50.Seconds()
	case p99:
		return s.P99.Seconds()
	case p999:
		return s.P999.Seconds()
	case user:
		return s.User
	case kernel:
		return s.Kernel - without.Kernel
	case pipes:
		return s.Pipes
	case reached:
		return s.Units / s.Wall.Seconds()
	}
	return 0
}

// byRound are the values of the rounds that count.
func (r *result) byRound(w row, peer string, c column) map[int]float64 {
	without := map[int]sample{}
	for _, s := range r.Samples {
		if s.Row == w.Name && s.Peer == peers.Direct && s.counts() {
			without[s.Round] = s
		}
	}
	list := map[int]float64{}
	for _, s := range r.Samples {
		if base, ok := without[s.Round]; ok && s.Row == w.Name && s.Peer == peer && s.counts() {
			list[s.Round] = w.value(c, s, base)
		}
	}
	return list
}

func (s sample) counts() bool { return !s.Void && s.Error == "" && s.Lost == 0 && s.measured() }

// measured: a loss can be of everything.
func (s sample) measured() bool { return s.Units > 0 || s.Kernel != 0 || s.User != 0 }

// rivals are the peers of a group, of those that were measured.
func (r *result) rivals(group string) (names []string) {
	for _, p := range r.Peers {
		if p.Ours || p.Peer == peers.Direct {
			continue
		}
		if group == best || p.Peer == group || strings.HasPrefix(p.Peer, group+"-") {
			names = append(names, p.Peer)
		}
	}
	return names
}

// rival is the one of a group with the lowest median, "" where there is none.
func (r *result) rival(w row, c column, group string) string {
	name, least := "", 0.0
	for _, peer := range r.rivals(group) {
		values := slices.Collect(maps.Values(r.byRound(w, peer, c)))
		if len(values) == 0 {
			continue
		}
		if median := stats.Median(values); name == "" || median < least {
			name, least = peer, median
		}
	}
	return name
}

// ratio is what a peer needs of what the best of a group does, by round.
func (r *result) ratio(w row, c column, peer, group string) stats.Spread {
	rival := group
	if !strings.HasPrefix(group, peers.Legate) {
		rival = r.rival(w, c, group)
	}
	if rival == "" {
		return stats.Spread{}
	}
	return stats.Over(stats.Ratios(r.byRound(w, peer, c), r.byRound(w, rival, c)))
}

// groups are what ratios are told to, a second Legate included.
func (r *result) groups() []string {
	list := []string{best, haproxy, nginx}
	list = slices.DeleteFunc(list, func(g string) bool { return g != best && len(r.rivals(g)) == 0 })
	for _, p := range r.Peers {
		if strings.HasPrefix(p.Peer, peers.Legate+"@") {
			list = append(list, p.Peer)
		}
	}
	return list
}

func (r *result) cellsOf(w row) map[string]cell {
	cells := map[string]cell{}
	for _, p := range r.Peers {
		c := cell{Values: map[column]stats.Spread{}, Ratios: map[column]map[string]stats.Spread{}}
		for _, s := range r.Samples {
			if s.Row == w.Name && s.Peer == p.Peer {
				c.Lost = max(c.Lost, s.Lost/max(1, s.Lost+s.Units))
				c.Rounds++
				if s.Tries > 1 {
					c.Retried++
				}
				if s.Error != "" {
					c.Error = s.Error
				}
			}
		}
		if r.noisy(w) == "" {
			r.fill(&c, w, p.Peer)
		}
		cells[p.Peer] = c
	}
	return cells
}

func (r *result) fill(c *cell, w row, peer string) {
	for _, column := range w.columns() {
		values := slices.Collect(maps.Values(r.byRound(w, peer, column)))
		if len(values) == 0 {
			continue
		}
		c.Values[column] = stats.Over(values)
		c.Ratios[column] = map[string]stats.Spread{}
		for _, group := range r.groups() {
			if ratio := r.ratio(w, column, peer, group); ratio.Rounds > 0 {
				c.Ratios[column][group] = ratio
			}
		}
	}
}
