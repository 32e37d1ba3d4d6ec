package scripts

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What the demo prints is typed word for word, from another terminal.
func TestDemo_PrintedLinesDoWhatTheySay(t *testing.T) {
	dir := t.TempDir()
	started := startDemo(t, dir)
	var lines []string
	for _, l := range started {
		if l = strings.TrimSpace(l); strings.HasPrefix(l, "curl ") || strings.HasPrefix(l, "bin/legate ") {
			lines = append(lines, l)
		}
	}
	want := []string{"hello from blue", "hello goes to 127.0.0.1:", "hello from green", "  swapped ", "that is as configured"}
	if len(lines) != len(want) {
		t.Fatalf("the demo printed %d commands, want %d: %q", len(lines), len(want), lines)
	}
	for i, line := range append(lines, lines[0]) {
		if out := shell(t, dir, line); !strings.Contains(out, append(want, want[0])[i]) {
			t.Errorf("%s\nprinted %q, want %q in it", line, out, append(want, want[0])[i])
		}
	}
}

// startDemo starts bin/legate demo without a directory for sockets, and
// returns what it printed. The test's end interrupts it; it must then succeed.
func startDemo(t *testing.T, dir string) []string {
	t.Helper()
	legate, err := exec.LookPath("legate")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(legate, filepath.Join(dir, "bin", "legate")); err != nil {
		t.Fatal(err)
	}
	demo := &exec.Cmd{Path: "bin/legate", Args: []string{"bin/legate", "demo"}, Dir: dir, Env: demoEnv(), Stderr: os.Stderr}
	out, err := demo.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := demo.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(patience, func() { _ = demo.Process.Kill() })
	t.Cleanup(func() {
		defer kill.Stop()
		if err := demo.Process.Signal(os.Interrupt); err != nil {
			t.Errorf("interrupt the demo: %v", err)
		}
		if err := demo.Wait(); err != nil {
			t.Errorf("the demo ended with %v", err)
		}
	})
	var lines []string
	for s := bufio.NewScanner(out); s.Scan(); {
		lines = append(lines, s.Text())
		if strings.Contains(s.Text(), "Ctrl-C") {
			return lines
		}
	}
	t.Fatalf("the demo ended early: %q", lines)
	return nil
}

func demoEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
}

func shell(t *testing.T, dir, line string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "sh", "-c", line)
	c.Dir, c.Env = dir, demoEnv()
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}
