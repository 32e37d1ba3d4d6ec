package testnet

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Tell gives a signal to the other peers.
func Tell(signal string) Step {
	return Step{fmt.Sprintf("tell %q", signal), func(p *Peer) error {
		p.signals.tell(signal)
		return nil
	}}
}

// After waits for a signal.
func After(signal string) Step {
	return Step{fmt.Sprintf("after %q", signal), func(p *Peer) error {
		select {
		case <-p.signals.channel(signal):
			return nil
		case <-p.signals.channel(""):
			return errors.New("the other side failed")
		case <-time.After(2 * Patience):
			return errors.New("hung: the signal was never told")
		}
	}}
}

// Call runs a function of the test's own as a step.
func Call(text string, f func() error) Step {
	return Step{text, func(*Peer) error { return f() }}
}

// Pause does nothing for as long as told: for a peer that is slow, never to
// wait for something.
func Pause(d time.Duration) Step {
	return Step{fmt.Sprintf("pause %v", d), func(*Peer) error {
		time.Sleep(d) //nolint:forbidigo // being slow is what this peer is for
		return nil
	}}
}

// Patient gives the steps within it this long instead of [Patience].
func Patient(d time.Duration, s Step) Step {
	return Step{s.text, func(p *Peer) error {
		p.Conn.SetDeadline(time.Now().Add(d))
		return s.do(p)
	}}
}

// Send writes the text.
func Send(text string) Step {
	return Step{fmt.Sprintf("send %s", short(text)), func(p *Peer) error {
		_, err := io.WriteString(p.Conn, text)
		return err
	}}
}

// SendBytewise writes the text with one call for each byte.
func SendBytewise(text string) Step {
	return Step{fmt.Sprintf("send %s byte by byte", short(text)), func(p *Peer) error {
		for i := range len(text) {
			if _, err := p.Conn.Write([]byte{text[i]}); err != nil {
				return err
			}
		}
		return nil
	}}
}

// SendStream writes the first size bytes of a seed's stream.
func SendStream(seed uint64, size int64) Step {
	return Step{fmt.Sprintf("send %d bytes of stream %d", size, seed), func(p *Peer) error {
		return p.sendStream(NewStream(seed, size))
	}}
}

// sendStream moves the deadline with every block that went out: a long
// transfer is not a hang.
func (p *Peer) sendStream(s *Stream) error {
	for piece := s.next(streamBlock); piece != nil; piece = s.next(streamBlock) {
		p.Conn.SetWriteDeadline(time.Now().Add(Patience))
		if _, err := p.Conn.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// SendUntilStuck writes the stream of a seed until nothing more fits and
// returns how much went out through sent. It is stuck when the kernel takes
// nothing for 300 ms.
func SendUntilStuck(seed uint64, sent *int64) Step {
	return Step{"send until stuck", func(p *Peer) error {
		s := NewStream(seed, 1<<40)
		buf := make([]byte, streamBlock)
		for {
			n, _ := s.Read(buf)
			p.Conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			n, err := p.Conn.Write(buf[:n])
			*sent += int64(n)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	}}
}

// SendUntilError writes the stream of a seed until that fails and sees the
// error.
func SendUntilError(seed uint64) Step {
	return Step{"send until that fails", func(p *Peer) error {
		for s, buf := NewStream(seed, 1<<40), make([]byte, streamBlock); ; {
			n, _ := s.Read(buf)
			p.Conn.SetWriteDeadline(time.Now().Add(Patience))
			if _, err := p.Conn.Write(buf[:n]); err != nil {
				if isTimeout(err) {
					return errors.New("hung: nobody reads, nobody resets")
				}
				p.see("send fails %s", Name(err))
				return nil
			}
		}
	}}
}

// SendFails writes one byte and sees the error that this must meet.
func SendFails() Step {
	return Step{"send and fail", func(p *Peer) error {
		if _, err := p.Conn.Write([]byte{'x'}); err != nil {
			p.see("send fails %s", Name(err))
			return nil
		}
		return errors.New("it was sent")
	}}
}

// AwaitSent waits until the other side's kernel has acknowledged all that was
// sent: before that, a reset throws the rest away. On a unix socket what was
// written is there.
func AwaitSent() Step {
	return Step{"wait until all is acknowledged", func(p *Peer) error {
		if _, ok := p.Conn.(*net.TCPConn); !ok {
			return nil
		}
		var left int
		var err error
		ok := poll(Patience, func() bool {
			err = control(p.Conn, func(fd int) (err error) {
				left, err = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
				return err
			})
			return err != nil || left == 0
		})
		if !ok {
			return fmt.Errorf("hung: %d bytes left", left)
		}
		return err
	}}
}

// SendWithFIN sends the text and the end of the stream in one segment.
func SendWithFIN(text string) Step {
	return Step{fmt.Sprintf("send %s together with FIN", short(text)), func(p *Peer) error {
		if c, ok := p.Conn.(*net.TCPConn); ok {
			if err := cork(c); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(p.Conn, text); err != nil {
			return err
		}
		return closeWrite(p.Conn)
	}}
}

// cork keeps written data back until the FIN, which then travels with it.
func cork(c *net.TCPConn) error {
	return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_CORK, 1) })
}

// Expect reads exactly this text; anything else is a failure.
func Expect(text string) Step {
	return Step{fmt.Sprintf("expect %s", short(text)), func(p *Peer) error {
		buf := make([]byte, len(text))
		n, err := io.ReadFull(p.Conn, buf)
		p.see("got %s", short(string(buf[:n])))
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", n, len(text), named(err))
		}
		if string(buf) != text {
			return fmt.Errorf("got %s", short(string(buf)))
		}
		return nil
	}}
}

// ExpectStream reads the first size bytes of a seed's stream.
func ExpectStream(seed uint64, size int64) Step {
	return Step{fmt.Sprintf("expect %d bytes of stream %d", size, seed), func(p *Peer) error {
		got, err := p.receive(size)
		p.see("got %d bytes, sum %08x", got.Bytes, got.CRC)
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", got.Bytes, named(err))
		}
		if want := StreamSum(seed, size); got != want {
			return fmt.Errorf("got other bytes: sum %08x, not %08x", got.CRC, want.CRC)
		}
		return nil
	}}
}

// ExpectEnd reads the end of the stream: [EOF], or an errno's name. Where a
// reset is expected, EOF will do on a unix socket, which knows no resets but
// those by unread input.
func ExpectEnd(want string) Step {
	return Step{fmt.Sprintf("expect %s", want), func(p *Peer) error {
		got, err := p.readRest()
		if err != nil {
			return err
		}
		_, isTCP := p.Conn.(*net.TCPConn)
		if got != want && (isTCP || want != RESET || got != EOF) {
			return fmt.Errorf("the end was %s", got)
		}
		return nil
	}}
}

// The ends that peers see most.
const (
	EOF   = "EOF"
	RESET = "ECONNRESET"
)

// ReadToEnd reads whatever comes, and sees how much it was and how it ended.
func ReadToEnd() Step {
	return Step{"read to the end", func(p *Peer) error {
		_, err := p.readRest()
		return err
	}}
}

func (p *Peer) readRest() (end string, err error) {
	got, err := p.receive(1 << 62)
	if isTimeout(err) {
		return "", fmt.Errorf("hung: no end after %d bytes", got.Bytes)
	}
	if got.Bytes > 0 {
		p.see("got %d bytes, sum %08x", got.Bytes, got.CRC)
	}
	end = Name(err)
	p.see("end %s", end)
	return end, nil
}

// receive moves the deadline with every piece that came in.
func (p *Peer) receive(size int64) (got Sum, err error) {
	buf := make([]byte, 128<<10)
	for got.Bytes < size && err == nil {
		var n int
		n, err = p.Conn.Read(buf[:min(int64(len(buf)), size-got.Bytes)])
		got.Write(buf[:n])
		if n > 0 {
			p.Conn.SetReadDeadline(time.Now().Add(Patience))
		}
	}
	if got.Bytes == size {
		err = nil
	}
	return got, err
}

// HalfClose says that this side is done sending.
func HalfClose() Step {
	return Step{"half-close", func(p *Peer) error { return closeWrite(p.Conn) }}
}

// Close closes in an orderly way: FIN, unless input is unread.
func Close() Step {
	return Step{"close", func(p *Peer) error { return p.Conn.Close() }}
}

// Reset closes with RST, whatever was read or sent. A unix socket has no such
// thing: there it is a close.
func Reset() Step {
	return Step{"reset", func(p *Peer) error {
		if c, ok := p.Conn.(*net.TCPConn); ok {
			if err := c.SetLinger(0); err != nil {
				return err
			}
		}
		return p.Conn.Close()
	}}
}

// CloseUnread waits until this much input is there and closes without reading
// it, which the kernel turns into a reset.
func CloseUnread(input int) Step {
	return Step{fmt.Sprintf("close with %d bytes unread", input), func(p *Peer) error {
		if err := p.awaitInput(input); err != nil {
			return err
		}
		return p.Conn.Close()
	}}
}

// AwaitInput waits until this much input is there and leaves it unread.
func AwaitInput(input int) Step {
	return Step{fmt.Sprintf("wait for %d bytes of input", input), func(p *Peer) error { return p.awaitInput(input) }}
}

func (p *Peer) awaitInput(want int) error {
	var have int
	var err error
	ok := poll(Patience, func() bool {
		err = control(p.Conn, func(fd int) (err error) {
			have, err = unix.IoctlGetInt(fd, unix.SIOCINQ)
			return err
		})
		return err != nil || have >= want
	})
	if !ok {
		return fmt.Errorf("hung: %d of %d bytes came", have, want)
	}
	return err
}

// AwaitReset waits until the connection was reset, without reading or writing:
// what is readable stays so.
func AwaitReset() Step {
	return Step{"wait for a reset", func(p *Peer) error { return p.awaitPoll(unix.POLLERR | unix.POLLHUP) }}
}

// AwaitFIN waits until the other side is done sending, without reading.
func AwaitFIN() Step {
	return Step{"wait for a FIN", func(p *Peer) error { return p.awaitPoll(unix.POLLRDHUP) }}
}

func (p *Peer) awaitPoll(events int16) error {
	var err error
	ok := poll(Patience, func() bool {
		found := false
		err = control(p.Conn, func(fd int) error {
			fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
			_, err := unix.Poll(fds, 0)
			found = fds[0].Revents&events != 0
			if errors.Is(err, unix.EINTR) {
				return nil
			}
			return err
		})
		return found || err != nil
	})
	if !ok {
		return errors.New("hung: it never came")
	}
	return err
}

// Shrink makes both buffers of the socket small, so that little data fills
// them.
func Shrink() Step {
	return Step{"shrink the buffers", func(p *Peer) error {
		return control(p.Conn, func(fd int) error {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10); err != nil {
				return err
			}
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 16<<10)
		})
	}}
}
