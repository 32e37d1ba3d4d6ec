//go:build !linux

package pump

import "net/netip"

// BindUDP needs Linux.
func BindUDP(netip.AddrPort) (int, error) { return -1, ErrUnsupported }

// BindUDPAhead needs Linux.
func BindUDPAhead(netip.AddrPort) (int, error) { return -1, ErrUnsupported }
