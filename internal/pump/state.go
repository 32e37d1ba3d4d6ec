package pump

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
)

// stateVersion is the first byte of a record. Another layout gets another
// number, and who reads it knows both: processes of two versions meet when one
// takes over from the other.
const stateVersion = 1

// maxPending bounds what a record may say to wait in one direction: a pipe and
// a buffer hold less.
const maxPending = 16 << 20

// record is what of a frozen flow is not in the kernel.
type record struct {
	client  netip.AddrPort
	started time.Time
	moved   Counters
	sides   [2]recordSide
	prefix  uint32 // so many bytes of what waits from the client are not counted
}

// recordSide is one socket: client, then endpoint.
type recordSide struct {
	tcp     bool
	ended   bool   // its end of file was read
	passed  bool   // and said to the other side
	pending []byte // read from it, and not yet written to the other side
}

// The bits of a side's byte.
const (
	bitTCP = 1 << iota
	bitEnded
	bitPassed
)

// encode lays a record out, numbers in network order:
//
//	version          1 byte
//	client, endpoint 1 byte each: TCP, ended, passed
//	started          8 bytes, Unix time in nanoseconds
//	in, out          8 bytes each
//	prefix           4 bytes
//	client's address 1 byte of length, and netip.AddrPort.MarshalBinary
//	pending, twice   4 bytes of length, and the bytes
func (r *record) encode() ([]byte, error) {
	addr, err := r.client.MarshalBinary()
	if err != nil || len(addr) > 255 {
		return nil, fmt.Errorf("write state: address %s: %w", r.client, ErrState)
	}
	b := []byte{stateVersion, r.sides[0].bits(), r.sides[1].bits()}
	b = binary.BigEndian.AppendUint64(b, uint64(r.started.UnixNano()))
	b = binary.BigEndian.AppendUint64(b, r.moved.In)
	b = binary.BigEndian.AppendUint64(b, r.moved.Out)
	b = binary.BigEndian.AppendUint32(b, r.prefix)
	b = append(b, byte(len(addr)))
	b = append(b, addr...)
	for i := range r.sides {
		b = binary.BigEndian.AppendUint32(b, uint32(len(r.sides[i].pending)))
		b = append(b, r.sides[i].pending...)
	}
	return b, nil
}

func (s *recordSide) bits() (b byte) {
	for bit, set := range map[byte]bool{bitTCP: s.tcp, bitEnded: s.ended, bitPassed: s.passed} {
		if set {
			b |= bit
		}
	}
	return b
}

// decodeRecord reads what encode wrote; its slices are b's.
func decodeRecord(b []byte) (r record, err error) {
	in := reader{b: b}
	if v := in.bytes(1); in.bad || v[0] != stateVersion {
		return r, fmt.Errorf("read state: version: %w", ErrState)
	}
	for i := range r.sides {
		r.sides[i].setBits(&in)
	}
	r.started = time.Unix(0, int64(in.number(8)))
	r.moved = Counters{In: in.number(8), Out: in.number(8)}
	r.prefix = uint32(in.number(4))
	if err := r.client.UnmarshalBinary(in.bytes(int(in.number(1)))); err != nil {
		return r, fmt.Errorf("read state: client's address: %w", ErrState)
	}
	for i := range r.sides {
		r.sides[i].pending = in.bytes(in.length())
	}
	switch {
	case in.bad || len(in.b) > 0:
		return r, fmt.Errorf("read state: %d bytes, which is too short or too long: %w", len(b), ErrState)
	case uint64(r.prefix) > uint64(len(r.sides[client].pending)):
		return r, fmt.Errorf("read state: prefix of %d bytes: %w", r.prefix, ErrState)
	}
	return r, nil
}

func (s *recordSide) setBits(in *reader) {
	b := in.number(1)
	s.tcp, s.ended, s.passed = b&bitTCP != 0, b&bitEnded != 0, b&bitPassed != 0
	if b > bitTCP|bitEnded|bitPassed || s.passed && !s.ended {
		in.bad = true
	}
}

// reader takes a record apart; bad stays once something was missing.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.bad = true
		return nil
	}
	taken := r.b[:n:n]
	r.b = r.b[n:]
	return taken
}

// length is that of what waits.
func (r *reader) length() int {
	n := r.number(4)
	if n > maxPending {
		r.bad = true
		return 0
	}
	return int(n)
}

func (r *reader) number(size int) (n uint64) {
	for _, b := range r.bytes(size) {
		n = n<<8 | uint64(b)
	}
	return n
}

// The two sides of a flow.
const (
	client   = 0
	endpoint = 1
)
