package cli

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

func lookSystem(links []spec.Link) grants {
	s := grants{wanted: demandOf(links)}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		s.descriptors = limit.Max
	}
	s.somaxconn = settingNumber("net/core/somaxconn")
	if f := strings.Fields(setting("net/ipv4/ip_local_port_range")); len(f) == 2 {
		for i := range f {
			s.ports[i], _ = strconv.Atoi(f[i]) // the kernel's own words
		}
	}
	return s
}

// setting reads one of the kernel's; "" where there is none.
func setting(name string) string {
	text, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

func settingNumber(name string) int {
	n, err := strconv.Atoi(setting(name))
	if err != nil {
		return 0
	}
	return n
}

// onHostNetwork: only the host's network has the engine's bridge, and the ends
// of the cables that lead into containers.
func onHostNetwork() bool {
	list, err := net.Interfaces()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(list, func(i net.Interface) bool {
		return i.Name == "docker0" || strings.HasPrefix(i.Name, "br-") || strings.HasPrefix(i.Name, "veth")
	})
}

// listenRules are the first port that everybody may have, and whether IPv6 is
// off: not in the kernel, or disabled as on Docker's default bridge.
func listenRules() (unprivileged int, noIPv6 bool) {
	off := setting("net/ipv6/conf/all/disable_ipv6")
	return settingNumber("net/ipv4/ip_unprivileged_port_start"), off == "" || off == "1"
}

// tryBind binds the address and lets go of it. It never listens, so no client
// can come in between.
func tryBind(l spec.Listen) error {
	host := l.Host
	switch host {
	case "":
		err := bindOnce(l.Protocol, netip.AddrPortFrom(netip.IPv6Unspecified(), l.Port))
		if errors.Is(err, unix.EAFNOSUPPORT) {
			err = bindOnce(l.Protocol, netip.AddrPortFrom(netip.IPv4Unspecified(), l.Port))
		}
		return err
	case "localhost":
		err := bindOnce(l.Protocol, netip.AddrPortFrom(netip.IPv6Loopback(), l.Port))
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
			err = nil // it is done without
		}
		return errors.Join(err, bindOnce(l.Protocol, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), l.Port)))
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return err
	}
	return bindOnce(l.Protocol, netip.AddrPortFrom(addr, l.Port))
}

func bindOnce(p spec.Protocol, at netip.AddrPort) error {
	family, kind := unix.AF_INET6, unix.SOCK_STREAM
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16(), ZoneId: zone(at.Addr())}
	if at.Addr().Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	if p == spec.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_STREAM { // as run does: connections in TIME_WAIT are no hindrance
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if at.Addr() == netip.IPv6Unspecified() {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0))
	}
	return errors.Join(err, unix.Bind(fd, to))
}

func zone(a netip.Addr) uint32 {
	if a.Zone() == "" {
		return 0
	}
	i, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return 0
	}
	return uint32(i.Index)
}

// holderOf finds who has an address: the kernel lists sockets with their
// inodes, and each process its sockets (proc(5), proc_net_tcp(5)).
func holderOf(l spec.Listen) holder {
	var inodes []string
	for _, file := range []string{string(l.Protocol), string(l.Protocol) + "6"} {
		text, err := os.ReadFile("/proc/net/" + file)
		if err != nil {
			continue // no IPv6
		}
		inodes = append(inodes, bound(text, l)...)
	}
	pid := processOf(inodes)
	if pid == 0 {
		return holder{}
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return holder{} // it has just ended
	}
	return holder{pid: pid, name: strings.TrimSpace(string(name))}
}

// bound returns the inodes of the sockets in a table of the kernel that keep
// others from an address.
func bound(table []byte, l spec.Listen) (inodes []string) {
	const listens = "0A"
	for s := bufio.NewScanner(bytes.NewReader(table)); s.Scan(); {
		// sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
		f := strings.Fields(s.Text())
		if len(f) < 10 || l.Protocol == spec.TCP && f[3] != listens {
			continue
		}
		at, err := kernelAddress(f[1])
		if err == nil && at.Port() == l.Port && clash(l.Host, at.Addr()) {
			inodes = append(inodes, f[9])
		}
	}
	return inodes
}

// clash tells whether a listener on at keeps others from host.
func clash(host string, at netip.Addr) bool {
	switch {
	case host == "" || at.IsUnspecified():
		return true
	case host == "localhost":
		return at.IsLoopback()
	}
	return host == at.String()
}

// kernelAddress reads address and port as the kernel's tables have them: words
// of four bytes in this machine's order, which is little-endian wherever
// Legate runs.
func kernelAddress(text string) (netip.AddrPort, error) {
	address, port, _ := strings.Cut(text, ":")
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read port %q: %w", port, err)
	}
	b, err := hex.DecodeString(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("read address %q: %w", address, err)
	}
	for word := range slices.Chunk(b, 4) {
		slices.Reverse(word)
	}
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("read address %q: %d bytes", address, len(b))
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

// processOf finds the process that has one of the sockets; 0 where none is
// seen: those of other users are not ours to see.
func processOf(inodes []string) int {
	if len(inodes) == 0 {
		return 0
	}
	// The pattern is in order, so there is no error.
	files, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, file := range files {
		to, err := os.Readlink(file)
		inode, isSocket := strings.CutPrefix(to, "socket:[")
		if err != nil || !isSocket || !slices.Contains(inodes, strings.TrimSuffix(inode, "]")) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(file, "/")[2])
		if err == nil {
			return pid
		}
	}
	return 0
}

// lookDirectory tells whether a directory can be written, or made.
func lookDirectory(path string) directory {
	d := lookExisting(path)
	for up := path; errors.Is(d.err, fs.ErrNotExist) && up != "/" && up != "."; {
		up = filepath.Dir(up)
		d.err = mayWrite(up)
	}
	d.volatile = d.err == nil && inOwnLayer(path)
	return d
}

// lookExisting tells whether a directory can be written that must be there.
func lookExisting(path string) directory { return directory{path: path, err: mayWrite(path)} }

func mayWrite(path string) error {
	fi, err := os.Stat(path)
	if err == nil && !fi.IsDir() {
		return fmt.Errorf("%s is no directory", path)
	}
	if err != nil {
		return err
	}
	if err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK|unix.X_OK, unix.AT_EACCESS); err != nil {
		return &fs.PathError{Op: "write to", Path: path, Err: err}
	}
	return nil
}

// inOwnLayer tells whether a path is on the root file system, which in a
// container ends with it: see proc_pid_mountinfo(5).
func inOwnLayer(path string) bool {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	return ownLayer(text, path)
}

func ownLayer(mounts []byte, path string) bool {
	longest := ""
	for s := bufio.NewScanner(bytes.NewReader(mounts)); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) >= 5 && within(path, f[4]) && len(f[4]) > len(longest) {
			longest = f[4]
		}
	}
	return longest == "/"
}

func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}
