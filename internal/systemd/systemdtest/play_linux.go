// Package systemdtest plays the service manager's part for tests: it hears
// what a service says, and keeps its sockets from one process to the next.
package systemdtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// Played is a service manager with one service. It ends with the test.
type Played struct {
	Path string // of its socket

	socket int
	done   chan struct{}
	mu     sync.Mutex // guards the following
	said   []string
	kept   []kept
	deaf   bool
}

type kept struct {
	name string
	fd   int
}

// Play starts one, whose socket everybody may write to.
func Play(t testing.TB) *Played {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p := &Played{Path: filepath.Join(dir, "notify"), done: make(chan struct{})}
	if p.socket, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(p.socket, &unix.SockaddrUnix{Name: p.Path}); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o755, p.Path: 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	go p.listen()
	t.Cleanup(p.end)
	return p
}

func (p *Played) end() {
	p.mu.Lock()
	p.deaf = true
	p.mu.Unlock()
	_ = unix.Sendto(p.socket, []byte("END"), 0, &unix.SockaddrUnix{Name: p.Path})
	<-p.done
	_ = unix.Close(p.socket)
	for _, k := range p.kept {
		_ = unix.Close(k.fd)
	}
}

func (p *Played) listen() {
	defer close(p.done)
	text, rights := make([]byte, 4096), make([]byte, 4096)
	for {
		n, m, _, _, err := unix.Recvmsg(p.socket, text, rights, unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			continue
		}
		var fds []int
		if messages, err := unix.ParseSocketControlMessage(rights[:m]); err == nil {
			for i := range messages {
				more, _ := unix.ParseUnixRights(&messages[i])
				fds = append(fds, more...)
			}
		}
		if p.hear(strings.Split(string(text[:n]), "\n"), fds) {
			return
		}
	}
}

func (p *Played) hear(lines []string, fds []int) (end bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.said = append(p.said, lines...)
	name := "stored"
	for _, line := range lines {
		if value, ok := strings.CutPrefix(line, "FDNAME="); ok {
			name = value
		}
	}
	if slices.Contains(lines, "FDSTORE=1") {
		for _, fd := range fds {
			p.keep(name, fd)
		}
		fds = nil
	}
	if slices.Contains(lines, "FDSTOREREMOVE=1") {
		p.kept = slices.DeleteFunc(p.kept, func(k kept) bool {
			if k.name == name {
				_ = unix.Close(k.fd)
			}
			return k.name == name
		})
	}
	for _, fd := range fds { // a barrier's: what stood before it is done
		_ = unix.Close(fd)
	}
	return p.deaf && lines[0] == "END"
}

// keep has each socket once, as the real one does.
func (p *Played) keep(name string, fd int) {
	for _, k := range p.kept {
		if Number(k.fd) == Number(fd) {
			_ = unix.Close(fd)
			return
		}
	}
	p.kept = append(p.kept, kept{name, fd})
}

// Number is the kernel's of a socket.
func Number(fd int) uint64 {
	n, _ := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	return n
}

// Hang has it read nothing more until release is called.
func (p *Played) Hang() (release func()) {
	p.mu.Lock()
	return p.mu.Unlock
}

// Keep stores a descriptor as if the service had; it stays the caller's, too.
func (p *Played) Keep(t testing.TB, name string, fd int) {
	t.Helper()
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = append(p.kept, kept{name, dup})
}

// Said tells how often the service said that line.
func (p *Played) Said(line string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.said {
		if s == line {
			n++
		}
	}
	return n
}

// All is what the service said.
func (p *Played) All() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.said)
}

// Kept is how many sockets there are for the next process.
func (p *Played) Kept() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.kept)
}

// Pass gives copies of what is kept, as the next process gets it, and their
// names.
func (p *Played) Pass(t testing.TB) (files []*os.File, names []string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range p.kept {
		dup, err := unix.FcntlInt(uintptr(k.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, os.NewFile(uintptr(dup), k.name))
		names = append(names, k.name)
	}
	return files, names
}

// Start starts the service with what is kept, and with more variables.
func (p *Played) Start(t testing.TB, c *exec.Cmd, more ...string) {
	t.Helper()
	files, names := p.Pass(t)
	// LISTEN_PID is known only once there is a process.
	c.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, c.Args...)
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	c.Path, c.ExtraFiles = sh, files
	c.Env = append(c.Env, "NOTIFY_SOCKET="+p.Path, "LISTEN_FDS="+strconv.Itoa(len(files)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	c.Env = append(c.Env, more...)
	err = c.Start()
	for _, f := range files {
		_ = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}
