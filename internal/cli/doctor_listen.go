package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"legate/internal/spec"
)

// listening is what is known of the address of one link.
type listening struct {
	link spec.Link
	ours string // the running legate that serves it; "": none
	err  error  // of binding it; nil: it can be had
	has  holder // who has it, where that is why
	// unprivileged is the first port that needs no capability.
	unprivileged int
	addresses    []netip.Addr // of this host
	noIPv6       bool
	socket       socketFile // of a unix link
}

// holder is a process that listens where we want to.
type holder struct {
	pid  int // 0: not known, or not ours to see
	name string
	// instance and link are set where it is a running legate.
	instance, link string
}

// lookListening tries to have the address, and lets go of it at once: nobody
// is ever accepted.
func lookListening(l spec.Link, running []spec.Snapshot) listening {
	f := listening{link: l}
	for _, s := range running {
		for _, r := range s.Links {
			if r.Listen == l.Listen.String() && r.State != spec.StateError {
				f.ours = s.Instance
				return f
			}
		}
	}
	if l.Listen.Protocol == spec.Unix {
		f.socket = lookSocket(l)
		return f
	}
	f.addresses = ownAddresses()
	f.unprivileged, f.noIPv6 = listenRules()
	if f.err = tryBind(l.Listen); errors.Is(f.err, syscall.EADDRINUSE) {
		f.has = holderOf(l.Listen)
		f.has.recognise(l, running)
	}
	return f
}

// recognise names the running legate that the process is.
func (o *holder) recognise(l spec.Link, running []spec.Snapshot) {
	for _, s := range running {
		for _, r := range s.Links {
			port, udp := portOf(r.Listen)
			if r.State != spec.StateError && port == l.Listen.Port && udp == (l.Listen.Protocol == spec.UDP) && (o.pid == 0 || o.pid == s.PID) {
				o.instance, o.link = s.Instance, r.Name
				return
			}
		}
	}
}

// portOf reads the port of a LISTEN; 0 of a unix one.
func portOf(listen string) (port uint16, udp bool) {
	text, udp := strings.CutSuffix(listen, "/udp")
	n, err := strconv.ParseUint(text[strings.LastIndexByte(text, ':')+1:], 10, 16)
	if err != nil {
		return 0, udp
	}
	return uint16(n), udp
}

func ownAddresses() (all []netip.Addr) {
	// An error leaves the list empty, and then nothing is said of it.
	list, _ := net.InterfaceAddrs()
	for _, a := range list {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				all = append(all, ip.Unmap())
			}
		}
	}
	return all
}

func judgeListening(h host, f listening) []finding {
	about := "link " + f.link.Name
	on := listensOn(f.link.Listen)
	switch {
	case f.ours != "":
		return []finding{fine(about, "the running legate %s listens on %s", f.ours, on)}
	case f.link.Listen.Protocol == spec.Unix:
		return judgeSocket(h, f)
	case f.err == nil:
		return []finding{fine(about, "can listen on %s", on)}
	case errors.Is(f.err, syscall.EADDRINUSE):
		return []finding{judgeTaken(h, f)}
	case errors.Is(f.err, fs.ErrPermission):
		return []finding{judgePrivileged(h, f)}
	case errors.Is(f.err, syscall.EADDRNOTAVAIL), errors.Is(f.err, syscall.EAFNOSUPPORT):
		return []finding{judgeForeign(h, f)}
	}
	return []finding{missing(about, "", "cannot listen on %s: %v", on, f.err)}
}

// elsewhere writes the link with another port.
func elsewhere(l spec.Link) string {
	port := l.Listen.Port
	if l.Listen.Port += 10000; l.Listen.Port < port {
		l.Listen.Port = port - 10000
	}
	return "legate " + quote(l.String())
}

func judgeTaken(h host, f listening) finding {
	about, on := "link "+f.link.Name, listensOn(f.link.Listen)
	table := map[bool]string{true: "-lnup", false: "-lntp"}[f.link.Listen.Protocol == spec.UDP]
	show := h.sudo(fmt.Sprintf("ss %s 'sport = :%d'", table, f.link.Listen.Port))
	other := "; or listen elsewhere: " + elsewhere(f.link)
	switch {
	case f.has.instance != "":
		return missing(about, fmt.Sprintf("legate swap %s %s --control %s", f.has.link, quote(spec.FormatTargets(f.link.Targets)), f.has.instance),
			"%s is taken by link %s of the running legate %s", on, f.has.link, f.has.instance)
	case f.has.name == "docker-proxy":
		return missing(about, fmt.Sprintf("docker ps --filter publish=%d, and stop that container%s", f.link.Listen.Port, other),
			"%s is taken: a container publishes it (docker-proxy, pid %d)", on, f.has.pid)
	case f.has.pid > 0 && h.container:
		return missing(about, "end that process"+other, "%s is taken by %s (pid %d here)", on, f.has.name, f.has.pid)
	case f.has.pid > 0:
		return missing(about, h.sudo(fmt.Sprintf("kill %d", f.has.pid))+other, "%s is taken by %s (pid %d)", on, f.has.name, f.has.pid)
	case h.container && h.ownNetwork:
		return missing(about, "end that process"+other, "%s is taken by another process in this container's network", on)
	}
	return missing(about, show+other, "%s is taken by a process that this user may not see", on)
}

func judgePrivileged(h host, f listening) finding {
	mend := h.sudo("setcap cap_net_bind_service=+ep " + h.program + " (in a unit of systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)")
	if h.container {
		mend = h.start("--cap-add NET_BIND_SERVICE --user 0")
		if h.ownNetwork {
			mend = h.sysctl("net.ipv4.ip_unprivileged_port_start", "0")
		}
	}
	if f.unprivileged == 0 || int(f.link.Listen.Port) >= f.unprivileged {
		return missing("link "+f.link.Name, "see what forbids it (seccomp, AppArmor, SELinux): journalctl -k", "cannot listen on %s: %v", listensOn(f.link.Listen), f.err)
	}
	return missing("link "+f.link.Name, mend+"; or listen elsewhere: "+elsewhere(f.link),
		"port %d is below %d (net.ipv4.ip_unprivileged_port_start), and this user has no capability NET_BIND_SERVICE", f.link.Listen.Port, f.unprivileged)
}

func judgeForeign(h host, f listening) finding {
	l := f.link.Listen
	about := "link " + f.link.Name
	everywhere := f.link
	everywhere.Listen.Host = ""
	anywhere := "legate " + quote(everywhere.String())
	addr, err := netip.ParseAddr(l.Host)
	if err == nil && addr.Is6() && f.noIPv6 {
		mend := h.sysctl("net.ipv6.conf.all.disable_ipv6", "0")
		return missing(about, mend+"; or do without: "+anywhere, "IPv6 is off here, and %s is an IPv6 address", l.Host)
	}
	if h.ownNetwork {
		return missing(about, fmt.Sprintf("docker run -p %s:%d ... and inside: %s", net.JoinHostPort(l.Host, strconv.Itoa(int(l.Port))), l.Port, anywhere),
			"%s is no address of this container (it has %s)", l.Host, list(f.addresses))
	}
	return missing(about, "listen on every address: "+anywhere, "%s is no address of this host (it has %s)", l.Host, list(f.addresses))
}

const manyAddresses = 6

func list(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		if a.IsLinkLocalUnicast() {
			continue
		}
		texts = append(texts, a.String())
	}
	if len(texts) > manyAddresses {
		texts = append(texts[:manyAddresses], fmt.Sprintf("%d more", len(texts)-manyAddresses))
	}
	if len(texts) == 0 {
		return "none"
	}
	return strings.Join(texts, ", ")
}

// socketFile is what is known of the path of a unix link.
type socketFile struct {
	dir   directory
	there string // as of standsAt
	group error  // why the socket cannot get its group
}

func lookSocket(l spec.Link) (f socketFile) {
	path := l.Listen.Path
	f.dir = lookExisting(filepath.Dir(path))
	f.there = standsAt(path)
	f.group = mayGive(l.Options.SocketGroup)
	return f
}

// standsAt tells what is at a path: "live" or "stale", a socket; "other"; "":
// nothing.
func standsAt(path string) string {
	fi, err := os.Lstat(path)
	switch {
	case err != nil:
		return ""
	case fi.Mode().Type() != fs.ModeSocket:
		return "other"
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		return "stale"
	}
	c.Close()
	return "live"
}

// mayGive tells why this user cannot give a file to the group.
func mayGive(group string) error {
	if group == "" {
		return nil
	}
	gid, err := strconv.Atoi(group)
	if err != nil {
		g, err := user.LookupGroup(group)
		if err != nil {
			return fmt.Errorf("find group %s: %w", group, err)
		}
		if gid, err = strconv.Atoi(g.Gid); err != nil {
			return fmt.Errorf("read group %s: %w", group, err)
		}
	}
	groups, err := os.Getgroups()
	if err != nil || os.Geteuid() == 0 || gid == os.Getegid() {
		return nil //nolint:nilerr // what cannot be known is no reason to warn
	}
	for _, g := range groups {
		if g == gid {
			return nil
		}
	}
	return errNotMember
}

var errNotMember = errors.New("this user does not belong to it")

func judgeSocket(h host, f listening) []finding {
	about, path, s := "link "+f.link.Name, f.link.Listen.Path, f.socket
	dir := filepath.Dir(path)
	var found []finding
	switch {
	case errors.Is(s.dir.err, fs.ErrNotExist) && h.container:
		found = append(found, missing(about, h.start("-v "+dir+":"+dir), "there is no directory %s", dir))
	case errors.Is(s.dir.err, fs.ErrNotExist):
		found = append(found, missing(about, h.sudo("install -d -o $(id -un) "+dir), "there is no directory %s", dir))
	case s.dir.err != nil && h.container:
		found = append(found, missing(about, h.start("--user 0"), "%v", s.dir.err))
	case s.dir.err != nil:
		found = append(found, missing(about, h.sudo("chown $(id -un) "+dir), "%v", s.dir.err))
	case s.there == "live":
		found = append(found, missing(about, "choose another path, or end what this shows: "+h.sudo("ss -xlp src "+path), "a running process listens on %s", path))
	case s.there == "other":
		found = append(found, missing(about, "choose another path; this shows what is there: ls -l "+path, "%s is there and is no socket", path))
	default:
		found = append(found, fine(about, "can listen on %s", path))
	}
	if s.group != nil {
		found = append(found, judgeGroup(h, f))
	}
	return found
}

func judgeGroup(h host, f listening) finding {
	about, group := "link "+f.link.Name, f.link.Options.SocketGroup
	switch {
	case !errors.Is(f.socket.group, errNotMember):
		return missing(about, "write its number: socket-group=$(getent group "+group+" | cut -d: -f3)", "%v", f.socket.group)
	case h.container:
		return missing(about, h.start("--group-add "+group), "the socket cannot be given to group %s: %v", group, errNotMember)
	}
	return missing(about, "sudo usermod -aG "+group+" $(id -un), then log in anew", "the socket cannot be given to group %s: %v", group, errNotMember)
}
