package dns

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

const (
	// udpSize is how long an answer over UDP may be. It passes every link
	// without being cut into fragments, which are lost, and forged, more easily
	// (https://www.dnsflagday.net/2020/).
	udpSize = 1232
	// udpRoom is what is read of an answer over UDP. A longer one than was
	// asked for is no reason to refuse it.
	udpRoom = 4096
)

var (
	errTimeout = errors.New("no answer in time")
	errGarbled = errors.New("an answer that cannot be read")
	errHungUp  = errors.New("the connection was closed before the answer")
	// errForeign: the message answers something else. It may be late, or from
	// somebody who guesses, and the answer may still come.
	errForeign = errors.New("an answer to another question")
)

// exchange asks one server one question: over UDP, and over TCP where the
// answer does not fit.
func exchange(ctx context.Context, server string, q dns.Question, edns bool) (*dns.Msg, error) {
	query := newQuery(q, edns)
	answer, err := transfer(ctx, "udp", server, query)
	if err == nil && edns && refusesEDNS(answer) {
		query = newQuery(q, false)
		answer, err = transfer(ctx, "udp", server, query)
	}
	if err == nil && answer.Truncated {
		query.Id = dns.Id()
		if answer, err = transfer(ctx, "tcp", server, query); err == nil && answer.Truncated {
			err = errGarbled
		}
	}
	if err != nil {
		return nil, plain(err)
	}
	return answer, nil
}

func newQuery(q dns.Question, edns bool) *dns.Msg {
	m := &dns.Msg{Question: []dns.Question{q}}
	m.Id, m.RecursionDesired = dns.Id(), true
	if edns {
		m.SetEdns0(udpSize, false)
	}
	return m
}

// refusesEDNS: servers from before it and servers of a later version of it say
// so in one of these ways (RFC 6891 section 7).
func refusesEDNS(m *dns.Msg) bool {
	switch m.Rcode {
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeBadVers:
		return true
	}
	return false
}

// transfer sends a query and returns its answer. Each has a socket of its own:
// from another port each time, and the kernel drops what others than the
// server send to it.
func transfer(ctx context.Context, network, server string, query *dns.Msg) (*dns.Msg, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(query); err != nil {
		return nil, err
	}
	room := udpRoom
	if network == "tcp" {
		room = dns.MaxMsgSize + 1
	}
	return receive(c, query, make([]byte, room))
}

// receive reads until there is an answer to the query. One that cannot be read
// is remembered, since it may be all that the server has to say.
func receive(c *dns.Conn, query *dns.Msg, buf []byte) (*dns.Msg, error) {
	var garbled error
	for {
		n, err := c.Read(buf)
		if err != nil && garbled != nil {
			return nil, garbled
		}
		if err != nil {
			return nil, err
		}
		if n == len(buf) { // there was more
			buf[2] |= truncated
		}
		answer, err := read(buf[:n], query)
		switch {
		case err == nil:
			return answer, nil
		case errors.Is(err, errGarbled):
			garbled = err
		}
	}
}

// Of the header of a message (RFC 1035 section 4.1.1): its length, and two bits
// of its third byte.
const (
	header    = 12
	response  = 0x80
	truncated = 0x02
)

// read returns the message in b if it is the answer to the query.
func read(b []byte, query *dns.Msg) (*dns.Msg, error) {
	if len(b) < header || b[2]&response == 0 || uint16(b[0])<<8|uint16(b[1]) != query.Id {
		return nil, errForeign
	}
	m := new(dns.Msg)
	if err := m.Unpack(b); err != nil {
		if b[2]&truncated != 0 { // within a record, as some servers do it
			return &dns.Msg{MsgHdr: dns.MsgHdr{Truncated: true}}, nil
		}
		return nil, errGarbled
	}
	if !echoes(m, query.Question[0]) {
		return nil, errForeign
	}
	// The library takes a message that ends before all its records for whole.
	// The missing ones would count as removed.
	if !m.Truncated && (len(m.Answer) != count(b, 6) || len(m.Ns) != count(b, 8) || len(m.Extra) != count(b, 10)) {
		return nil, errGarbled
	}
	return m, nil
}

// count reads how many records the header promises in a section.
func count(b []byte, at int) int { return int(b[at])<<8 | int(b[at+1]) }

// echoes tells whether the question in an answer is that one. A server that
// could not read the question may leave it out, but not answer it.
func echoes(m *dns.Msg, q dns.Question) bool {
	if len(m.Question) == 0 {
		return m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError
	}
	got := m.Question[0]
	return len(m.Question) == 1 && got.Qtype == q.Qtype && got.Qclass == q.Qclass && sameName(got.Name, q.Name)
}

func sameName(a, b string) bool { return dns.CanonicalName(a) == dns.CanonicalName(b) }

// plain words a failure without the address that the question was sent from:
// it differs each time, and every repetition would look like news.
func plain(err error) error {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.Is(err, errGarbled):
		return errGarbled
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled),
		errors.As(err, &timeout) && timeout.Timeout():
		return errTimeout
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errHungUp
	}
	return err
}
