package pump

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// BindTCP returns a listening socket. The unspecified IPv6 address serves IPv4
// clients, too; on a kernel without IPv6 it becomes 0.0.0.0. The socket is
// plain TCP: multipath TCP breaks options that we rely on
// (https://github.com/golang/go/issues/72879).
func BindTCP(addr netip.AddrPort) (int, error) {
	fd, err := bindTCP(addr, there)
	if errors.Is(err, unix.EAFNOSUPPORT) && addr.Addr() == netip.IPv6Unspecified() {
		fd, err = bindTCP(netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()), there)
	}
	if err != nil {
		return -1, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return fd, nil
}

// BindTCPAhead is BindTCP for an IPv6 address that is not there yet: the socket
// serves it from when it is.
func BindTCPAhead(addr netip.AddrPort) (int, error) {
	fd, err := bindTCP(addr, ahead)
	if err != nil {
		return -1, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return fd, nil
}

// there and ahead say whether an address must be one of this network.
func there(int) error { return nil }

func ahead(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1) }

func bindTCP(addr netip.AddrPort, when func(fd int) error) (int, error) {
	fd, err := unix.Socket(family(addr.Addr()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_TCP)
	if err != nil {
		return -1, err
	}
	return ownedUnless(fd, errors.Join(
		// Connections of an earlier process that are still in TIME_WAIT must
		// not keep a restarted one from its port.
		reuseAddress(fd, true),
		dualStack(fd, addr.Addr()),
		when(fd),
		bindAndListen(fd, sockaddr(addr))))
}

func reuseAddress(fd int, yes bool) error {
	value := 0
	if yes {
		value = 1
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, value)
}

func bindAndListen(fd int, sa unix.Sockaddr) error {
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	return unix.Listen(fd, backlog)
}

func dualStack(fd int, a netip.Addr) error {
	if a != netip.IPv6Unspecified() {
		return nil
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
}

// ownedUnless returns fd, or closes it when err is set.
func ownedUnless(fd int, err error) (int, error) {
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16(), ZoneId: zoneID(a.Addr().Zone())}
}

func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(ifi.Index)
}

// BindUnix returns a listening socket at path. A socket file that nobody
// serves any more is replaced; a served one, or another kind of file, is an
// error.
func BindUnix(path string, o UnixOptions) (int, error) {
	if err := removeStale(path); err != nil {
		return -1, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	fd, err := bindUnix(path, o)
	if err == nil {
		fd, err = ownedUnless(fd, unix.Listen(fd, backlog))
	}
	if err != nil {
		return -1, fmt.Errorf("listen on unix:%s: %w", path, err)
	}
	return fd, nil
}

// bindUnix binds without listening, so that nobody connects before the rights
// are set.
func bindUnix(path string, o UnixOptions) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return ownedUnless(fd, err)
	}
	err = os.Chmod(path, o.Mode)
	if err == nil && o.GID >= 0 {
		err = os.Chown(path, -1, o.GID)
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return ownedUnless(fd, err)
}

func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode()&fs.ModeSocket == 0 {
		return fmt.Errorf("the file exists and is no socket: %w", fs.ErrExist)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("another process serves it: %w", unix.EADDRINUSE)
	}
	return os.Remove(path)
}

// replaceUnix moves a new socket over the one at path, with the same rights, so
// that there is no moment without a file. On error path is as it was. A unix
// listener that was shut down never listens again (unix_listen in
// net/unix/af_unix.c leaves sk_shutdown set), while a bound socket that does not
// listen refuses as a TCP port does.
func replaceUnix(path string, listening bool) (int, os.FileInfo, error) {
	temp, fd, err := bindBeside(path)
	if err != nil {
		return -1, nil, err
	}
	if listening {
		err = unix.Listen(fd, backlog)
	}
	var file os.FileInfo
	if err == nil {
		file, err = os.Lstat(temp)
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_, err = ownedUnless(fd, errors.Join(err, os.Remove(temp)))
		return -1, nil, err
	}
	return fd, file, nil
}

// unlinkOwn removes a socket file unless somebody put another in its place.
func unlinkOwn(path string, own os.FileInfo) {
	now, err := os.Lstat(path)
	if err == nil && own != nil && os.SameFile(now, own) {
		_ = os.Remove(path) // the next owner replaces a stale socket
	}
}

// stopListening makes the kernel answer connects with a refusal. A TCP socket
// that was shut down stays bound and can listen again. It must not allow the
// address to be shared meanwhile: where both sides do, a bind fails only while
// somebody listens (SO_REUSEADDR, socket(7)). On error it listens as before.
func stopListening(fd int) error {
	err := reuseAddress(fd, false)
	if err == nil {
		if err = unix.Shutdown(fd, unix.SHUT_RD); err != nil {
			err = errors.Join(err, reuseAddress(fd, true))
		}
	}
	if err != nil {
		return fmt.Errorf("suspend listener: %w", err)
	}
	return nil
}

// listenAgain is the way back. It allows the address to be shared first:
// connections that were accepted before have it, too.
func listenAgain(fd int) error {
	err := reuseAddress(fd, true)
	if err == nil {
		if err = unix.Listen(fd, backlog); err != nil {
			err = errors.Join(err, reuseAddress(fd, false))
		}
	}
	if err != nil {
		return fmt.Errorf("resume listener: %w", err)
	}
	return nil
}

// bindBeside binds a socket in the directory of the one at path, with the same
// rights. Others may do so at the same time, also with the same process id: in
// containers that share the directory. The name is short because a socket's
// path has 107 bytes (unix(7)).
func bindBeside(path string) (temp string, fd int, err error) {
	st, err := os.Lstat(path)
	if err != nil {
		return "", -1, err
	}
	o := UnixOptions{Mode: st.Mode().Perm(), GID: -1}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		o.GID = int(sys.Gid)
	}
	for range 3 {
		temp = filepath.Join(filepath.Dir(path), fmt.Sprintf(".legate-%08x", rand.Uint32()))
		if fd, err = bindUnix(temp, o); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return temp, fd, err
}

// adoptListener takes over a listening descriptor.
func adoptListener(fd int) (listener, error) {
	f := os.NewFile(uintptr(fd), "listener")
	defer func() { _ = f.Close() }() // FileListener works on a duplicate
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("adopt listener: %w", err)
	}
	l, ok := ln.(listener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("adopt listener: %T is not a stream listener", ln), ln.Close())
	}
	return l, nil
}
