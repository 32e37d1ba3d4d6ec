package forward

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"legate/internal/pump"
	"legate/internal/spec"
)

// ErrLoop is the failure of an attempt at an endpoint that is one of our own
// listeners.
var ErrLoop = errors.New("would loop: the endpoint is our own listener")

// loops knows our own listening addresses.
type loops struct {
	mu     sync.Mutex // guards the following
	ours   []spec.Listen
	local  map[netip.Addr]bool // addresses of this host
	readAt time.Time
}

// addressesAge is how long the list of this host's addresses is believed: it
// is read from the kernel, which is too dear for every connection.
const addressesAge = 10 * time.Second

func newLoops() *loops { return &loops{} }

func (lo *loops) set(links []spec.Link) {
	lo.mu.Lock()
	defer lo.mu.Unlock()
	lo.ours = make([]spec.Listen, len(links))
	for i, s := range links {
		lo.ours[i] = s.Listen
	}
}

// has tells whether a connection to e would come back to us.
func (lo *loops) has(e spec.Endpoint) bool {
	lo.mu.Lock()
	defer lo.mu.Unlock()
	for _, l := range lo.ours {
		if lo.leadsTo(l, e) {
			return true
		}
	}
	return false
}

func (lo *loops) leadsTo(l spec.Listen, e spec.Endpoint) bool {
	if l.Protocol != e.Protocol {
		return false
	}
	if e.Protocol == spec.Unix {
		return l.Path == e.Path
	}
	if l.Port != e.Addr.Port() {
		return false
	}
	a := e.Addr.Addr().Unmap()
	switch l.Host {
	case "", "0.0.0.0", "::":
		return lo.isLocal(a)
	case "localhost":
		return a.IsLoopback() && (a == netip.IPv6Loopback() || a == netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	host, err := netip.ParseAddr(l.Host)
	return err == nil && (host == a || a.IsUnspecified() && host.IsLoopback())
}

func (lo *loops) isLocal(a netip.Addr) bool {
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
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
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				lo.local[ip.Unmap()] = true
			}
		}
	}
}

// leg is the way to an endpoint.
func (fw *Forwarder) leg(e spec.Endpoint, timeout time.Duration) pump.Leg {
	leg := pump.Leg{Network: pump.Network(e.Protocol), Addr: e.Addr, Path: e.Path, Timeout: timeout}
	if fw.loops.has(e) {
		leg.Open = func(context.Context) (net.Conn, error) { return nil, ErrLoop }
	}
	return leg
}

// Dial connects to an endpoint and closes the connection: what the pool of
// endpoints probes with.
func (fw *Forwarder) Dial(ctx context.Context, e spec.Endpoint, timeout time.Duration) error {
	return fw.cfg.Engine.Dial(ctx, fw.leg(e, timeout))
}
