package check

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"

	"legate/internal/spec"
	"legate/internal/testnet"
)

const fuzzPassword = "pa55-word"

// fuzzed asks a server that answers with b in pieces of that size, whatever it
// is asked, and then closes. The verdict is free, but there is one, soon, for
// little memory, in one readable line without the password.
func fuzzed(t *testing.T, c spec.Check, b []byte, piece byte) {
	t.Helper()
	if len(b) > 1<<17 {
		return
	}
	c.Timeout = 5 * time.Second
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	err := answering(b, int(piece)+1).Run(t.Context(), c, spec.Endpoint{Protocol: spec.TCP})
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	if took > 3*time.Second {
		t.Errorf("it took %v: %v", took, err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("it took %d bytes of memory for an answer of %d", grown, len(b))
	}
	if err == nil {
		return
	}
	said := err.Error()
	if said == "" || c.Password != "" && strings.Contains(said, fuzzPassword) || strings.IndexFunc(said, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 || len(said) > 1000 {
		t.Errorf("the error is %q", said)
	}
}

// answering dials a pipe whose other end sends b and then ends.
func answering(b []byte, piece int) Runner {
	return Runner{Dial: func(context.Context, spec.Endpoint) (net.Conn, error) {
		client, server := net.Pipe()
		go drain(server)
		go func() {
			defer server.Close()
			for rest := b; len(rest) > 0; {
				n, err := server.Write(rest[:min(piece, len(rest))])
				if err != nil {
					return
				}
				rest = rest[n:]
			}
		}()
		return client, nil
	}}
}

func TestFuzz_SeedsAreThere(t *testing.T) {
	for _, name := range []string{"FuzzRedis", "FuzzPostgres", "FuzzMySQL", "FuzzAMQP", "FuzzHTTP", "FuzzExpect"} {
		if seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", name, "*")); err != nil || len(seeds) < 3 {
			t.Errorf("%s has %d seeds (%v)", name, len(seeds), err)
		}
	}
}

func FuzzRedis(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, piece byte, login bool) {
		c := spec.Check{Kind: spec.CheckRedis, Role: spec.RoleReplica}
		if login {
			c.Password = fuzzPassword
		}
		fuzzed(t, c, b, piece)
	})
}

func FuzzPostgres(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, piece byte, login bool) {
		c := spec.Check{Kind: spec.CheckPostgres}
		if login {
			c.User, c.Password, c.Role = "legate", fuzzPassword, spec.RoleStandby
		}
		fuzzed(t, c, b, piece)
	})
}

func FuzzMySQL(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, piece byte) { fuzzed(t, spec.Check{Kind: spec.CheckMySQL}, b, piece) })
}

func FuzzAMQP(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, piece byte) { fuzzed(t, spec.Check{Kind: spec.CheckAMQP}, b, piece) })
}

func FuzzHTTP(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, piece byte) {
		fuzzed(t, spec.Check{Kind: spec.CheckHTTP, Path: "/", Status: "200-399"}, b, piece)
	})
}

func FuzzExpect(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, piece byte) {
		fuzzed(t, spec.Check{Kind: spec.CheckExpect, Send: `x\r\n`, Expect: "ready"}, b, piece)
	})
}

// Whatever a server does not do, the check is over in time, and with it what
// it opened.
func TestRun_SilentServersRunIntoTheTimeout(t *testing.T) {
	testnet.CheckLeaks(t)
	s := testnet.Serve(t, "tcp4", drain)
	e := spec.Endpoint{Protocol: spec.TCP, Addr: s.Addr}
	for _, c := range []spec.Check{
		patient(spec.CheckHTTP), patient(spec.CheckRedis), patient(spec.CheckPostgres), as("u", "p", spec.RolePrimary),
		patient(spec.CheckMySQL), patient(spec.CheckAMQP), {Kind: spec.CheckExpect, Expect: "x"},
	} {
		wants(t, impatient(c), e, "no answer within 200ms")
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error)
		go func() { stopped <- Runner{}.Run(ctx, c, e) }()
		cancel()
		if err := <-stopped; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: stopped, it said %v", c.Kind, err)
		}
	}
}
