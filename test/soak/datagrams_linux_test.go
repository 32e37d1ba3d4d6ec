package soak

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const (
	burst       = 10
	maxDatagram = 1400
	sessions    = 4
)

// echoDatagrams sends everything back, from an address that it serves as playEcho.
func echoDatagrams(addr string) error {
	at, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp4", at)
	if err != nil {
		return err
	}
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(buf[:n], from) // the client misses it
			}
		}
	}()
	return nil
}

// datagrams sends a burst, as one GSO train or one by one, and wants every datagram back. They fit into
// the buffers on their way, so none may be lost. A worker keeps its socket, and has the same port in every
// load: a session is left of each for a minute.
func (w *worker) datagrams() error {
	if w.udp == nil {
		from := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1400 + w.number}}
		c, err := from.Dial("udp4", w.cfg.Datagrams)
		if err != nil {
			return err
		}
		w.udp = c.(*net.UDPConn)
	}
	size, last := 8+w.random.IntN(maxDatagram-8), 8+w.random.IntN(8)
	id := w.ids.Add(burst) - burst
	var sent [][]byte
	for i := range burst {
		n := size
		if i == burst-1 { // a train may end with a shorter one
			n = min(size, last)
		}
		sent = append(sent, datagram(id+uint64(i), n))
	}
	if err := w.send(sent, size); err != nil {
		return fmt.Errorf("send datagrams: %w", err)
	}
	w.bytes.Add(2 * int64(burst*size))
	return w.receive(id, sent)
}

func datagram(id uint64, n int) []byte {
	d := bytes.Repeat([]byte{byte(id)}, n)
	binary.LittleEndian.PutUint64(d, id)
	return d
}

func (w *worker) send(sent [][]byte, size int) error {
	if w.random.IntN(2) == 0 {
		for _, d := range sent {
			if _, err := w.udp.Write(d); err != nil {
				return err
			}
		}
		return nil
	}
	if err := w.segment(size); err != nil {
		return err
	}
	_, err := w.udp.Write(bytes.Join(sent, nil))
	return errors.Join(err, w.segment(0))
}

// segment has the kernel cut what is sent into datagrams of that size; 0: not at all (UDP_SEGMENT, udp(7)).
func (w *worker) segment(size int) error {
	raw, err := w.udp.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size) })
	return errors.Join(cerr, err)
}

// receive wants each of the datagrams once, in any order.
func (w *worker) receive(id uint64, sent [][]byte) error {
	if err := w.udp.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	missing := len(sent)
	for missing > 0 {
		n, err := w.udp.Read(buf)
		if err != nil {
			return fmt.Errorf("%d of %d datagrams: %w", len(sent)-missing, len(sent), err)
		}
		which := binary.LittleEndian.Uint64(buf) - id
		if n < 8 || which >= uint64(len(sent)) || !bytes.Equal(sent[which], buf[:n]) {
			return fmt.Errorf("a datagram of %d bytes, number %d: %w", n, which, errWrongBytes)
		}
		sent[which] = nil // never twice: that it is empty is not equal
		missing--
	}
	return nil
}
