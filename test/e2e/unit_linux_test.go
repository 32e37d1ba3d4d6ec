package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"legate/internal/testnet"
)

// systemd is where the real one is, in Debian as elsewhere.
const systemd = "/lib/systemd/systemd"

// confine gives the manager a control group of its own as the root of all that it can see: one that is not alone there
// moves everything that runs on the machine.
const confine = `set -e
	for root in $cgroups; do mkdir -p "$root/$1"; echo $$ >"$root/$1/cgroup.procs"; done
	exec unshare --cgroup --mount --propagation slave sh -c "$furnish" sh`

// furnish makes the machine what the unit expects one to be that runs Docker: as on one that systemd booted, with the
// engine's socket and namespaces where they are by default, and legate in its place. ProtectHome hides /run/user.
const furnish = `set -e
	if [ "$cgroups" = /sys/fs/cgroup ]; then
		mount -t cgroup2 cgroup2 /sys/fs/cgroup
	else
		mount -t tmpfs tmpfs /sys/fs/cgroup && mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
		mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
		mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
	fi
	for root in $cgroups; do
		while read -r pid; do [ "$pid" = $$ ] || [ ! -e "/proc/$pid" ] || exit 1; done <"$root/cgroup.procs"
	done
	mount -t tmpfs tmpfs /run
	mkdir -p /run/systemd/system /run/docker/netns "$XDG_RUNTIME_DIR" /run/config/systemd/user
	mkdir -p /run/systemd/inaccessible/dir && touch /run/systemd/inaccessible/reg && chmod 0 /run/systemd/inaccessible/*
	touch /run/docker.sock && mount --bind "$socket" /run/docker.sock
	mount --rbind "$namespaces" /run/docker/netns
	mount --bind "$programs" /usr/local/bin
	cp "$unit" /run/config/systemd/user/
	mkdir /run/config/systemd/user/legate-agent.service.d
	echo "$beside" >/run/config/systemd/user/legate-agent.service.d/e2e.conf
	exec "$systemd" --user --unit=legate-agent.service`

// beside the unit is what it cannot say for a user's systemd without a journal.
const beside = `[Service]
Environment=LEGATE_STATE_DIR=%S/legate
StandardOutput=append:/run/agent.log
StandardError=append:/run/agent.log`

// manager is a real systemd with the agent's unit as it is packaged. It is one of those that users have, which need not be
// the first process; where the user is root, it can restrict a service as the machine's own does.
type manager struct {
	host
	systemd *exec.Cmd
	groups  []string // its control groups, the only ones that it sees
	log     testnet.Transcript
}

// unit starts it, and returns when the agent says that it is ready.
func (h host) unit() *manager {
	h.t.Helper()
	if _, err := os.Stat(systemd); err != nil {
		testnet.Skip(h.t, "needs systemd: run test/setup/packages.sh")
	}
	roots := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err != nil { // version 1, with 2 beside it
		roots = []string{"/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"}
	}
	m := &manager{host: h}
	name := "legate-e2e-" + filepath.Base(h.t.Name()) // the same in every run, which finds what a crash left
	for _, root := range roots {
		m.groups = append(m.groups, filepath.Join(root, name))
	}
	m.systemd = h.Inside("sh", "-c", confine, "sh", name)
	m.systemd.Env = append(os.Environ(), "cgroups="+strings.Join(roots, " "), "furnish="+furnish, "beside="+beside, "systemd="+systemd,
		"unit="+h.absolute("../../packaging/systemd/legate-agent.service"), "programs="+h.program(),
		"socket="+h.Socket, "namespaces="+h.Namespaces(), "XDG_RUNTIME_DIR=/run/manager", "XDG_CONFIG_HOME=/run/config", "SYSTEMD_LOG_TARGET=console")
	m.systemd.Stdout, m.systemd.Stderr = &m.log, &m.log
	if err := m.systemd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(m.end)
	eventually(h.t, 20*time.Second, func() (bool, string) {
		state, err := m.exec("systemctl", "--user", "is-active", "legate-agent")
		return state == "active", state + errText(err)
	})
	return m
}

func (h host) absolute(path string) string {
	h.t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		h.t.Fatal(err)
	}
	return path
}

// exec runs a command as somebody would on that machine.
func (m *manager) exec(args ...string) (string, error) {
	cmd := exec.Command("nsenter", append([]string{"--target=" + strconv.Itoa(m.systemd.Process.Pid), "--mount", "--net"}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR=/run/manager")
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func (m *manager) systemctl(args ...string) string {
	m.t.Helper()
	out, err := m.exec(append([]string{"systemctl", "--user"}, args...)...)
	if err != nil {
		m.t.Fatalf("systemctl %v: %s%s", args, out, errText(err))
	}
	return out
}

// end ends all that is in the manager's control groups, and removes those.
func (m *manager) end() {
	if m.t.Failed() {
		agent, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root/run/agent.log", m.systemd.Process.Pid))
		m.t.Logf("systemd said:\n%s\nand the agent:\n%s", m.log.String(), agent)
	}
	eventually(m.t, 20*time.Second, func() (bool, string) {
		left := m.processes() // it is one of them, unless it could not even be confined
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(left) == 0, fmt.Sprintf("processes %v do not end", left)
	})
	_ = m.systemd.Process.Kill()
	_ = m.systemd.Wait()
	for _, group := range m.groups {
		for _, dir := range slices.Backward(m.below(group)) {
			if err := os.Remove(dir); err != nil {
				m.t.Error(err)
			}
		}
	}
}

// below are a control group and those in it, each before its own.
func (m *manager) below(group string) (dirs []string) {
	_ = filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs
}

func (m *manager) processes() (pids []int) {
	for _, group := range m.groups {
		for _, dir := range m.below(group) {
			text, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for line := range strings.FieldsSeq(string(text)) {
				if pid, err := strconv.Atoi(line); err == nil {
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// The unit, as it is packaged, under a real systemd: with all that it forbids the agent opens links in containers, before
// their first instruction and on ports below 1024, and systemctl restart refuses no connect.
func TestAgentUnit(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.run("docker network create backend")
		a.redisBorn("redis", "--network", "backend")
		a.client("web", "--network backend --label connect.6379=redis --label connect.80=docker:redis:6379")
		m := a.unit()
		a.awaitWhoIn("web", "-h 127.0.0.1", "redis")
		a.awaitWhoIn("web", "-h 127.0.0.1 -p 80", "redis")
		for i := range 3 {
			out, err := a.try("docker run --rm --network backend --label connect.6379=redis legate-e2e/tools redis-cli -h 127.0.0.1 get who")
			if err != nil || out != "redis" {
				t.Errorf("client %d got %q%s", i, out, errText(err))
			}
		}
		m.restricted()
		if doctor, err := m.exec("legate", "doctor"); err != nil {
			t.Errorf("doctor says:\n%s", doctor)
		}

		end := make(chan struct{})
		p := a.ping("web", end)
		more := func() { p.await(t, 300) }
		more()
		m.systemctl("restart", "legate-agent")
		more()
		if n := p.lost.Load(); n > 0 {
			t.Errorf("%d connections were lost to a restart", n)
		}
		m.systemctl("kill", "--signal=KILL", "legate-agent")
		more()
		close(end)
		p.asking.Wait()
		t.Logf("answered %d, refused %d, lost %d", p.answered.Load(), p.refused.Load(), p.lost.Load())
		if n := p.refused.Load(); n > 0 {
			t.Errorf("%d connects were refused", n)
		}
	})
}

// restricted makes sure that the agent runs under the unit's restrictions, or nothing was shown.
func (m *manager) restricted() {
	m.t.Helper()
	pid := m.systemctl("show", "--property=MainPID", "--value", "legate-agent")
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		m.t.Fatal(err)
	}
	// SYS_ADMIN, SYS_PTRACE and NET_BIND_SERVICE; a seccomp filter.
	for _, want := range []string{"CapEff:\t0000000000280400", "CapBnd:\t0000000000280400", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), "\n"+want+"\n") {
			m.t.Errorf("the agent's status has no %q:\n%s", want, status)
		}
	}
}
