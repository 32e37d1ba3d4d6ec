package testnet

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
)

const (
	streamBlock = 64 << 10
	streamStamp = 4 << 10
)

// Stream is a pseudo-random stream of a given length that needs no memory for
// it: the same seed gives the same bytes. Every 4 KiB carry their own number,
// so that a piece lost, doubled or out of order changes the checksum.
type Stream struct {
	block [streamBlock]byte
	page  uint64
	rest  []byte // of the block, not yet read
	left  int64
}

// NewStream returns the first size bytes of the stream of a seed.
func NewStream(seed uint64, size int64) *Stream {
	s := &Stream{left: size}
	random := rand.NewPCG(seed, seed)
	for i := 0; i < streamBlock; i += 8 {
		binary.LittleEndian.PutUint64(s.block[i:], random.Uint64())
	}
	return s
}

// Read gives the next bytes and io.EOF after the last one.
func (s *Stream) Read(p []byte) (n int, err error) {
	for n < len(p) && s.left > 0 {
		n += copy(p[n:], s.next(len(p)-n))
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

// next returns up to most of the next bytes without copying them, nil after the
// last one. They are valid until the next call.
func (s *Stream) next(most int) []byte {
	if s.left == 0 {
		return nil
	}
	if len(s.rest) == 0 {
		s.turn()
	}
	n := min(int64(len(s.rest)), s.left, int64(most))
	piece := s.rest[:n]
	s.rest = s.rest[n:]
	s.left -= n
	return piece
}

func (s *Stream) turn() {
	for i := 0; i < streamBlock; i += streamStamp {
		s.page++
		binary.LittleEndian.PutUint64(s.block[i:], s.page)
	}
	s.rest = s.block[:]
}

// Sum counts and checks bytes that are written to it. The zero value is ready.
type Sum struct {
	Bytes int64
	CRC   uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Write never fails.
func (s *Sum) Write(p []byte) (int, error) {
	s.CRC = crc32.Update(s.CRC, castagnoli, p)
	s.Bytes += int64(len(p))
	return len(p), nil
}

// StreamSum returns what the first size bytes of a seed's stream sum up to.
func StreamSum(seed uint64, size int64) Sum {
	var s Sum
	stream := NewStream(seed, size)
	for piece := stream.next(streamBlock); piece != nil; piece = stream.next(streamBlock) {
		s.Write(piece)
	}
	return s
}
