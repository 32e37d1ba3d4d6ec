// Command run tests the whole tree with the race detector on. It prints each package as it ends, and
// at last what was skipped and why; with CI=true a skip is a failure.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

func main() {
	if err := testAll(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

const hosts = "legate/test/e2e"

// testAll leaves the Docker hosts for last and alone: they keep both cores busy, and the timing that
// other packages measure would be theirs.
func testAll() error {
	out, err := exec.Command("go", "list", "./...").Output()
	if err != nil {
		return fmt.Errorf("list packages: %w", err)
	}
	var rest, last []string
	for pkg := range strings.FieldsSeq(string(out)) {
		if pkg == hosts || strings.HasPrefix(pkg, hosts+"/") {
			last = append(last, pkg)
		} else {
			rest = append(rest, pkg)
		}
	}
	r := newReport(os.Stdout)
	return errors.Join(r.test(rest, 5*time.Minute), r.test(last, 10*time.Minute), r.close(os.Getenv("CI") == "true"))
}
