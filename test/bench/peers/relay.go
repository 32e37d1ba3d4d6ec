package peers

import (
	"fmt"
	"io"
	"net"
	"sync"
)

// Relay is the Go peer: it forwards every connection of l until l is closed,
// with io.Copy per direction, which splices, and half-closes passed on.
func Relay(l net.Listener, server string) error {
	var live sync.WaitGroup
	defer live.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		live.Go(func() { relayOne(c.(*net.TCPConn), server) })
	}
}

func relayOne(c *net.TCPConn, server string) {
	defer c.Close()
	d, err := net.Dial("tcp4", server)
	if err != nil {
		return
	}
	defer d.Close()
	s := d.(*net.TCPConn)
	var back sync.WaitGroup
	back.Go(func() { relayHalf(c, s) })
	relayHalf(s, c)
	back.Wait()
}

// relayHalf carries one direction. A broken one ends both: the other may wait
// for ever.
func relayHalf(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	_ = to.CloseWrite() // fails when it is closed already
}
