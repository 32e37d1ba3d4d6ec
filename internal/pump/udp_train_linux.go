package pump

// What leaves in one UDP_SEGMENT send: since Linux 4.18 the kernel takes 64
// segments at least (UDP_MAX_SEGMENTS in linux/udp.h, 128 in later ones), and
// no more than one datagram's length over IPv4 in all.
const (
	maxSegments     = 64
	maxSegmentBytes = 65507
)

// udpMessage is what one receive gave: a datagram, or several of one sender
// that the kernel has not taken apart (UDP_GRO), each size bytes long but for
// the last, which may be shorter.
type udpMessage struct {
	p    []byte
	size int // of a single datagram its length
}

// udpPlace is a place in a train; off is zero unless the message before it was
// cut in two.
type udpPlace struct{ msg, off int }

// udpTrain is what waits to be sent one way in one session, in order.
type udpTrain struct {
	msgs []udpMessage
	at   udpPlace // before it everything is sent or dropped
	// single has every send made by a call of its own; see udpSender.send.
	single bool
}

func (t *udpTrain) done() bool { return t.at.msg == len(t.msgs) }

// udpCut is the next send off a train.
type udpCut struct {
	to        udpPlace
	datagrams int
	bytes     int
	segment   int // for UDP_SEGMENT; 0 sends one plain datagram
}

// cut finds what to send from a place that is not the end: as many datagrams
// as one segmented send may have, where they are at most limit bytes long, or
// else one. All segments but the last are as long as the first, and none is
// empty.
func (t *udpTrain) cut(at udpPlace, limit int) udpCut {
	m := &t.msgs[at.msg]
	size := min(m.size, len(m.p)-at.off)
	c := udpCut{to: at}
	if size == 0 || size > min(limit, maxSegmentBytes) {
		c.take(m, size, 1)
		return c
	}
	for c.to.msg < len(t.msgs) && c.bytes%size == 0 {
		m := &t.msgs[c.to.msg]
		n := c.room(m, size)
		if n == 0 {
			break
		}
		c.take(m, n, (n+size-1)/size)
	}
	if c.datagrams > 1 {
		c.segment = size
	}
	return c
}

// room is how many bytes of m a send with segments of that size has room for.
func (c *udpCut) room(m *udpMessage, size int) int {
	rest := len(m.p) - c.to.off
	if m.size != size && (rest > m.size || rest > size) {
		return 0
	}
	return min(rest, (maxSegments-c.datagrams)*size, (maxSegmentBytes-c.bytes)/size*size)
}

func (c *udpCut) take(m *udpMessage, bytes, datagrams int) {
	c.bytes += bytes
	c.datagrams += datagrams
	c.to.off += bytes
	if c.to.off == len(m.p) {
		c.to = udpPlace{msg: c.to.msg + 1}
	}
}

// count is how many datagrams are left.
func (t *udpTrain) count() (n int) {
	for at := t.at; at.msg < len(t.msgs); {
		c := t.cut(at, maxSegmentBytes)
		n += c.datagrams
		at = c.to
	}
	return n
}

// drop leaves out the next datagram.
func (t *udpTrain) drop() { t.at = t.cut(t.at, 0).to }

// groupUDP fills order with the indices of keys so that those of one session
// stand together, each session's in the order in which they came and sessions
// by their first.
func groupUDP(order []uint8, keys []udpKey) {
	var done uint64
	n := 0
	for i := range keys {
		if done>>i&1 != 0 {
			continue
		}
		for j := i; j < len(keys); j++ {
			// Ports first: they differ most, and 32 sessions in a batch are 500
			// comparisons.
			if done>>j&1 == 0 && keys[j].client.Port() == keys[i].client.Port() && keys[j] == keys[i] {
				order[n] = uint8(j)
				done |= 1 << j
				n++
			}
		}
	}
}
