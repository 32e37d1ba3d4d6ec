package pump

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// BindUDP returns a bound socket that tells to which address a datagram was
// sent. The unspecified IPv6 address serves IPv4 clients, too; without IPv6 it
// becomes 0.0.0.0. The receive buffer is left as the kernel made it.
//
// The address is not shared: with SO_REUSEADDR a second process would bind it
// without an error and silently take all datagrams (socket(7)); and there is
// no TIME_WAIT that a restart would have to get past.
func BindUDP(addr netip.AddrPort) (int, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	fd, err := bindUDP(addr, there)
	if addr.Addr() == netip.IPv6Unspecified() && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
		fd, err = bindUDP(netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port()), there)
	}
	if err != nil {
		return -1, fmt.Errorf("listen on udp %s: %w", addr, err)
	}
	return fd, nil
}

// BindUDPAhead is to BindUDP as BindTCPAhead to BindTCP.
func BindUDPAhead(addr netip.AddrPort) (int, error) {
	fd, err := bindUDP(addr, ahead)
	if err != nil {
		return -1, fmt.Errorf("listen on udp %s: %w", addr, err)
	}
	return fd, nil
}

func bindUDP(addr netip.AddrPort, when func(fd int) error) (int, error) {
	fd, err := udpSocket(addr.Addr())
	if err != nil {
		return -1, err
	}
	return ownedUnless(fd, errors.Join(
		dualStack(fd, addr.Addr()),
		askLocalAddress(fd, family(addr.Addr())),
		when(fd),
		unix.Bind(fd, sockaddr(addr))))
}

func udpSocket(a netip.Addr) (int, error) {
	return unix.Socket(family(a), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
}

// askLocalAddress makes the kernel report the address that a datagram was sent
// to. IPv4 clients of an IPv6 socket need the IPv4 option: only that one names
// an own address when the datagram went to a broadcast address (ip(7)).
func askLocalAddress(fd, family int) error {
	err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	if family == unix.AF_INET6 {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
	}
	return err
}

// udpKey tells sessions apart. The local address belongs to it because a
// client may use two addresses of ours from one socket, and each answer must
// come from the one that was asked.
type udpKey struct {
	client netip.AddrPort // unmapped, without zone
	scope  uint32         // interface of a link-local client
	local  netip.Addr     // unmapped; zero where it is not known
}

// name is the client as others see it.
func (k udpKey) name() netip.AddrPort {
	if k.scope == 0 {
		return k.client
	}
	return netip.AddrPortFrom(k.client.Addr().WithZone(strconv.FormatUint(uint64(k.scope), 10)), k.client.Port())
}

// udpOwn is the address of the listening socket, as far as it matters for
// recognising it as an endpoint.
type udpOwn struct {
	family int
	addr   netip.AddrPort // unmapped
	both   bool           // an IPv6 socket that serves IPv4, too
}

func ownUDP(fd int) (udpOwn, error) {
	addr, err := localUDP(fd)
	if err != nil {
		return udpOwn{}, err
	}
	o := udpOwn{family: unix.AF_INET, addr: addr}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil && domain == unix.AF_INET6 {
		o.family = unix.AF_INET6
		only, v6err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		o.both, err = only == 0, v6err
	}
	return o, err
}

func localUDP(fd int) (netip.AddrPort, error) { return udpAddrPort(unix.Getsockname(fd)) }

func udpAddrPort(sa unix.Sockaddr, err error) (netip.AddrPort, error) {
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, unix.EAFNOSUPPORT
}

// reaches tells whether what a socket with these addresses sends comes back to
// the listening socket: a wildcard one has every address of this host, and the
// kernel reaches each of those from that address itself, or over loopback.
func (o udpOwn) reaches(local, peer netip.AddrPort) bool {
	if o.addr.Port() != peer.Port() {
		return false
	}
	if !o.addr.Addr().IsUnspecified() {
		return o.addr.Addr() == peer.Addr()
	}
	served := o.addr.Addr().Is4() == peer.Addr().Is4() || (peer.Addr().Is4() && o.both)
	return served && (peer.Addr().IsLoopback() || peer.Addr() == local.Addr())
}

// upstream is a session's connected socket.
type upstream struct {
	addr netip.AddrPort // as the handler named it
	from string         // likewise
	fd   int            // of file; valid until file is closed
	file *os.File
	raw  syscall.RawConn
}

func dialUDP(leg *Leg, own udpOwn) (*upstream, error) {
	if leg.Refuse != nil {
		leg.begin()
		return nil, leg.Refuse
	}
	if leg.Network != UDP || leg.Open != nil || len(leg.Prefix) > 0 || !leg.Addr.IsValid() {
		return nil, fmt.Errorf("connect udp %s: a UDP session takes plain UDP legs only", leg.Addr)
	}
	leg.begin()
	addr := netip.AddrPortFrom(leg.Addr.Addr().Unmap(), leg.Addr.Port())
	fd, err := leg.ownSocket()
	switch {
	case err == nil && fd != none:
		own = udpOwn{} // it is not where that is
	case err == nil:
		fd, err = udpSocket(addr.Addr())
	}
	if err == nil {
		fd, err = ownedUnless(fd, connectUDP(fd, addr, own))
	}
	if err != nil {
		return nil, fmt.Errorf("connect udp %s: %w", addr, err)
	}
	up, err := newUpstream(fd, leg.Addr)
	if err == nil {
		up.from = leg.From
	}
	return up, err
}

// leads tells whether it goes where the leg would.
func (up *upstream) leads(leg *Leg) bool { return up.addr == leg.Addr && up.from == leg.From }

// connectDatagrams makes a connection of its own, which no listener of ours is
// at the other end of.
func connectDatagrams(leg *Leg) (net.Conn, error) {
	up, err := dialUDP(leg, udpOwn{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = up.file.Close() }() // FileConn works on a duplicate
	return net.FileConn(up.file)
}

func connectUDP(fd int, addr netip.AddrPort, own udpOwn) error {
	if err := unix.Connect(fd, sockaddr(addr)); err != nil {
		return err
	}
	local, err := localUDP(fd)
	if err != nil {
		return err
	}
	peer, err := udpAddrPort(unix.Getpeername(fd))
	if err != nil {
		return err
	}
	if local == peer || own.reaches(local, peer) {
		return ErrSelfConnect
	}
	return nil
}

func newUpstream(fd int, addr netip.AddrPort) (*upstream, error) {
	up := &upstream{addr: addr, fd: fd, file: os.NewFile(uintptr(fd), "udp")}
	raw, err := up.file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, up.file.Close())
	}
	up.raw = raw
	return up, nil
}

// isRefusal tells whether the network, or the endpoint's host, said that the
// endpoint cannot be had: what ICMP messages become (icmp_err_convert in
// net/ipv4/icmp.c, tab_unreach in net/ipv6/icmp.c), and routes and packet
// filters of our own.
func isRefusal(err error) bool {
	for _, e := range []error{unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ENOPROTOOPT, unix.EOPNOTSUPP,
		unix.EHOSTDOWN, unix.ENONET, unix.ENETDOWN, unix.EPROTO, unix.EACCES, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
