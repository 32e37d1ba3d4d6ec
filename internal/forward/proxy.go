package forward

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"legate/internal/spec"
)

// proxyHeader is what a header of the PROXY protocol says:
// https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
type proxyHeader struct {
	// Who connected, and to which address. Both are zero where the header does
	// not tell: the client is on a unix socket, or is not known.
	source, destination netip.AddrPort
	local               bool   // the connection is its sender's own
	tlvs                []byte // of version 2, as they came but for those about the header itself
}

// The parts of a header of version 2.
const (
	proxySignature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyFixed     = 16 // bytes up to the addresses

	proxyIsLocal = 0x20 // version and command
	proxyIsProxy = 0x21

	proxyUnspecified = 0x00 // family and transport
	proxyTCP4        = 0x11
	proxyTCP6        = 0x21

	tlvCRC32C   = 0x03
	tlvNoop     = 0x04
	tlvUniqueID = 0x05

	// Which container the client is, as text: types of those that the protocol
	// leaves to applications, and that no cloud is known to use (0xE0 is
	// Google's, 0xE1 Alibaba's, 0xEA Amazon's, 0xEE Microsoft's).
	tlvContainerID      = 0xE5 // 64 hexadecimal digits
	tlvContainerName    = 0xE6
	tlvContainerImage   = 0xE7
	tlvContainerProject = 0xE8 // of Compose
	tlvContainerService = 0xE9
)

// maxTLV bounds what a name can take of a header, of which some receivers read
// no more than 4 KiB.
const maxTLV = 256

// appendProxy appends the header of that version. A header of version 2 has
// the unique id, unless it has one already or id is empty, and which container
// the client is, which nobody else's word counts for where it is known; nil: it
// is not.
func appendProxy(b []byte, v spec.ProxyVersion, h *proxyHeader, id []byte, who *spec.Container) []byte {
	if v == spec.ProxyV1 {
		return appendProxyV1(b, h)
	}
	source, destination := h.told()
	start := len(b)
	b = append(b, proxySignature...)
	// Of a client without an address: receivers may refuse a relayed connection
	// of no known family, but must take this.
	command, family := byte(proxyIsLocal), byte(proxyUnspecified)
	switch {
	case source.Addr().Is4():
		command, family = proxyIsProxy, proxyTCP4
	case source.Addr().Is6():
		command, family = proxyIsProxy, proxyTCP6
	}
	b = append(b, command, family, 0, 0)
	if family != proxyUnspecified {
		b = appendAddr(b, source.Addr())
		b = appendAddr(b, destination.Addr())
		b = binary.BigEndian.AppendUint16(b, source.Port())
		b = binary.BigEndian.AppendUint16(b, destination.Port())
	}
	if who == nil {
		b = append(b, h.tlvs...)
	} else {
		b = appendContainer(appendOthers(b, h.tlvs), who)
	}
	if len(id) > 0 && h.uniqueID() == nil {
		b = appendTLV(b, tlvUniqueID, id)
	}
	binary.BigEndian.PutUint16(b[start+proxyFixed-2:], uint16(len(b)-start-proxyFixed))
	return b
}

func appendContainer(b []byte, c *spec.Container) []byte {
	for _, part := range [...]struct {
		kind byte
		text string
	}{
		{tlvContainerID, c.ID},
		{tlvContainerName, c.Name},
		{tlvContainerImage, c.Image},
		{tlvContainerProject, c.Project},
		{tlvContainerService, c.Service},
	} {
		if part.text != "" {
			b = appendTLV(b, part.kind, part.text[:min(len(part.text), maxTLV)])
		}
	}
	return b
}

// appendOthers appends the TLVs but for those that say which container it is.
func appendOthers(b, tlvs []byte) []byte {
	for len(tlvs) > 0 {
		kind, _, rest, ok := cutTLV(tlvs)
		if !ok {
			return b
		}
		if kind < tlvContainerID || kind > tlvContainerService {
			b = append(b, tlvs[:len(tlvs)-len(rest)]...)
		}
		tlvs = rest
	}
	return b
}

func appendTLV[T []byte | string](b []byte, kind byte, value T) []byte {
	b = append(b, kind, byte(len(value)>>8), byte(len(value)))
	return append(b, value...)
}

func appendAddr(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		four := a.As4()
		return append(b, four[:]...)
	}
	sixteen := a.As16()
	return append(b, sixteen[:]...)
}

func appendProxyV1(b []byte, h *proxyHeader) []byte {
	source, destination := h.told()
	switch {
	case !source.IsValid():
		return append(b, "PROXY UNKNOWN\r\n"...)
	case source.Addr().Is4():
		b = append(b, "PROXY TCP4 "...)
	default:
		b = append(b, "PROXY TCP6 "...)
	}
	b = append(source.Addr().AppendTo(b), ' ')
	b = append(destination.Addr().AppendTo(b), ' ')
	b = append(strconv.AppendUint(b, uint64(source.Port()), 10), ' ')
	b = strconv.AppendUint(b, uint64(destination.Port()), 10)
	return append(b, "\r\n"...)
}

// told returns the two addresses in the one family that a header can have.
func (h *proxyHeader) told() (source, destination netip.AddrPort) {
	s, d := h.source.Addr().Unmap().WithZone(""), h.destination.Addr().Unmap().WithZone("")
	switch {
	case !s.IsValid():
	case !d.IsValid() && s.Is4():
		d = netip.IPv4Unspecified()
	case !d.IsValid():
		d = netip.IPv6Unspecified()
	case s.Is4() != d.Is4():
		s, d = netip.AddrFrom16(s.As16()), netip.AddrFrom16(d.As16())
	}
	return netip.AddrPortFrom(s, h.source.Port()), netip.AddrPortFrom(d, h.destination.Port())
}

// uniqueID is what names the connection along its way; nil when nothing does.
func (h *proxyHeader) uniqueID() []byte {
	for b := h.tlvs; len(b) > 0; {
		kind, value, rest, ok := cutTLV(b)
		if !ok {
			return nil
		}
		if kind == tlvUniqueID {
			return value
		}
		b = rest
	}
	return nil
}

func cutTLV(b []byte) (kind byte, value, rest []byte, ok bool) {
	const head = 3
	if len(b) < head {
		return 0, nil, nil, false
	}
	end := head + int(binary.BigEndian.Uint16(b[1:]))
	if len(b) < end {
		return 0, nil, nil, false
	}
	return b[0], b[head:end], b[end:], true
}
