package cli

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"legate/internal/docker"
)

func lookRights(h host) rights {
	r := rights{namespaces: docker.DefaultNamespaces, ownControl: inOwnLayer("/run/legate")}
	held := capabilities()
	r.admin = held&(1<<unix.CAP_SYS_ADMIN) != 0
	r.ptrace = held&(1<<unix.CAP_SYS_PTRACE) != 0
	r.ownProcesses = h.container && firstIsOurs()
	if text, err := os.ReadFile("/proc/self/attr/apparmor/current"); err == nil {
		if profile := strings.TrimSpace(strings.Trim(string(text), "\x00")); profile != "unconfined" {
			r.confined = profile
		}
	}
	if _, r.missing = os.ReadDir(r.namespaces); r.missing == nil && h.container {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if path, linked := filepath.EvalSymlinks(r.namespaces); err == nil && linked == nil {
			r.private = !follows(mounts, path)
		}
	}
	return r
}

// capabilities are those in effect, as proc_pid_status(5) has them.
func capabilities() uint64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "\nCapEff:")
	line, _, _ := strings.Cut(rest, "\n")
	held, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return 0
	}
	return held
}

// firstIsOurs tells whether the first process that is seen lives in this very
// container. Whose files those are, everybody may ask of a process of his own.
func firstIsOurs() bool {
	if os.Getpid() == 1 {
		return true
	}
	first, err := os.Stat("/proc/1/ns/mnt")
	if err != nil {
		return false
	}
	own, err := os.Stat("/proc/self/ns/mnt")
	return err == nil && os.SameFile(first, own)
}

// follows tells whether mounts that others make below a path appear here, too:
// the optional fields of proc_pid_mountinfo(5) say so.
func follows(mounts []byte, path string) bool {
	longest, does := "", false
	for s := bufio.NewScanner(bytes.NewReader(mounts)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) < 7 || !within(path, f[4]) || len(f[4]) < len(longest) {
			continue
		}
		end := slices.Index(f, "-")
		longest = f[4]
		does = slices.ContainsFunc(f[6:max(6, end)], func(o string) bool {
			return strings.HasPrefix(o, "master:") || strings.HasPrefix(o, "shared:")
		})
	}
	return does
}
