package forward

import (
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// switched is a world with an address whose clients go to links by who they
// are: by[client] is the container, in one life of it.
type switched struct {
	*world
	by    atomic.Pointer[map[string]spec.Listen]
	links []spec.Link
}

var errStranger = errors.New("no such container")

func newSwitched(t *testing.T) *switched {
	t.Helper()
	s := &switched{world: newWorld(t, nil, "127.0.0.1:1")}
	s.links = []spec.Link{s.link}
	s.are(nil)
	at := spec.Listen{Protocol: spec.TCP, Host: "127.0.0.1", Port: uint16(testnet.FreePort(t))}
	s.addr = netip.AddrPortFrom(loopback, at.Port).String()
	err := s.fw.Switch(at, func(client netip.Addr, port uint16) (spec.Listen, error) {
		who, ok := (*s.by.Load())[client.String()]
		switch {
		case !ok:
			return who, ErrNotYet
		case port != at.Port || who == spec.Listen{}:
			return who, errStranger
		}
		return who, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *switched) are(by map[string]spec.Listen) { s.by.Store(&by) }

// add serves one more link, of that container, to an endpoint.
func (s *switched) add(at spec.Listen, endpoint string) {
	s.t.Helper()
	tg, e := fixed(endpoint, spec.TCP)
	s.pool.Set(tg, spec.Answer{Endpoints: spec.Members(e), At: time.Now()})
	l := spec.Link{Name: at.Namespace, Listen: at, Targets: []spec.Target{tg}, Options: spec.DefaultOptions(), For: &spec.Container{Name: "web"}}
	s.links = append(s.links, l)
	s.set()
}

func (s *switched) set() {
	s.t.Helper()
	if err := errors.Join(s.fw.Apply(s.links)...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *switched) from(client string) net.Conn {
	s.t.Helper()
	c, err := s.try(client)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

func (s *switched) try(client string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(client)}, Timeout: soon}
	return d.Dial("tcp", s.addr)
}

// denies wants the client be reset at once, be it within its connect.
func (s *switched) denies(client string) {
	s.t.Helper()
	c, err := s.try(client)
	if err == nil {
		defer c.Close()
		s.resets(c, routePatience/2)
	} else if testnet.Name(err) != testnet.RESET {
		s.t.Errorf("connect: %v, want a reset", err)
	}
}

func (s *switched) gets(c net.Conn, line string) {
	s.t.Helper()
	if got, err := read(s.t, c, soon); err != nil || got != line+"\n" {
		s.t.Errorf("got %q, %v; want %q", got, err, line)
	}
}

func life(container string, n int) spec.Listen { return spec.SwitchedListen(container, n, 80) }

func TestSwitch_GivesEachClientItsOwnLink(t *testing.T) {
	s := newSwitched(t)
	s.are(map[string]spec.Listen{"127.0.0.2": life("a", 1), "127.0.0.3": life("b", 1), "127.0.0.4": {}})
	s.add(life("a", 1), say(t, "one"))
	s.add(life("b", 1), say(t, "two"))
	for range 3 {
		s.gets(s.from("127.0.0.2"), "one")
		s.gets(s.from("127.0.0.3"), "two")
	}
	s.denies("127.0.0.4")
	for i, want := range []int64{0, 3, 3} {
		if got := s.fw.Snapshot()[i].Counters.Total; got != want {
			t.Errorf("link %d had %d connections, want %d", i, got, want)
		}
	}
}

// An application connects before the engine has told who it is.
func TestSwitch_WaitsUntilItIsKnownWhoAClientIs(t *testing.T) {
	s := newSwitched(t)
	early := s.from("127.0.0.2")
	testnet.Eventually(t, soon, func() bool { return s.waiting() == 1 })
	s.are(map[string]spec.Listen{"127.0.0.2": life("a", 1)})
	s.set() // the link is not there yet
	s.add(life("a", 1), say(t, "one"))
	// Not only when it is to be given up.
	if got, err := read(t, early, routePatience/2); err != nil || got != "one\n" {
		t.Errorf("got %q, %v; want it served as soon as its link is there", got, err)
	}
	never := s.from("127.0.0.9")
	start := time.Now()
	s.resets(never, soon)
	if took := time.Since(start); took < routePatience/2 {
		t.Errorf("a client whom nobody knows was reset after %v", took)
	}
	if n := s.waiting(); n != 0 {
		t.Errorf("%d clients still wait", n)
	}
}

func (s *switched) waiting() int {
	b := s.fw.boards()[0]
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiting)
}

// ambassadord gave a container that had the address of a removed one the
// targets of that one.
func TestSwitch_AnAddressThatIsUsedAgainIsAnotherContainer(t *testing.T) {
	s := newSwitched(t)
	s.are(map[string]spec.Listen{"127.0.0.2": life("a", 1)})
	s.add(life("a", 1), testnet.Serve(t, "tcp4", testnet.Echo).String())
	old := s.from("127.0.0.2")
	if _, err := old.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	testnet.Eventually(t, soon, func() bool { return s.fw.Snapshot()[1].Counters.Current == 1 })
	s.are(map[string]spec.Listen{"127.0.0.2": life("b", 1)})
	s.links = s.links[:1]
	s.set()
	if got, err := read(t, old, soon); testnet.Name(err) != testnet.RESET {
		t.Errorf("the connection of the removed container got %q, %v; want a reset", got, err)
	}
	next := s.from("127.0.0.2")
	s.add(life("b", 1), say(t, "of b"))
	s.gets(next, "of b")
}

func TestSwitch_TurnsAwayWhomItsLinkWouldRefuse(t *testing.T) {
	s := newSwitched(t)
	s.are(map[string]spec.Listen{"127.0.0.2": life("a", 1)})
	s.add(life("a", 1), testnet.Serve(t, "tcp4", testnet.Echo).String())
	s.links[1].Mode = spec.ModeDrain
	s.set()
	s.denies("127.0.0.2")
	s.links[1].Mode, s.links[1].Options.MaxConnections = spec.ModeServe, 1
	s.set()
	first := s.from("127.0.0.2")
	testnet.Eventually(t, soon, func() bool { return s.fw.Snapshot()[1].Counters.Current == 1 })
	s.denies("127.0.0.2")
	first.Close()
}

func TestSwitch_ItsAddressIsOursAsAnEndpoint(t *testing.T) {
	s := newSwitched(t)
	_, e := fixed(s.addr, spec.TCP)
	s.set()
	if !s.fw.loops.has(&e, "") {
		t.Error("a link could lead to it, which would loop")
	}
}
