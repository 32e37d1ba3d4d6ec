package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// result is a run as bench.json keeps it.
type result struct {
	Date      time.Time  `json:"date"`
	Commit    string     `json:"commit"`
	Machine   machine    `json:"machine"`
	Asked     int        `json:"roundsAsked"`
	Rounds    int        `json:"rounds"`
	Quick     bool       `json:"quick"` // a tenth of the load: not for comparing
	Workloads []workload `json:"workloads"`
	Rows      []rowSum   `json:"rows"`
	Samples   []sample   `json:"samples"`
}

type machine struct {
	CPU        string  `json:"cpu"`
	Cores      int     `json:"cores"`
	Memory     string  `json:"memory"`
	Kernel     string  `json:"kernel"`
	Go         string  `json:"go"`
	LoadBefore float64 `json:"loadBefore"` // of the last minute
	LoadAfter  float64 `json:"loadAfter"`
}

// rowSum is one row over all rounds.
type rowSum struct {
	Row       string                `json:"row"`
	Note      string                `json:"note,omitempty"` // why there are no numbers
	Version   string                `json:"version,omitempty"`
	Command   string                `json:"command,omitempty"`
	Config    string                `json:"config,omitempty"`
	Workloads map[string]measureSum `json:"workloads,omitempty"`
}

// measureSum is one workload of a row; the units are those of sample.
type measureSum struct {
	Proxy spread `json:"proxyCPU"`
	Ratio spread `json:"ratio"` // of Proxy to haproxy's in the same round
	All   spread `json:"allCPU"`
	Wall  spread `json:"wall"`
	P50   spread `json:"p50"`
	P99   spread `json:"p99"`
}

func newResult(o options, loads []workload) *result {
	return &result{
		Date:      time.Now().UTC().Round(time.Second),
		Commit:    commit(),
		Asked:     o.Rounds,
		Quick:     o.Quick,
		Workloads: loads,
		Machine: machine{
			CPU:        afterColon("/proc/cpuinfo", "model name"),
			Cores:      runtime.NumCPU(),
			Memory:     afterColon("/proc/meminfo", "MemTotal"),
			Kernel:     read("/proc/sys/kernel/osrelease"),
			Go:         runtime.Version(),
			LoadBefore: loadAverage(),
		},
	}
}

// complete sums up what the rows measured.
func (r *result) complete(rows []*contestant, rounds int) {
	r.Rounds, r.Machine.LoadAfter = rounds, loadAverage()
	bases := map[string]map[int]float64{}
	for _, c := range rows {
		if c.Name == base {
			for _, w := range r.Workloads {
				bases[w.Name] = c.byRound(w.Name, proxyCPU)
			}
		}
	}
	for _, c := range rows {
		s := rowSum{Row: c.Name, Note: c.note, Command: c.commandLine, Config: c.config, Workloads: map[string]measureSum{}}
		if c.version != nil && c.commandLine != "" {
			version, err := c.version()
			if err != nil {
				version = err.Error()
			}
			s.Version = version
		}
		for _, w := range r.Workloads {
			if c.note == "" {
				s.Workloads[w.Name] = c.sum(w.Name, bases[w.Name])
			}
		}
		r.Rows = append(r.Rows, s)
		r.Samples = append(r.Samples, c.samples...)
	}
}

func (c *contestant) sum(workload string, base map[int]float64) measureSum {
	over := func(of func(sample) float64) spread {
		var list []float64
		for _, v := range c.byRound(workload, of) {
			list = append(list, v)
		}
		return spreadOf(list)
	}
	return measureSum{
		Proxy: over(proxyCPU),
		Ratio: spreadOf(ratios(c.byRound(workload, proxyCPU), base)),
		All:   over(func(s sample) float64 { return s.Proxy + s.Server + s.Load }),
		Wall:  over(func(s sample) float64 { return s.Wall }),
		P50:   over(func(s sample) float64 { return s.P50 }),
		P99:   over(func(s sample) float64 { return s.P99 }),
	}
}

func proxyCPU(s sample) float64 { return s.Proxy }

func (c *contestant) byRound(workload string, of func(sample) float64) map[int]float64 {
	list := map[int]float64{}
	for _, s := range c.samples {
		if s.Workload == workload {
			list[s.Round] = of(s)
		}
	}
	return list
}

// verdict is an error when Legate itself could not be measured; a missing peer
// is none.
func (r *result) verdict() error {
	for _, row := range r.Rows {
		if row.Row == ours && row.Note != "" {
			return fmt.Errorf("%s: %s", row.Row, row.Note)
		}
	}
	return nil
}

// The files of a run, in the folder that make clean removes.
const (
	jsonFile = "bench.json"
	plotFile = "bench.svg"
)

func (r *result) save(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", jsonFile, err)
	}
	return errors.Join(
		os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, jsonFile), append(text, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, plotFile), r.plot(), 0o644),
	)
}

// commit is empty outside a clone.
func commit() string {
	line, err := firstLine("git", "describe", "--always", "--dirty")
	if err != nil {
		return ""
	}
	return line
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

func loadAverage() (minute float64) {
	if _, err := fmt.Sscan(read("/proc/loadavg"), &minute); err != nil {
		return 0
	}
	return minute
}
