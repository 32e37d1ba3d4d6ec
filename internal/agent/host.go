package agent

import (
	"net"
	"net/netip"
	"sync/atomic"
)

// hostAddresses are those of this host that containers may not name. They are
// read for every decision: an engine makes a bridge with an address of the host
// for each network, and a container may name that of its own at once. The zero
// value has none.
type hostAddresses struct {
	now atomic.Pointer[map[netip.Addr]bool]
}

func (h *hostAddresses) has(a netip.Addr) bool {
	now := h.now.Load()
	return now != nil && (*now)[a]
}

// read leaves what was known where the kernel does not tell.
func (h *hostAddresses) read() error {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	now := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			now[p.Addr().Unmap()] = true
		}
	}
	h.now.Store(&now)
	return nil
}
