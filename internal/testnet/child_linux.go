package testnet

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Child is what the process of its own is like in which a test runs again.
type Child struct {
	// OwnNet gives it a network namespace, with nothing but loopback. Needs
	// root.
	OwnNet bool
	// Files, when not 0, is how many descriptors it may have.
	Files uint64
	// Through is a command, with arguments, that starts it: strace.
	Through []string
	// Timeout after which it is killed; 0 means a minute.
	Timeout time.Duration
}

const childVariable = "TESTNET_CHILD"

// Run runs body in a process of its own: the same test again, which comes to
// this same call and there runs body. It may be called once in a test. What
// the test does before the call is done in both processes, and so is what
// comes after it; Run returns true in the process that was there first.
func (c Child) Run(t *testing.T, body func()) (parent bool) {
	t.Helper()
	if os.Getenv(childVariable) == t.Name() {
		c.enter(t)
		body()
		return false
	}
	if c.OwnNet {
		NeedRoot(t)
	}
	out, err := c.start(t)
	if err != nil {
		t.Fatalf("in a process of its own: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Fatalf("the process of its own ran another test:\n%s", out)
	}
	return true
}

func (c Child) start(t *testing.T) ([]byte, error) {
	timeout := c.Timeout
	if timeout == 0 {
		timeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	args := append(append([]string(nil), c.Through...), os.Args[0], "-test.v", "-test.run="+exactly(t.Name()), "-test.timeout="+timeout.String())
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	// A tracer that is killed must not leave its child behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	if c.OwnNet {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNET
	}
	cmd.Env = append(os.Environ(), childVariable+"="+t.Name())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.Bytes(), err
}

// exactly is the -test.run pattern of one test; each level is matched apart.
func exactly(name string) string {
	levels := strings.Split(name, "/")
	for i, l := range levels {
		levels[i] = "^" + regexp.QuoteMeta(l) + "$"
	}
	return strings.Join(levels, "/")
}

func (c Child) enter(t *testing.T) {
	t.Helper()
	if c.OwnNet {
		if err := command("ip", "link", "set", "lo", "up"); err != nil {
			t.Fatalf("bring loopback up: %v", err)
		}
	}
	if c.Files == 0 {
		return
	}
	// Through syscall, not unix: the runtime remembers it then and does not
	// raise the soft limit again.
	limit := syscall.Rlimit{Cur: c.Files, Max: c.Files}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatalf("limit descriptors to %d: %v", c.Files, err)
	}
}
