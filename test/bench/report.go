package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// print writes the tables that people read.
func (r *result) print(out io.Writer) error {
	fmt.Fprintln(out)
	r.printTable(out, fmt.Sprintf("CPU seconds of the proxy, user + system: median (min..max) of %s", r.roundText()), false, func(_ workload, m measureSum) string {
		return fmt.Sprintf("%.3f (%.3f..%.3f)", m.Proxy.Median, m.Proxy.Min, m.Proxy.Max)
	})
	if len(r.bars()) > 0 {
		r.printTable(out, "The same as a ratio to "+base+" in the same round: median (quartiles); below 1 is cheaper", false, func(_ workload, m measureSum) string {
			return fmt.Sprintf("%.2f (%.2f..%.2f)", m.Ratio.Median, m.Ratio.Q1, m.Ratio.Q3)
		})
	}
	r.printTable(out, "CPU seconds of load, proxy and server together: median", true, func(_ workload, m measureSum) string {
		return fmt.Sprintf("%.3f", m.All.Median)
	})
	r.printTable(out, "As the load saw it, as fast as it goes: medians", true, asLoadSawIt)
	for _, row := range r.Rows {
		if row.Note != "" {
			fmt.Fprintf(out, "%s: %s\n", row.Row, row.Note)
		}
	}
	if r.Quick {
		fmt.Fprintln(out, "QUICK=1 shows that it works; its numbers are not for comparing.")
	}
	if r.Machine.LoadBefore > float64(r.Machine.Cores)/4 {
		fmt.Fprintf(out, "The machine was busy before (load %.2f): these numbers are too high.\n", r.Machine.LoadBefore)
	}
	_, err := fmt.Fprintf(out, "saved: bin/%s, bin/%s\n", jsonFile, plotFile)
	return err
}

func (r *result) roundText() string {
	if r.Rounds == 1 {
		return "1 round"
	}
	return fmt.Sprintf("%d rounds", r.Rounds)
}

func asLoadSawIt(w workload, m measureSum) string {
	if m.Wall.Median == 0 {
		return "-"
	}
	rate := w.Unit / m.Wall.Median
	switch w.Kind {
	case kindBulk:
		return fmt.Sprintf("%.2f GB/s", rate/1e9)
	default:
		return fmt.Sprintf("%.0f/s, p50 %s, p99 %s", rate, micro(m.P50), micro(m.P99))
	}
}

func micro(s spread) string { return fmt.Sprintf("%.0f us", s.Median*1e6) }

// printTable has a line per row and a column per workload; direct has no
// proxy, so that its line is empty where only the proxy counts.
func (r *result) printTable(out io.Writer, title string, withDirect bool, cell func(workload, measureSum) string) {
	fmt.Fprintln(out, title)
	t := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	head := []string{""}
	for _, w := range r.Workloads {
		head = append(head, w.Title)
	}
	fmt.Fprintln(t, "  "+strings.Join(head, "\t"))
	for _, row := range r.Rows {
		cells := []string{row.Row}
		for _, w := range r.Workloads {
			m, measured := row.Workloads[w.Name]
			if !measured || row.Row == direct && !withDirect {
				cells = append(cells, "-")
				continue
			}
			cells = append(cells, cell(w, m))
		}
		fmt.Fprintln(t, "  "+strings.Join(cells, "\t"))
	}
	t.Flush()
	fmt.Fprintln(out)
}
