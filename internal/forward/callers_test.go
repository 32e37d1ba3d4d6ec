package forward

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	"legate/internal/spec"
)

func callerNumber(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

func limits(connections, rate int) *spec.Options {
	return &spec.Options{CallerConnections: connections, CallerRate: rate}
}

func TestCallers_ConnectionsAreCountedPerAddress(t *testing.T) {
	var cs callers
	o := limits(2, 0)
	mapped := netip.MustParseAddr("::ffff:192.0.2.1")
	admit := func(a netip.Addr, want error) {
		t.Helper()
		counted, err := cs.admit(a, o, time.Second)
		if !errors.Is(err, want) || counted != (want == nil) {
			t.Fatalf("%v, %v; want %v", counted, err, want)
		}
	}
	admit(mapped, nil)
	admit(mapped.Unmap(), nil)
	admit(mapped, ErrCallerConnections)
	admit(netip.MustParseAddr("192.0.2.2"), nil)
	cs.leave(mapped)
	admit(mapped, nil)
	for range 2 {
		cs.leave(mapped)
	}
	cs.leave(netip.MustParseAddr("192.0.2.2"))
	if len(cs.known) != 0 {
		t.Errorf("%d callers are remembered when all are gone", len(cs.known))
	}
}

func TestCallers_RateIsABucketOfItsSize(t *testing.T) {
	const rate = 10
	var cs callers
	o := limits(0, rate)
	now := time.Second
	made := func() (n int) {
		for range 3 * rate {
			if counted, err := cs.admit(callerNumber(1), o, now); counted {
				n++
				cs.leave(callerNumber(1))
			} else if !errors.Is(err, ErrCallerRate) {
				t.Fatal(err)
			}
		}
		return n
	}
	if n := made(); n != rate {
		t.Errorf("%d connections at once, want %d", n, rate)
	}
	now += 500 * time.Millisecond
	if n := made(); n != rate/2 {
		t.Errorf("%d connections half a second later, want %d", n, rate/2)
	}
	now += time.Hour
	if n := made(); n != rate {
		t.Errorf("%d connections an hour later, want %d", n, rate)
	}
	if _, err := cs.admit(callerNumber(2), o, now); err != nil {
		t.Errorf("another caller: %v", err)
	}
}

func TestCallers_IdleOnesAreForgotten(t *testing.T) {
	const many = 100_000
	var cs callers
	o := limits(0, 1)
	if _, err := cs.admit(callerNumber(0), o, 1); err != nil { // stays
		t.Fatal(err)
	}
	for i := range uint32(many) {
		now := time.Duration(i) * time.Millisecond
		if _, err := cs.admit(callerNumber(i+1), o, now+1); err != nil {
			t.Fatal(err)
		}
		cs.leave(callerNumber(i + 1))
		if len(cs.known) > 4*fewCallers {
			t.Fatalf("%d callers are remembered", len(cs.known))
		}
	}
	if cs.known[callerNumber(0)].connections != 1 {
		t.Error("a connection is forgotten")
	}
}

func TestCallers_CostNothingWithoutLimits(t *testing.T) {
	var cs callers
	o := limits(0, 0)
	if n := testing.AllocsPerRun(10, func() {
		if counted, err := cs.admit(callerNumber(1), o, 1); counted || err != nil {
			t.Fatal(counted, err)
		}
	}); n != 0 || cs.known != nil {
		t.Errorf("%v allocations, %d callers", n, len(cs.known))
	}
	o = limits(3, 1_000_000)
	if n := testing.AllocsPerRun(100, func() {
		if counted, err := cs.admit(callerNumber(1), o, 1); !counted {
			t.Fatal(err)
		}
		cs.leave(callerNumber(1))
	}); n != 0 {
		t.Errorf("%v allocations per limited connection", n)
	}
}

func TestCallers_OfUnixSocketsAreNotLimited(t *testing.T) {
	var cs callers
	for range 10 {
		if _, err := cs.admit(netip.Addr{}, limits(1, 1), 1); err != nil {
			t.Fatal(err)
		}
	}
}
