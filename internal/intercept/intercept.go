// Package intercept makes sockets inside the network namespaces of containers,
// and tells whose namespace is whose, when one appears and when it ends.
//
// A socket stays in the namespace where it was made, so only its making
// happens there: inside, in enter_linux.go, is the one function that enters a
// namespace. Nothing is run in one, no file of a container is opened, nothing
// is left in one but what a descriptor of ours holds: with our process
// everything is gone.
package intercept

import (
	"errors"
	"strings"
	"time"
)

// ErrNoNamespace says that a file is no network namespace. One that the engine
// has just made becomes one within milliseconds, when the namespace is mounted
// over it.
var ErrNoNamespace = errors.New("not a network namespace")

// Found is a namespace and who lives in it.
type Found struct {
	Namespace *Namespace // the receiver closes it
	PID       int        // of the first process of the container
	Container string     // its id, 64 hexadecimal digits; "": the process is in no container
	// Host tells that the namespace is the host's, or this process's own: that
	// of a container with --network host. What listens there is not for the
	// container alone.
	Host bool
}

// WatchConfig says what Watch follows.
type WatchConfig struct {
	// Dir, required, is where the engine keeps the files of its namespaces. It
	// need not exist yet.
	Dir string
	// Found, required, is called by Watch itself and in turn, so what it waits
	// for delays the containers that start meanwhile. The same namespace may
	// come more than once. One that is Host does not come.
	Found func(Found)
	// State is called when the directory begins to be watched (nil), when it is
	// not there (any more), and when namespaces made in it cannot be seen, with
	// what to do about it (a *spec.UserError). nil: nobody wants to know.
	State func(error)
	// Patience is how long a new file may take to become the namespace of a
	// container; 0: 5 s. Files that are there at the start are old: a second
	// is enough for them.
	Patience time.Duration
}

const defaultPatience = 5 * time.Second

// idLength is how many hexadecimal digits the id of a container has.
const idLength = 64

// containerOf returns the id of the container that a cgroup file, as in
// cgroups(7), is of; "" when it is of none. Of containers in a container it is
// the innermost: processes of the outer one are older, and asked first.
func containerOf(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		if id := lastID(strings.TrimSuffix(line, "\n")); id != "" {
			return id
		}
	}
	return ""
}

// lastID finds the last run of exactly as many digits as an id has: engines
// write /docker/ID, docker-ID.scope, and others with other words around it.
func lastID(s string) string {
	for end := len(s); end >= idLength; {
		start := end
		for start > 0 && isHex(s[start-1]) {
			start--
		}
		if end-start == idLength {
			return s[start:end]
		}
		end = min(start, end-1)
	}
	return ""
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }
