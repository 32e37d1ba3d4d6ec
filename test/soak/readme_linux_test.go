package soak

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/testnet"
)

// shell is one that a person types into. What it started goes with it.
type shell struct {
	t    *testing.T
	in   io.Writer
	out  *bufio.Reader
	said *testnet.Transcript
}

// openShell starts a shell for which the product, the registries and Redis are installed, and whose /run is
// its own: the examples use control sockets by name.
func openShell(t *testing.T) *shell {
	t.Helper()
	bin, err := filepath.Abs(filepath.Dir(product()))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /run && exec bash")
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "ETCDCTL_API=3")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	s := &shell{t: t, said: &testnet.Transcript{}}
	cmd.Stderr = s.said
	if s.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a shell: %v", err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // all that it started
		_ = cmd.Wait()                                      // terminated
		if t.Failed() {
			t.Logf("the shell said:\n%s", s.said)
		}
	})
	return s
}

// typed types a line and returns what it prints, and whether it succeeded.
func (s *shell) typed(line string) (out string, ok bool) {
	s.t.Helper()
	if background, found := strings.CutSuffix(line, " &"); found {
		line = background + " >&2 &"
	}
	if _, err := fmt.Fprintf(s.in, "%s\necho; echo end of line $?\n", line); err != nil {
		s.t.Fatalf("type %s: %v\n%s", line, err, s.said)
	}
	var b strings.Builder
	for {
		text, err := s.out.ReadString('\n')
		if code, end := strings.CutPrefix(strings.TrimSpace(text), "end of line "); end {
			return b.String(), code == "0"
		}
		if err != nil {
			s.t.Fatalf("%s: %v\n%s", line, err, s.said)
		}
		b.WriteString(text)
	}
}

// check types a line of the README until it says what stands there.
func (s *shell) check(line string) {
	s.t.Helper()
	command, want, says := strings.Cut(line, "#=> ")
	command = strings.TrimSpace(command)
	var out string
	for deadline := time.Now().Add(patience); ; <-time.After(20 * time.Millisecond) {
		var ok bool
		if out, ok = s.typed(command); ok && strings.Contains(out, strings.TrimSpace(want)) {
			return
		}
		if !says || time.Now().After(deadline) {
			s.t.Fatalf("%s\nsays:\n%s\nbut in the README: %s", command, out, want)
		}
	}
}

// The chapter of the README on sources, typed as it stands. What needs an engine is typed by the tests on
// Docker hosts.
func TestReadme_Sources(t *testing.T) {
	arrange(t)
	for _, need := range []string{"redis-server", "redis-cli", "curl", "etcdctl", "etcd"} {
		if _, err := exec.LookPath(need); err != nil {
			testnet.Skip(t, "needs "+need)
		}
	}
	if out, err := exec.Command("ip", "address", "replace", "192.168.1.52/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("give this host the address of the README: %v: %s", err, out)
	}
	servers := openShell(t)
	dir := t.TempDir()
	for _, line := range []string{
		"redis-server --bind 192.168.1.52 --protected-mode no --save '' --dir " + dir + " &",
		testnet.Built(t, "consul") + " agent -dev -bind 127.0.0.1 &",
		"etcd --data-dir " + dir + "/etcd &",
		"curl -sf http://127.0.0.1:8500/v1/status/leader    #=> 127.0.0.1",
		"etcdctl endpoint health 2>&1    #=> is healthy",
		"redis-cli -h 192.168.1.52 ping    #=> PONG",
	} {
		servers.check(line)
	}
	s := openShell(t)
	typed := 0
	for _, section := range readmeSections(t, "Where endpoints come from") {
		for _, line := range section {
			if strings.HasPrefix(line, "docker ") {
				continue
			}
			s.check(line)
			typed++
		}
	}
	if typed < 15 {
		t.Errorf("only %d lines were found to type", typed)
	}
}

// readmeSections are the indented lines of a chapter, by section.
func readmeSections(t *testing.T, title string) (sections [][]string) {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(repository(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(readme), "\n## "+title+"\n")
	if !found {
		t.Fatalf("README.md has no chapter %q", title)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for section := range strings.SplitSeq(text, "\n### ") {
		var lines []string
		for line := range strings.Lines(section) {
			if command, indented := strings.CutPrefix(line, "    "); indented {
				lines = append(lines, strings.TrimSpace(command))
			}
		}
		sections = append(sections, lines)
	}
	return sections
}
