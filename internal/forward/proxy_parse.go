package forward

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"

	"legate/internal/pump"
)

const (
	proxyWord = "PROXY "
	// maxProxyV1 is the longest line of version 1, its end included.
	maxProxyV1 = 107
)

var (
	errNoProxy    = errors.New("the client sent no PROXY protocol header")
	errProxyTLV   = errors.New("PROXY protocol header: a TLV is longer than the header")
	errProxyCRC   = errors.New("PROXY protocol header: its checksum is wrong")
	errProxyShort = errors.New("PROXY protocol header: too short for its addresses")
)

// castagnoli is the polynomial of the checksum in a header.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// parse reads the header that b begins with into h, whose memory it uses again.
// It returns the header's length, or 0 when more bytes are needed to tell.
func (h *proxyHeader) parse(b []byte) (int, error) {
	*h = proxyHeader{tlvs: h.tlvs[:0]}
	switch {
	case beginsLike(b, proxySignature):
		return h.parseV2(b)
	case beginsLike(b, proxyWord):
		return h.parseV1(b)
	}
	return 0, errNoProxy
}

// beginsLike tells whether b and word agree as far as both go.
func beginsLike(b []byte, word string) bool {
	n := min(len(b), len(word))
	return string(b[:n]) == word[:n]
}

func (h *proxyHeader) parseV1(b []byte) (int, error) {
	end := bytes.Index(b[:min(len(b), maxProxyV1)], []byte("\r\n"))
	switch {
	case end < 0 && len(b) >= maxProxyV1:
		return 0, fmt.Errorf("PROXY protocol header: no end within %d bytes", maxProxyV1)
	case end < 0:
		return 0, nil
	}
	line := string(b[len(proxyWord):end])
	if line == "UNKNOWN" || strings.HasPrefix(line, "UNKNOWN ") {
		return end + len("\r\n"), nil // what follows the word is to be ignored
	}
	if err := h.parseLine(line); err != nil {
		return 0, fmt.Errorf("PROXY protocol header %q: %w", line, err)
	}
	return end + len("\r\n"), nil
}

// parseLine reads FAMILY SOURCE DESTINATION PORT PORT.
func (h *proxyHeader) parseLine(line string) (err error) {
	const parts = 5
	f := strings.Split(line, " ")
	if len(f) != parts || f[0] != "TCP4" && f[0] != "TCP6" {
		return errors.New("want TCP4, TCP6 or UNKNOWN, two addresses and two ports")
	}
	v4 := f[0] == "TCP4"
	if h.source, err = parseProxyAddr(f[1], f[3], v4); err != nil {
		return err
	}
	h.destination, err = parseProxyAddr(f[2], f[4], v4)
	return err
}

func parseProxyAddr(host, port string, v4 bool) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(host)
	if err != nil || a.Is4() != v4 || a.Zone() != "" {
		return netip.AddrPort{}, fmt.Errorf("%q is no address of its family", host)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || port[0] == '+' || len(port) > 1 && port[0] == '0' {
		return netip.AddrPort{}, fmt.Errorf("%q is no port", port)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

func (h *proxyHeader) parseV2(b []byte) (int, error) {
	if len(b) < proxyFixed {
		return 0, nil
	}
	command, family := b[12], b[13]
	end := proxyFixed + int(binary.BigEndian.Uint16(b[14:]))
	switch {
	case command != proxyIsLocal && command != proxyIsProxy:
		return 0, fmt.Errorf("PROXY protocol header: version and command are %#02x, which nobody defined", command)
	case family>>4 > 3 || family&15 > 2:
		return 0, fmt.Errorf("PROXY protocol header: family and transport are %#02x, which nobody defined", family)
	case end > pump.MaxPreface:
		return 0, fmt.Errorf("PROXY protocol header: %d bytes, of which at most %d are read", end, pump.MaxPreface)
	case len(b) < end:
		return 0, nil
	case command == proxyIsLocal:
		h.local = true // and whatever else it says is to be ignored
		return end, nil
	}
	rest, err := h.parseAddresses(family, b[proxyFixed:end])
	if err != nil {
		return 0, err
	}
	if err := h.parseTLVs(b[:end], rest); err != nil && family != proxyUnspecified {
		return 0, err
	}
	return end, nil
}

// parseAddresses returns what follows the addresses.
func (h *proxyHeader) parseAddresses(family byte, b []byte) ([]byte, error) {
	const ports, unixPaths = 4, 216
	size := 0
	switch family >> 4 {
	case 1:
		size = 2*4 + ports
	case 2:
		size = 2*16 + ports
	case 3:
		size = unixPaths
	}
	if len(b) < size {
		return nil, errProxyShort
	}
	switch family {
	case proxyTCP4, proxyTCP6:
		n := (size - ports) / 2
		s, _ := netip.AddrFromSlice(b[:n])
		d, _ := netip.AddrFromSlice(b[n : 2*n])
		h.source = netip.AddrPortFrom(s.Unmap(), binary.BigEndian.Uint16(b[2*n:]))
		h.destination = netip.AddrPortFrom(d.Unmap(), binary.BigEndian.Uint16(b[2*n+2:]))
	}
	return b[size:], nil
}

// parseTLVs keeps the TLVs, which are the end of the header, but for its
// checksum and padding: the next header has its own.
func (h *proxyHeader) parseTLVs(header, b []byte) error {
	for len(b) > 0 {
		kind, value, rest, ok := cutTLV(b)
		switch {
		case !ok:
			h.tlvs = h.tlvs[:0]
			return errProxyTLV
		case kind == tlvCRC32C && !sumIs(header, len(header)-len(rest)-len(value), value):
			return errProxyCRC
		case kind != tlvCRC32C && kind != tlvNoop:
			h.tlvs = append(h.tlvs, b[:len(b)-len(rest)]...)
		}
		b = rest
	}
	return nil
}

// sumIs tells whether sum, which stands there in the header, is the header's
// checksum: that of the header with zeros in its place.
func sumIs(header []byte, at int, sum []byte) bool {
	var zeros [4]byte
	if len(sum) != len(zeros) {
		return false
	}
	crc := crc32.Update(0, castagnoli, header[:at])
	crc = crc32.Update(crc, castagnoli, zeros[:])
	crc = crc32.Update(crc, castagnoli, header[at+len(zeros):])
	return crc == binary.BigEndian.Uint32(sum)
}
