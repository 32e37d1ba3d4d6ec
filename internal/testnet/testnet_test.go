//go:build linux

package testnet

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

var loopback4, loopback6 = netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")

// pair returns both ends of one connection as peers.
func pair(t *testing.T, network string) (client, server *Peer) {
	t.Helper()
	s := Listen(t, network)
	signals := new(Signals)
	c := Dial(t, s.String())
	return NewPeer("client", c, signals), NewPeer("server", s.Accept(t), signals)
}

func TestScript(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		reset := RESET
		if network == "unix" {
			reset = EOF
		}
		scripts := map[string][2][]Step{
			"half_close": {
				{Send("PING"), HalfClose(), Expect("PONG"), ExpectEnd(EOF)},
				{Expect("PING"), ExpectEnd(EOF), SendBytewise("PONG"), Close()},
			},
			"data_with_fin": {
				{SendWithFIN("PING"), ExpectEnd(EOF)},
				{Expect("PING"), ExpectEnd(EOF), Close()},
			},
			"reset_after_answer": {
				{AwaitInput(4), Tell("there"), After("reset"), Expect("PONG"), ExpectEnd(reset)},
				{Send("PONG"), After("there"), Reset(), Tell("reset")},
			},
			"close_unread": {
				{Send("PING"), ExpectEnd(RESET)},
				{CloseUnread(4)},
			},
			"stream": {
				{SendStream(1, 10<<20), HalfClose(), ExpectEnd(EOF)},
				{ExpectStream(1, 10<<20), ExpectEnd(EOF), Close()},
			},
		}
		for name, script := range scripts {
			t.Run(network+"/"+name, func(t *testing.T) {
				CheckLeaks(t)
				client, server := pair(t, network)
				Play(t, Part{client, script[0]}, Part{server, script[1]})
			})
		}
	}
}

// A script that fails says who, which step, and what was seen before.
func TestScriptNamesItsFailure(t *testing.T) {
	client, server := pair(t, "tcp4")
	err := PlayErr(
		Part{client, []Step{Expect("HELLO"), Expect("PONG")}},
		Part{server, []Step{Send("HELLO"), Send("PANG"), After("never")}},
	)
	for _, want := range []string{`client, step 2 (expect "PONG")`, `got "PANG"`, `saw [got "HELLO"`, "the other side failed"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestRefusingAddr(t *testing.T) {
	for _, ip := range []netip.Addr{loopback4, loopback6} {
		_, err := net.DialTimeout("tcp", RefusingAddr(t, ip).String(), time.Second)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("dial: %v", err)
		}
	}
}

func TestBlackHole(t *testing.T) {
	for _, ip := range []netip.Addr{loopback4, loopback6} {
		_, err := net.DialTimeout("tcp", BlackHole(t, ip).String(), 200*time.Millisecond)
		if !isTimeout(err) {
			t.Errorf("dial: %v", err)
		}
	}
}

func TestServe(t *testing.T) {
	CheckLeaks(t)
	s := Serve(t, "tcp4", Say("one"))
	got, err := io.ReadAll(Dial(t, s.String()))
	if err != nil || string(got) != "one\n" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestStream(t *testing.T) {
	const size = 5*streamBlock + 17
	all, err := io.ReadAll(NewStream(3, size))
	if err != nil || len(all) != size {
		t.Fatalf("read %d bytes: %v", len(all), err)
	}
	want := StreamSum(3, size)
	swapped := append([]byte(nil), all...)
	copy(swapped, all[streamBlock:2*streamBlock])
	copy(swapped[streamBlock:], all[:streamBlock])
	for name, bytes := range map[string][]byte{"two pieces swapped": swapped, "a piece lost": all[streamStamp:]} {
		var s Sum
		if s.Write(bytes); s == want {
			t.Errorf("the checksum does not notice %s", name)
		}
	}
	if StreamSum(4, size) == want {
		t.Error("two seeds gave one stream")
	}
}

// The checks that fail a test are tried in a process of their own, where the
// failure is what is wanted.
func TestChecksFailWhenTheyShould(t *testing.T) {
	failing := map[string]struct {
		body func(*testing.T)
		want string
		env  string
	}{
		"descriptor": {func(t *testing.T) { CheckLeaks(t); syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0) }, "socket:[", ""},
		"goroutine":  {func(t *testing.T) { CheckLeaks(t); go func() { select {} }() }, "left behind", ""},
		"eventually": {func(t *testing.T) { Eventually(t, time.Millisecond, func() bool { return false }) }, "not true within", ""},
		"skip":       {func(t *testing.T) { Skip(t, "no moon") }, "skipped under CI: no moon", "CI=true"},
		"quiet skip": {func(t *testing.T) { Skip(t, "no moon") }, "", "CI="},
	}
	if which := os.Getenv("TESTNET_FAIL"); which != "" {
		failing[which].body(t)
		return
	}
	for name, f := range failing {
		t.Run(name, func(t *testing.T) {
			child := exec.Command(os.Args[0], "-test.run=^TestChecksFailWhenTheyShould$", "-test.timeout=30s")
			child.Env = append(os.Environ(), "TESTNET_FAIL="+name, f.env)
			out, err := child.CombinedOutput()
			if (err != nil) != (f.want != "") || !strings.Contains(string(out), f.want) {
				t.Errorf("it ended with %v: %s", err, out)
			}
		})
	}
}
