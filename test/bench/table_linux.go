package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"legate/test/bench/load"
	"legate/test/bench/peers"
	"legate/test/bench/stats"
)

// table is what the terminal and the page show alike.
type table struct {
	title string
	head  []string
	lines [][]string
	notes []string
}

// tables are all of a result.
func (r *result) tables() (list []table) {
	for _, w := range r.Rows {
		list = append(list, r.rowTable(w))
	}
	if len(r.Calls) > 0 {
		list = append(list, r.callTable())
	}
	if t := r.compareTable(); len(t.lines) > 0 {
		list = append(list, t)
	}
	if r.Links != nil {
		list = append(list, r.Links.table())
	}
	return append(list, r.peerTable())
}

// titles of columns, with what scales seconds to what is shown.
func (c column) title() string {
	switch c {
	case own:
		return "own CPU s"
	case whole:
		return "machine s"
	case p50, p99, p999:
		return map[column]string{p50: "p50 us", p99: "p99 us", p999: "p99.9 us"}[c]
	case user, kernel:
		return string(c) + " kB"
	case reached:
		return "per second"
	}
	return string(c)
}

func (c column) format(s stats.Spread) string {
	v := s.Median
	switch c {
	case p50, p99, p999:
		return fmt.Sprintf("%.0f", v*1e6)
	case user, kernel:
		return fmt.Sprintf("%.2f", v/kilobyte)
	case pipes:
		return fmt.Sprintf("%.2f", v)
	case reached:
		return amount(v)
	}
	return fmt.Sprintf("%.3f", v)
}

// amount is a number with three digits that count.
func amount(v float64) string {
	switch {
	case v >= 1e9:
		return fmt.Sprintf("%.2fG", v/1e9)
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1fk", v/1e3)
	}
	return fmt.Sprintf("%.0f", v)
}

// rated tells which columns have ratios beside them.
func (c column) rated() bool { return c == own || c == whole || c == p50 || c == user || c == kernel }

// ratedTo are the groups that a column's ratios are shown to: of latencies and
// memory the best alone.
func (r *result) ratedTo(c column) []string {
	if c == own || c == whole {
		return r.groups()
	}
	return slices.DeleteFunc(r.groups(), func(g string) bool { return g == haproxy || g == nginx })
}

func (r *result) rowTable(w row) table {
	t := table{title: fmt.Sprintf("%s: %s%s", w.Name, w.Title, r.pace(w))}
	if why := r.noisy(w); why != "" {
		t.notes = append(t.notes, "no numbers, "+why)
		return t
	}
	t.head = []string{""}
	for _, c := range w.columns() {
		t.head = append(t.head, c.title())
		for _, group := range r.ratedTo(c) {
			if c.rated() {
				t.head = append(t.head, "/"+strings.TrimPrefix(group, peers.Legate))
			}
		}
	}
	for _, p := range r.Peers {
		r.addLine(&t, w, p)
	}
	return t
}

// pace says how fast a row goes, and how often it was measured.
func (r *result) pace(w row) string {
	quiet, _ := r.quietRounds(w.Name)
	rounds := fmt.Sprintf("%d rounds", quiet)
	switch {
	case w.Kind == kindMemory:
		return fmt.Sprintf("; %d held; %s", w.Shape.Conns, rounds)
	case w.Share == 0:
		return "; as fast as it goes; " + rounds
	}
	per := w.Shape.Rate * w.Shape.Units
	if w.Kind == kindUDP {
		per *= load.Burst
	}
	return fmt.Sprintf("; at %s/s, %.0f %% of the slowest; %s", amount(per), w.Share*100, rounds)
}

func (r *result) addLine(t *table, w row, p peerSum) {
	c := r.Cells[w.Name][p.Peer]
	if c.Error != "" {
		t.notes = append(t.notes, p.Peer+": "+c.Error)
	}
	if c.Lost > 0 {
		t.notes = append(t.notes, fmt.Sprintf("%s: lost up to %.2f %% in a round; such rounds do not count", p.Peer, c.Lost*100))
	}
	if c.Retried > 0 {
		t.notes = append(t.notes, fmt.Sprintf("%s: %d of %d rounds without a loss at the first try; the others were measured up to %d times",
			p.Peer, c.Rounds-c.Retried, c.Rounds, lossyTries))
	}
	if len(c.Values) == 0 {
		return
	}
	line := []string{p.Peer}
	for _, column := range w.columns() {
		line = append(line, r.cellText(c, column, p.Peer))
		if column.rated() {
			for _, group := range r.ratedTo(column) {
				line = append(line, ratioText(c.Ratios[column][group]))
			}
		}
	}
	t.lines = append(t.lines, line)
}

// cellText leaves out what a connection without a proxy has not.
func (r *result) cellText(c cell, column column, peer string) string {
	s, ok := c.Values[column]
	proxied := column == own || column == whole || column == user || column == kernel || column == pipes
	if !ok || peer == peers.Direct && proxied {
		return "-"
	}
	return column.format(s)
}

func ratioText(s stats.Spread) string {
	if s.Rounds == 0 || s.Median == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", s.Median)
}

// callTable is what strace counted.
func (r *result) callTable() table {
	t := table{
		title: fmt.Sprintf("system calls, from a run of its own under strace; allowed for %s: %.1f per request, %.0f per short connection", peers.Legate, mostCallsPerRequest, mostCallsPerConnection),
		head:  []string{"", "per request", "per short connection", "most of them, per short connection"},
	}
	for _, p := range r.Peers {
		by := map[string]calls{}
		for _, c := range r.Calls {
			if c.Peer == p.Peer {
				by[c.Of] = c
			}
		}
		if len(by) > 0 {
			t.lines = append(t.lines, []string{p.Peer, callText(by["requests"]), callText(by["churn"]), by["churn"].top(5)})
		}
	}
	return t
}

func callText(c calls) string {
	if c.Peer == "" {
		return "-"
	}
	return fmt.Sprintf("%.2f", c.Each)
}

// top names the most frequent calls.
func (c calls) top(n int) string {
	var names []string
	for name := range c.ByName {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if c.ByName[a] != c.ByName[b] {
			return int(1e6*c.ByName[b]) - int(1e6*c.ByName[a])
		}
		return strings.Compare(a, b)
	})
	var words []string
	for _, name := range names[:min(n, len(names))] {
		words = append(words, fmt.Sprintf("%s %.1f", name, c.ByName[name]))
	}
	return strings.Join(words, ", ")
}

// compareTable is Legate beside another commit of it.
func (r *result) compareTable() table {
	t := table{head: []string{"row", "number", "ratio", "95 % interval"}}
	groups := r.groups()
	other := groups[len(groups)-1]
	if !strings.HasPrefix(other, peers.Legate) {
		return t
	}
	t.title = peers.Legate + " compared with " + other + ", paired by round; below 1 it became cheaper"
	for _, w := range r.Rows {
		for _, c := range w.columns() {
			if s := r.Cells[w.Name][peers.Legate].Ratios[c][other]; c.rated() && s.Rounds > 0 {
				t.lines = append(t.lines, []string{w.Name, c.title(), ratioText(s), fmt.Sprintf("%.2f .. %.2f", s.Low, s.High)})
			}
		}
	}
	return t
}

func (r *result) peerTable() table {
	t := table{
		title: "programs",
		head:  []string{"", "start ms", "program MB", "a reset arrives at client/server as", "version"},
	}
	for _, p := range r.Peers {
		switch {
		case p.Note != "":
			t.notes = append(t.notes, p.Peer+": "+p.Note)
		case p.Peer != peers.Direct:
			size := "-"
			if p.Peer != peers.Go { // it is this program, with everything else in it
				size = fmt.Sprintf("%.1f", float64(p.Size)/1e6)
			}
			start := "-"
			if p.Start.Rounds > 0 {
				start = fmt.Sprintf("%.1f", p.Start.Median*1e3)
			}
			t.lines = append(t.lines, []string{p.Peer, start, size, cmp.Or(p.Resets, "-"), p.Version})
		}
	}
	return t
}

// targetTable is the judgement.
func (r *result) targetTable() table {
	t := table{title: "targets: met when the upper end of the 95 % interval is at most 1.03 x the target", head: []string{"row", "number", "target", "measured", "95 % interval", ""}}
	for _, v := range r.Verdicts {
		measured, interval := "-", "-"
		if v.Value.Rounds > 0 {
			measured = v.scaled(v.Value.Median)
		}
		if v.Value.Rounds > 1 {
			interval = v.scaled(v.Value.Low) + " .. " + v.scaled(v.Value.High)
		}
		t.lines = append(t.lines, []string{v.Row, v.number(), v.bound(), measured, interval, v.word()})
	}
	return t
}

func (t target) number() string {
	switch t.Column {
	case own:
		return "own CPU"
	case whole:
		return "machine"
	}
	return string(t.Column)
}

func (t target) bound() string {
	switch {
	case t.To == best:
		return t.scaled(t.Most) + " of the best peer"
	case t.To != "":
		return t.scaled(t.Most) + " of " + t.To
	}
	return t.scaled(t.Most)
}

func (t target) scaled(v float64) string {
	switch {
	case t.Column == user && t.To == "":
		return fmt.Sprintf("%.2f kB", v/kilobyte)
	case t.To == "":
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (v verdict) word() string {
	if v.Why != "" {
		return string(v.Outcome) + ": " + v.Why
	}
	return string(v.Outcome)
}
