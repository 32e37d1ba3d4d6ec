package discovertest

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"legate/internal/testnet"
)

// each is how long every part of what is said through delay takes, in each
// direction.
const each = 300 * time.Millisecond

// delay opens a slow way to a server, and returns its address.
func delay(t testing.TB, network, address string) string {
	t.Helper()
	if network == "udp" {
		return delayDatagrams(t, address)
	}
	return Forward(t, network, each, func() (net.Conn, error) { return net.Dial(network, address) })
}

// Forward passes streams on to where dial leads until the end of the test, each
// part of them later by that much. It returns its address, of network "tcp" or
// "unix".
func Forward(t testing.TB, network string, later time.Duration, dial func() (net.Conn, error)) string {
	t.Helper()
	if network == "tcp" {
		network = "tcp4"
	}
	s := testnet.Serve(t, network, func(near net.Conn) {
		far, err := dial()
		if err != nil {
			return
		}
		var running sync.WaitGroup
		running.Go(func() { pass(far, near, later) })
		pass(near, far, later)
		running.Wait()
	})
	if s.Path != "" {
		return s.Path
	}
	return s.Addr.String()
}

// pass closes both at the end, which ends the other direction as well: none of
// the protocols here closes one alone.
func pass(to, from net.Conn, later time.Duration) {
	defer to.Close()
	defer from.Close()
	part := make([]byte, 64<<10)
	for {
		n, err := from.Read(part)
		if later > 0 {
			<-time.After(later)
		}
		if _, broken := to.Write(part[:n]); err != nil || broken != nil {
			return
		}
	}
}

// delayDatagrams has a socket of its own towards the server for every question,
// as who asks has.
func delayDatagrams(t testing.TB, server string) string {
	t.Helper()
	l := packets(t, "127.0.0.1:0", func(l net.PacketConn, question []byte, from net.Addr) {
		<-time.After(each)
		far, err := net.Dial("udp", server)
		if err != nil {
			return
		}
		defer far.Close()
		_ = far.SetDeadline(time.Now().Add(testnet.Patience))
		answer := make([]byte, 64<<10)
		if _, err := far.Write(question); err != nil {
			return
		}
		n, err := far.Read(answer)
		if err != nil {
			return
		}
		<-time.After(each)
		_, _ = l.WriteTo(answer[:n], from)
	})
	return l.LocalAddr().String()
}

// packets runs handle for every datagram, each in a goroutine of its own, until
// the end of the test or of the socket.
func packets(t testing.TB, at string, handle func(l net.PacketConn, packet []byte, from net.Addr)) net.PacketConn {
	t.Helper()
	l, err := net.ListenPacket("udp4", at)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			packet := make([]byte, 64<<10)
			n, from, err := l.ReadFrom(packet)
			if err != nil {
				return
			}
			running.Go(func() { handle(l, packet[:n], from) })
		}
	})
	return l
}

type gibberish struct{ name, text string }

const (
	noise = "\x8f\x00\x13\xfe\xff\xff\xff\xff\x7f\x00\x00\x00PK\x03\x04 \x1b[2J\xe2\x28\xa1\xff"
	page  = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 38\r\n\r\n<html><h1>Accept our terms</h1></html>"
	// A list of another kind, as another service has it.
	foreign = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n[{\"pods\":null}]"
)

// nonsense is what is said in place of a server, by network.
var nonsense = map[string][]gibberish{
	"tcp":  {{"noise", noise}, {"a web page", page}, {"another API", foreign}, {"silence at once", ""}},
	"unix": {{"noise", noise}, {"a web page", page}, {"another API", foreign}, {"silence at once", ""}},
	"udp":  {{"noise", noise}},
	"file": {{"noise", noise}, {"nothing", ""}, {"another list", `[{"pods":null}]`}},
}

// babble answers everything at an address with the text. It returns what
// ends it.
func babble(t testing.TB, network, address, text string) (end func()) {
	t.Helper()
	switch network {
	case "file":
		replace(t, address, text)
		return func() {}
	case "udp":
		l := packets(t, address, func(l net.PacketConn, question []byte, from net.Addr) {
			_, _ = l.WriteTo([]byte(text), from) // who guesses
			// The number of the question, the mark of an answer, and nothing that
			// could be one.
			_, _ = l.WriteTo(append([]byte{question[0], question[1], 0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0}, text...), from)
		})
		return func() { l.Close() }
	case "tcp":
		network = "tcp4"
	case "unix":
		_ = os.Remove(address) // what the server left
	}
	s := testnet.ListenAt(t, network, address)
	s.Handle(func(c net.Conn) {
		if text == "" {
			return
		}
		// After the question, and patiently: closing with something unread
		// would be a reset, and what was said would be lost.
		_, _ = c.Read(make([]byte, 64<<10))
		_, _ = io.WriteString(c, text)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = io.Copy(io.Discard, c)
	})
	return s.Close
}

// replace puts a text into a file at once.
func replace(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Clean(path+".new"), path); err != nil {
		t.Fatal(err)
	}
}
