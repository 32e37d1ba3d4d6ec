package spec

import "net/netip"

// ParseCaller reads the CALLER of why: an IP address, IP:PORT, or "unix" for
// the clients of a unix socket. The error is a *UserError.
func ParseCaller(text string) (Caller, error) {
	if text == UnixCaller {
		return Caller{}, nil
	}
	if a, err := netip.ParseAddr(unbracket(text)); err == nil {
		if a.Zone() != "" {
			return Caller{}, noZone(text)
		}
		return CallerAt(a.Unmap()), nil
	}
	at, err := netip.ParseAddrPort(text)
	switch {
	case err != nil:
		return Caller{}, Errorf("write its IP address, IP:PORT, or "+UnixCaller, "%q is not a caller", text)
	case at.Addr().Zone() != "":
		return Caller{}, noZone(text)
	}
	return Caller{Addr: netip.AddrPortFrom(at.Addr().Unmap(), at.Port())}, nil
}
