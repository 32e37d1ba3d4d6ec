package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Of returns the namespace of a process and the container that it is in. The
// error wraps fs.ErrNotExist when there is no such process (any more), and is a
// *spec.UserError when this process may not ask.
func Of(pid int) (Found, error) {
	p, err := openProcess(pid)
	if err != nil {
		return Found{}, explainOpen(of(pid), err)
	}
	defer p.close()
	f := Found{PID: pid}
	if f.Container, err = p.container(); err == nil {
		f.Namespace, err = p.namespace()
	}
	if err != nil {
		return Found{}, explainOpen(of(pid), gone(err))
	}
	f.Host = isHost(f.Namespace.ID())
	return f, nil
}

// isHost tells whether a namespace is the host's or our own. They are one
// where Legate runs in the host's network, or without --pid host.
func isHost(id string) bool {
	for _, path := range []string{"/proc/thread-self/ns/net", "/proc/1/ns/net"} {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && idOf(&st) == id {
			return true
		}
	}
	return false
}

func of(pid int) string { return "of process " + strconv.Itoa(pid) }

// process is an open directory of /proc. Names below it are those of that very
// process, also when another has been given its number.
type process struct{ dir int }

func openProcess(pid int) (process, error) {
	dir, err := unix.Open("/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return process{dir}, err
}

func (p process) close() { _ = unix.Close(p.dir) }

func (p process) path(name string) string {
	return "/proc/self/fd/" + strconv.Itoa(p.dir) + "/" + name
}

func (p process) container() (string, error) {
	text, err := os.ReadFile(p.path("cgroup"))
	return containerOf(string(text)), err
}

func (p process) namespace() (*Namespace, error) { return open(p.path("ns/net")) }

// started returns when the process started, in ticks since boot, which is
// field 22 of proc_pid_stat(5); the name before it may have spaces and
// brackets.
func (p process) started() (uint64, error) {
	text, err := os.ReadFile(p.path("stat"))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("stat has %d fields", len(fields))
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// first tells whether the process is the first one of a PID namespace right
// below ours (NSpid in proc_pid_status(5)). One of a deeper one is that of a
// container inside a container.
func (p process) first() (bool, error) {
	text, err := os.ReadFile(p.path("status"))
	if err != nil {
		return false, err
	}
	_, rest, _ := strings.Cut(string(text), "\nNSpid:")
	line, _, _ := strings.Cut(rest, "\n")
	numbers := strings.Fields(line)
	return len(numbers) == 2 && numbers[1] == "1", nil
}

// gone says the one thing that the kernel says in two ways: that the process
// ended.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return fs.ErrNotExist
	}
	return err
}

// resident is a process that lives in a namespace somebody asked for.
type resident struct {
	pid       int
	started   uint64
	container string
	first     bool // of all processes of its container
}

// residents returns, for each of the namespaces with these ids, the first
// process of a container in it, where there is one: its end is that of the
// container, while others come and go (docker exec). The error says why most
// processes could not be asked, as without SYS_PTRACE; that some few cannot is
// normal where a security module guards them.
func residents(ids map[string]bool) (map[string]resident, error) {
	pids, err := newestFirst()
	if err != nil {
		return nil, fmt.Errorf("look for processes: %w", err)
	}
	found := make(map[string]resident)
	var denied error
	certain, asked, refused := 0, 0, 0
	for _, pid := range pids {
		var st unix.Stat_t
		err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/ns/net", &st)
		if errors.Is(err, fs.ErrPermission) {
			denied = err
			refused++
		}
		if err != nil {
			continue // or it has ended
		}
		asked++
		id := idOf(&st)
		if !ids[id] || found[id].first {
			continue
		}
		r, ok := look(pid, id)
		if was, seen := found[id]; ok && (!seen || r.before(was)) {
			found[id] = r
		}
		if r.first {
			if certain++; certain == len(ids) {
				break // a look at every process takes 7 us each
			}
		}
	}
	if refused < asked {
		denied = nil
	}
	return found, denied
}

// newestFirst lists the processes, those that started last first, as far as
// numbers tell.
func newestFirst() ([]int, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer func() { _ = proc.Close() }()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	slices.Reverse(pids)
	return pids, nil
}

// look takes a closer look at a process that seems to live in a namespace. It
// is none of those where it has ended meanwhile or is in no container: the
// engine's own threads visit namespaces, too.
func look(pid int, id string) (resident, bool) {
	p, err := openProcess(pid)
	if err != nil {
		return resident{}, false
	}
	defer p.close()
	r := resident{pid: pid}
	var st unix.Stat_t
	if unix.Stat(p.path("ns/net"), &st) != nil || idOf(&st) != id {
		return resident{}, false
	}
	if r.container, err = p.container(); err != nil || r.container == "" {
		return resident{}, false
	}
	if r.started, err = p.started(); err == nil {
		r.first, err = p.first()
	}
	return r, err == nil
}

func (r resident) before(other resident) bool {
	if r.first != other.first {
		return r.first
	}
	if r.started != other.started {
		return r.started < other.started
	}
	return r.pid < other.pid
}
