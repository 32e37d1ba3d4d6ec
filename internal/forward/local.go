package forward

import "net/netip"

// Local tells whether an address is one of this host. What the kernel says is
// believed for a while.
func (fw *Forwarder) Local(a netip.Addr) bool { return fw.loops.isLocal(a.Unmap()) }
