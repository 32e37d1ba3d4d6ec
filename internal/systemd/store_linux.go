package systemd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

// key is what an inherited socket is found by.
type key struct {
	Socket
	home string // its network namespace, as namespaceOf has it
}

// inherited is a socket that the manager passed and nobody took.
type inherited struct {
	fd    int
	names []string // that the manager has it by
}

// prefix of our names in the store. After it comes the kernel's number of the
// socket, which no other has until the next boot. A speaking name would be too
// long: all of them are one variable of the next process, and the kernel takes
// no variable above 128 KiB (execve(2)).
const prefix = "legate-"

// letGo bounds how long one waits for the manager to close a socket.
const letGo = time.Second

// inherit takes stock of what was passed. What is no listening socket of ours
// cannot be served.
func (m *Manager) inherit(first int, names []string) {
	var useless []string
	for i, name := range names {
		fd := first + i
		unix.CloseOnExec(fd)
		socket, err := inspect(fd)
		if err != nil {
			m.log.Warn("a descriptor that the service manager passed is of no use", "name", name, "error", err)
			_ = unix.Close(fd)
			useless = append(useless, name)
			continue
		}
		s := inherited{fd, []string{name}}
		if twin, ok := m.rest[socket]; ok { // from a socket unit, and stored
			_ = unix.Close(twin.fd)
			s.names = append(s.names, twin.names...)
		}
		m.rest[socket] = s
	}
	m.Remove(true, useless...) // or their addresses stay taken
}

var errNotListening = errors.New("it is no listening socket")

func inspect(fd int) (k key, err error) {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return k, errNotListening
	}
	switch protocol {
	case unix.IPPROTO_TCP:
		k.Protocol = spec.TCP
		if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
			return k, errNotListening
		}
	case unix.IPPROTO_UDP:
		k.Protocol = spec.UDP
	default:
		return k, errNotListening
	}
	if k.Address, err = localAddress(fd); err != nil {
		return k, err
	}
	if k.home, err = namespaceOf(fd); err != nil {
		return k, err
	}
	return k, unix.SetNonblock(fd, true)
}

// localAddress fails for a socket that its kind of address alone does not
// describe.
func localAddress(fd int) (a netip.AddrPort, err error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return a, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		a = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
		if only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY); err != nil || only != 0 && a.Addr().IsUnspecified() {
			return a, errors.New("it does not serve IPv4")
		}
	}
	if a.Port() == 0 {
		return a, errNotListening
	}
	return a, nil
}

// namespaceOf identifies the network namespace of a socket. Its cookie is never
// given to another, needs no capability, and came with Linux 5.14.
func namespaceOf(fd int) (string, error) {
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err == nil {
		return strconv.FormatUint(cookie, 10), nil
	}
	ns, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS) // needs NET_ADMIN
	if err != nil {
		return "", fmt.Errorf("find its network namespace: %w", err)
	}
	defer func() { _ = unix.Close(ns) }()
	var st unix.Stat_t
	if err := unix.Fstat(ns, &st); err != nil {
		return "", fmt.Errorf("find its network namespace: %w", err)
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), nil
}

// here is the network namespace that the calling thread is in.
func here() (string, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = unix.Close(fd) }()
	return namespaceOf(fd)
}

// Take gives an inherited socket to the caller, who owns it from then on. It is
// in the network namespace that the calling thread is in. Others that are in
// the way of binding that address are let go.
func (m *Manager) Take(want Socket) (fd int, ok bool) {
	if m == nil || !m.hasRest() {
		return -1, false
	}
	home, err := here()
	if err != nil {
		m.log.Warn("listening sockets are made anew", "error", err)
		return -1, false
	}
	if want.Address.Addr() == netip.IPv6Unspecified() && !haveIPv6() {
		want.Address = netip.AddrPortFrom(netip.IPv4Unspecified(), want.Address.Port()) // as it was bound then
	}
	m.mu.Lock()
	s, ok := m.rest[key{want, home}]
	delete(m.rest, key{want, home})
	m.mu.Unlock()
	if ok {
		return s.fd, true
	}
	m.drop(true, func(k key) bool {
		return k.home == home && k.Protocol == want.Protocol && k.Address.Port() == want.Address.Port() && overlap(k.Address.Addr(), want.Address.Addr())
	})
	return -1, false
}

func haveIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return !errors.Is(err, unix.EAFNOSUPPORT)
}

// overlap tells whether one of two addresses cannot be bound beside the other.
func overlap(a, b netip.Addr) bool { return a == b || a.IsUnspecified() || b.IsUnspecified() }

func (m *Manager) hasRest() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.rest) > 0
}

// DropRest lets go what nobody took: sockets of links that are gone, whose
// clients wait in vain, and of namespaces that nothing else keeps alive.
func (m *Manager) DropRest() {
	if m != nil {
		m.drop(false, func(key) bool { return true })
	}
}

// drop lets inherited sockets go, and returns when their addresses are free if
// that is asked for.
func (m *Manager) drop(wait bool, which func(key) bool) {
	m.mu.Lock()
	var names []string
	for k, s := range m.rest {
		if which(k) {
			delete(m.rest, k)
			_ = unix.Close(s.fd)
			names = append(names, s.names...)
			m.log.Info("a kept listening socket is wanted no more", "on", k.Address.String(), "protocol", string(k.Protocol))
		}
	}
	m.mu.Unlock()
	m.Remove(wait, names...)
}

// Store has the manager keep a listening socket over restarts of this service,
// and gives the name by which Remove ends that. Where there is no store the
// manager ignores it.
func (m *Manager) Store(fd int) (name string) {
	if m == nil || m.silent() {
		return ""
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err == nil {
		name = prefix + strconv.FormatUint(cookie, 36)
		// Without FDPOLL=0 it drops a socket that does not listen for a while.
		err = m.send(message("FDSTORE=1", "FDPOLL=0", "FDNAME="+name), fd)
	}
	if err != nil {
		m.log.Warn("a restart will refuse clients for a moment: a listening socket is not kept", "error", err)
		return ""
	}
	return name
}

// Remove has the manager keep these sockets no more. Somebody who listens has
// to close them as well; until both have, clients are not refused, and the
// address is taken. With wait it returns when the manager has closed them, or
// after a second.
func (m *Manager) Remove(wait bool, names ...string) {
	if m == nil || m.silent() {
		return
	}
	// What others named is of a socket unit.
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !strings.HasPrefix(name, prefix) })
	for _, name := range names {
		m.tell("FDSTOREREMOVE=1", "FDNAME="+name)
	}
	if !wait || len(names) == 0 {
		return
	}
	if err := m.barrier(letGo); err != nil {
		m.log.Warn("the service manager may still keep sockets", "error", err)
	}
}

func (m *Manager) silent() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.to == ""
}
