package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"legate/test/bench/peers"
)

// print writes the tables that people read on a terminal.
func (r *result) print(out io.Writer) error {
	fmt.Fprintln(out)
	for _, t := range append(r.tables(), r.targetTable()) {
		if len(t.lines)+len(t.notes) > 0 {
			t.print(out)
		}
	}
	if len(r.Rows) == 0 {
		return nil
	}
	fmt.Fprintln(out, "CPU in seconds per unit, medians; /best, /haproxy and /nginx are ratios to the best peer of that name,")
	_, err := fmt.Fprintln(out, "paired by round; machine is what all CPUs did, less what they do without a proxy.")
	if r.Quick {
		_, err = fmt.Fprintln(out, "QUICK=1 shows that it works; its numbers are not for comparing.")
	}
	return err
}

func (t table) print(out io.Writer) {
	fmt.Fprintln(out, t.title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, line := range append([][]string{t.head}, t.lines...) {
		if len(t.lines) > 0 {
			fmt.Fprintln(w, "  "+strings.Join(line, "\t"))
		}
	}
	w.Flush()
	for _, note := range t.notes {
		fmt.Fprintln(out, "  "+note)
	}
	fmt.Fprintln(out)
}

// progress is one line per row and round.
func (r *result) progress(b blockEnd, spent, left time.Duration) string {
	var w row
	for _, known := range r.Rows {
		if known.Name == b.Row {
			w = known
		}
	}
	var void bool
	var words []string
	for _, s := range r.Samples {
		if s.Row != b.Row || s.Round != b.Round {
			continue
		}
		void = s.Void
		words = append(words, s.Peer+" "+w.short(s))
	}
	line := fmt.Sprintf("%s  round %d  %-12s %s", clockText(spent), b.Round, b.Row, strings.Join(words, "  "))
	if void {
		line += fmt.Sprintf("  (does not count: %.1f %% slower, %.1f %% stolen, %.0f %% used by others)", (b.Spin-1)*100, b.Stolen*100, b.Foreign*100)
	}
	if left > 0 {
		line += "  about " + clockText(left) + " left"
	}
	return line
}

// short is the number of a sample that matters first.
func (w row) short(s sample) string {
	switch {
	case s.Error != "" || !s.measured() && w.Kind != kindMemory:
		return "failed"
	case w.Kind == kindMemory:
		return fmt.Sprintf("%.2f", s.User/kilobyte)
	case s.Peer == peers.Direct:
		return fmt.Sprintf("%.0f us", s.P50.Seconds()*1e6)
	}
	return fmt.Sprintf("%.3f", w.value(own, s, sample{}))
}

func clockText(d time.Duration) string {
	s := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}
