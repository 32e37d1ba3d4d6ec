package e2e

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// start runs several containers at the same time, each by `docker run -d --name` and the rest.
func (w *world) start(containers ...container) {
	w.t.Helper()
	errs := make([]error, len(containers))
	var all sync.WaitGroup
	for i, c := range containers {
		all.Go(func() {
			if out, err := c.on.tryDocker(append([]string{"run", "-d", "--name", c.name}, c.args...)...); err != nil {
				errs[i] = fmt.Errorf("start %s on host %s: %w\n%s", c.name, c.on.Name, err, out)
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		w.t.Fatal(err)
	}
}

type container struct {
	on   host
	name string
	args []string
}

// entry is one line that a container said.
type entry struct {
	at   time.Time
	text string
}

// said is the log of a container, both streams.
func (h host) said(container string) (all []entry) {
	h.t.Helper()
	out, err := h.tryCombined("docker logs --timestamps " + container)
	if err != nil {
		h.t.Fatalf("read log of %s: %v", container, err)
	}
	for line := range strings.Lines(out) {
		stamp, text, _ := strings.Cut(strings.TrimSpace(line), " ")
		if at, err := time.Parse(time.RFC3339Nano, stamp); err == nil {
			all = append(all, entry{at, text})
		}
	}
	return all
}

// awaitSaid waits until a container says text after since, and returns when it did.
func (h host) awaitSaid(container, text string, since time.Time) (at time.Time) {
	h.t.Helper()
	eventually(h.t, 30*time.Second, func() (bool, string) {
		for _, e := range h.said(container) {
			if e.at.After(since) && strings.Contains(e.text, text) {
				at = e.at
				return true, ""
			}
		}
		return false, container + " does not say " + text
	})
	return at
}

// writer is a looping client in a container on host B. It knows the ambassador only.
type writer struct {
	host
	name string
	// good tells whether a line is a write's answer.
	good func(line string) bool
}

// wrote is every line since then.
func (p writer) wrote(since time.Time) (lines []entry) {
	p.t.Helper()
	for _, e := range p.said(p.name) {
		if e.at.After(since) {
			lines = append(lines, e)
		}
	}
	return lines
}

// goesOn waits for the first write after since, and for a few more, and returns when the first was.
func (p writer) goesOn(since time.Time) (first time.Time) {
	p.t.Helper()
	const enough = 5
	eventually(p.t, 30*time.Second, func() (bool, string) {
		var writes, last = 0, "nothing"
		for _, e := range p.wrote(since) {
			last = e.text
			if !p.good(e.text) {
				continue
			}
			if writes++; writes == 1 {
				first = e.at
			}
		}
		return writes >= enough, p.name + " says: " + last
	})
	return first
}

// failed is the first line since then that is not the answer of a write.
func (p writer) failed(since time.Time) string {
	p.t.Helper()
	for _, e := range p.wrote(since) {
		if !p.good(e.text) {
			return e.text
		}
	}
	return ""
}

// neverFailed fails the test if a write did not succeed since then.
func (p writer) neverFailed(since time.Time) {
	p.t.Helper()
	if why := p.failed(since); why != "" {
		p.t.Errorf("a write of %s failed: %s", p.name, why)
	}
}
