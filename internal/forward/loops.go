package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"legate/internal/pump"
	"legate/internal/spec"
)

// ErrLoop is the failure of an attempt at an endpoint that is one of our own
// listeners.
var ErrLoop = errors.New("would loop: the endpoint is our own listener")

// loops knows our own listening addresses.
type loops struct {
	ours atomic.Pointer[map[door][]spec.Listen]

	mu     sync.Mutex          // guards the following
	local  map[netip.Addr]bool // addresses of this host
	readAt time.Time
}

// Loops tells whether a connection to the endpoint would come back to us.
func (fw *Forwarder) Loops(e spec.Endpoint) bool { return fw.loopsAt(&e) }

// door is what listening addresses are found by: thousands of containers listen
// on the same port. A path has port 0.
type door struct {
	namespace string
	port      uint16
}

// addressesAge is how long the list of this host's addresses is believed: it
// is read from the kernel, which is too dear for every connection.
const addressesAge = 10 * time.Second

func newLoops() *loops {
	lo := &loops{}
	lo.set(nil)
	return lo
}

func (lo *loops) set(ours []spec.Listen) {
	index := map[door][]spec.Listen{}
	for _, l := range ours {
		at := door{l.Namespace, l.Port}
		index[at] = append(index[at], l)
	}
	lo.ours.Store(&index)
}

// has tells whether a connection to e from a network namespace would come back
// to us.
func (lo *loops) has(e *spec.Endpoint, namespace string) bool {
	for _, l := range (*lo.ours.Load())[door{namespace, e.Addr.Port()}] {
		if l.Protocol != e.Protocol || l.Path != e.Path {
			continue
		}
		if e.Protocol == spec.Unix || lo.reaches(l.Host, e.Addr.Addr().Unmap()) {
			return true
		}
	}
	return false
}

// reaches tells whether a connection to a arrives at a listener on host.
func (lo *loops) reaches(host string, a netip.Addr) bool {
	v4, v6 := netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()
	if host == "localhost" {
		return a == v4 || a == v6 || a.IsUnspecified()
	}
	h := netip.IPv6Unspecified()
	if host != "" {
		h, _ = netip.ParseAddr(host) // the zero Addr is nobody's
	}
	switch {
	case h == netip.IPv6Unspecified():
		return lo.isLocal(a)
	case h == netip.IPv4Unspecified():
		return a.Is4() && lo.isLocal(a)
	}
	return h == a || a.IsUnspecified() && (h == v4 || h == v6)
}

func (lo *loops) isLocal(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	lo.mu.Lock()
	defer lo.mu.Unlock()
	if time.Since(lo.readAt) > addressesAge {
		lo.readAddresses()
	}
	return lo.local[a]
}

func (lo *loops) readAddresses() {
	lo.readAt = time.Now()
	lo.local = map[netip.Addr]bool{}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return // the socket that is connected to itself is still noticed
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			lo.local[p.Addr().Unmap()] = true
		}
	}
}

// errInside is the failure of an attempt at an endpoint that means nothing
// here.
var errInside = errors.New("it is reached from inside its container's network only, which this process does not enter")

func (fw *Forwarder) way(e *spec.Endpoint) (namespace string, socket pump.SocketFunc, err error) {
	switch {
	case fw.cfg.Way != nil && e.Container != "":
		return fw.cfg.Way(e)
	case e.Inside:
		return "", nil, errInside
	}
	return "", nil, nil
}

// loopsAt tells whether an endpoint is one of our own listeners.
func (fw *Forwarder) loopsAt(e *spec.Endpoint) bool {
	namespace, _, err := fw.way(e)
	return err == nil && fw.loops.has(e, namespace)
}

// leg is how to connect to an endpoint.
func (fw *Forwarder) leg(e *spec.Endpoint, timeout time.Duration) pump.Leg {
	leg := pump.Leg{Network: pump.Network(e.Protocol), Addr: e.Addr, Path: e.Path, Timeout: timeout}
	namespace, socket, err := fw.way(e)
	switch {
	case err != nil:
		leg.Refuse = err
	case fw.loops.has(e, namespace):
		leg.Refuse = ErrLoop
	}
	leg.Socket, leg.From = socket, namespace
	return leg
}

// Dial connects to an endpoint and closes the connection: what the pool of
// endpoints probes with.
func (fw *Forwarder) Dial(ctx context.Context, e spec.Endpoint, timeout time.Duration) error {
	c, err := fw.cfg.Engine.Dial(ctx, fw.leg(&e, timeout))
	if err != nil {
		return err
	}
	return c.Close()
}

// Connect makes a connection to an endpoint, for checks and whoever else wants
// to talk to one beside all flows.
func (fw *Forwarder) Connect(ctx context.Context, e spec.Endpoint) (net.Conn, error) {
	return fw.cfg.Engine.Dial(ctx, fw.leg(&e, 0))
}
