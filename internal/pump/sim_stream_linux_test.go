package pump

import "bytes"

// simPattern is what streams are made of. Its length is a prime, so that bytes
// that are out of place by a buffer, a page or any power of two differ.
const simPatternSize = 70001

type simPattern [2 * simPatternSize]byte

func newSimPattern() *simPattern {
	p := new(simPattern)
	x := uint32(2463534242)
	for i := range simPatternSize {
		x ^= x << 13 // xorshift32 (Marsaglia, Xorshift RNGs, 2003)
		x ^= x >> 17
		x ^= x << 5
		p[i], p[simPatternSize+i] = byte(x), byte(x)
	}
	return p
}

// simStream is an endless stream of bytes, each a function of its position.
type simStream struct {
	pattern *simPattern
	id      int // no two streams of a simulation have the same
}

// at are the bytes from a position on, at least simPatternSize of them.
func (s simStream) at(position int64) []byte {
	return s.pattern[(position+int64(s.id)*7919)%simPatternSize:]
}

func (s simStream) fill(p []byte, position int64) {
	for len(p) > 0 {
		n := copy(p, s.at(position)[:simPatternSize])
		p = p[n:]
		position += int64(n)
	}
}

func (s simStream) has(p []byte, position int64) bool {
	for len(p) > 0 {
		n := min(len(p), simPatternSize)
		if !bytes.Equal(p[:n], s.at(position)[:n]) {
			return false
		}
		p = p[n:]
		position += int64(n)
	}
	return true
}

// simCheck is what an end of the proxy may be given to write: a prefix, then
// the stream of the other side.
type simCheck struct {
	prefix []byte
	stream *simStream // nil: nothing
	skip   int64      // bytes at its beginning that were a preface
}

// bytes tells whether p may be written when n bytes were written before.
func (c *simCheck) bytes(p []byte, n int64) bool {
	if n < int64(len(c.prefix)) {
		head := min(len(p), len(c.prefix)-int(n))
		if !bytes.Equal(p[:head], c.prefix[n:n+int64(head)]) {
			return false
		}
		p, n = p[head:], n+int64(head)
	}
	return len(p) == 0 || c.stream != nil && c.stream.has(p, n-int64(len(c.prefix))+c.skip)
}

// spliced tells whether bytes of a stream from a position on may be written
// when n bytes were written before.
func (c *simCheck) spliced(s simStream, position, n int64) bool {
	return c.stream != nil && *c.stream == s && position == n-int64(len(c.prefix))+c.skip
}
