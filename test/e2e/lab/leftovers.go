package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// clear removes processes, namespaces and files of this lab, whoever left them.
func (l *Lab) clear() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.killStrays(ctx); err != nil {
		return err
	}
	if err := l.net.down(ctx); err != nil {
		return err
	}
	l.removeCgroups()
	if err := os.RemoveAll(l.dir); err != nil {
		return fmt.Errorf("remove lab folder: %w", err)
	}
	return nil
}

// killStrays ends what runs in the mount namespaces of this lab's engines and containers. A recorded
// pid may be somebody else's by now; a mount below our own folder cannot.
func (l *Lab) killStrays(ctx context.Context) error {
	own, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil //nolint:nilerr // without /proc there is no Docker host to clear either
	}
	if l.mounts(own) {
		return fmt.Errorf("something is mounted below %s on this machine itself; unmount it first", l.dir)
	}
	return Poll(ctx, func() (bool, string) {
		strays := l.strays()
		for _, pid := range strays {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(strays) == 0, fmt.Sprintf("processes %v of an earlier run do not end", strays)
	})
}

func (l *Lab) strays() []int {
	infos, _ := filepath.Glob("/proc/[0-9]*/mountinfo")
	var pids []int
	for _, info := range infos {
		text, err := os.ReadFile(info)
		if err != nil || !l.mounts(text) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(info))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (l *Lab) mounts(mountinfo []byte) bool { return bytes.Contains(mountinfo, []byte(l.dir+"/")) }

// removeCgroups removes those of containers whose engine was killed before it could: they are empty,
// but would stay until the machine restarts.
func (l *Lab) removeCgroups() {
	containers, _ := filepath.Glob(filepath.Join(l.dir, "*", "data", "containers", "*"))
	for _, container := range containers {
		groups, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*/docker", filepath.Base(container)))
		for _, group := range append(groups, filepath.Join("/sys/fs/cgroup/docker", filepath.Base(container))) {
			_ = os.Remove(group)
		}
	}
}
