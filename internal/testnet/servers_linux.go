package testnet

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Process is a real server that a test runs in a directory of its own, on
// loopback. It ends with the test. [StartRedis], [StartPostgres] and
// [StartProcess] make one.
type Process struct {
	Addr netip.AddrPort // of TCP
	Path string         // of its unix socket; "" where it has none

	start func() *exec.Cmd
	kill  syscall.Signal // ends it at once and takes its children along
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd is waited for
	log   Transcript
}

// Transcript is what a process said so far. It may be read while it is written;
// the zero value is empty.
type Transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

// Write adds to it.
func (t *Transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(p)
}

// String is all of it.
func (t *Transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// ProcessConfig is a server to start.
type ProcessConfig struct {
	Args []string // the command and its arguments
	Dir  string   // its working directory; removed at the end of the test
	// User to run as when the test is root, "" for root: some servers refuse
	// to be root.
	User string
	Env  []string // added to the environment
	// Addr and Path are where it will listen, for who connects.
	Addr netip.AddrPort
	Path string
	// Ready tells whether it serves; nil: at once.
	Ready func() bool
}

// StartProcess starts a server and waits until it is ready. When it ends
// before that, the test fails with what it said.
func StartProcess(t testing.TB, c ProcessConfig) *Process {
	t.Helper()
	p := &Process{Addr: c.Addr, Path: c.Path, kill: unix.SIGKILL}
	as := credential(t, c.User)
	p.start = func() *exec.Cmd {
		cmd := serverCommand(as, c.Args...)
		cmd.Dir, cmd.Env = c.Dir, append(os.Environ(), c.Env...)
		cmd.Stdout, cmd.Stderr = &p.log, &p.log
		return cmd
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", c.Args[0], tail(p.log.String(), 4000))
		}
	})
	p.Start(t, c.Ready)
	return p
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// serverCommand is a command that runs as somebody else; nil: as the test.
func serverCommand(as *syscall.Credential, args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	// In a group of its own, so that Ctrl-C of a test is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: as}
	return cmd
}

// credential is that of the named user; nil where the test has no choice.
func credential(t testing.TB, name string) *syscall.Credential {
	t.Helper()
	if name == "" || os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatalf("look up user: %v", err)
	}
	ids := [2]uint64{}
	for i, text := range []string{u.Uid, u.Gid} {
		if ids[i], err = strconv.ParseUint(text, 10, 32); err != nil {
			t.Fatalf("look up user %s: %v", name, err)
		}
	}
	return &syscall.Credential{Uid: uint32(ids[0]), Gid: uint32(ids[1])}
}

// Start starts it again after Kill or Stop, at the same address, and waits
// until ready is true; nil does not wait.
func (p *Process) Start(t testing.TB, ready func() bool) {
	t.Helper()
	p.cmd, p.ended = p.start(), make(chan struct{})
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", p.cmd.Path, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.ended)
	}()
	if ready == nil {
		return
	}
	up := poll(60*time.Second, func() bool { return p.Ended() || ready() })
	if !up || p.Ended() {
		t.Fatalf("%s did not start:\n%s", p.cmd.Path, tail(p.log.String(), 4000))
	}
}

// Ended tells whether the process is gone.
func (p *Process) Ended() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Signal sends it a signal.
func (p *Process) Signal(s syscall.Signal) {
	if !p.Ended() {
		_ = p.cmd.Process.Signal(s)
	}
}

// Stop asks it to end with that signal, and waits for it.
func (p *Process) Stop(t testing.TB, s syscall.Signal) {
	t.Helper()
	p.Signal(s)
	Await(t, "the end of "+p.cmd.Path, p.Ended)
}

// Kill ends it at once, as kill -9 or the out-of-memory killer does, and waits
// for it. Start starts it again.
func (p *Process) Kill() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	p.Signal(unix.SIGCONT)
	p.Signal(p.kill)
	select {
	case <-p.ended:
	case <-time.After(Patience):
		p.Signal(unix.SIGKILL)
		<-p.ended
	}
}

// Freeze stops it as SIGSTOP does: the kernel still accepts for it, and nobody
// answers, from its return on. Thaw lets it go on.
func (p *Process) Freeze() {
	if !p.Ended() {
		FreezePID(p.cmd.Process.Pid)
	}
}

// FreezePID is [Process.Freeze] for a process that a server started. It waits
// until every thread has stopped: those on other processors run on for a
// moment, and may answer what is asked after the signal.
func FreezePID(pid int) {
	if unix.Kill(pid, unix.SIGSTOP) == nil {
		poll(Patience, func() bool { return stopped(pid) })
	}
}

// stopped tells whether no thread of a process runs, or it has ended.
func stopped(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // it ended
		}
		// The name before the state may have anything in it, brackets too.
		_, state, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
		if !strings.HasPrefix(state, "T") && !strings.HasPrefix(state, "Z") {
			return false
		}
	}
	return true
}

// Thaw ends Freeze.
func (p *Process) Thaw() { p.Signal(unix.SIGCONT) }

// Log is what it said so far.
func (p *Process) Log() string { return p.log.String() }

// serverDir makes a directory that the named user may write, with a path
// short enough for a unix socket in it.
func serverDir(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "srv")
	if err != nil {
		t.Fatalf("make a directory: %v", err)
	}
	t.Cleanup(func() { removeAll(t, dir) })
	if as := credential(t, name); as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			t.Fatalf("give the directory away: %v", err)
		}
	}
	return dir
}

// removeAll is patient: children of a killed server may still write there.
func removeAll(t testing.TB, dir string) {
	if !poll(Patience, func() bool { return os.RemoveAll(dir) == nil }) {
		t.Errorf("%s cannot be removed", dir)
	}
}

// find gives the command, or skips the test where it is not installed.
func find(t testing.TB, name string, elsewhere ...string) string {
	t.Helper()
	for _, pattern := range elsewhere {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[len(found)-1]
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		Skip(t, "needs "+name)
	}
	return path
}

// run runs a command to its end and gives what it wrote, or the error with
// what it wrote to stderr.
func run(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		err = fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(string(failed.Stderr)))
	}
	return strings.TrimRight(string(out), "\n"), err
}

func loopback(t testing.TB, a netip.AddrPort) netip.AddrPort {
	if a.IsValid() {
		return a
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(FreePort(t)))
}
