package pump_test

import (
	"io"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"legate/internal/pump"
	"legate/internal/testnet"
)

// oneByOne is the handler of flows of which there is one at a time.
type oneByOne struct {
	preface *pump.Preface // or nil
	legs    [1]pump.Leg
	flow    atomic.Pointer[pump.Flow]
	parsed  atomic.Int32
	done    chan pump.Cause
}

func (h *oneByOne) Next(f *pump.Flow, last pump.Attempt) pump.Step {
	h.flow.Store(f)
	switch {
	case last.Kind == pump.Accepted && h.preface != nil:
		return pump.Step{Preface: h.preface}
	case last.Kind == pump.Accepted, last.Kind == pump.Prefaced:
		return pump.Step{Dial: h.legs[:], Retry: true}
	}
	return pump.Step{End: io.ErrUnexpectedEOF}
}

func (h *oneByOne) Connected(*pump.Flow, int) {}

func (h *oneByOne) Done(_ *pump.Flow, r pump.Result) {
	h.done <- r.Cause
}

const hello = "HELLO\n"

func (h *oneByOne) parse(_ *pump.Flow, b []byte) (int, error) {
	h.parsed.Add(1)
	if len(b) < len(hello) {
		return 0, nil
	}
	return len(hello), nil
}

// Once it has served one connection the engine serves others without
// allocating: the collector would cost more than they do.
func TestEpoll_AllocatesNothingPerConnection(t *testing.T) {
	for _, name := range []string{"plain", "prefix", "preface", "cut gently"} {
		t.Run(name, func(t *testing.T) {
			x := newAllocRig(t, name)
			x.connection()
			if n := testing.AllocsPerRun(100, x.connection); n != 0 {
				t.Errorf("%v allocations per connection", n)
			}
		})
	}
}

// allocRig has both sides of a connection, without an allocation of its own.
type allocRig struct {
	t        *testing.T
	h        oneByOne
	client   unix.SockaddrInet4 // where clients connect
	endpoint int                // listens
	gently   bool               // the flow is cut
	buf      [64]byte
}

func newAllocRig(t *testing.T, name string) *allocRig {
	listening, at := testnet.ListenFD(t, "tcp4")
	x := &allocRig{t: t, h: oneByOne{done: make(chan pump.Cause, 1)}, gently: name == "cut gently", endpoint: listening}
	x.must(unix.SetNonblock(listening, false))
	t.Cleanup(func() { x.must(unix.Close(listening)) })
	x.h.legs[0] = pump.Leg{Network: pump.TCP, Addr: netip.MustParseAddrPort(at)}
	switch name {
	case "preface":
		x.h.preface = &pump.Preface{Timeout: testnet.Patience, Max: 100, Parse: x.h.parse}
	case "prefix":
		x.h.legs[0].Prefix = []byte(hello)
	}
	e, err := pump.NewEpoll(pump.Config{Loops: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	fd, at := testnet.ListenFD(t, "tcp4")
	addr := netip.MustParseAddrPort(at)
	x.client = unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}
	if _, err := e.Serve(pump.Listener{Network: pump.TCP, FD: fd}, &x.h); err != nil {
		t.Fatal(err)
	}
	return x
}

// connection exchanges a word each way.
func (x *allocRig) connection() {
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	x.must(err)
	x.must(unix.Connect(c, &x.client))
	if x.h.preface != nil {
		parsed := x.h.parsed.Load()
		x.send(c, hello[:2])
		for x.h.parsed.Load() == parsed {
			runtime.Gosched() // until the first piece was looked at
		}
		x.send(c, hello[2:])
	}
	x.send(c, "PING")
	n, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(x.endpoint), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		x.must(errno)
	}
	e, cause := int(n), pump.CauseEOF
	if x.h.legs[0].Prefix != nil {
		x.expect(e, hello)
	}
	x.expect(e, "PING")
	x.send(e, "PONG")
	x.expect(c, "PONG")
	if x.gently {
		cause = pump.CauseCut
		x.h.flow.Load().Cut(io.EOF)
		x.expect(e, "")
		x.expect(c, "")
	}
	x.must(unix.Close(e))
	x.must(unix.Close(c))
	if got := <-x.h.done; got != cause {
		x.t.Errorf("it ended with %q", got)
	}
}

func (x *allocRig) must(err error) {
	if err != nil {
		x.t.Helper()
		x.t.Fatal(err)
	}
}

func (x *allocRig) send(fd int, text string) {
	_, err := unix.Write(fd, x.buf[:copy(x.buf[:], text)])
	x.must(err)
}

// expect reads exactly what is wanted; "" is the end of the file.
func (x *allocRig) expect(fd int, want string) {
	n, err := unix.Read(fd, x.buf[:max(len(want), 1)])
	x.must(err)
	if string(x.buf[:n]) != want {
		x.t.Helper()
		x.t.Fatalf("read %q, not %q", x.buf[:n], want)
	}
}
