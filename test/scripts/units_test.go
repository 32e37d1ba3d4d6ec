package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"legate/internal/cli"
	"legate/internal/testnet"
)

const units = "../../packaging/systemd"

// program is where the units look for legate.
const program = "/usr/local/bin/legate"

// exposure is the most that systemd-analyze may find open in a unit, times ten:
// below 2.0 "there is little to add", and what the agent has beyond that it
// needs to enter containers' namespaces.
var exposure = map[string]int{"legate-agent.service": 30, "legate@.service": 20}

func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		testnet.Skip(t, "needs systemd-analyze")
	}
	for name, limit := range exposure {
		t.Run(name, func(t *testing.T) {
			// It insists that the program is there.
			text := strings.ReplaceAll(unit(t, name), program, "/bin/true")
			copied := filepath.Join(t.TempDir(), strings.Replace(name, "@.", "@test.", 1))
			if err := os.WriteFile(copied, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(analyze, "verify", "--man=no", copied).CombinedOutput(); err != nil || strings.Contains(string(out), filepath.Base(copied)+":") {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
			if out, err := exec.Command(analyze, "security", "--no-pager", "--offline=true", "--threshold="+strconv.Itoa(limit), copied).CombinedOutput(); err != nil {
				t.Errorf("systemd-analyze security: %v\n%s", err, out)
			}
		})
	}
}

func unit(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(units, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A unit that no table here names would be tested by nobody; and one that
// starts a command that is not there, or sets an option that is none, would
// fail on the user's machine first.
func TestUnits_StartWhatThereIs(t *testing.T) {
	files, err := filepath.Glob(units + "/*.service")
	if err != nil || len(files) != len(exposure) {
		t.Fatalf("%d units (%v), %d are tested", len(files), err, len(exposure))
	}
	root := cli.Root(cli.Process{Args: []string{"legate"}})
	for _, file := range files {
		text := unit(t, filepath.Base(file))
		_, start, _ := strings.Cut(text, "\nExecStart="+program+" ")
		start, _, _ = strings.Cut(start, "\n")
		command, rest, err := root.Find(strings.Fields(start))
		if err != nil || command == root || len(rest) > 0 {
			t.Errorf("%s starts legate %q: %v", file, start, err)
			continue
		}
		_, set, _ := strings.Cut(text, "\nEnvironment=")
		set, _, _ = strings.Cut(set, "\n")
		for _, variable := range strings.Fields(set) {
			name, _, _ := strings.Cut(strings.TrimPrefix(variable, "LEGATE_"), "=")
			if flag := strings.ReplaceAll(strings.ToLower(name), "_", "-"); command.Flags().Lookup(flag) == nil {
				t.Errorf("%s sets %s, and legate %s has no --%s", file, variable, start, flag)
			}
		}
	}
}
