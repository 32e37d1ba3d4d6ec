package forward

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pires/go-proxyproto"

	"legate/internal/pump"
	"legate/internal/spec"
)

func header(source, destination string) *proxyHeader {
	return &proxyHeader{source: netip.MustParseAddrPort(source), destination: netip.MustParseAddrPort(destination)}
}

// v2 is a header of version 2 with the given command, family and body.
func v2(command, family byte, body ...byte) []byte {
	b := append([]byte(proxySignature), command, family)
	return append(binary.BigEndian.AppendUint16(b, uint16(len(body))), body...)
}

var addresses4 = []byte{192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 0, 80}

func tlv(kind byte, value string) []byte {
	return append([]byte{kind, byte(len(value) >> 8), byte(len(value))}, value...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// summed is a header whose last four bytes are the checksum that the protocol
// asks for.
func summed(b []byte) []byte {
	sum := b[len(b)-4:]
	clear(sum)
	binary.BigEndian.PutUint32(sum, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

func TestProxy_ReadsHeaders(t *testing.T) {
	at := func(source, destination string) proxyHeader { return *header(source, destination) }
	six := join(netip.MustParseAddr("2001:db8::1").AsSlice(), netip.MustParseAddr("2001:db8::2").AsSlice(), []byte{0x12, 0x34, 0, 80})
	with := func(h proxyHeader, tlvs ...[]byte) proxyHeader { h.tlvs = join(tlvs...); return h }
	four := at("192.0.2.1:4660", "192.0.2.2:80")
	for name, c := range map[string]struct {
		text string
		want proxyHeader
	}{
		"v1 tcp4":           {"PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n", four},
		"v1 tcp6":           {"PROXY TCP6 2001:db8::1 2001:db8::2 4660 80\r\n", at("[2001:db8::1]:4660", "[2001:db8::2]:80")},
		"v1 mapped":         {"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 4660 80\r\n", four},
		"v1 port 0":         {"PROXY TCP4 192.0.2.1 192.0.2.2 0 80\r\n", at("192.0.2.1:0", "192.0.2.2:80")},
		"v1 unknown":        {"PROXY UNKNOWN\r\n", proxyHeader{}},
		"v1 unknown, more":  {"PROXY UNKNOWN ffff:f who knows\r\n", proxyHeader{}},
		"v2 tcp4":           {string(v2(0x21, 0x11, addresses4...)), four},
		"v2 tcp6":           {string(v2(0x21, 0x21, six...)), at("[2001:db8::1]:4660", "[2001:db8::2]:80")},
		"v2 local":          {string(v2(0x20, 0x11, addresses4...)), proxyHeader{local: true}},
		"v2 local, nothing": {string(v2(0x20, 0x11)), proxyHeader{local: true}},
		"v2 unspecified":    {string(v2(0x21, 0, 1, 2, 3, 4)), proxyHeader{}},
		"v2 datagram":       {string(v2(0x21, 0x12, addresses4...)), proxyHeader{}},
		"v2 unix":           {string(v2(0x21, 0x31, make([]byte, 216)...)), proxyHeader{}},
		"v2 tlvs": {string(v2(0x21, 0x11, join(addresses4, tlv(1, "h2"), tlv(tlvNoop, "padding"), tlv(tlvUniqueID, "me"), tlv(0x20, ""))...)),
			with(four, tlv(1, "h2"), tlv(tlvUniqueID, "me"), tlv(0x20, ""))},
		"v2 checksum": {string(summed(v2(0x21, 0x11, join(addresses4, tlv(1, "h2"), tlv(tlvCRC32C, "xxxx"))...))), with(four, tlv(1, "h2"))},
	} {
		t.Run(name, func(t *testing.T) {
			var h proxyHeader
			for i := range c.text {
				if n, err := h.parse([]byte(c.text[:i])); n != 0 || err != nil {
					t.Fatalf("%d bytes of %d: %d, %v", i, len(c.text), n, err)
				}
			}
			n, err := h.parse([]byte(c.text + "GET /"))
			if n != len(c.text) || err != nil {
				t.Fatalf("%d, %v; want %d", n, err, len(c.text))
			}
			if d := cmp.Diff(c.want, h, cmp.AllowUnexported(proxyHeader{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(bytes.Equal)); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestProxy_RefusesBadHeaders(t *testing.T) {
	for name, text := range map[string]string{
		"request":              "GET / HTTP/1.1\r\n",
		"lower case":           "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
		"no space":             "PROXYTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
		"family":               "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
		"unknown family":       "PROXY UNKNOWNS\r\n",
		"nothing":              "PROXY \r\n",
		"a part less":          "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
		"a part more":          "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
		"two spaces":           "PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
		"address":              "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
		"address with zeros":   "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
		"destination":          "PROXY TCP4 192.0.2.1 x 1 2\r\n",
		"wrong family":         "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
		"other wrong family":   "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
		"zone":                 "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
		"port":                 "PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
		"port with zeros":      "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
		"port with a sign":     "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
		"no port":              "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n",
		"no end":               "PROXY UNKNOWN " + strings.Repeat("x", 100),
		"only a line feed":     "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n" + strings.Repeat("x", 100),
		"signature":            "\r\n\r\n\x00\r\nQUIT\r",
		"version":              string(v2(0x31, 0x11, addresses4...)),
		"command":              string(v2(0x22, 0x11, addresses4...)),
		"v2 family":            string(v2(0x21, 0x41, addresses4...)),
		"v2 transport":         string(v2(0x21, 0x13, addresses4...)),
		"v2 short":             string(v2(0x21, 0x11, addresses4[:11]...)),
		"v2 short for six":     string(v2(0x21, 0x21, addresses4...)),
		"v2 short for unix":    string(v2(0x21, 0x31, make([]byte, 215)...)),
		"v2 longer than taken": string(v2(0x21, 0x11, make([]byte, pump.MaxPreface)...)[:proxyFixed]),
		"half a tlv":           string(v2(0x21, 0x11, append(addresses4, 1, 0)...)),
		"tlv too long":         string(v2(0x21, 0x11, append(addresses4, 1, 0, 2, 0)...)),
		"checksum":             string(v2(0x21, 0x11, join(addresses4, tlv(tlvCRC32C, "xxxx"))...)),
		"checksum's length":    string(v2(0x21, 0x11, join(addresses4, tlv(tlvCRC32C, "xx"))...)),
	} {
		t.Run(name, func(t *testing.T) {
			var h proxyHeader
			if n, err := h.parse([]byte(text)); err == nil || n != 0 {
				t.Errorf("taken for a header of %d bytes: %+v", n, h)
			}
		})
	}
}

var someHeaders = []*proxyHeader{
	{},
	header("192.0.2.1:4660", "192.0.2.2:80"),
	header("[2001:db8::1]:65535", "[2001:db8::2]:0"),
	header("[fe80::1%eth0]:1", "[fe80::2%eth0]:2"),
	header("192.0.2.1:1", "[2001:db8::2]:2"),
	header("[::ffff:192.0.2.1]:1", "192.0.2.2:2"),
	header("192.0.2.1:1", "0.0.0.0:0"),
	{source: netip.MustParseAddrPort("192.0.2.1:1"), destination: netip.MustParseAddrPort("192.0.2.2:2"), tlvs: join(tlv(1, "h2"), tlv(tlvUniqueID, "me"))},
}

// What another implementation reads is what was meant.
func TestProxy_IsReadByOthers(t *testing.T) {
	for _, h := range someHeaders {
		for version, v := range map[byte]spec.ProxyVersion{1: spec.ProxyV1, 2: spec.ProxyV2} {
			b := appendProxy([]byte("before"), v, h, []byte("id"), nil)
			r := bufio.NewReader(bytes.NewReader(append(b, "rest"...)))
			if _, err := r.Discard(len("before")); err != nil {
				t.Fatal(err)
			}
			got, err := proxyproto.Read(r)
			if err != nil {
				t.Fatalf("%v of %+v: %v", v, h, err)
			}
			if rest, _ := r.Peek(10); string(rest) != "rest" || got.Version != version {
				t.Errorf("version %d, then %q", got.Version, rest)
			}
			if !h.source.IsValid() {
				if got.Command.IsProxy() || got.SourceAddr != nil {
					t.Errorf("a client without address is %v", got)
				}
				continue
			}
			s, d, ok := got.TCPAddrs()
			if !ok || !sameAddr(s, h.source) || !sameAddr(d, h.destination) {
				t.Errorf("%v: %v to %v, want %+v", v, s, d, h)
			}
			if v == spec.ProxyV2 {
				checkUniqueID(t, got, h)
			}
		}
	}
}

func sameAddr(a *net.TCPAddr, want netip.AddrPort) bool {
	got := a.AddrPort()
	return got.Port() == want.Port() && got.Addr().Unmap() == want.Addr().Unmap().WithZone("")
}

func checkUniqueID(t *testing.T, got *proxyproto.Header, h *proxyHeader) {
	t.Helper()
	want := "id"
	if id := h.uniqueID(); id != nil {
		want = string(id)
	}
	tlvs, err := got.TLVs()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, tl := range tlvs {
		if tl.Type == proxyproto.PP2_TYPE_UNIQUE_ID {
			ids = append(ids, string(tl.Value))
		}
	}
	if len(ids) != 1 || ids[0] != want {
		t.Errorf("unique ids %q, want %q alone", ids, want)
	}
}

// What another implementation writes is read as it was meant.
func TestProxy_ReadsThoseOfOthers(t *testing.T) {
	for _, want := range someHeaders {
		if !want.source.IsValid() {
			continue
		}
		for version := byte(1); version <= 2; version++ {
			other := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(want.source), net.TCPAddrFromAddrPort(want.destination))
			other.Command = proxyproto.PROXY
			b, err := other.Format()
			if err != nil {
				t.Fatal(err)
			}
			var h proxyHeader
			if n, err := h.parse(b); n != len(b) || err != nil {
				t.Errorf("version %d of %v: %d, %v", version, want.source, n, err)
				continue
			}
			if h.source.Addr() != want.source.Addr().Unmap().WithZone("") || h.destination.Port() != want.destination.Port() {
				t.Errorf("version %d: %v, want %v", version, h, want)
			}
		}
	}
}

func TestProxy_WritesWithoutAllocation(t *testing.T) {
	buf := make([]byte, 0, 1024)
	for _, v := range []spec.ProxyVersion{spec.ProxyV1, spec.ProxyV2} {
		for _, h := range someHeaders {
			if n := testing.AllocsPerRun(100, func() { appendProxy(buf, v, h, []byte("0123456789abcdef"), &someContainer) }); n != 0 {
				t.Errorf("%v allocations for %v of %v", n, v, h.source)
			}
		}
	}
}

func TestProxyFuzz_SeedsAreThere(t *testing.T) {
	for _, name := range []string{"FuzzProxyParse", "FuzzProxyAppend"} {
		if seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", name, "*")); err != nil || len(seeds) < 3 {
			t.Errorf("%s has %d seeds (%v)", name, len(seeds), err)
		}
	}
}

// Whatever a client sends is a header, the beginning of one or an error, and
// however it comes in pieces.
func FuzzProxyParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		var h, again proxyHeader
		n, err := h.parse(b)
		switch {
		case n < 0 || n > len(b) || n > pump.MaxPreface || n > 0 && err != nil:
			t.Fatalf("%d of %d bytes, %v", n, len(b), err)
		case n == 0 && err == nil && len(b) >= pump.MaxPreface:
			t.Fatal("wants more than will ever be read")
		case n == 0:
			return
		}
		for i := range n {
			if m, err := again.parse(b[:i]); m != 0 || err != nil {
				t.Fatalf("the first %d of %d bytes: %d, %v", i, n, m, err)
			}
		}
		if m, err := again.parse(b[:n]); m != n || err != nil {
			t.Fatalf("alone: %d of %d, %v", m, n, err)
		}
		checkTravels(t, &h)
	})
}

// checkTravels has a header that was accepted be sent on and read again.
func checkTravels(t *testing.T, h *proxyHeader) {
	t.Helper()
	var back proxyHeader
	for _, v := range []spec.ProxyVersion{spec.ProxyV1, spec.ProxyV2} {
		b := appendProxy(nil, v, h, []byte("id"), nil)
		if n, err := back.parse(b); n != len(b) || err != nil {
			t.Fatalf("%v, %q: %d, %v", v, b, n, err)
		}
		if back.source.Addr() != h.source.Addr() || back.destination.Addr() != h.destination.Addr() || back.source.Port() != h.source.Port() {
			t.Errorf("%v is %v to %v, was %v to %v", v, back.source, back.destination, h.source, h.destination)
		}
		if _, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(b))); err != nil {
			t.Errorf("%v, %q: %v", v, b, err)
		}
	}
	if id := h.uniqueID(); id != nil && h.source.IsValid() && !bytes.Equal(id, back.uniqueID()) {
		t.Errorf("unique id %q was %q", back.uniqueID(), id)
	}
}

func FuzzProxyAppend(f *testing.F) {
	f.Fuzz(func(t *testing.T, source, destination []byte, from, to uint16) {
		s, ok := netip.AddrFromSlice(source)
		d, ok2 := netip.AddrFromSlice(destination)
		if !ok || !ok2 {
			return
		}
		h := &proxyHeader{source: netip.AddrPortFrom(s, from), destination: netip.AddrPortFrom(d, to)}
		for _, v := range []spec.ProxyVersion{spec.ProxyV1, spec.ProxyV2} {
			var back proxyHeader
			b := appendProxy(nil, v, h, nil, nil)
			n, err := back.parse(b)
			if n != len(b) || err != nil {
				t.Fatalf("%v of %v, %q: %d, %v", v, h, b, n, err)
			}
			if back.source != netip.AddrPortFrom(s.Unmap(), from) || back.destination != netip.AddrPortFrom(d.Unmap(), to) {
				t.Errorf("%v to %v came as %v to %v", h.source, h.destination, back.source, back.destination)
			}
		}
	})
}
