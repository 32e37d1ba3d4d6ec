package testnet

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Dial connects to what a [Server] prints as its address: host:port or
// unix:path. The connection is closed when the test ends.
func Dial(t testing.TB, addr string) net.Conn {
	t.Helper()
	c, err := DialErr(addr)
	if err != nil {
		t.Fatalf("dial %s: %v", addr, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// DialErr is Dial for a caller that wants the error and closes it himself.
func DialErr(addr string) (net.Conn, error) {
	const unixScheme = "unix:"
	if len(addr) > len(unixScheme) && addr[:len(unixScheme)] == unixScheme {
		return net.DialTimeout("unix", addr[len(unixScheme):], Patience)
	}
	return net.DialTimeout("tcp", addr, Patience)
}

// Accept takes the next connection of a server opened with Listen; it is
// closed when the test ends.
func (s *Server) Accept(t testing.TB) net.Conn {
	t.Helper()
	c, err := s.AcceptErr()
	if err != nil {
		t.Fatalf("accept on %s: %v", s, named(err))
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// AcceptErr is Accept for a caller that wants the error and closes it himself.
func (s *Server) AcceptErr() (net.Conn, error) {
	s.listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(Patience))
	return s.listener.Accept()
}

// FD returns a duplicate of the listening descriptor, which the caller owns.
func (s *Server) FD(t testing.TB) int {
	t.Helper()
	fd := -1
	err := control(s.listener, func(listening int) (err error) {
		fd, err = unix.FcntlInt(uintptr(listening), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatalf("duplicate the listener of %s: %v", s, err)
	}
	return fd
}

// RefusingAddr returns a TCP address that answers every connect with RST and
// that nobody else can take until the test ends: bound, but not listening.
// ip is the address to bind, such as 127.0.0.1.
func RefusingAddr(t testing.TB, ip netip.Addr) netip.AddrPort {
	t.Helper()
	fd := bound(t, ip)
	return nameOf(t, fd)
}

// BlackHole returns a TCP address that swallows every connect: a listener
// whose queue is full, so that the kernel drops each SYN without an answer.
func BlackHole(t testing.TB, ip netip.Addr) netip.AddrPort {
	t.Helper()
	fd := bound(t, ip)
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatalf("listen with an empty queue: %v", err)
	}
	addr := nameOf(t, fd)
	// A queue of 0 takes one connection, and the kernel notices that it is full
	// only after that.
	for range 8 {
		c, err := net.DialTimeout("tcp", addr.String(), 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatalf("make a black hole of %v: it still answers", addr)
	return addr
}

func bound(t testing.TB, ip netip.Addr) (fd int) {
	t.Helper()
	family, sa := sockaddr(netip.AddrPortFrom(ip, 0))
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, sa); err != nil {
		t.Fatalf("bind %v: %v", ip, err)
	}
	return fd
}

func sockaddr(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func nameOf(t testing.TB, fd int) netip.AddrPort {
	t.Helper()
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatalf("get socket name: %v", err)
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	t.Fatalf("socket name %T is no TCP address", sa)
	return netip.AddrPort{}
}

// ListenFD opens a listening descriptor that the caller owns, as an engine
// takes it, and returns the address to dial (see [Dial]). network is "tcp4",
// "tcp6" or "unix".
func ListenFD(t testing.TB, network string) (fd int, addr string) {
	t.Helper()
	switch network {
	case "tcp4":
		return listenFD(t, netip.MustParseAddrPort("127.0.0.1:0"))
	case "tcp6":
		return listenFD(t, netip.MustParseAddrPort("[::1]:0"))
	case "unix":
		return listenUnixFD(t)
	}
	t.Fatalf("no network %q", network)
	return -1, ""
}

// ListenFDOn is ListenFD on an address of a [Host], to be called in its Do.
func ListenFDOn(t testing.TB, ip netip.Addr) (fd int, addr string) {
	t.Helper()
	return listenFD(t, netip.AddrPortFrom(ip, 0))
}

func listenFD(t testing.TB, at netip.AddrPort) (int, string) {
	t.Helper()
	family, sa := sockaddr(at)
	fd := mustListen(t, family, sa)
	return fd, nameOf(t, fd).String()
}

func listenUnixFD(t testing.TB) (int, string) {
	t.Helper()
	path := SocketPath(t)
	return mustListen(t, unix.AF_UNIX, &unix.SockaddrUnix{Name: path}), "unix:" + path
}

func mustListen(t testing.TB, family int, sa unix.Sockaddr) int {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("open socket: %v", err)
	}
	if family != unix.AF_UNIX {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	if err == nil && family != unix.AF_UNIX {
		fd, err = bindByNumber(fd)
	}
	if err == nil {
		err = unix.Listen(fd, 512)
	}
	if err != nil {
		unix.Close(fd)
		t.Fatalf("listen: %v", err)
	}
	return fd
}

// bindByNumber exchanges a socket whose port the kernel chose for one that
// asked for it: only such a port stays held when listening is suspended
// (SOCK_BINDPORT_LOCK in net/ipv4/inet_connection_sock.c).
func bindByNumber(chosen int) (int, error) {
	defer unix.Close(chosen)
	sa, err := unix.Getsockname(chosen)
	if err != nil {
		return -1, err
	}
	family := unix.AF_INET
	if _, ok := sa.(*unix.SockaddrInet6); ok {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	return fd, err
}
