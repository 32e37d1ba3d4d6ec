package load

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Server answers on an address of its own, TCP and UDP.
type Server struct {
	Addr string
	Sink *Sink // of the datagrams

	poll     *poll
	listener int
	stop     int // an eventfd
	peers    []peer
	in, out  []byte
	running  sync.WaitGroup
	err      error // of the loop; to be read when it has ended

	closing sync.Once

	mu      sync.Mutex // guards the following
	closed  bool
	live    map[net.Conn]struct{}
	waiting map[int]chan<- string // who is to hear how a connection of kindWait ended, by token
	tokens  int                   // so far
}

// peer is a connection, at its descriptor's number.
type peer struct {
	open              bool
	armed             bool // waits for room to write
	header            [headerSize]byte
	headed            int // bytes of the header so far
	request, response int
	got               int // bytes of requests not yet answered
	owed              int // bytes of responses not yet written
}

const backlog = 4096

// NewServer starts a server on a free port of the loopback; Close ends it.
func NewServer() (*Server, error) { return Listen(netip.MustParseAddrPort("127.0.0.1:0")) }

// Listen starts a server on an IPv4 address, which may be of every network, as
// that of a container; Close ends it.
func Listen(addr netip.AddrPort) (*Server, error) {
	s := &Server{in: make([]byte, blockSize), out: make([]byte, blockSize), live: map[net.Conn]struct{}{}, waiting: map[int]chan<- string{}}
	var err error
	if s.poll, err = newPoll(); err != nil {
		return nil, err
	}
	if err := s.listen(addr); err != nil {
		s.poll.close()
		return nil, err
	}
	s.running.Go(s.run)
	return s, nil
}

func (s *Server) listen(addr netip.AddrPort) (err error) {
	if s.listener, err = tcpSocket(); err != nil {
		return err
	}
	if err := unix.Bind(s.listener, socketAddr(addr)); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(s.listener, backlog); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	name, err := unix.Getsockname(s.listener)
	if err != nil {
		return fmt.Errorf("read own address: %w", err)
	}
	bound := netip.AddrPortFrom(addr.Addr(), uint16(name.(*unix.SockaddrInet4).Port))
	s.Addr = bound.String()
	if s.Sink, err = newSink(bound); err != nil {
		return err
	}
	if s.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("create eventfd: %w", err)
	}
	for _, fd := range []int{s.listener, s.Sink.fd, s.stop} {
		if err := s.poll.add(fd, fd, unix.EPOLLIN); err != nil {
			return err
		}
	}
	return nil
}

func tcpSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open socket: %w", err)
	}
	return fd, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
}

func socketAddr(a netip.AddrPort) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// Close ends the server and every connection. It may be called again, from
// another goroutine as well.
func (s *Server) Close() error {
	s.closing.Do(s.close)
	return s.err
}

func (s *Server) close() {
	_, _ = unix.Write(s.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails only when it is full, and then it wakes as well
	s.mu.Lock()
	s.closed = true
	for c := range s.live {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Wait()
}

func (s *Server) run() {
	runtime.LockOSThread()
	defer s.release()
	for {
		events, _, err := s.poll.wait(-1)
		if err != nil {
			s.err = err
			return
		}
		for _, e := range events {
			switch fd := int(e.Fd); fd {
			case s.stop:
				return
			case s.listener:
				s.accept()
			case s.Sink.fd:
				s.Sink.receive()
			default:
				s.serve(fd, e.Events)
			}
		}
	}
}

func (s *Server) release() {
	for fd := range s.peers {
		if s.peers[fd].open {
			unix.Close(fd)
		}
	}
	for _, fd := range []int{s.listener, s.Sink.fd, s.stop} {
		unix.Close(fd)
	}
	s.poll.close()
}

func (s *Server) accept() {
	for {
		fd, _, err := unix.Accept4(s.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // none left; anything else the client will say
		}
		for fd >= len(s.peers) {
			s.peers = append(s.peers, make([]peer, 1024)...)
		}
		s.peers[fd] = peer{open: true}
		if s.poll.add(fd, fd, unix.EPOLLIN) != nil {
			s.end(fd)
		}
	}
}

func (s *Server) end(fd int) {
	s.peers[fd] = peer{}
	unix.Close(fd)
}

// serve handles one event of a connection. What a broken one means is for the
// client to say.
func (s *Server) serve(fd int, events uint32) {
	p := &s.peers[fd]
	if events&unix.EPOLLOUT != 0 {
		s.pay(fd, p)
	}
	if !p.open || events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return
	}
	if p.headed < headerSize {
		s.readHeader(fd, p)
		return
	}
	n, err := unix.Read(fd, s.in)
	switch {
	case err != nil && again(err):
	case err != nil || n == 0:
		s.end(fd)
	default:
		p.got += n
		p.owed += p.got / p.request * p.response
		p.got %= p.request
		s.pay(fd, p)
	}
}

// readHeader reads no further than the header: what follows may be for another.
func (s *Server) readHeader(fd int, p *peer) {
	n, err := unix.Read(fd, p.header[p.headed:])
	if err != nil && again(err) {
		return
	}
	if err != nil || n == 0 {
		s.end(fd)
		return
	}
	if p.headed += n; p.headed < headerSize {
		return
	}
	p.request, p.response = sizes(p.header[:])
	if k := kind(p.header[0]); k != kindAnswer || p.request == 0 {
		s.handOver(fd, k, p.request)
	}
}

// pay writes what is owed, as far as there is room.
func (s *Server) pay(fd int, p *peer) {
	for p.owed > 0 {
		n, err := unix.Write(fd, s.out[:min(p.owed, len(s.out))])
		if err != nil && !again(err) {
			s.end(fd)
			return
		}
		if err != nil {
			break
		}
		p.owed -= n
	}
	if full := p.owed > 0; full != p.armed {
		p.armed = full
		events := uint32(unix.EPOLLIN)
		if full {
			events |= unix.EPOLLOUT
		}
		if s.poll.change(fd, fd, events) != nil {
			s.end(fd)
		}
	}
}

// handOver gives a connection of the gate to a goroutine.
func (s *Server) handOver(fd int, k kind, token int) {
	f := os.NewFile(uintptr(fd), "connection")
	s.peers[fd] = peer{}
	c, err := net.FileConn(f)
	// It duplicated the descriptor; the other is still in the epoll set.
	if err := errors.Join(unix.EpollCtl(s.poll.fd, unix.EPOLL_CTL_DEL, fd, nil), f.Close(), err); err != nil {
		return
	}
	s.mu.Lock()
	s.live[c] = struct{}{}
	if s.closed {
		c.Close()
	}
	s.mu.Unlock()
	s.running.Go(func() {
		s.check(c.(*net.TCPConn), k, token)
		c.Close()
		s.mu.Lock()
		delete(s.live, c)
		s.mu.Unlock()
	})
}
