// Command run tests the whole tree with the race detector on. It prints each package as it ends, and
// at last what was skipped and why; with CI=true a skip is a failure. Asked for one long run (SIM=1h,
// SOAK=30m) it does that alone, and prints what that prints.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

func main() {
	sim := flag.String("sim", "", "run only the simulation, for this long")
	soak := flag.String("soak", "", "run only the strain tests, the soak for this long")
	flag.Parse()
	if err := run(*sim, *soak); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(sim, soak string) error {
	long, err := longRuns(sim, soak)
	if err != nil {
		return err
	}
	if len(long) == 0 {
		return testAll()
	}
	for _, l := range long {
		err = errors.Join(err, l.run())
	}
	return err
}

// Packages that get the machine to themselves: they keep both cores busy, and the timing that other
// packages measure would be theirs.
const (
	strain = "legate/test/soak"
	hosts  = "legate/test/e2e"
)

func testAll() error {
	out, err := exec.Command("go", "list", "./...").Output()
	if err != nil {
		return fmt.Errorf("list packages: %w", err)
	}
	s := stagesOf(strings.Fields(string(out)))
	r := newReport(os.Stdout)
	return errors.Join(
		r.test(s.rest, 8*time.Minute),
		r.test(s.strain, 8*time.Minute),
		r.test(s.hosts, 10*time.Minute),
		r.close(os.Getenv("CI") == "true"))
}

// stages are what is tested one after the other.
type stages struct{ rest, strain, hosts []string }

func stagesOf(packages []string) (s stages) {
	for _, pkg := range packages {
		switch {
		case pkg == hosts || strings.HasPrefix(pkg, hosts+"/"):
			s.hosts = append(s.hosts, pkg)
		case pkg == strain:
			s.strain = append(s.strain, pkg)
		default:
			s.rest = append(s.rest, pkg)
		}
	}
	return s
}
