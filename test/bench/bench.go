package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// bench is one run.
type bench struct {
	options
	out   io.Writer
	self  string // this program
	dir   string // for files of proxies
	loads []workload
	rows  []*contestant
}

// contestant is a row with what became of it.
type contestant struct {
	row
	note        string // why there are no numbers, "" when there are
	commandLine string
	samples     []sample
}

// sample is what one workload of one round cost: seconds, of CPU where not
// said otherwise.
type sample struct {
	Row      string  `json:"row"`
	Round    int     `json:"round"`
	Workload string  `json:"workload"`
	Proxy    float64 `json:"proxyCPU"`
	Server   float64 `json:"serverCPU"`
	Load     float64 `json:"loadCPU"`
	Wall     float64 `json:"wall"`
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
}

func newBench(o options, out io.Writer) (*bench, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	dir, err := os.MkdirTemp("", "legate-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	b := &bench{options: o, out: out, self: self, dir: dir, loads: workloads(o.Quick)}
	for _, r := range rows() {
		if o.Only == nil || slices.Contains(o.Only, r.Name) {
			b.rows = append(b.rows, &contestant{row: r})
		}
	}
	return b, nil
}

func (b *bench) close() { os.RemoveAll(b.dir) }

func (b *bench) run(ctx context.Context) (*result, error) {
	r := newResult(b.options, b.loads)
	began := time.Now()
	done := 0
	for done < b.Rounds {
		spent := time.Since(began)
		if done > 0 && b.Budget > 0 && spent+spent/time.Duration(done) > b.Budget {
			fmt.Fprintf(b.out, "stopped after %d rounds: another would take longer than %s (ROUNDS=%d insists)\n", done, b.Budget, b.Rounds)
			break
		}
		if err := b.round(ctx, done); err != nil {
			return nil, err
		}
		done++
		spent = time.Since(began)
		left := spent / time.Duration(done) * time.Duration(b.Rounds-done)
		fmt.Fprintf(b.out, "%s, about %s left\n", spent.Round(time.Second), left.Round(time.Second))
	}
	r.complete(b.rows, done)
	return r, nil
}

// round measures every row once: in turn forwards and backwards, so that a
// machine that gets slower hits all of them.
func (b *bench) round(ctx context.Context, round int) error {
	order := slices.Clone(b.rows)
	if round%2 == 1 {
		slices.Reverse(order)
	}
	for _, c := range order {
		if c.note != "" {
			continue
		}
		fmt.Fprintf(b.out, "round %d/%d  %-9s", round+1, b.Rounds, c.Name)
		samples, err := b.measure(ctx, c)
		if ctx.Err() != nil {
			return fmt.Errorf("stopped: %w", context.Cause(ctx))
		}
		if err != nil {
			c.note = strings.ReplaceAll(err.Error(), "\n", "; ")
			fmt.Fprintf(b.out, "  %s\n", c.note)
			continue
		}
		fmt.Fprintln(b.out)
		for _, s := range samples {
			s.Row, s.Round = c.Name, round+1
			c.samples = append(c.samples, s)
		}
	}
	return nil
}

// measure starts a server and the row's proxy, sees that it carries what it
// should, and puts every workload on it.
func (b *bench) measure(ctx context.Context, c *contestant) ([]sample, error) {
	server, addr, err := b.startServer()
	if err != nil {
		return nil, err
	}
	defer server.stop()
	var proxy *process
	if c.command != nil {
		if proxy, addr, err = b.startProxy(ctx, c, addr); err != nil {
			return nil, err
		}
		defer proxy.stop()
	}
	if err := gate(addr); err != nil {
		return nil, fmt.Errorf("not compared, for it fails the gate: %w", err)
	}
	if _, _, err := b.runLoad(ctx, addr, warmup()); err != nil {
		return nil, err
	}
	var list []sample
	for _, w := range b.loads {
		s, err := b.sample(ctx, addr, w, server, proxy)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Title, err)
		}
		b.progress(w, s, proxy != nil)
		list = append(list, s)
	}
	return list, nil
}

func (b *bench) progress(w workload, s sample, proxied bool) {
	if proxied {
		fmt.Fprintf(b.out, "  %s %.3f s CPU", w.Title, s.Proxy)
	} else {
		fmt.Fprintf(b.out, "  %s in %.3f s", w.Title, s.Wall)
	}
}

func (b *bench) startProxy(ctx context.Context, c *contestant, server string) (p *process, addr string, err error) {
	if addr, err = freeAddr(); err != nil {
		return nil, "", err
	}
	cmd, err := c.command(addr, server, b.dir)
	if err != nil {
		return nil, "", err
	}
	c.commandLine = strings.Join(cmd.Args, " ")
	if p, err = start(cmd); err != nil {
		return nil, "", err
	}
	if err := p.await(ctx, addr); err != nil {
		p.stop()
		return nil, "", err
	}
	return p, addr, nil
}

// sample puts w on addr once; its numbers are those of w.Unit.
func (b *bench) sample(ctx context.Context, addr string, w workload, server, proxy *process) (sample, error) {
	watched := []*process{server}
	if proxy != nil {
		watched = append(watched, proxy)
	}
	before, err := cpuOf(ctx, watched)
	if err != nil {
		return sample{}, err
	}
	r, load, err := b.runLoad(ctx, addr, w)
	if err != nil {
		return sample{}, err
	}
	after, err := cpuOf(ctx, watched)
	if err != nil {
		return sample{}, err
	}
	scale := w.Unit / float64(w.Count)
	s := sample{
		Workload: w.Name,
		Server:   (after[0] - before[0]) * scale,
		Load:     load.Seconds() * scale,
		Wall:     r.Wall.Seconds() * scale,
		P50:      r.P50.Seconds(),
		P99:      r.P99.Seconds(),
	}
	if proxy != nil {
		s.Proxy = (after[1] - before[1]) * scale
	}
	return s, nil
}

func cpuOf(ctx context.Context, ps []*process) ([]float64, error) {
	var list []float64
	for _, p := range ps {
		used, err := p.settledCPU(ctx)
		if err != nil {
			return nil, err
		}
		list = append(list, used.Seconds())
	}
	return list, nil
}
