package load

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Stall opens connections that ask for an answer and do not read it, until stop
// is called.
func Stall(addr string, s Shape) (stop func(), err error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fmt.Errorf("read address: %w", err)
	}
	var fds []int
	stop = func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	ask := append(header(kindAnswer, s.Request, s.Response), make([]byte, s.Request)...)
	for range s.Conns {
		fd, err := dialHeader(socketAddr(a), ask)
		if err != nil {
			stop()
			return nil, err
		}
		fds = append(fds, fd)
	}
	return stop, nil
}
