package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/testnet"
)

const soon = 5 * time.Second

var loopback = netip.MustParseAddr("127.0.0.1")

// world is one link with everything below it, on real sockets.
type world struct {
	t    *testing.T
	fw   *Forwarder
	pool *endpoints.Pool
	link spec.Link
	addr string // where clients connect

	suspected atomic.Int64 // how often a source was to be asked again
	asked     atomic.Int64 // checks
	sick      sync.Map     // endpoints, as text, of which checks say that they are: true, or why
}

// newWorld serves one link, with the default options as changed, to targets
// that are addresses or unix:paths.
func newWorld(t *testing.T, change func(*spec.Options), targets ...string) *world {
	t.Helper()
	testnet.CheckLeaks(t)
	engine, err := pump.NewEpoll(pump.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t}
	w.pool = endpoints.New(endpoints.Config{
		Dial:    func(ctx context.Context, e spec.Endpoint, d time.Duration) error { return w.fw.Dial(ctx, e, d) },
		Changed: func(target spec.Target) { w.fw.Changed(target) },
		Room:    func(target spec.Target) { w.fw.Room(target) },
		Connect: func(ctx context.Context, e spec.Endpoint) (net.Conn, error) { return w.fw.Connect(ctx, e) },
		Suspect: func(spec.Target) { w.suspected.Add(1) },
		Check:   w.check,
		Ours:    pump.IsShortage,
	})
	w.fw = New(Config{Engine: engine, Pool: w.pool})
	t.Cleanup(func() { w.stop(engine) })
	w.link = spec.Link{
		Name:    "test",
		Listen:  spec.Listen{Protocol: spec.TCP, Host: "127.0.0.1", Port: uint16(testnet.FreePort(t))},
		Options: spec.DefaultOptions(),
	}
	if change != nil {
		change(&w.link.Options)
	}
	w.addr = netip.AddrPortFrom(loopback, w.link.Listen.Port).String()
	w.point(targets...)
	return w
}

var errSick = errors.New("the check says that it is sick")

func (w *world) check(_ context.Context, e spec.Endpoint, _ spec.Check) error {
	w.asked.Add(1)
	why, _ := w.sick.Load(e.String())
	switch why := why.(type) {
	case error:
		return why
	case bool:
		return errSick
	}
	return nil
}

// checked has endpoints be checked, so that each change is seen soon.
func checked(o *spec.Options) {
	o.Check.Kind, o.Check.Interval, o.Check.Rise, o.Check.Fall = spec.CheckTCP, 20*time.Millisecond, 1, 1
}

// falls makes an endpoint unhealthy, and waits until the link knows.
func (w *world) falls(address string) {
	w.t.Helper()
	w.sick.Store(address, true)
	w.eventually(is(address, spec.HealthUnhealthy))
}

func (w *world) recovers(address string) {
	w.t.Helper()
	w.sick.Delete(address)
	w.eventually(is(address, spec.HealthOK))
}

// is tells whether the endpoint is in that condition.
func is(address string, h spec.Health) func(spec.LinkStatus) bool {
	return func(s spec.LinkStatus) bool {
		return slices.ContainsFunc(s.Endpoints, func(e spec.EndpointStatus) bool { return e.Address == address && e.Health == h })
	}
}

// serve answers with the targets' endpoints, all of one target that has a name
// of its own.
func (w *world) serve(name spec.Target, addresses ...string) {
	w.t.Helper()
	var es []spec.Endpoint
	for _, a := range addresses {
		_, e := fixed(a, w.link.Listen.Protocol)
		es = append(es, e)
	}
	w.pool.Set(name, spec.Answer{Endpoints: addressesOf(name, es...), At: time.Now()})
}

// addressesOf are members as their source has them: those of a name are told
// apart from endpoints of other sources.
func addressesOf(t spec.Target, list ...spec.Endpoint) []spec.Member {
	members := spec.Members(list...)
	for i := range members {
		if t.Source == spec.SourceDNS {
			members[i].Name = t.Host
		}
	}
	return members
}

// several is a target whose endpoints come and go.
var several = spec.Target{Source: "file", Protocol: spec.TCP, Host: "endpoints.json"}

func (w *world) load() (n int64) {
	for _, e := range w.status().Endpoints {
		n += e.Load
	}
	return n
}

func (w *world) mode(m spec.Mode) {
	w.t.Helper()
	w.link.Mode = m
	w.apply()
}

func (w *world) stop(engine pump.Engine) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := w.fw.Close(ctx); err != nil {
		w.t.Errorf("close: %v", err)
	}
	w.pool.Close()
	if err := engine.Close(); err != nil {
		w.t.Errorf("close engine: %v", err)
	}
}

// point gives the link these targets.
func (w *world) point(targets ...string) {
	w.t.Helper()
	w.link.Targets = nil
	for _, s := range targets {
		tg, e := fixed(s, w.link.Listen.Protocol)
		w.link.Targets = append(w.link.Targets, tg)
		w.pool.Set(tg, spec.Answer{Endpoints: spec.Members(e), At: time.Now()})
	}
	w.apply()
}

func (w *world) apply() {
	w.t.Helper()
	for _, err := range w.fw.Apply([]spec.Link{w.link}) {
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func fixed(s string, p spec.Protocol) (spec.Target, spec.Endpoint) {
	if path, ok := cutUnix(s); ok {
		return spec.Target{Source: spec.SourceFixed, Protocol: spec.Unix, Path: path}, spec.Endpoint{Protocol: spec.Unix, Path: path}
	}
	if p == spec.Unix {
		p = spec.TCP
	}
	a := netip.MustParseAddrPort(s)
	return spec.Target{Source: spec.SourceFixed, Protocol: p, Host: a.Addr().String(), Port: a.Port()}, spec.Endpoint{Protocol: p, Addr: a}
}

func cutUnix(s string) (string, bool) {
	const prefix = "unix:"
	if len(s) > len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return "", false
}

func (w *world) status() spec.LinkStatus { return w.fw.Snapshot()[0] }

// eventually waits for a condition of the link's status.
func (w *world) eventually(cond func(spec.LinkStatus) bool) {
	w.t.Helper()
	testnet.Eventually(w.t, soon, func() bool { return cond(w.status()) })
}

// dial connects a client; it is closed when the test ends.
func (w *world) dial() net.Conn {
	w.t.Helper()
	return testnet.Dial(w.t, w.addr)
}

// read returns what the client gets until the end, which must come in time.
func read(t *testing.T, c net.Conn, within time.Duration) (string, error) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

// answers fails the test unless a new client gets exactly this line.
func (w *world) answers(line string) {
	w.t.Helper()
	c := w.dial()
	defer c.Close()
	if got, err := read(w.t, c, soon); err != nil || got != line+"\n" {
		w.t.Errorf("got %q, %v; want %q", got, err, line)
	}
}

// refuses fails the test unless a new client is reset, be it so soon that its
// connect fails already.
func (w *world) refuses(within time.Duration) {
	w.t.Helper()
	c, err := testnet.DialErr(w.addr)
	if err == nil {
		w.resets(c, within)
		c.Close()
		return
	}
	if testnet.Name(err) != testnet.RESET {
		w.t.Errorf("connect: %v; want a reset", err)
	}
}

// resets fails the test unless the client is reset with nothing before it.
func (w *world) resets(c net.Conn, within time.Duration) {
	w.t.Helper()
	got, err := read(w.t, c, within)
	if got != "" || testnet.Name(err) != testnet.RESET {
		w.t.Errorf("got %q, %v; want a reset", got, err)
	}
}

func say(t *testing.T, line string) string {
	t.Helper()
	return testnet.Serve(t, "tcp4", testnet.Say(line)).String()
}
