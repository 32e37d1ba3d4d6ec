package pump

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How many messages one receive takes. A narrow batch is enough to see that
// nothing more is there; a receive that fills it makes the next one wide. Each
// message needs room for 64 KiB: that is how long merged datagrams get.
const (
	narrowBatch = 4
	wideBatch   = 32
)

// maxDatagram is above the longest payload of UDP: 65,507 bytes over IPv4 and
// 65,527 over IPv6, and of what UDP_GRO merges.
const maxDatagram = 65535

// udpOffload is what to use of what a kernel may have.
type udpOffload struct {
	// merge takes datagrams of one sender merged (UDP_GRO, Linux 5.0).
	merge bool
	// segment sends several at once, to be taken apart as late as possible
	// (UDP_SEGMENT, Linux 4.18).
	segment bool
}

// probeUDP finds out about the kernel by asking for both on a socket.
func probeUDP(fd int) (o udpOffload) {
	_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	o.segment = err == nil
	o.merge = o.segment && mergeUDP(fd) == nil
	return o
}

// longest is udpRoute.segment of a way that nothing is known about.
func (o udpOffload) longest() int {
	if o.segment {
		return maxSegmentBytes
	}
	return 0
}

// mergeUDP lets the kernel hand over datagrams merged. Only those of one sender
// with the same length, TTL and TOS are.
func mergeUDP(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) }

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	n uint32
}

// udpBatch is the memory in which datagrams pass. It is lent for that moment:
// who waits has none.
type udpBatch struct {
	buf   [][maxDatagram + 1]byte // no pointers: the collector does not look at it
	hdrs  [wideBatch]mmsghdr
	iovs  [wideBatch]unix.Iovec
	names [wideBatch][unix.SizeofSockaddrInet6]byte
	oobs  [wideBatch][256]byte
	used  int // headers that the kernel has written to

	msgs  [wideBatch]udpMessage
	keys  [wideBatch]udpKey
	order [wideBatch]uint8
	train [wideBatch]udpMessage
	tx    udpSender
}

func newUDPBatch(messages int) *udpBatch {
	b := &udpBatch{buf: make([][maxDatagram + 1]byte, messages)}
	for i := range b.buf {
		h := &b.hdrs[i].Msghdr
		b.iovs[i].Base = &b.buf[i][0]
		b.iovs[i].SetLen(maxDatagram)
		h.Name, h.Iov, h.Control = &b.names[i][0], &b.iovs[i], &b.oobs[i][0]
		h.SetIovlen(1)
	}
	b.used = messages
	return b
}

// maxWide bounds the memory of the wide batches that a listener's sessions may
// have in hand at once, 2 MiB each. Who gets none makes do with a narrow one.
const maxWide = 8

// udpBatches lends batches. The pools are emptied by the garbage collector.
type udpBatches struct {
	narrow, wide sync.Pool
	lent         atomic.Int32 // wide ones
}

func newUDPBatches() *udpBatches {
	return &udpBatches{
		narrow: sync.Pool{New: func() any { return newUDPBatch(narrowBatch) }},
		wide:   sync.Pool{New: func() any { return newUDPBatch(wideBatch) }},
	}
}

func (p *udpBatches) get(wide bool) *udpBatch {
	if wide {
		if p.lent.Add(1) <= maxWide {
			return p.wide.Get().(*udpBatch)
		}
		p.lent.Add(-1)
	}
	return p.narrow.Get().(*udpBatch)
}

func (p *udpBatches) put(b *udpBatch) {
	if len(b.buf) == narrowBatch {
		p.narrow.Put(b)
		return
	}
	p.wide.Put(b)
	p.lent.Add(-1)
}

// receive takes what waits, and does not wait itself. When it returns fewer
// messages than the batch has room for, the kernel has found the queue empty,
// or an error, which the next receive returns (recvmmsg(2)): asking again could
// only give EAGAIN. Its errors are bare errnos.
func (b *udpBatch) receive(fd int) (n int, err error) {
	for i := range b.used {
		h := &b.hdrs[i]
		h.Namelen, h.Flags = uint32(len(b.names[i])), 0
		h.SetControllen(len(b.oobs[i]))
	}
	b.used = 0
	// Without telling the scheduler, which would cost 50 ns: a narrow batch is
	// a few microseconds. A wide one may be 2 MiB.
	call := unix.RawSyscall6
	if len(b.buf) == wideBatch {
		call = unix.Syscall6
	}
	r, _, errno := call(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.hdrs)), uintptr(len(b.buf)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	b.used = int(r)
	return int(r), nil
}

// full tells whether there may be more than the n messages received.
func (b *udpBatch) full(n int) bool { return n == len(b.buf) }

// widen tells whether the next receive is to be wide, which is worth its
// memory as long as more than half a narrow batch comes at a time.
func (b *udpBatch) widen(n int) bool {
	if len(b.buf) == narrowBatch {
		return n == narrowBatch
	}
	return n > narrowBatch/2
}

// message is the i-th one received, with the address that it was sent to. An
// error means that it cannot be passed on.
func (b *udpBatch) message(i int) (m udpMessage, local netip.Addr, err error) {
	h := &b.hdrs[i]
	// Without all control messages merged datagrams would look like one.
	if h.Flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return m, local, unix.EMSGSIZE
	}
	local, size := parseControl(b.oobs[i][:h.Controllen])
	m = udpMessage{p: b.buf[i][:h.n], size: int(h.n)}
	if size > 0 {
		m.size = min(m.size, size)
	}
	return m, local, nil
}

// key tells from whom the i-th message came, and to which address.
func (b *udpBatch) key(i int, local netip.Addr) (key udpKey, err error) {
	key.client, key.scope = parseSockaddr(b.names[i][:b.hdrs[i].Namelen])
	if !key.client.IsValid() {
		return key, unix.EAFNOSUPPORT
	}
	key.local = local
	return key, nil
}

// parseSockaddr reads a sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)); another
// family gives the zero address.
func parseSockaddr(b []byte) (netip.AddrPort, uint32) {
	if len(b) < 2 {
		return netip.AddrPort{}, 0
	}
	switch family := binary.NativeEndian.Uint16(b); {
	case family == unix.AF_INET && len(b) >= 8:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), 0
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6:
		a := netip.AddrFrom16([16]byte(b[8:24])).Unmap()
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[2:])), binary.NativeEndian.Uint32(b[24:])
	}
	return netip.AddrPort{}, 0
}

// parseControl finds the own address and the size of merged datagrams in
// control messages. A multicast group is no own address: nothing can be sent
// from it.
func parseControl(b []byte) (local netip.Addr, size int) {
	for len(b) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			break
		}
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			size = int(binary.NativeEndian.Uint32(data))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= 12:
			local = netip.AddrFrom4([4]byte(data[4:8])) // ipi_spec_dst
		// Of a client that speaks IPv4 the other one names the own address.
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= 16 && !local.Is4():
			local = netip.AddrFrom16([16]byte(data[:16])).Unmap()
		}
		b = rest
	}
	if local.IsMulticast() {
		local = netip.Addr{}
	}
	return local, size
}
