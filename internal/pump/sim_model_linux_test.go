package pump

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSimulation_KernelAgrees does the same random calls on connections of the
// machine and on simulated ones: what each call says, and what poll says of
// both ends after it, must be the same, or the simulation proves nothing.
func TestSimulation_KernelAgrees(t *testing.T) {
	for _, network := range []Network{TCP, Unix} {
		t.Run(string(network), func(t *testing.T) {
			for seed := range uint64(100) {
				p := newSimTwin(t, network)
				p.play(rand.New(rand.NewPCG(seed, 0)))
				p.close()
				if t.Failed() {
					t.Fatalf("seed %d:\n%s", seed, p.story)
				}
			}
		})
	}
}

// simTwin is a connection of the machine with its simulated likeness.
type simTwin struct {
	t     *testing.T
	fds   [2]int // none: closed
	ends  [2]*simEnd
	story string
}

func newSimTwin(t *testing.T, network Network) *simTwin {
	p := &simTwin{t: t}
	if network == Unix {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		p.fds = fds
	} else {
		p.fds = tcpPair(t)
	}
	w := &simWorld{d: playSimDraws(nil)}
	far := simPairOf(w, "twin", network == Unix, [4]int{64 << 10, 64 << 10, 64 << 10, 64 << 10})
	p.ends = [2]*simEnd{far.other, far}
	return p
}

func tcpPair(t *testing.T) (fds [2]int) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ln, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	defer func() { _ = unix.Close(ln) }()
	must(unix.Bind(ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(unix.Listen(ln, 1))
	at, err := unix.Getsockname(ln)
	must(err)
	fds[0], err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	must(unix.Connect(fds[0], at))
	fds[1], _, err = unix.Accept4(ln, unix.SOCK_CLOEXEC)
	must(err)
	for _, fd := range fds {
		must(unix.SetNonblock(fd, true))
	}
	return fds
}

func (p *simTwin) close() {
	for _, fd := range p.fds {
		if fd != none {
			_ = unix.Close(fd)
		}
	}
}

func (p *simTwin) play(rng *rand.Rand) {
	buf := make([]byte, 300)
	for range 12 {
		i := rng.IntN(2)
		if p.fds[i] == none {
			i = 1 - i
		}
		if p.fds[i] == none {
			return
		}
		fd, e, n := p.fds[i], p.ends[i], 1+rng.IntN(len(buf))
		var what, real, model string
		switch rng.IntN(14) {
		case 0, 1, 2:
			what = fmt.Sprintf("write %d", n)
			real = simSaid(unix.SendmsgN(fd, buf[:n], nil, nil, unix.MSG_NOSIGNAL))
			m, errno := e.sendable(n)
			e.sent(m)
			model = simSays(m, errno)
		case 3, 4, 5:
			what = fmt.Sprintf("read %d", n)
			real = simSaid(unix.Read(fd, buf[:n]))
			m, errno := e.receive(n)
			e.taken(m)
			model = simSays(m, errno)
		case 6, 7:
			what, real, model = "shutdown", simSaid(0, unix.Shutdown(fd, unix.SHUT_WR)), simSays(0, e.shutdown())
		case 8:
			errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
			what, real, model = "error", simSaid(errno, err), simSays(int(e.takeError()), 0)
		case 9:
			what = "close"
			p.fds[i] = none
			_ = unix.Close(fd)
			e.close()
		case 10:
			what = "abort"
			p.fds[i] = none
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			_ = unix.Close(fd)
			e.abort()
		case 11:
			what = "look"
		case 12, 13:
			what = fmt.Sprintf("peek %d", n)
			got, _, err := unix.Recvfrom(fd, buf[:n], unix.MSG_PEEK)
			real = simSaid(got, err)
			model = simSays(e.receive(n))
		}
		p.story += fmt.Sprintf("%d %s: %s, simulated %s\n", i, what, real, model)
		if real != model {
			p.t.Errorf("%s says %s, simulated %s", what, real, model)
			return
		}
		if !p.agree() {
			return
		}
	}
}

// agree compares what both ends look like; loopback may take a moment.
func (p *simTwin) agree() bool {
	var real, model string
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		real, model = "", ""
		for i, fd := range p.fds {
			if fd == none {
				continue
			}
			real += p.look(i, fd)
			e := p.ends[i]
			model += fmt.Sprintf(" %d: %s, %d to read", i, simMask(e.mask()), e.queue)
			if !e.unix {
				model += fmt.Sprintf(", %d undelivered", e.undelivered())
			}
		}
		if real == model {
			p.story += real + "\n"
			return true
		}
	}
	p.story += real + "\nsimulated" + model + "\n"
	p.t.Errorf("it looks like%s, simulated like%s", real, model)
	return false
}

func (p *simTwin) look(i, fd int) string {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLOUT | unix.POLLRDHUP | unix.POLLPRI}}
	if _, err := unix.Poll(poll, 0); err != nil {
		return err.Error()
	}
	x := &linux{}
	s := fmt.Sprintf(" %d: %s, %d to read", i, simMask(uint32(poll[0].Revents)), x.unread(fd))
	if !p.ends[i].unix {
		s += fmt.Sprintf(", %d undelivered", x.undelivered(fd))
	}
	return s
}

func simSaid(n int, err error) string {
	if errno := unix.Errno(0); errors.As(err, &errno) {
		return simSays(0, errno)
	}
	return simSays(n, 0)
}

func simSays(n int, errno unix.Errno) string { return fmt.Sprint(n, simErrno(errno)) }
