package testnet

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Server is a TCP or unix server on a free address.
type Server struct {
	Network string         // "tcp4", "tcp6" or "unix"
	Addr    netip.AddrPort // of a TCP server
	Path    string         // of a unix server

	listener net.Listener
	mu       sync.Mutex
	conns    map[net.Conn]bool // open ones; under mu, nil after close
	running  sync.WaitGroup
}

// Listen opens a server that accepts only when [Server.Accept] is called;
// until then the kernel completes connects. network is "tcp4", "tcp6" or
// "unix".
func Listen(t testing.TB, network string) *Server {
	t.Helper()
	at := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0"}[network]
	if network == "unix" {
		at = SocketPath(t)
	}
	return ListenAt(t, network, at)
}

// ListenAt is Listen on an address of the caller's, for a server that comes
// back where it was.
func ListenAt(t testing.TB, network, at string) *Server {
	t.Helper()
	l, err := net.Listen(network, at)
	if err != nil {
		t.Fatalf("listen on %s %q: %v", network, at, err)
	}
	s := &Server{Network: network, listener: l, conns: make(map[net.Conn]bool)}
	switch a := l.Addr().(type) {
	case *net.TCPAddr:
		s.Addr = netip.AddrPortFrom(a.AddrPort().Addr().Unmap(), a.AddrPort().Port())
	case *net.UnixAddr:
		s.Path = a.Name
	}
	t.Cleanup(s.Close)
	return s
}

// Serve opens a server and runs handle for each connection, in a goroutine of
// its own, until the test ends; connections are closed after handle and at the
// end.
func Serve(t testing.TB, network string, handle func(net.Conn)) *Server {
	t.Helper()
	s := Listen(t, network)
	s.Handle(handle)
	return s
}

// Handle starts to serve a listener that was opened with Listen or ListenAt.
func (s *Server) Handle(handle func(net.Conn)) {
	s.running.Go(func() {
		for {
			c, err := s.listener.Accept()
			if errors.Is(err, syscall.EMFILE) { // a test that takes every descriptor may be quicker than this loop
				<-time.After(time.Millisecond)
				continue
			}
			if err != nil {
				return
			}
			if !s.keep(c) {
				return
			}
			s.running.Go(func() {
				handle(c)
				s.drop(c)
			})
		}
	})
}

func (s *Server) keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		c.Close()
		return false
	}
	s.conns[c] = true
	return true
}

func (s *Server) drop(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	c.Close()
}

// Close stops listening and closes what Serve accepted; it waits for the
// handlers. Further calls do nothing.
func (s *Server) Close() {
	s.listener.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.running.Wait()
}

// String is the address as it is typed: host:port, or unix:path.
func (s *Server) String() string {
	if s.Path != "" {
		return "unix:" + s.Path
	}
	return s.Addr.String()
}

// Echo is a handler that sends back what it gets and, at its end, closes.
func Echo(c net.Conn) { io.Copy(c, c) }

// Say returns a handler that sends a line, says that this was all, and reads
// until the other side is done.
func Say(line string) func(net.Conn) {
	return func(c net.Conn) {
		fmt.Fprintln(c, line)
		closeWrite(c)
		io.Copy(io.Discard, c)
	}
}

func closeWrite(c net.Conn) error {
	return c.(interface{ CloseWrite() error }).CloseWrite()
}
