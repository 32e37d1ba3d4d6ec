package main

import (
	"bytes"
	"fmt"
	"html"
	"io"

	"legate/test/bench/peers"
	"legate/test/bench/stats"
)

// Sizes of the plot, in pixels.
const (
	plotWidth = 820
	plotLeft  = 170 // where the bars begin
	plotRight = 640 // where the longest one may end
	plotTop   = 64
	barHeight = 16
	barGap    = 4
	groupGap  = 30
	plotMost  = 4.0 // times the best; longer bars are cut off there
)

// plotStyle follows the reader's light or dark page; without it the colours are
// those for light.
const plotStyle = `<style>
text { fill: #1c1c1c } .quiet { fill: #5a5a5a } .paper { fill: #ffffff } .ours { fill: #1f6fb2 } .peer { fill: #b3b3b3 }
.line { stroke: #1c1c1c } @media (prefers-color-scheme: dark) { text { fill: #ececec } .quiet { fill: #a8a8a8 }
.paper { fill: #16181c } .ours { fill: #58a6e6 } .peer { fill: #5d6066 } .line { stroke: #ececec } }
</style>
`

// bar is one row of one peer.
type bar struct {
	group, peer string
	ours        bool
	ratio       stats.Spread
	value       string
}

// bars are the ratios to the best peer: of CPU, of memory that processes hold,
// and from container to container of latencies.
func (r *result) bars() (list []bar) {
	for _, w := range r.Rows {
		group := w.Title + " (" + w.Name + ")"
		switch {
		case w.Kind == kindMemory:
			list = append(list, r.barsOf(w, group, user, " kB")...)
		case r.Part == partAgent:
			list = append(list, r.barsOf(w, group+", CPU", own, " s")...)
			list = append(list, r.barsOf(w, group+", p50", p50, " us")...)
			list = append(list, r.barsOf(w, group+", p99", p99, " us")...)
		default:
			list = append(list, r.barsOf(w, group, own, " s")...)
		}
	}
	return list
}

// barsOf has the direct connection only where that has such a number.
func (r *result) barsOf(w row, group string, c column, unit string) (list []bar) {
	for _, p := range r.Peers {
		cell := r.Cells[w.Name][p.Peer]
		if ratio := cell.Ratios[c][best]; ratio.Rounds > 0 && (p.Peer != peers.Direct || c == p50 || c == p99) {
			list = append(list, bar{group, p.Peer, p.Ours, ratio, c.format(cell.Values[c]) + unit})
		}
	}
	return list
}

// plot draws the ratios as a picture of its own: no library, no script, and
// colours that differ in grey, too.
func (r *result) plot() []byte {
	bars := r.bars()
	var b bytes.Buffer
	what := "CPU time and memory of the proxy"
	if r.Part == partAgent {
		what = "From container to container: CPU time of the proxy, latency"
	}
	text(&b, 16, 26, `font-size="16" font-weight="bold"`, what+", best peer = 1 (less is better)")
	text(&b, 16, 46, `class="quiet"`, r.caption())
	y, group := plotTop, ""
	for _, bar := range bars {
		if bar.group != group {
			group = bar.group
			y += groupGap
			text(&b, 16, y-7, `font-weight="bold"`, group)
		}
		bar.draw(&b, y)
		y += barHeight + barGap
	}
	if len(bars) == 0 {
		text(&b, 16, y+20, "", "No ratios: nothing was measured that could be compared.")
		y += 20
	}
	one := along(1)
	fmt.Fprintf(&b, `<line class="line" x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke-dasharray="4 3"/>`+"\n", one, plotTop+8, one, y)
	var all bytes.Buffer
	fmt.Fprintf(&all, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, y+24, plotWidth, y+24)
	all.WriteString(plotStyle)
	fmt.Fprintf(&all, `<rect class="paper" width="%d" height="%d"/>`+"\n", plotWidth, y+24)
	all.Write(b.Bytes())
	all.WriteString("</svg>\n")
	return all.Bytes()
}

func (r *result) caption() string {
	s := fmt.Sprintf("%s, medians and 95 %% intervals of ratios paired by round, %d cores, Linux %s", r.Date.Format("2006-01-02"), r.Machine.Cores, r.Machine.Kernel)
	if r.Quick {
		s += ", QUICK: not for comparing"
	}
	return s
}

// along is where a ratio ends.
func along(ratio float64) float64 {
	return plotLeft + min(max(ratio, 0), plotMost)*(plotRight-plotLeft)/plotMost
}

func (b bar) draw(out io.Writer, y int) {
	class := "peer"
	if b.ours {
		class = "ours"
	}
	middle := y + barHeight/2
	text(out, 32, middle+4, "", b.peer)
	end := along(b.ratio.Median)
	fmt.Fprintf(out, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d"/>`+"\n", class, plotLeft, y, end-plotLeft, barHeight)
	if b.ratio.Low != b.ratio.High {
		fmt.Fprintf(out, `<line class="line" x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke-width="2"/>`+"\n", along(b.ratio.Low), middle, along(b.ratio.High), middle)
	}
	label := fmt.Sprintf("%.2f  (%s)", b.ratio.Median, b.value)
	if b.ratio.Median > plotMost {
		label = "beyond: " + label
	}
	text(out, int(max(end, along(b.ratio.High)))+8, middle+4, "", label)
}

func text(out io.Writer, x, y int, attributes, s string) {
	fmt.Fprintf(out, `<text x="%d" y="%d" %s>%s</text>`+"\n", x, y, attributes, html.EscapeString(s))
}
