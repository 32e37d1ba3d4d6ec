package docker

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"legate/internal/spec"
)

// Own says where a container finds its own id. The zero value is this process.
type Own struct {
	Mountinfo string // "": /proc/self/mountinfo
	Cgroup    string // "": /proc/self/cgroup
	Hostname  string // "": os.Hostname
}

var (
	inPath      = regexp.MustCompile(`containers/([0-9a-f]{64})/`)
	longID      = regexp.MustCompile(`[0-9a-f]{64}`)
	shortID     = regexp.MustCompile(`^[0-9a-f]{12}$`)
	engineFiles = []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"}
)

// ID returns the id of the container that this process runs in: 64 digits, or
// 12 where only the host name tells it. The error is a *spec.UserError.
//
// The engine mounts three files of its own into every container, from a
// directory that has the container's id in its name. That tells more than the
// cgroup, which is "/" in a cgroup namespace, and the host name, which users
// set.
func (o Own) ID() (string, error) {
	text, _ := os.ReadFile(or(o.Mountinfo, "/proc/self/mountinfo"))
	for line := range strings.Lines(string(text)) {
		// Fields four and five are the root of the mount in its file system
		// and where it is mounted (proc_pid_mountinfo(5)).
		f := strings.Fields(line)
		if len(f) < 5 || !slices.Contains(engineFiles, f[4]) {
			continue
		}
		if found := inPath.FindStringSubmatch(f[3]); found != nil {
			return found[1], nil
		}
	}
	text, _ = os.ReadFile(or(o.Cgroup, "/proc/self/cgroup"))
	if ids := longID.FindAllString(string(text), -1); len(ids) > 0 {
		return ids[len(ids)-1], nil // the innermost of nested containers
	}
	name := o.Hostname
	if name == "" {
		name, _ = os.Hostname()
	}
	if shortID.MatchString(name) {
		return name, nil
	}
	return "", spec.Errorf("run Legate in a container, or name the links: legate 6379=redis:6379",
		"this process runs in no container of Docker")
}

func or(path, standard string) string {
	if path == "" {
		return standard
	}
	return path
}
