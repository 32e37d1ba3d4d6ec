package pump

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// soOriginalDst is SO_ORIGINAL_DST, and IP6T_SO_ORIGINAL_DST as well
// (linux/netfilter_ipv4.h and linux/netfilter_ipv6/ip6_tables.h).
const soOriginalDst = 80

// originalOf is where the client of a connected socket wanted to go, before a
// redirect made own of it, which is what the kernel says where there was none.
// A client with an IPv4 address is asked about as such, also on a socket for
// both families.
func originalOf(fd int, own netip.AddrPort) netip.AddrPort {
	switch a := own.Addr(); {
	case a.Is4():
		// A sockaddr_in, in a structure that has room for one.
		raw, err := unix.GetsockoptIPv6Mreq(fd, unix.SOL_IP, soOriginalDst)
		if err == nil {
			b := raw.Multiaddr
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4]))
		}
	case a.Is6():
		raw, err := unix.GetsockoptIPv6MTUInfo(fd, unix.SOL_IPV6, soOriginalDst)
		if err == nil {
			port := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, raw.Addr.Port))
			return netip.AddrPortFrom(netip.AddrFrom16(raw.Addr.Addr), port)
		}
	}
	return own // nothing tracks the connection
}

func (f *epollFlow) original() netip.AddrPort {
	if n := f.net.Load(); n != nil {
		return n.original()
	}
	return originalOf(int(f.s.side[client].fd), f.local())
}

// hand is called on the loop, by Next, or by the net engine's.
func (f *epollFlow) hand(h Handler) {
	if n := f.net.Load(); n != nil {
		n.hand(h)
		return
	}
	f.h = h
}

func (f *netFlow) original() netip.AddrPort {
	own := f.local()
	c, ok := f.client.conn.(*net.TCPConn)
	if !ok {
		return own
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return own
	}
	found := own
	_ = raw.Control(func(fd uintptr) { found = originalOf(int(fd), own) }) // fails on a closed connection only
	return found
}

func (f *netFlow) hand(h Handler) { f.h = h }

func (s *udpSession) original() netip.AddrPort { return netip.AddrPort{} }

func (s *udpSession) hand(Handler) {}
