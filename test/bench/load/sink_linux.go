package load

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sink counts datagrams. It takes them in batches and, where the kernel joins
// them (UDP_GRO), joined: it shall cost little, and what a proxy saves by
// sending them joined shall show in what the machine did.
type Sink struct {
	fd       int
	messages [sinkBatch]message
	parts    [sinkBatch]unix.Iovec
	buffers  [sinkBatch][maxDatagram]byte
	controls [sinkBatch][controlSize]byte

	mu    sync.Mutex // guards the following
	since time.Duration
	got   int64
	took  []time.Duration
}

const (
	sinkBatch   = 32
	maxDatagram = 1 << 16
	controlSize = 64
	sinkBuffer  = 32 << 20 // so that never the sink loses one
)

// message is struct mmsghdr of recvmmsg(2).
type message struct {
	header unix.Msghdr
	length uint32
	_      [4]byte
}

func newSink(addr netip.AddrPort) (*Sink, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	s := &Sink{fd: fd}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sinkBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sinkBuffer) // without rights; as much as it gives
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) // before Linux 5.0: one by one
	if err := unix.Bind(fd, socketAddr(addr)); err != nil {
		return nil, fmt.Errorf("bind: %w", err)
	}
	for i := range s.messages {
		s.parts[i] = unix.Iovec{Base: &s.buffers[i][0], Len: maxDatagram}
		s.messages[i].header = unix.Msghdr{Iov: &s.parts[i], Iovlen: 1, Control: &s.controls[i][0], Controllen: controlSize}
	}
	return s, nil
}

// receive takes one batch.
func (s *Sink) receive() {
	for i := range s.messages {
		s.messages[i].header.Controllen = controlSize
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.messages)), sinkBatch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return // none there; a datagram that never comes the sender will miss
	}
	now := clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.messages[:n] {
		m := &s.messages[i]
		if int(m.length) < stampSize {
			continue
		}
		// One that is older is of a run that did not wait for it.
		due := time.Duration(binary.BigEndian.Uint64(s.buffers[i][:]))
		if due < s.since {
			continue
		}
		size := segment(s.controls[i][:m.header.Controllen], int(m.length))
		s.got += int64((int(m.length) + size - 1) / size)
		s.took = append(s.took, now-due)
	}
}

// segment is the size of the datagrams that length bytes are.
func segment(control []byte, length int) int {
	list, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return max(length, 1)
	}
	for _, m := range list {
		if m.Header.Level == unix.IPPROTO_UDP && m.Header.Type == unix.UDP_GRO && len(m.Data) >= 4 {
			return int(max(binary.NativeEndian.Uint32(m.Data), 1))
		}
	}
	return max(length, 1)
}

// reset forgets what came, and counts only what is due from now on.
func (s *Sink) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since, s.got, s.took = clock(), 0, s.took[:0]
}

func (s *Sink) received() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}

// delays returns a copy of how long the datagrams took, of joined ones the
// first.
func (s *Sink) delays() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]time.Duration(nil), s.took...)
}
