// Package systemd is the other side of what systemd does for a service: it
// tells when the service is ready, pings the watchdog, and keeps listening
// sockets over a restart in the manager's file descriptor store (sd_notify(3),
// sd_listen_fds(3), sd_watchdog_enabled(3)). Whoever speaks the same protocol
// will do; where nobody does, nothing happens.
//
// It is our own because the store needs descriptors in the messages and a
// barrier behind them, which libraries for notifying leave out.
package systemd

import (
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"legate/internal/spec"
)

// Config of a Manager.
type Config struct {
	// Environ is what the process was given. Its variables are meant for this
	// process alone: take those of Variables away before another is started.
	Environ []string
	// PID is of this process, to which variables may be addressed; 0: asked for.
	PID int
	// First is the first passed descriptor; 0: 3, as sd_listen_fds(3) has it.
	First int
	Log   *slog.Logger // nil: none
}

// Variables are the names of the variables that Config.Environ may have.
func Variables() []string {
	return []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID", "FDSTORE"}
}

// Socket is what a listening socket can be recognised by in the network
// namespace where it is.
type Socket struct {
	Protocol spec.Protocol // TCP or UDP
	Address  netip.AddrPort
}

// settings are what the environment says.
type settings struct {
	notify   string        // a path, or @ and an abstract name; "": nobody listens
	watchdog time.Duration // the longest silence; 0: any
	names    []string      // of the passed descriptors, in their order; "": without one
}

// maxPassed bounds what a slip in LISTEN_FDS costs: more descriptors than a
// process can have are none of ours.
const maxPassed = 1 << 20

// read fails for what the manager would not have written: to guess would be to
// close descriptors of somebody else.
func read(environ []string, pid int) (s settings, err error) {
	v := map[string]string{}
	for _, text := range environ {
		name, value, _ := strings.Cut(text, "=")
		v[name] = value
	}
	s.notify = v["NOTIFY_SOCKET"]
	if s.notify != "" && s.notify[0] != '/' && s.notify[0] != '@' {
		return s, spec.Errorf("it is a path, or @ and a name", "NOTIFY_SOCKET: %q is no unix socket", s.notify)
	}
	usec, err := number(v, "WATCHDOG_USEC", pid, "WATCHDOG_PID")
	if err != nil {
		return s, err
	}
	s.watchdog = time.Duration(usec) * time.Microsecond
	passed, err := number(v, "LISTEN_FDS", pid, "LISTEN_PID")
	if err != nil {
		return s, err
	}
	if passed > maxPassed {
		return s, spec.Errorf("it counts the descriptors that were passed", "LISTEN_FDS: %d is too many", passed)
	}
	s.names = make([]string, passed)
	if names := v["LISTEN_FDNAMES"]; names != "" {
		copy(s.names, strings.Split(names, ":"))
	}
	return s, nil
}

// number reads a variable that is 0 where it is addressed to another process:
// one that was started in between, a shell perhaps, has handed it on.
func number(v map[string]string, name string, pid int, to string) (uint64, error) {
	if v[name] == "" {
		return 0, nil
	}
	if v[to] != "" {
		addressee, err := strconv.Atoi(v[to])
		if err != nil {
			return 0, spec.Errorf("it is the number of a process", "%s: %q is not a number", to, v[to])
		}
		if addressee != pid {
			return 0, nil
		}
	}
	n, err := strconv.ParseUint(v[name], 10, 53)
	if err != nil {
		return 0, spec.Errorf("the service manager sets it; do not set it by hand", "%s: %q is not a number", name, v[name])
	}
	return n, nil
}

// message is one datagram to the manager: a variable a line.
func message(lines ...string) []byte { return []byte(strings.Join(lines, "\n")) }

// oneLine keeps a text from being read as more variables.
func oneLine(text string) string { return strings.ReplaceAll(text, "\n", " ") }
