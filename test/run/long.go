package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// invariants is the build tag under which the pump checks itself at every step.
const invariants = "pumpcheck"

// long is a run that takes as long as somebody asks for.
type long struct {
	variable string // that tells the tests how long
	duration time.Duration
	pkg      string
	tests    string // pattern of their names
}

// grace is what a long run may take beyond its duration: building, and the tests beside it.
const grace = 20 * time.Minute

func longRuns(sim, soak string) (all []long, err error) {
	for _, l := range []struct {
		name, value string
		run         long
	}{
		{"SIM", sim, long{variable: "LEGATE_SIM", pkg: pump, tests: "^TestSimulation$"}},
		{"SOAK", soak, long{variable: "LEGATE_SOAK", pkg: strain, tests: "."}},
	} {
		if l.value == "" {
			continue
		}
		if l.run.duration, err = time.ParseDuration(l.value); err != nil || l.run.duration <= 0 {
			return nil, fmt.Errorf("%s=%q is not a duration\nhint: make test %s=30m", l.name, l.value, l.name)
		}
		all = append(all, l.run)
	}
	return all, nil
}

// run passes on what the tests print, as they print it. The race detector is off: it is for the code of
// the test process, where each simulated schedule is one goroutine and the strained Legate is another
// process, and both would do a fraction of the work.
func (l long) run() error {
	if err := l.exists(); err != nil {
		return err
	}
	cmd := l.goTest("-v", "-count=1", "-timeout", (l.duration + grace).String(), "-run", l.tests)
	cmd.Env = append(os.Environ(), l.variable+"="+l.duration.String())
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start go test: %w", err)
	}
	ended := make(chan struct{})
	told := make(chan struct{})
	go l.tell(ended, told)
	err := cmd.Wait()
	close(ended)
	<-told
	if err != nil {
		return fmt.Errorf("%s=%v: %w", l.variable, l.duration, err)
	}
	return nil
}

// tell says every minute how far it is, for tests that have nothing to say meanwhile.
func (l long) tell(ended <-chan struct{}, told chan<- struct{}) {
	defer close(told)
	began, minute := time.Now(), time.NewTicker(time.Minute)
	defer minute.Stop()
	for {
		select {
		case <-ended:
			return
		case <-minute.C:
			_, _ = fmt.Fprintf(os.Stdout, "%s: %v of %v\n", l.variable, time.Since(began).Round(time.Second), l.duration)
		}
	}
}

// exists fails where go test would be content to run nothing.
func (l long) exists() error {
	cmd := l.goTest("-list", l.tests)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("list tests of %s: %w", l.pkg, err)
	}
	if !strings.HasPrefix(string(out), "Test") {
		return fmt.Errorf("no test of %s is named %s", l.pkg, l.tests)
	}
	return nil
}

func (l long) goTest(flags ...string) *exec.Cmd {
	args := append([]string{"test", "-tags", invariants}, flags...)
	return exec.Command("go", append(args, l.pkg)...)
}
