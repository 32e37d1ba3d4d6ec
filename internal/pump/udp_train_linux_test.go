package pump

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// trainFrom makes a train out of fuzzed bytes, two for each message: its length
// in units that make equal sizes likely, and how many datagrams it is.
func trainFrom(seed []byte) *udpTrain {
	t := &udpTrain{}
	for i := 0; i+1 < len(seed) && len(t.msgs) < wideBatch; i += 2 {
		size := int(seed[i]&7) * 100
		if seed[i]&8 != 0 {
			size = int(seed[i]) * 250
		}
		n := size * (1 + int(seed[i+1]&127))
		n = min(n-min(size, int(seed[i+1]>>7)), maxDatagram)
		m := udpMessage{p: make([]byte, n), size: min(size, n)}
		for j := range m.p {
			m.p[j] = byte(i + j*7 + j>>8)
		}
		t.msgs = append(t.msgs, m)
	}
	return t
}

// split is how a receiver sees p in datagrams of that size.
func split(p []byte, size int) [][]byte {
	if len(p) == 0 || size == 0 {
		return [][]byte{p}
	}
	return slices.Collect(slices.Chunk(p, size))
}

// cutUp is what leaves when a train is sent, and how many sends that takes.
func cutUp(t *testing.T, tr *udpTrain, limit int) (sent [][]byte, sends int) {
	var iovs [maxCuts + wideBatch]unix.Iovec
	for !tr.done() {
		c := tr.cut(tr.at, limit)
		if c.segment > 0 && (c.segment > limit || c.datagrams > maxSegments || c.bytes > maxSegmentBytes) {
			t.Fatalf("cut %+v, limit %d", c, limit)
		}
		var p []byte
		for _, v := range iovs[:tr.parts(iovs[:], tr.at, c.to)] {
			p = append(p, bytesOf(v)...)
		}
		ds := split(p, c.segment)
		if len(ds) != c.datagrams || len(p) != c.bytes || c.to == tr.at {
			t.Fatalf("cut %+v has %d datagrams, %d bytes", c, len(ds), len(p))
		}
		sent = append(sent, ds...)
		sends++
		tr.at = c.to
	}
	return sent, sends
}

func FuzzUDPCut(f *testing.F) {
	f.Add([]byte{1, 0, 1, 0, 1, 0}, uint16(65507))
	f.Add([]byte{4, 9, 4, 130, 4, 0}, uint16(65507))
	f.Add([]byte{1, 127, 1, 127, 0, 0, 1, 3, 2, 1}, uint16(400))
	f.Add([]byte{255, 3, 255, 0, 15, 20}, uint16(0))
	f.Fuzz(func(t *testing.T, seed []byte, limit uint16) {
		tr := trainFrom(seed)
		var want [][]byte
		for _, m := range tr.msgs {
			want = append(want, split(m.p, m.size)...)
		}
		if n := tr.count(); n != len(want) {
			t.Errorf("counts %d datagrams, want %d", n, len(want))
		}
		got, _ := cutUp(t, tr, int(limit))
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Errorf("%d datagrams leave, want these %d", len(got), len(want))
		}
	})
}

func TestUDPCut_SendsNoMoreOftenThanNeeded(t *testing.T) {
	m := func(n, size int) udpMessage { return udpMessage{p: make([]byte, n), size: size} }
	plain := func(n int) udpMessage { return m(n, n) }
	for _, c := range []struct {
		name  string
		msgs  []udpMessage
		limit int
		sends int
	}{
		{"equal ones", []udpMessage{plain(1200), plain(1200), plain(1200)}, maxSegmentBytes, 1},
		{"a short last one", []udpMessage{plain(1200), plain(1200), plain(7)}, maxSegmentBytes, 1},
		{"a short one between", []udpMessage{plain(1200), plain(7), plain(1200), plain(7)}, maxSegmentBytes, 2},
		{"growing", []udpMessage{plain(1), plain(2), plain(3)}, maxSegmentBytes, 3},
		{"merged ones", []udpMessage{m(12000, 1200), m(12000, 1200), m(6001, 1200)}, maxSegmentBytes, 1},
		{"merged after a short end", []udpMessage{m(12007, 1200), m(12000, 1200)}, maxSegmentBytes, 2},
		{"100 segments", []udpMessage{m(10000, 100)}, maxSegmentBytes, 2},
		{"32 in a batch", slices.Repeat([]udpMessage{plain(64)}, 32), maxSegmentBytes, 1},
		{"64 KiB merged and more", []udpMessage{m(64800, 1200), m(64800, 1200)}, maxSegmentBytes, 2},
		{"empty ones", []udpMessage{plain(0), plain(0)}, maxSegmentBytes, 2},
		{"too long for the way", []udpMessage{m(3000, 1000)}, 999, 3},
		{"just not too long", []udpMessage{m(3000, 1000)}, 1000, 1},
		{"longer than IPv4 has", []udpMessage{plain(65527), plain(65527)}, maxSegmentBytes, 2},
	} {
		if _, n := cutUp(t, &udpTrain{msgs: c.msgs}, c.limit); n != c.sends {
			t.Errorf("%s: %d sends, want %d", c.name, n, c.sends)
		}
	}
}

func FuzzUDPGroup(f *testing.F) {
	f.Add([]byte{1, 2, 1, 2, 3, 1})
	f.Add(bytes.Repeat([]byte{7}, 32))
	f.Fuzz(func(t *testing.T, clients []byte) {
		clients = clients[:min(len(clients), wideBatch)]
		keys := make([]udpKey, len(clients))
		for i, c := range clients { // few, some with the same port
			keys[i].client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, c & 3}), uint16(c>>2&3))
		}
		order := make([]uint8, wideBatch)
		groupUDP(order, keys)
		order = order[:len(keys)]
		var got []udpKey
		last := map[udpKey]int{}
		for _, i := range order {
			if before, ok := last[keys[i]]; ok && (before >= int(i) || got[len(got)-1] != keys[i]) {
				t.Fatalf("keys %v in order %v", clients, order)
			}
			last[keys[i]] = int(i)
			got = append(got, keys[i])
		}
		slices.Sort(order)
		if len(slices.Compact(order)) != len(keys) {
			t.Errorf("order %v of %d", order, len(keys))
		}
	})
}

func TestUDPRoute_LearnsFromErrors(t *testing.T) {
	for _, c := range []struct {
		errno   unix.Errno
		refuses bool
		segment int
	}{
		{unix.EMSGSIZE, true, 1399},
		{unix.EINVAL, true, 1399},
		{unix.EIO, true, 0},
		{unix.ECONNREFUSED, false, maxSegmentBytes},
		{unix.EAGAIN, false, maxSegmentBytes},
	} {
		r := udpRoute{segment: maxSegmentBytes}
		if r.refuses(c.errno, 1400) != c.refuses || r.segment != c.segment {
			t.Errorf("%v: %d, want %d", c.errno, r.segment, c.segment)
		}
	}
}
