package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net"
	"os"
	"sync"
)

// kind is the first byte of a connection: what the server is to do.
type kind byte

const (
	kindRequests    kind = 'r' // answer each frame with a frame
	kindBulk        kind = 'b' // send so many bytes, and FIN
	kindCheck       kind = 'c' // read to the end, tell what came, send so many bytes, and FIN
	kindConnections kind = 's' // for load alone: one request per connection
)

// Sizes on the wire, in bytes.
const (
	headerSize = 16 // kind, padding, big-endian count
	frameSize  = 64
	sumSize    = 12 // big-endian count and CRC
	blockSize  = 256 << 10
)

func header(k kind, count int64) []byte {
	h := make([]byte, headerSize)
	h[0] = byte(k)
	binary.BigEndian.PutUint64(h[8:], uint64(count))
	return h
}

// inheritedFD is the listening socket that the server is started with: so its
// address is known, and connects to it succeed, before it runs.
const inheritedFD = 3

// serveMain serves until its standard input ends: so it never outlives the one
// who started it.
func serveMain(until io.Reader) error {
	f := os.NewFile(inheritedFD, "listener")
	l, err := net.FileListener(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	s := startServer(l)
	_, err = io.Copy(io.Discard, until)
	s.close()
	return err
}

func listen() (*net.TCPListener, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

type server struct {
	listener net.Listener
	running  sync.WaitGroup

	mu   sync.Mutex // guards the following
	live map[net.Conn]struct{}
}

func startServer(l net.Listener) *server {
	s := &server{listener: l, live: map[net.Conn]struct{}{}}
	s.running.Go(s.accept)
	return s
}

func (s *server) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return // closed; anything else the client will say
		}
		s.mu.Lock()
		s.live[c] = struct{}{}
		s.mu.Unlock()
		s.running.Go(func() { s.talk(c) })
	}
}

func (s *server) talk(c net.Conn) {
	_ = answer(c) // what a broken connection means is for the client to say
	c.Close()
	s.mu.Lock()
	delete(s.live, c)
	s.mu.Unlock()
}

func (s *server) close() {
	s.listener.Close()
	s.mu.Lock()
	for c := range s.live {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func answer(c net.Conn) error {
	h := make([]byte, headerSize)
	if _, err := io.ReadFull(c, h); err != nil {
		return err
	}
	count := int64(binary.BigEndian.Uint64(h[8:]))
	switch kind(h[0]) {
	case kindRequests:
		return answerFrames(c)
	case kindBulk:
		return sendStream(c, count, nil)
	case kindCheck:
		return answerCheck(c, count)
	}
	return fmt.Errorf("answer: unknown kind %q", h[0])
}

func answerFrames(c net.Conn) error {
	frame := make([]byte, frameSize)
	for {
		if _, err := io.ReadFull(c, frame); err != nil {
			return err
		}
		if _, err := c.Write(frame); err != nil {
			return err
		}
	}
}

func answerCheck(c net.Conn, count int64) error {
	sum := newSum()
	n, err := io.Copy(sum, c)
	if err != nil {
		return err
	}
	told := binary.BigEndian.AppendUint64(nil, uint64(n))
	if _, err := c.Write(sum.Sum(told)); err != nil {
		return err
	}
	return sendStream(c, count, nil)
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
