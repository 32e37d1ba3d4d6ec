package check

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// patient is a check whose time-out is no part of the test.
func patient(kind spec.CheckKind) spec.Check {
	return spec.Check{Kind: kind, Timeout: testnet.Patience, Path: "/", Status: "200-399"}
}

// impatient is a check that is to run into its time-out.
func impatient(c spec.Check) spec.Check {
	c.Timeout = 200 * time.Millisecond
	return c
}

func at(p *testnet.Process) spec.Endpoint { return spec.Endpoint{Protocol: spec.TCP, Addr: p.Addr} }

func socket(path string) spec.Endpoint { return spec.Endpoint{Protocol: spec.Unix, Path: path} }

// saying serves connections that get this answer, whatever they ask, and then
// no more.
func saying(t testing.TB, answer string) spec.Endpoint {
	s := testnet.Serve(t, "tcp4", func(c net.Conn) {
		_, _ = c.Write([]byte(answer))
		_ = c.(*net.TCPConn).CloseWrite()
		drain(c)
	})
	return spec.Endpoint{Protocol: spec.TCP, Addr: s.Addr}
}

func drain(c net.Conn) {
	for b := make([]byte, 4096); ; {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}

// wants runs a check that must give this error, "" for none, and in any case
// one readable line.
func wants(t *testing.T, c spec.Check, e spec.Endpoint, want string) {
	t.Helper()
	begin := time.Now()
	err := Runner{}.Run(t.Context(), c, e)
	if took := time.Since(begin); took > c.Timeout+2*time.Second {
		t.Errorf("it took %v of %v", took, c.Timeout)
	}
	if got := text(err); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestRun_TellsWhyAnEndpointCannotBeReached(t *testing.T) {
	refusing := spec.Endpoint{Protocol: spec.TCP, Addr: testnet.RefusingAddr(t, loopback)}
	wants(t, patient(spec.CheckTCP), refusing, "connect: connection refused")
	if err := (Runner{}).Run(t.Context(), patient(spec.CheckTCP), refusing); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("it does not wrap what the system said: %#v", err)
	}
	hole := spec.Endpoint{Protocol: spec.TCP, Addr: testnet.BlackHole(t, loopback)}
	wants(t, impatient(patient(spec.CheckTCP)), hole, "connect: no answer within 200ms")
	wants(t, patient(spec.CheckTCP), socket(filepath.Join(t.TempDir(), "none")), "connect: no such file or directory")
	wants(t, patient(spec.CheckTCP), spec.Endpoint{Protocol: spec.UDP, Addr: refusing.Addr}, `connect: no check for protocol "udp"`)
}

// A password that was rotated works at the next check, and a file that cannot
// be read is told from a server that does not answer.
func TestRun_ReadsThePasswordAtEachCheck(t *testing.T) {
	r := testnet.StartRedis(t, testnet.RedisConfig{Password: "first"})
	c := patient(spec.CheckRedis)
	c.PasswordFile = filepath.Join(t.TempDir(), "password")
	wants(t, c, at(r.Process), "read the check's password: open "+c.PasswordFile+": no such file or directory")
	write := func(text string) {
		if err := os.WriteFile(c.PasswordFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	wants(t, c, at(r.Process), "")
	r.Do(t, "CONFIG", "SET", "requirepass", "second")
	wants(t, c, at(r.Process), "log in: -WRONGPASS invalid username-password pair or user is disabled.")
	write("second\r\n")
	wants(t, c, at(r.Process), "")
	write(strings.Repeat("x", passwordLimit+1))
	wants(t, c, at(r.Process), "read the check's password: "+c.PasswordFile+" has more than 4096 bytes")
	if err := errors.Join(os.Remove(c.PasswordFile), syscall.Mkfifo(c.PasswordFile, 0o600)); err != nil {
		t.Fatal(err)
	}
	wants(t, c, at(r.Process), "read the check's password: "+c.PasswordFile+" is no regular file")
}

// command finds a server, or skips the test where it is not installed.
func command(t testing.TB, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	testnet.Skip(t, "needs "+name)
	return ""
}

// Checks of 1,000 endpoints every two seconds are 500 a second: at less than
// 100 µs of processor time each they take less than 5 % of a core. Here the
// time of the server's half is in it.
func BenchmarkRun(b *testing.B) {
	s := testnet.Serve(b, "tcp4", func(net.Conn) {})
	e := spec.Endpoint{Protocol: spec.TCP, Addr: s.Addr}
	b.Run("tcp", func(b *testing.B) {
		b.ReportAllocs()
		before := processorTime(b)
		for b.Loop() {
			if err := (Runner{}).Run(b.Context(), patient(spec.CheckTCP), e); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/op")
	})
}

// processorTime is what the process has used so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
