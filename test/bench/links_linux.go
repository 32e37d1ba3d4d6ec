package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"legate/internal/spec"
	"legate/test/bench/machine"
	"legate/test/bench/stats"
	"legate/test/e2e/lab"
)

// linkSum is what an agent with many links costs.
type linkSum struct {
	Containers int `json:"containers"`
	Links      int `json:"links"`
	// Late is how many containers lacked a link at their first instruction, and
	// All the seconds from then until each had all.
	Late int          `json:"late"`
	All  stats.Spread `json:"all"`
	// Open is the seconds per link from the first link of a container to its
	// last; Anew from the start of an agent to the last link of all containers
	// that are there already, and AnewEach the same per link.
	Open     stats.Spread `json:"open"`
	Anew     stats.Spread `json:"anew"`
	AnewEach stats.Spread `json:"anewEach"`
	RSS      stats.Spread `json:"rss"`  // bytes, of every start
	Idle     stats.Spread `json:"idle"` // share of a core, of every window
}

// linkPlan is how much of each.
type linkPlan struct {
	containers, each int
	starts           int // of the agent
	windows          int
	window           time.Duration
}

func planLinks(quick bool) linkPlan {
	if quick {
		return linkPlan{containers: 5, each: 20, starts: 2, windows: 1, window: 3 * time.Second}
	}
	return linkPlan{containers: 50, each: 20, starts: 5, windows: 3, window: 30 * time.Second}
}

const firstLodgePort = 7000

// links measures an agent with the links of many containers. Nobody uses them.
func (b *bridge) links(ctx context.Context, p linkPlan) (*linkSum, error) {
	s := &linkSum{Containers: p.containers, Links: p.containers * p.each}
	if _, err := b.host.Docker(ctx, "rm", "-f", "agent"); err != nil { // it may have served
		return nil, err
	}
	pid, err := b.startAgent(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.lodge(ctx, p, s); err != nil {
		return nil, err
	}
	now, err := b.allOpen(ctx, s.Links, pid)
	if err != nil {
		return nil, err
	}
	s.Open = stats.Over(perLink(now))
	if err := b.idle(ctx, p, s, pid); err != nil {
		return nil, err
	}
	return s, b.anew(ctx, p, s)
}

// lodge starts the containers, one after the other, and hears what each found.
func (b *bridge) lodge(ctx context.Context, p linkPlan, s *linkSum) error {
	var all []float64
	for i := range p.containers {
		name := "lodger" + strconv.Itoa(i)
		command := []string{"run", "-d", "--name", name, "--network", network}
		for port := range p.each {
			command = append(command, "--label", fmt.Sprintf("connect.%d=%s:%s", firstLodgePort+port, serverName, serverPort))
		}
		command = append(command, endsImage, b.self, roleLodge, strconv.Itoa(firstLodgePort), strconv.Itoa(p.each))
		if _, err := b.start(ctx, command...); err != nil {
			return err
		}
		l, err := b.hear(ctx, name)
		if err != nil {
			return err
		}
		if l.Missing > 0 {
			s.Late++
		}
		all = append(all, l.All.Seconds())
		if n := i + 1; n%10 == 0 || n == p.containers {
			fmt.Fprintf(b.out, "%d containers with %d links each; %d had not all at their first instruction\n", n, p.each, s.Late)
		}
	}
	s.All = stats.Over(all)
	return nil
}

// hear returns what a container says when it has its links.
func (b *bridge) hear(ctx context.Context, name string) (l lodging, err error) {
	ctx, cancel := context.WithTimeout(ctx, lodgeTime+readyTime)
	defer cancel()
	return l, lab.Poll(ctx, func() (bool, string) {
		said, err := b.host.Command(ctx, "logs", name).CombinedOutput()
		return err == nil && json.Unmarshal(said, &l) == nil, name + " says: " + string(said)
	})
}

// allOpen waits until so many links are open, by the agent that is process pid.
func (b *bridge) allOpen(ctx context.Context, links, pid int) (now spec.Snapshot, err error) {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	return now, lab.Poll(ctx, func() (bool, string) {
		text, err := b.host.Docker(ctx, "exec", "agent", "legate", "status", "--json")
		if err != nil {
			return false, err.Error()
		}
		now = spec.Snapshot{}
		if err := json.Unmarshal([]byte(text), &now); err != nil {
			return false, err.Error()
		}
		return len(opened(now)) == links, fmt.Sprintf("%d of %d links are open by process %d", len(opened(now)), links, pid)
	})
}

// opened is when each link in a container was opened.
func opened(s spec.Snapshot) (at []time.Time) {
	for _, l := range s.Links {
		if l.Place != nil && l.Place.Opened != nil {
			at = append(at, *l.Place.Opened)
		}
	}
	return at
}

// perLink is how long a link took in each container: the first one is when the
// clock starts.
func perLink(s spec.Snapshot) (list []float64) {
	of := map[string][]time.Time{}
	for _, l := range s.Links {
		if l.Place != nil && l.Place.Opened != nil {
			of[l.Place.Container] = append(of[l.Place.Container], *l.Place.Opened)
		}
	}
	for _, at := range of {
		if len(at) > 1 {
			took := slices.MaxFunc(at, time.Time.Compare).Sub(slices.MinFunc(at, time.Time.Compare))
			list = append(list, took.Seconds()/float64(len(at)-1))
		}
	}
	return list
}

// idle measures an agent that nobody wants anything from, but the health check
// of its own container.
func (b *bridge) idle(ctx context.Context, p linkPlan, s *linkSum, pid int) error {
	var shares []float64
	for i := range p.windows {
		before, err := machine.CPUTime(pid)
		if err != nil {
			return err
		}
		began := time.Now()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(p.window):
		}
		after, err := machine.CPUTime(pid)
		if err != nil {
			return err
		}
		shares = append(shares, (after-before).Seconds()/time.Since(began).Seconds())
		fmt.Fprintf(b.out, "idle for %v (%d of %d): %.3f %% of a core\n", p.window, i+1, p.windows, shares[i]*100)
	}
	s.Idle = stats.Over(shares)
	return nil
}

// anew starts the agent again and again beside the containers.
func (b *bridge) anew(ctx context.Context, p linkPlan, s *linkSum) error {
	var all, each, sizes []float64
	for i := range p.starts {
		if _, err := b.host.Docker(ctx, "restart", "-t", "5", "agent"); err != nil {
			return err
		}
		pid, err := b.process(ctx, "agent")
		if err != nil {
			return err
		}
		now, err := b.allOpen(ctx, s.Links, pid)
		if err != nil {
			return err
		}
		took := slices.MaxFunc(opened(now), time.Time.Compare).Sub(now.Started)
		all, each = append(all, took.Seconds()), append(each, took.Seconds()/float64(s.Links))
		size, err := resident(pid)
		if err != nil {
			return err
		}
		sizes = append(sizes, size)
		fmt.Fprintf(b.out, "start %d of %d: %d links after %v, %.1f MB\n", i+1, p.starts, s.Links, took.Round(time.Millisecond), size/1e6)
	}
	s.Anew, s.AnewEach, s.RSS = stats.Over(all), stats.Over(each), stats.Over(sizes)
	return nil
}

// resident is the resident memory of a process in bytes, what it shares with
// others included.
func resident(pid int) (float64, error) {
	var kB float64
	text := afterColon(fmt.Sprintf("/proc/%d/status", pid), "VmRSS")
	if _, err := fmt.Sscanf(text, "%f kB", &kB); err != nil {
		return 0, errors.Join(fmt.Errorf("read memory of process %d: %q", pid, text), os.ErrNotExist)
	}
	return kB * 1024, nil
}

// table is what people read, each number with its target.
func (s *linkSum) table() table {
	t := table{
		title: fmt.Sprintf("an agent with %d links: %d containers with %d each", s.Links, s.Containers, s.Links/s.Containers),
		head:  []string{"", "target", "median", "least", "most", "times"},
	}
	add := func(what, target, format string, scale float64, v stats.Spread) {
		f := func(x float64) string { return fmt.Sprintf(format, x*scale) }
		t.lines = append(t.lines, []string{what, target, f(v.Median), f(v.Min), f(v.Max), strconv.Itoa(v.Rounds)})
	}
	add("resident memory MB", "64", "%.1f", 1e-6, s.RSS)
	add("idle CPU, % of a core", "1", "%.3f", 100, s.Idle)
	add("ms per link, in a container that starts", "1", "%.3f", 1e3, s.Open)
	add("ms per link, when the agent starts", "1", "%.3f", 1e3, s.AnewEach)
	add("ms until all are open, when the agent starts", "", "%.0f", 1e3, s.Anew)
	add("ms from a container's first instruction until all its links are open", "", "%.2f", 1e3, s.All)
	t.notes = append(t.notes, fmt.Sprintf("%d of %d containers lacked a link at their first instruction (target: 0)", s.Late, s.Containers))
	return t
}
