package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// event is one line of `go test -json` (go doc test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of a package that is being built
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

func (e event) name() string { return strings.TrimSuffix(e.Package+" "+e.Test, " ") }

// report turns events into lines for people.
type report struct {
	out  io.Writer
	said map[string][]string // output by package, or by test that has not ended
	bad  map[string]bool     // packages with a failed test

	passed, failed, skipped int
	skips                   []string
}

// atOnce is how many packages are tested at a time, also on two cores: most of them wait most of the time.
const atOnce = "4"

const slow = 5 // seconds after which a single test is worth a line

func newReport(out io.Writer) *report {
	return &report{out: out, said: map[string][]string{}, bad: map[string]bool{}}
}

// test runs packages; its error says that some failed, or that they could not be run. A package that
// is not done within limit prints what it is doing and fails.
func (r *report) test(packages []string, limit time.Duration) error {
	if len(packages) == 0 {
		return nil
	}
	// -count=1: a cached pass knows nothing of engines, namespaces and other files that changed.
	cmd := exec.Command("go", append([]string{"test", "-race", "-tags", invariants, "-count=1", "-p", atOnce, "-json", "-timeout", limit.String()}, packages...)...)
	cmd.Stderr = os.Stderr
	lines, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	readErr := r.read(lines)
	return errors.Join(readErr, cmd.Wait())
}

func (r *report) read(lines io.Reader) error {
	in := bufio.NewReader(lines)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read go test: %w", err)
		}
	}
}

func (r *report) line(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		fmt.Fprintf(r.out, "%s", line) // go itself has something to say
		return
	}
	switch e.Action {
	case "output":
		r.said[e.name()] = append(r.said[e.name()], e.Output)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "pass", "fail", "skip":
		r.ended(e)
	}
}

func (r *report) ended(e event) {
	said := r.said[e.name()]
	delete(r.said, e.name())
	if e.Test == "" {
		r.packageEnded(e, said)
		return
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "fail":
		r.failed++
		r.bad[e.Package] = true
		fmt.Fprint(r.out, strings.Join(said, ""))
	case "skip":
		r.skipped++
		r.skips = append(r.skips, e.name()+": "+reason(said))
	}
	if e.Action != "fail" && e.Elapsed >= slow {
		fmt.Fprintf(r.out, "     %-60s %6.1fs\n", e.Test, e.Elapsed)
	}
}

func (r *report) packageEnded(e event, said []string) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok   %-60s %6.1fs\n", e.Package, e.Elapsed)
	case "skip":
		fmt.Fprintf(r.out, "     %-60s no tests\n", e.Package)
	case "fail":
		if !r.bad[e.Package] { // no test of it is to blame: it did not build, crashed or ran out of time
			r.failed++
		}
		fmt.Fprint(r.out, strings.Join(said, ""))
		r.unfinished(e.Package)
		fmt.Fprintf(r.out, "FAIL %-60s %6.1fs\n", e.Package, e.Elapsed)
	}
}

// unfinished prints what the tests said that were running when their package crashed.
func (r *report) unfinished(pkg string) {
	for name, lines := range r.said {
		if strings.HasPrefix(name, pkg+" ") {
			fmt.Fprint(r.out, strings.Join(lines, ""))
			delete(r.said, name)
		}
	}
}

// reason is the message of t.Skip, which stands after file and line.
func reason(said []string) string {
	for _, line := range said {
		if _, why, ok := strings.Cut(strings.TrimSpace(line), ".go:"); ok {
			_, why, _ = strings.Cut(why, ": ")
			return why
		}
	}
	return "no reason given"
}

func (r *report) close(ci bool) error {
	if len(r.skips) > 0 {
		fmt.Fprintf(r.out, "\nskipped:\n  %s\n", strings.Join(r.skips, "\n  "))
	}
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	if ci && r.skipped > 0 {
		return errors.New("with CI=true nothing may be skipped")
	}
	return nil
}
