package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"legate/test/bench/load"
	"legate/test/bench/peers"
	"legate/test/bench/stats"
)

// result is a run as its JSON keeps it.
type result struct {
	Date    time.Time   `json:"date"`
	Commit  string      `json:"commit"`
	Command string      `json:"command"`
	Machine machineFact `json:"machine"`
	Part    string      `json:"part,omitempty"`
	Quick   bool        `json:"quick"` // not for comparing
	Rows    []row       `json:"rows"`
	// Most is the most that each peer does of each row, from the calibration.
	Most     map[string]map[string]load.Result `json:"most"`
	Peers    []peerSum                         `json:"peers"`
	Calls    []calls                           `json:"systemCalls,omitempty"`
	Cells    map[string]map[string]cell        `json:"cells"` // by row and peer
	Verdicts []verdict                         `json:"targets,omitempty"`
	Links    *linkSum                          `json:"links,omitempty"`
	Samples  []sample                          `json:"samples"`
	Blocks   []blockEnd                        `json:"blocks"` // how quiet it was
}

type machineFact struct {
	CPU        string        `json:"cpu"`
	Cores      int           `json:"cores"`
	Memory     string        `json:"memory"`
	Kernel     string        `json:"kernel"`
	System     string        `json:"system"`
	Go         string        `json:"go"`
	LoadBefore float64       `json:"loadBefore"` // of the last minute
	LoadAfter  float64       `json:"loadAfter"`
	Spin       time.Duration `json:"spin,omitempty"`
	Engine     string        `json:"engine,omitempty"` // of Docker, where that is in it
}

// peerSum is what there is to know of a peer beside the rows.
type peerSum struct {
	Peer    string       `json:"peer"`
	Note    string       `json:"note,omitempty"` // why it is not compared
	Version string       `json:"version,omitempty"`
	Command string       `json:"command,omitempty"`
	Config  string       `json:"config,omitempty"`
	Resets  string       `json:"resets,omitempty"`
	Size    int64        `json:"size,omitempty"` // of its program, bytes
	Start   stats.Spread `json:"start"`          // seconds
	Ours    bool         `json:"ours,omitempty"`
	starts  []float64
}

func newResult(o options, list []row) *result {
	return &result{
		Date:    time.Now().UTC().Round(time.Second),
		Commit:  commit(),
		Command: o.command(),
		Part:    o.Part,
		Quick:   o.Quick,
		Rows:    slices.Clone(list),
		Most:    map[string]map[string]load.Result{},
		Cells:   map[string]map[string]cell{},
		Machine: machineFact{
			CPU:        afterColon("/proc/cpuinfo", "model name"),
			Cores:      runtime.NumCPU(),
			Memory:     gibibytes(afterColon("/proc/meminfo", "MemTotal")),
			Kernel:     read("/proc/sys/kernel/osrelease"),
			System:     system(read("/etc/os-release")),
			Go:         runtime.Version(),
			LoadBefore: loadAverage(),
		},
	}
}

// fact keeps what a round says of a peer, and tells whether it is that it is
// not compared, for the first time.
func (r *result) fact(f fact) bool {
	i := slices.IndexFunc(r.Peers, func(p peerSum) bool { return p.Peer == f.Peer })
	if i < 0 {
		r.Peers = append(r.Peers, peerSum{Peer: f.Peer})
		i = len(r.Peers) - 1
	}
	p := &r.Peers[i]
	news := f.Note != "" && p.Note == ""
	if news {
		p.Note = f.Note
	}
	if p.Command == "" {
		p.Command = neutral(f.Command, f.Peer)
	}
	if f.Resets != "" {
		p.Resets = f.Resets
	}
	if f.Start > 0 {
		p.starts = append(p.starts, f.Start.Seconds())
	}
	return news
}

// out tells that a peer is not compared.
func (r *result) out(peer string) bool {
	return slices.ContainsFunc(r.Peers, func(p peerSum) bool { return p.Peer == peer && p.Note != "" })
}

// maximum keeps a result of the calibration. A peer that cannot do a row at all
// will fail in it.
func (r *result) maximum(s sample) {
	if s.Error != "" || s.Wall <= 0 || s.Units <= 0 {
		return
	}
	if r.Most[s.Row] == nil {
		r.Most[s.Row] = map[string]load.Result{}
	}
	r.Most[s.Row][s.Peer] = s.Result
}

// setRates gives every row the rate that the slowest can do its share of, and
// drops rows that nobody can do.
func (r *result) setRates() {
	for i := range r.Rows {
		w := &r.Rows[i]
		for _, most := range r.Most[w.calibrated()] {
			rate := rateOf(*w, most)
			if w.Shape.Rate == 0 || rate < w.Shape.Rate {
				w.Shape.Rate = rate
			}
		}
	}
	r.Rows = slices.DeleteFunc(r.Rows, func(w row) bool { return w.Share > 0 && w.Shape.Rate == 0 })
}

// quietRounds are the rounds of a row that count, of those that it had.
func (r *result) quietRounds(row string) (quiet, all int) {
	rounds := map[int]bool{}
	for _, s := range r.Samples {
		if s.Row == row && s.Peer == peers.Direct {
			rounds[s.Round] = !s.Void
		}
	}
	for counts := range maps.Values(rounds) {
		if counts {
			quiet++
		}
	}
	return quiet, len(rounds)
}

// lacking are the rows that want more rounds.
func (r *result) lacking() (list []row) {
	for _, w := range r.Rows {
		if quiet, _ := r.quietRounds(w.Name); quiet < w.Rounds {
			list = append(list, w)
		}
	}
	return list
}

// noisy says that a row has no numbers, and why: fewer than half of its rounds
// count.
func (r *result) noisy(w row) string {
	quiet, all := r.quietRounds(w.Name)
	switch {
	case all == 0:
		return "not measured"
	case quiet < min(w.Rounds, fewRounds) || 2*quiet < all:
		return fmt.Sprintf("the machine is noisy: %d of %d rounds count", quiet, all)
	}
	return ""
}

// complete sums up what was measured.
func (r *result) complete(list []peers.Peer) {
	r.Machine.LoadAfter = loadAverage()
	for _, p := range list {
		r.completePeer(p)
	}
	for _, w := range r.Rows {
		r.Cells[w.Name] = r.cellsOf(w)
	}
	if !r.Quick {
		r.Verdicts = r.judge()
	}
}

func (r *result) completePeer(p peers.Peer) {
	r.fact(fact{Peer: p.Name})
	i := slices.IndexFunc(r.Peers, func(s peerSum) bool { return s.Peer == p.Name })
	s := &r.Peers[i]
	s.Config, s.Ours, s.Start = p.Config, p.Ours, stats.Over(s.starts)
	if p.Command == nil || s.Command == "" {
		return
	}
	if version, err := p.Version(); err == nil {
		s.Version = version
	}
	if path, err := p.Path(); err == nil {
		if info, err := os.Stat(path); err == nil {
			s.Size = info.Size()
		}
	}
}

// verdict is an error when Legate itself could not be measured; a missing peer
// is none.
func (r *result) verdict() error {
	for _, p := range r.Peers {
		if p.Peer == peers.Legate && p.Note != "" {
			return fmt.Errorf("%s: %s", p.Peer, p.Note)
		}
	}
	for _, s := range r.Samples {
		if s.Peer == peers.Legate && s.Error != "" {
			return fmt.Errorf("%s: %s: %s", s.Peer, s.Row, s.Error)
		}
	}
	return nil
}

// commit is empty outside a clone.
func commit() string {
	out, err := output(context.Background(), ".", "git", "describe", "--always", "--dirty")
	if err != nil {
		return ""
	}
	return out
}

// command is what repeats the run.
func (o options) command() string {
	words := []string{"make", "bench"}
	add := func(name, value string) {
		if value != "" {
			words = append(words, name+"="+value)
		}
	}
	add("ONLY", cmp.Or(o.Part, strings.Join(slices.Concat(o.Rows, o.Peers), ",")))
	for name, on := range map[string]bool{"QUICK": o.Quick, "FULL": o.Full} {
		if on {
			add(name, "1")
		}
	}
	add("COMPARE", o.Compare)
	return strings.Join(words, " ")
}

// read and afterColon return "" where there is no such file or line: what a
// machine does not tell is left out.
func read(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func afterColon(file, key string) string {
	for line := range strings.Lines(read(file)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// gibibytes makes "24684092 kB" readable.
func gibibytes(text string) string {
	var kB float64
	if _, err := fmt.Sscanf(text, "%f kB", &kB); err != nil {
		return text
	}
	return fmt.Sprintf("%.1f GiB", kB/(1<<20))
}

// system reads man 5 os-release.
func system(release string) string {
	for line := range strings.Lines(release) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return strings.Trim(strings.TrimSpace(name), `"`)
		}
	}
	return ""
}

func loadAverage() (minute float64) {
	if _, err := fmt.Sscan(read("/proc/loadavg"), &minute); err != nil {
		return 0
	}
	return minute
}
