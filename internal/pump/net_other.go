//go:build !linux

package pump

import "net/netip"

// NewNet fails with ErrUnsupported: the engine rests on Linux sockets.
func NewNet(Config) (Engine, error) { return nil, ErrUnsupported }

// NewEpoll fails with ErrUnsupported.
func NewEpoll(Config) (Engine, error) { return nil, ErrUnsupported }

// BindTCP fails with ErrUnsupported.
func BindTCP(netip.AddrPort) (int, error) { return -1, ErrUnsupported }

// BindTCPAhead fails with ErrUnsupported.
func BindTCPAhead(netip.AddrPort) (int, error) { return -1, ErrUnsupported }

// BindUnix fails with ErrUnsupported.
func BindUnix(string, UnixOptions) (int, error) { return -1, ErrUnsupported }
