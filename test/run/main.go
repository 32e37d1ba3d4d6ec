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

// Packages that are named here.
const (
	etcd   = "legate/internal/discover/etcd"
	pump   = "legate/internal/pump"
	strain = "legate/test/soak"
	hosts  = "legate/test/e2e" // and what is below it gets the machine to itself
)

func testAll() error {
	out, err := exec.Command("go", "list", "./...").Output()
	if err != nil {
		return fmt.Errorf("list packages: %w", err)
	}
	rest, alone := stagesOf(strings.Fields(string(out)))
	r := newReport(os.Stdout)
	return errors.Join(
		r.test(rest, 8*time.Minute),
		r.test(alone, 10*time.Minute),
		r.close(os.Getenv("CI") == "true"))
}

// stagesOf are what is tested one after the other. Packages that take minutes begin first, so that the
// others end beside them.
func stagesOf(packages []string) (rest, alone []string) {
	var long []string
	for _, pkg := range packages {
		switch {
		case pkg == hosts || strings.HasPrefix(pkg, hosts+"/"):
			alone = append(alone, pkg)
		case pkg == pump || strings.HasPrefix(pkg, pump+"/") || pkg == strain || pkg == etcd:
			long = append(long, pkg)
		default:
			rest = append(rest, pkg)
		}
	}
	return append(long, rest...), alone
}
