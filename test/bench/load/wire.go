package load

import (
	"encoding/binary"
	"hash"
	"hash/crc32"
	"io"
)

// kind is the first byte of a connection: what the server is to do.
type kind byte

const (
	kindAnswer kind = 'a' // a response for every request, of the sizes in the header
	kindCheck  kind = 'c' // read to the end, tell what came, send as much, and FIN
	kindReset  kind = 'r' // reset at once
	kindWait   kind = 'w' // read to the end, and report what that was to the token in the place of the request's size
)

// Sizes on the wire, in bytes.
const (
	headerSize = 16 // kind, padding, big-endian sizes of request and response
	sumSize    = 12 // big-endian count and CRC
	blockSize  = 256 << 10
)

func header(k kind, request, response int) []byte {
	h := make([]byte, headerSize)
	h[0] = byte(k)
	binary.BigEndian.PutUint32(h[8:], uint32(request))
	binary.BigEndian.PutUint32(h[12:], uint32(response))
	return h
}

func sizes(h []byte) (request, response int) {
	return int(binary.BigEndian.Uint32(h[8:])), int(binary.BigEndian.Uint32(h[12:]))
}

func newSum() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

// sendStream writes count bytes that tell a lost, doubled or moved block, and
// adds them to sum, if there is one.
func sendStream(to io.Writer, count int64, sum hash.Hash) error {
	block := make([]byte, blockSize)
	for i := range block {
		block[i] = byte(i * i >> 7)
	}
	for number := uint64(0); count > 0; number++ {
		binary.BigEndian.PutUint64(block, number)
		b := block[:min(count, blockSize)]
		if sum != nil {
			sum.Write(b)
		}
		if _, err := to.Write(b); err != nil {
			return err
		}
		count -= int64(len(b))
	}
	return nil
}
