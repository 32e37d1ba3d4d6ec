package pump

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// udpRoute is one way of a session: to whom datagrams go, and what was learned
// about the way. ECN and TOS marks are not carried over: QUIC then finds that
// the way has no ECN, and does without (RFC 9000 section 13.4).
type udpRoute struct {
	to *udpClient // nil where the socket is connected
	// segment is the longest datagram that may be sent by UDP_SEGMENT; 0 none.
	segment int
	carried atomic.Uint64 // bytes of payload
}

// udpClient is the other end of answers.
type udpClient struct {
	name    [unix.SizeofSockaddrInet6]byte
	nameLen uint32
	key     udpKey
}

// newUDPClient is for a listening socket of that family.
func newUDPClient(key udpKey, family int) udpClient {
	c := udpClient{key: key, nameLen: unix.SizeofSockaddrInet4}
	binary.NativeEndian.PutUint16(c.name[0:], uint16(family))
	binary.BigEndian.PutUint16(c.name[2:], key.client.Port())
	if family == unix.AF_INET {
		a := key.client.Addr().As4()
		copy(c.name[4:], a[:])
		return c
	}
	a := key.client.Addr().As16()
	copy(c.name[8:], a[:])
	binary.NativeEndian.PutUint32(c.name[24:], key.scope)
	c.nameLen = unix.SizeofSockaddrInet6
	return c
}

// refuses learns from the error of a segmented send, and tells whether it was
// about the segments: then the same is to be sent in another way. The others
// are errors of any send.
func (r *udpRoute) refuses(errno unix.Errno, segment int) bool {
	switch errno {
	case unix.EMSGSIZE, unix.EINVAL:
		// A segment does not fit the MTU of the way; plain datagrams are taken
		// apart into fragments. Older kernels say EINVAL (udp_send_skb in
		// net/ipv4/udp.c).
		r.segment = segment - 1
	case unix.EIO:
		// The device computes no checksums, or IPsec is in the way.
		r.segment = 0
	default:
		return false
	}
	return true
}

const sendFlags = unix.MSG_NOSIGNAL | unix.MSG_DONTWAIT

// maxCuts is how many sends one system call makes.
const maxCuts = 32

// udpSender is the memory for one call.
type udpSender struct {
	cuts [maxCuts]udpCut
	hdrs [maxCuts]mmsghdr
	// A message that lies in two sends takes an iovec in each.
	iovs [maxCuts + wideBatch]unix.Iovec
	ctls [maxCuts][64]byte
}

// send sends what is left of the train. Of an error the place of the train
// tells to which datagrams it happened, and the first cut how many they are.
//
// sendmmsg(2) that fails after its first message says only how many it sent.
// The error is lost, and it may have been one that an earlier datagram caused.
// The rest of the train is then sent by calls of their own, so that the next
// such error is seen.
func (tx *udpSender) send(fd int, r *udpRoute, t *udpTrain) error {
	for !t.done() {
		n := tx.fill(r, t)
		done, errno := tx.call(fd, r, n)
		for i := range done {
			r.carried.Add(uint64(tx.cuts[i].bytes))
			t.at = tx.cuts[i].to
		}
		t.single = t.single || done < n
		if errno != 0 && (tx.cuts[0].segment == 0 || !r.refuses(errno, tx.cuts[0].segment)) {
			return errno
		}
	}
	return nil
}

// fill cuts the next sends off the train.
func (tx *udpSender) fill(r *udpRoute, t *udpTrain) (n int) {
	most := maxCuts
	if t.single {
		most = 1
	}
	iovs := tx.iovs[:]
	for at := t.at; n < most && at.msg < len(t.msgs); n++ {
		c := t.cut(at, r.segment)
		parts := t.parts(iovs, at, c.to)
		h := &tx.hdrs[n].Msghdr
		h.Iov = &iovs[0]
		h.SetIovlen(parts)
		tx.address(n, r, c.segment)
		iovs = iovs[parts:]
		tx.cuts[n], at = c, c.to
	}
	return n
}

// parts describes the bytes between two places.
func (t *udpTrain) parts(iovs []unix.Iovec, from, to udpPlace) (n int) {
	for ; from != to && from.msg < len(t.msgs); n++ {
		p := t.msgs[from.msg].p[from.off:]
		next := udpPlace{msg: from.msg + 1}
		if from.msg == to.msg {
			p, next = p[:to.off-from.off], to
		}
		iovs[n].Base = unsafe.SliceData(p)
		iovs[n].SetLen(len(p))
		from = next
	}
	return n
}

// address writes what a send has beside its payload.
func (tx *udpSender) address(i int, r *udpRoute, segment int) {
	h, ctl := &tx.hdrs[i].Msghdr, &tx.ctls[i]
	h.Name, h.Namelen = nil, 0
	n := 0
	if r.to != nil {
		h.Name, h.Namelen = &r.to.name[0], r.to.nameLen
		n = putSource(ctl[:], r.to.key)
	}
	if segment > 0 {
		data := putControl(ctl[n:], unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
		binary.NativeEndian.PutUint16(data, uint16(segment))
		n += unix.CmsgSpace(2)
	}
	h.Control = nil
	if n > 0 {
		h.Control = &ctl[0]
	}
	h.SetControllen(n)
}

// call makes the n sends, and tells how many the kernel took; errno is why it
// did not take the first.
func (tx *udpSender) call(fd int, r *udpRoute, n int) (int, unix.Errno) {
	if n > 1 {
		done, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&tx.hdrs)), uintptr(n), sendFlags, 0, 0)
		if errno != 0 {
			done = 0
		}
		return int(done), errno
	}
	h := &tx.hdrs[0].Msghdr
	var errno unix.Errno
	switch {
	case tx.cuts[0].segment > 0:
		_, _, errno = unix.Syscall6(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(h)), sendFlags, 0, 0, 0)
	case r.to == nil:
		// A twentieth cheaper than sendmsg, which reads the header first; and
		// one datagram is too short to tell the scheduler.
		_, _, errno = unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(h.Iov.Base)), uintptr(h.Iov.Len), sendFlags, 0, 0)
	default:
		_, _, errno = unix.RawSyscall6(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(h)), sendFlags, 0, 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	return 1, 0
}

// putSource writes the control message that makes an answer leave from the
// address that the client used. No interface is named, so that the route
// decides, unless the address means nothing without one.
func putSource(b []byte, key udpKey) int {
	local := key.local
	switch {
	case !local.IsValid():
		return 0
	case local.Is4():
		data := putControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		addr := local.As4()
		clear(data)
		copy(data[4:], addr[:]) // ipi_spec_dst
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	data := putControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
	addr := local.As16()
	copy(data, addr[:])
	binary.NativeEndian.PutUint32(data[len(addr):], 0)
	if local.IsLinkLocalUnicast() {
		binary.NativeEndian.PutUint32(data[len(addr):], key.scope)
	}
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}

// putControl writes the head of a control message and returns where its n bytes
// of data belong.
func putControl(b []byte, level, kind int32, n int) []byte {
	h := unix.Cmsghdr{Level: level, Type: kind}
	h.SetLen(unix.CmsgLen(n))
	*(*[unix.SizeofCmsghdr]byte)(b) = *(*[unix.SizeofCmsghdr]byte)(unsafe.Pointer(&h))
	return b[unix.CmsgLen(0):][:n]
}

// drop leaves out what the last send failed at, and tells how many datagrams
// that were.
func (tx *udpSender) drop(t *udpTrain) int {
	t.at = tx.cuts[0].to
	return tx.cuts[0].datagrams
}
