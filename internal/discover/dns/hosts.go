package dns

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// look is the pause between two looks at the hosts file. They are looks and
// not inotify: Docker mounts the file into the container and network file
// systems are written elsewhere, and of neither does the kernel tell
// reliably. One stat costs a few microseconds.
const look = 250 * time.Millisecond

// hosts is the hosts file. While somebody has entered, a goroutine looks at it
// and tells them all when it changed; the last to leave waits for its end.
type hosts struct {
	file[map[string][]netip.Addr]

	mu      sync.Mutex // guards the following
	present map[chan struct{}]bool
	stop    context.CancelFunc
	ended   chan struct{}
}

func newHosts(path string) *hosts {
	h := &hosts{present: map[chan struct{}]bool{}}
	h.path, h.parse = path, parseHosts
	return h
}

// enter returns what receives after every change, until leave is called.
func (h *hosts) enter() (news <-chan struct{}, leave func()) {
	c := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.present[c] = true
	if len(h.present) == 1 {
		ctx, stop := context.WithCancel(context.Background())
		h.stop, h.ended = stop, make(chan struct{})
		go h.watch(ctx, h.ended)
	}
	return c, func() { h.leave(c) }
}

func (h *hosts) leave(c chan struct{}) {
	h.mu.Lock()
	delete(h.present, c)
	last, stop, ended := len(h.present) == 0, h.stop, h.ended
	h.mu.Unlock()
	if last {
		stop()
		<-ended
	}
}

func (h *hosts) watch(ctx context.Context, ended chan<- struct{}) {
	defer close(ended)
	tick := time.NewTicker(look)
	defer tick.Stop()
	// What the file said before the first tick is for those who enter to ask;
	// they compare, so that telling them once too often does no harm.
	for said := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := h.now(); now != said {
			said = now
			h.tell()
		}
	}
}

// now returns the text of the file.
func (h *hosts) now() string {
	h.get()
	h.file.mu.Lock()
	defer h.file.mu.Unlock()
	return h.text
}

func (h *hosts) tell() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.present {
		select {
		case c <- struct{}{}:
		default: // it has not looked since the last change
		}
	}
}

// addrs returns the addresses of a name, nil where the file has none.
func (h *hosts) addrs(name string) []netip.Addr { return h.get()[hostsKey(name)] }

func hostsKey(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func parseHosts(text string) map[string][]netip.Addr {
	names := map[string][]netip.Addr{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		addr, err := netip.ParseAddr(fields[0])
		if err != nil {
			continue
		}
		for _, name := range fields[1:] {
			key := hostsKey(name)
			names[key] = append(names[key], addr.Unmap())
		}
	}
	return names
}

// isLocalhost: such names never reach a name server and are always loopback
// (RFC 6761 section 6.3), so nobody can point them elsewhere.
func isLocalhost(name string) bool {
	name = hostsKey(name)
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// loopback returns the loopback addresses of this machine. In many containers
// IPv6 is off, and connecting to ::1 there fails like a shortage of ports
// (EADDRNOTAVAIL).
func loopback() []netip.Addr {
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return addrs
	}
	for _, a := range own {
		if p, ok := a.(*net.IPNet); ok && p.IP.Equal(net.IPv6loopback) {
			return append(addrs, netip.IPv6Loopback())
		}
	}
	return addrs
}
