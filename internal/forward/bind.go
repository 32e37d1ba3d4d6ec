package forward

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"legate/internal/pump"
	"legate/internal/spec"
)

// Bind makes the listening sockets of a link in this process's own network
// namespace: two for localhost where the kernel has IPv6, one otherwise.
func Bind(s spec.Link) ([]pump.Listener, error) { return BindOr(s, nil) }

// BindOr is Bind for where some of the sockets may be there already. take gives
// the one of an address, which is the caller's from then on; nil: there are
// none. It is not asked for unix sockets.
func BindOr(s spec.Link, take func(spec.Protocol, netip.AddrPort) (fd int, ok bool)) ([]pump.Listener, error) {
	if s.Listen.Protocol == spec.Unix {
		return bindUnix(s)
	}
	addrs, err := addresses(s.Listen)
	if err != nil {
		return nil, err
	}
	var ls []pump.Listener
	together := pump.NewLimit(limit(s)) // the link's two sockets share it
	for i, a := range addrs {
		fd, err := takeOrBind(take, s.Listen.Protocol, a)
		if i > 0 && errors.Is(err, syscall.EADDRNOTAVAIL) {
			// Localhost without ::1, as in containers that are in no network of
			// IPv6. They have it once they get into one.
			if fd, err = bindAhead(s.Listen.Protocol, a); err != nil && !errors.Is(err, syscall.EADDRINUSE) {
				break // a kernel that cannot: without ::1, as before
			}
		}
		if i > 0 && errors.Is(err, syscall.EAFNOSUPPORT) {
			break
		}
		if err != nil {
			return nil, errors.Join(err, closeListeners(ls))
		}
		ls = append(ls, pump.Listener{Network: pump.Network(s.Listen.Protocol), FD: fd, Limit: together})
	}
	return ls, nil
}

// maxSessions bounds a UDP link that names no limit: whoever forges addresses
// opens a session with each datagram, and must not get every descriptor.
const maxSessions = 4096

func limit(s spec.Link) int {
	if s.Listen.Protocol == spec.UDP && s.Options.MaxConnections == 0 {
		return maxSessions
	}
	return s.Options.MaxConnections
}

func takeOrBind(take func(spec.Protocol, netip.AddrPort) (int, bool), p spec.Protocol, a netip.AddrPort) (int, error) {
	if take != nil {
		if fd, ok := take(p, a); ok {
			return fd, nil
		}
	}
	return bindAddr(p, a)
}

func bindAddr(p spec.Protocol, a netip.AddrPort) (int, error) {
	if p == spec.UDP {
		return pump.BindUDP(a)
	}
	return pump.BindTCP(a)
}

func bindAhead(p spec.Protocol, a netip.AddrPort) (int, error) {
	if p == spec.UDP {
		return pump.BindUDPAhead(a)
	}
	return pump.BindTCPAhead(a)
}

func addresses(l spec.Listen) ([]netip.AddrPort, error) {
	switch l.Host {
	case "":
		return []netip.AddrPort{netip.AddrPortFrom(netip.IPv6Unspecified(), l.Port)}, nil
	case "localhost":
		return []netip.AddrPort{
			netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), l.Port),
			netip.AddrPortFrom(netip.IPv6Loopback(), l.Port),
		}, nil
	}
	a, err := netip.ParseAddr(l.Host)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", l, err)
	}
	return []netip.AddrPort{netip.AddrPortFrom(a, l.Port)}, nil
}

func bindUnix(s spec.Link) ([]pump.Listener, error) {
	gid := -1
	if g := s.Options.SocketGroup; g != "" {
		var err error
		if gid, err = groupID(g); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", s.Listen, err)
		}
	}
	fd, err := pump.BindUnix(s.Listen.Path, pump.UnixOptions{Mode: fs.FileMode(s.Options.SocketMode), GID: gid})
	if err != nil {
		return nil, err
	}
	return []pump.Listener{{Network: pump.Unix, FD: fd, Limit: pump.NewLimit(s.Options.MaxConnections)}}, nil
}

func groupID(name string) (int, error) {
	if id, err := strconv.Atoi(name); err == nil && id >= 0 {
		return id, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil { // or there is no /etc/group, as in an image from scratch
		return 0, spec.Errorf("write the group's number: socket-group=1000", "find group %s: %v", name, err)
	}
	return strconv.Atoi(g.Gid)
}

func closeListeners(ls []pump.Listener) error {
	var errs []error
	for _, l := range ls {
		errs = append(errs, syscall.Close(l.FD))
	}
	return errors.Join(errs...)
}

// explainTaken turns the kernel's refusal of a listening address into advice.
func explainTaken(s spec.Link, serving []*link, err error) error {
	if s.Listen.Protocol == spec.Unix {
		return explainPath(s, err)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		for _, l := range serving {
			if l.listen.Protocol == s.Listen.Protocol && l.listen.Port == s.Listen.Port {
				return spec.Errorf("give one of them another address", "%s is already taken by link %q", s.Listen, l.linkSpec().Name)
			}
		}
		return spec.Errorf(fmt.Sprintf("ss -lnp 'sport = :%d' shows who has it; or choose another port", s.Listen.Port), "%v", err)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return spec.Errorf("ports below 1024 need root or the capability NET_BIND_SERVICE; or choose a higher port", "%v", err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return spec.Errorf("ip address shows the addresses that this host has; or leave the address out to listen on every one", "%v", err)
	}
	return err
}

// explainPath is explainTaken for unix sockets, where the same errors of the
// kernel mean other things.
func explainPath(s spec.Link, err error) error {
	dir := filepath.Dir(s.Listen.Path)
	if _, ok := errors.AsType[*spec.UserError](err); ok {
		return err // it knows better
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return spec.Errorf("end that process or choose another path", "%v", err)
	case errors.Is(err, fs.ErrExist):
		return spec.Errorf("remove that file or choose another path", "%v", err)
	case errors.Is(err, syscall.ENOENT):
		return spec.Errorf("make the directory first: mkdir -p "+dir, "%v", err)
	case errors.Is(err, syscall.ENOTDIR):
		return spec.Errorf("choose another path: a part of "+dir+" is a file", "%v", err)
	case errors.Is(err, syscall.EPERM) && s.Options.SocketGroup != "":
		return spec.Errorf("choose a group that this user belongs to (id shows them)", "%v", err)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EROFS):
		return spec.Errorf("choose a directory that this user can write: ls -ld "+dir, "%v", err)
	}
	return err
}
