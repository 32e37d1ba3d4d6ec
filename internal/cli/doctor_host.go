package cli

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"legate/internal/control"
	"legate/internal/spec"
)

// host is where doctor runs, as far as it decides how commands are written.
type host struct {
	system    string // GOOS
	container bool
	// ownNetwork is false in a container on the host's network: the engine
	// refuses --sysctl net.* for such a one.
	ownNetwork bool
	root       bool
	program    string // path of this legate
}

func lookAround(p Process) host {
	program, err := os.Executable()
	if err != nil {
		program = "/usr/local/bin/legate"
	}
	h := host{system: runtime.GOOS, container: inContainer(p), root: os.Geteuid() == 0, program: program}
	h.ownNetwork = h.container && !onHostNetwork()
	return h
}

func (h host) forwards() (finding, bool) {
	if h.system == "linux" {
		return finding{}, true
	}
	return missing("system", "run it on a Linux host or in a container: docker run --rm legate doctor",
		"this is %s, and Legate forwards on Linux only; commands for a running one work", h.system), false
}

// sudo puts what root alone may do into words that work for others, too. The
// image has no shell: what it takes one for is done outside.
func (h host) sudo(command string) string {
	switch {
	case h.container:
		return "on the host: sudo " + command
	case h.root:
		return command
	}
	return "sudo " + command
}

// start is how a container gets what it can only be born with.
func (h host) start(flags string) string {
	return "start the container anew with: docker run " + flags + " ..."
}

// sysctl sets what belongs to a network namespace. Inside of a container /proc/sys
// is read-only.
func (h host) sysctl(name, value string) string {
	setting := name + "=" + quoteSpaces(value)
	switch {
	case h.ownNetwork:
		return h.start("--sysctl " + setting)
	case h.container:
		return h.sudo("sysctl -w " + setting)
	}
	return h.sudo("sysctl -w " + setting + " (to keep it: a line in /etc/sysctl.d/legate.conf)")
}

func quoteSpaces(s string) string {
	if strings.Contains(s, " ") {
		return "'" + s + "'"
	}
	return s
}

func (h host) descriptors(n uint64) string {
	if h.container {
		return h.start(fmt.Sprintf("--ulimit nofile=%d:%d", n, n))
	}
	return h.sudo(fmt.Sprintf("prlimit --pid $$ --nofile=%d:%d (this shell); in a unit of systemd: LimitNOFILE=%d", n, n, n))
}

// grants is what the kernel grants to everything that Legate does.
type grants struct {
	descriptors uint64 // the hard limit, up to which a process may help itself
	somaxconn   int    // 0: not known
	ports       [2]int // first and last one that clients get; 0: not known
	wanted      demand
}

// demand is what links ask of the system.
type demand struct {
	streams  int // connections at once; 0: no limit was asked for
	sessions int // of UDP
	// fullest is the link that needs the most local ports to one endpoint, and
	// its demand; a link to several endpoints spreads its connections.
	fullest    string
	localPorts int
}

func demandOf(links []spec.Link) (d demand) {
	for _, l := range links {
		n := l.Options.MaxConnections
		if l.Listen.Protocol == spec.UDP {
			d.sessions += n
			continue
		}
		d.streams += n
		var overTCP int
		for _, t := range l.Targets {
			if t.Protocol == spec.TCP {
				overTCP++
			}
		}
		if overTCP == 0 {
			continue
		}
		if each := (n + overTCP - 1) / overTCP; each > d.localPorts {
			d.fullest, d.localPorts = l.Name, each
		}
	}
	return d
}

// Descriptors: apart from those of connections, the engine keeps some for the
// control socket, DNS and checks, and takes a few itself. A connection takes
// two, and two more for a pipe while much is under way.
const (
	ownDescriptors   = 128
	quietDescriptors = 2
	busyDescriptors  = 4
	fewDescriptors   = 4096
	askDescriptors   = 65536
	wantQueue        = 4096
)

func judgeSystem(h host, s grants) (found []finding) {
	found = append(found, judgeDescriptors(h, s))
	if s.somaxconn > 0 {
		found = append(found, judgeQueue(h, s.somaxconn))
	}
	if s.ports[1] > 0 {
		found = append(found, judgePorts(h, s))
	}
	return found
}

func judgeDescriptors(h host, s grants) finding {
	const about = "descriptors"
	quiet := uint64(ownDescriptors + quietDescriptors*s.wanted.streams + s.wanted.sessions)
	busy := uint64(ownDescriptors + busyDescriptors*s.wanted.streams + s.wanted.sessions)
	mend := h.descriptors(max(askDescriptors, roundUp(busy)))
	switch {
	case s.descriptors < ownDescriptors:
		return missing(about, mend, "a process may open %d files, and Legate itself needs about %d", s.descriptors, ownDescriptors)
	case s.descriptors < quiet:
		return missing(about, mend, "max-connections of %d take %d descriptors or more, and a process may open %d",
			s.wanted.streams+s.wanted.sessions, quiet, s.descriptors)
	case s.descriptors < busy:
		return weak(about, mend, "max-connections of %d take %d descriptors when all of them are busy, and a process may open %d",
			s.wanted.streams+s.wanted.sessions, busy, s.descriptors)
	case s.wanted.streams == 0 && s.descriptors < fewDescriptors:
		return weak(about, mend, "a process may open %d files: room for %d to %d connections at once, others wait",
			s.descriptors, (s.descriptors-ownDescriptors)/busyDescriptors, (s.descriptors-ownDescriptors)/quietDescriptors)
	}
	return fine(about, "a process may open %d files", s.descriptors)
}

// roundUp gives the next power of two, as people write limits.
func roundUp(n uint64) uint64 {
	p := uint64(1)
	for p < n {
		p *= 2
	}
	return p
}

func judgeQueue(h host, somaxconn int) finding {
	const about = "listen queue"
	if somaxconn < wantQueue {
		return weak(about, h.sysctl("net.core.somaxconn", fmt.Sprint(wantQueue)),
			"net.core.somaxconn is %d: of more clients that come at one moment some wait for a second or longer", somaxconn)
	}
	return fine(about, "net.core.somaxconn is %d", somaxconn)
}

func judgePorts(h host, s grants) finding {
	const about = "local ports"
	n := s.ports[1] - s.ports[0] + 1
	if s.wanted.localPorts > n {
		return weak(about, h.sysctl("net.ipv4.ip_local_port_range", "1024 65535"),
			"link %s may need %d connections to one endpoint, and there are %d local ports (%d to %d)",
			s.wanted.fullest, s.wanted.localPorts, n, s.ports[0], s.ports[1])
	}
	return fine(about, "%d for connections to one endpoint", n)
}

// directory is what is known of one that Legate wants to write.
type directory struct {
	path     string
	err      error // why it can neither be written nor made; nil: it can
	volatile bool  // it is in a container's own layer, and ends with it
}

func judgeStateDir(h host, d directory) finding {
	const about = "state-dir"
	switch {
	case d.err != nil && h.container:
		return missing(about, h.start("-v legate-state:"+d.path), "%v", d.err)
	case d.err != nil:
		return missing(about, h.sudo(fmt.Sprintf("install -d -o $(id -un) -m 700 %s", d.path)), "%v", d.err)
	case d.volatile && h.container:
		return weak(about, h.start("-v legate-state:"+d.path), "%s is in the container itself, and goes with it", d.path)
	}
	return fine(about, "%s can be written", d.path)
}

// controlPlaces are where a control socket may go, in the order of trying.
type controlPlaces struct {
	off      bool
	asked    bool  // by path: there is no other place
	wrong    error // with that path
	dirs     []directory
	abstract bool
}

func lookControl(p Process, where string) controlPlaces {
	if where == control.Off {
		return controlPlaces{off: true}
	}
	if strings.ContainsRune(where, '/') {
		return controlPlaces{asked: true, dirs: []directory{lookExisting(parentOf(where))}, wrong: lookPath(where)}
	}
	if strings.HasPrefix(where, "@") {
		return controlPlaces{asked: true, abstract: true}
	}
	places := control.DefaultPlaces(p.getenv)
	c := controlPlaces{abstract: places.Abstract != ""}
	for _, dir := range places.Dirs {
		c.dirs = append(c.dirs, lookDirectory(dir))
	}
	return c
}

// lookPath tells what keeps a socket from being made at a path in a directory
// that can be written.
func lookPath(path string) error {
	switch standsAt(path) {
	case "other":
		return fmt.Errorf("%s exists and is not a socket", path)
	case "live":
		return fmt.Errorf("%s belongs to a running process", path)
	}
	return control.CheckLength(path)
}

func parentOf(path string) string {
	dir := path[:strings.LastIndexByte(path, '/')]
	if dir == "" {
		return "/"
	}
	return dir
}

func judgeControl(h host, c controlPlaces, running []spec.Snapshot) []finding {
	const about = "control socket"
	if c.off {
		return []finding{fine(about, "off: no command can ask this legate anything")}
	}
	if len(running) > 0 {
		return []finding{fine(about, "a running legate answers")}
	}
	if c.wrong != nil {
		return []finding{missing(about, "choose another path, as with: --control /run/legate/NAME.sock; or do without: --control off", "%v", c.wrong)}
	}
	var why []string
	for _, d := range c.dirs {
		if d.err == nil {
			return []finding{fine(about, "goes to %s", d.path)}
		}
		why = append(why, d.err.Error())
	}
	failed := strings.Join(why, "; ")
	switch {
	case c.abstract && len(why) == 0:
		return []finding{fine(about, "has no file: an abstract name")}
	case c.abstract:
		return []finding{fine(about, "gets an abstract name, which only this user and root can use, in the same network: %s", failed)}
	case c.asked && !h.container:
		return []finding{missing(about, h.sudo(fmt.Sprintf("install -d -o $(id -un) -m 755 %s", c.dirs[0].path)), "%s", failed)}
	}
	return []finding{missing(about, "name a place that can be written: --control /tmp/legate.sock; or do without: --control off", "%s", failed)}
}
