package main

import (
	"bytes"
	"fmt"
	"html"
	"io"
)

// Sizes of the plot, in pixels.
const (
	plotWidth = 760
	plotLeft  = 150 // where the bars begin
	plotRight = 560 // where the longest one may end
	plotTop   = 64
	barHeight = 22
	barGap    = 6
	groupGap  = 26
)

// plot draws the ratios as a picture of its own: no library, no script, and
// colours that differ in grey, too.
func (r *result) plot() []byte {
	bars, scale := r.bars(), r.scale()
	height := plotTop + len(r.Workloads)*groupGap + len(bars)*(barHeight+barGap) + 40
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", plotWidth, height, plotWidth, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", plotWidth, height)
	text(&b, 16, 26, `font-size="16" font-weight="bold"`, "CPU of the proxy, "+base+" = 1 (less is better)")
	text(&b, 16, 46, `fill="#555555"`, r.caption())
	y, group := plotTop, ""
	for _, bar := range bars {
		if bar.group != group {
			group = bar.group
			y += groupGap
			text(&b, 16, y-8, `font-weight="bold"`, group)
		}
		bar.draw(&b, y, scale)
		y += barHeight + barGap
	}
	if len(bars) == 0 {
		text(&b, 16, y+20, "", "No ratios: "+base+" or the others were not measured.")
	} else {
		one := plotLeft + scale
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#222222" stroke-dasharray="4 3"/>`+"\n", one, plotTop, one, y)
	}
	fmt.Fprintln(&b, "</svg>")
	return b.Bytes()
}

func (r *result) caption() string {
	s := fmt.Sprintf("%s, %s, median and quartiles, %d cores, Linux %s", r.Date.Format("2006-01-02"), r.roundText(), r.Machine.Cores, r.Machine.Kernel)
	if r.Quick {
		s += ", QUICK: not for comparing"
	}
	return s
}

// bar is one row at one workload.
type bar struct {
	group, row string
	ratio      spread
	seconds    float64
}

func (r *result) bars() (list []bar) {
	for _, w := range r.Workloads {
		for _, row := range r.Rows {
			if m := row.Workloads[w.Name]; m.Ratio.Rounds > 0 && row.Row != direct {
				list = append(list, bar{w.Title, row.Row, m.Ratio, m.Proxy.Median})
			}
		}
	}
	return list
}

// scale is the length of the ratio 1.
func (r *result) scale() float64 {
	most := 1.0
	for _, bar := range r.bars() {
		most = max(most, bar.ratio.Median, bar.ratio.Q3)
	}
	return (plotRight - plotLeft) / most
}

func (b bar) draw(out io.Writer, y int, scale float64) {
	fill := "#1f6fb2"
	if b.row == base {
		fill = "#b8b8b8"
	}
	at := func(ratio float64) float64 { return plotLeft + ratio*scale }
	middle := y + barHeight/2
	text(out, 16, middle+5, "", b.row)
	fmt.Fprintf(out, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", plotLeft, y, b.ratio.Median*scale, barHeight, fill)
	if b.ratio.Q1 != b.ratio.Q3 {
		fmt.Fprintf(out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#111111" stroke-width="2"/>`+"\n", at(b.ratio.Q1), middle, at(b.ratio.Q3), middle)
	}
	text(out, int(at(max(b.ratio.Median, b.ratio.Q3)))+8, middle+5, "", fmt.Sprintf("%.2f  (%.3f s)", b.ratio.Median, b.seconds))
}

func text(out io.Writer, x, y int, attributes, s string) {
	fmt.Fprintf(out, `<text x="%d" y="%d" %s>%s</text>`+"\n", x, y, attributes, html.EscapeString(s))
}
