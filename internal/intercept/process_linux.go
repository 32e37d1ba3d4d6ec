package intercept

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Of returns the namespace of a process and the container that it is in. That
// may be the host's namespace, as for a container with --network host: the one
// of Of(1). The error wraps fs.ErrNotExist when there is no such process (any
// more), and is a *spec.UserError when this process may not ask.
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
	return f, nil
}

func of(pid int) string { return "of process " + strconv.Itoa(pid) }

// All returns the namespaces of those processes that are alive, in the order
// of pids, each with a handle of its own, also where two are in the same one.
// Those that may not be asked are left out; the error tells of them.
func All(pids []int) ([]Found, error) {
	var all []Found
	var errs []error
	for _, pid := range pids {
		f, err := Of(pid)
		switch {
		case err == nil:
			all = append(all, f)
		case !errors.Is(err, fs.ErrNotExist):
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

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
}

// residents returns, for each of the namespaces with these ids, the oldest
// process of a container in it, where there is one: its end is that of the
// container, while others come and go (docker exec). The error says why most
// processes could not be asked, as without SYS_PTRACE; that some few cannot is
// normal where a security module guards them.
func residents(ids map[string]bool) (map[string]resident, error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("look for processes: %w", err)
	}
	first := make(map[string]resident)
	var denied error
	asked, refused := 0, 0
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat("/proc/"+e.Name()+"/ns/net", &st); err != nil {
			if errors.Is(err, fs.ErrPermission) {
				denied = err
				refused++
			}
			continue // or it has ended
		}
		asked++
		id := idOf(&st)
		if !ids[id] {
			continue
		}
		r, ok := look(pid, id)
		if was, found := first[id]; ok && (!found || r.before(was)) {
			first[id] = r
		}
	}
	if refused < asked {
		denied = nil
	}
	return first, denied
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
	if r.container, err = p.container(); err == nil {
		r.started, err = p.started()
	}
	return r, err == nil && r.container != ""
}

func (r resident) before(other resident) bool {
	if r.started != other.started {
		return r.started < other.started
	}
	return r.pid < other.pid
}
