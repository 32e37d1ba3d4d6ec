package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"legate/internal/control"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// running is a daemon under test.
type running struct {
	*Daemon
	stop  context.CancelFunc
	ended chan error
}

// start runs a daemon until the test ends, and returns when it is ready.
func start(t *testing.T, cfg Config) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan struct{})
	cfg.Ready = func(string) { close(ready) }
	if cfg.Control == "" {
		cfg.Control = control.Off
	}
	r := &running{Daemon: New(cfg), stop: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		r.Cut()
		select {
		case err := <-r.ended:
			if err != nil {
				t.Errorf("run: %v", err)
			}
		case <-time.After(testnet.Patience):
			t.Error("the daemon does not end")
		}
	})
	select {
	case <-ready:
	case err := <-r.ended:
		t.Fatalf("run: %v", err)
	}
	return r
}

// say answers each line with the server's name.
func say(name string) func(net.Conn) {
	return func(c net.Conn) {
		for s := bufio.NewScanner(c); s.Scan(); {
			fmt.Fprintf(c, "%s\n", name)
		}
	}
}

// client is a connection that can ask again and again.
type client struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func connect(t *testing.T, address string) *client {
	t.Helper()
	c := testnet.Dial(t, address)
	if err := c.SetDeadline(time.Now().Add(testnet.Patience)); err != nil {
		t.Fatal(err)
	}
	return &client{t, c, bufio.NewReader(c)}
}

func (c *client) ask() (string, error) {
	if _, err := io.WriteString(c, "who?\n"); err != nil {
		return "", err
	}
	answer, err := c.r.ReadString('\n')
	return strings.TrimSpace(answer), err
}

func (c *client) want(name string) {
	c.t.Helper()
	if got, err := c.ask(); err != nil || got != name {
		c.t.Errorf("got %q, %v, want %q", got, err, name)
	}
}

func wantFrom(t *testing.T, address, name string) {
	t.Helper()
	c := connect(t, address)
	defer c.Close()
	c.want(name)
}

// socket is a place to listen that no other process takes.
func socket(t *testing.T) string { return "unix:" + testnet.SocketPath(t) }

func swap(t *testing.T, d *running, r control.SwapRequest) control.SwapReply {
	t.Helper()
	reply, err := d.Swap(t.Context(), r)
	if err != nil {
		t.Fatalf("swap %s to %s: %v", r.Link, r.Target, err)
	}
	return reply
}

// client -> near -> far -> server, all in this process.
func TestDaemon_TwoInOneProcess(t *testing.T) {
	testnet.CheckLeaks(t)
	blue, green := testnet.Serve(t, "tcp4", say("blue")), testnet.Serve(t, "tcp4", say("green"))
	a, b := socket(t), socket(t)
	places := control.Places{Dirs: []string{filepath.Dir(testnet.SocketPath(t))}}
	far := start(t, Config{Links: parseLinks(t, b+"="+blue.String()+";name=hello"), Control: "far", Places: places})
	start(t, Config{Links: parseLinks(t, a+"="+b+";name=hello"), Control: "near", Places: places})
	wantFrom(t, a, "blue")
	swap(t, far, control.SwapRequest{Link: "hello", Target: green.String()})
	wantFrom(t, a, "green")
	for name, target := range map[string]string{"near": b, "far": green.String()} {
		c, err := control.Find(t.Context(), name, places)
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.Snapshot(t.Context())
		if err != nil || s.Instance != name || s.Links[0].Target != target || (s.Links[0].Override != nil) != (name == "far") {
			t.Errorf("%s says %+v, %v; want target %s", name, s, err, target)
		}
	}
}

func TestDaemon_BadArgumentStartsNothing(t *testing.T) {
	good, taken := socket(t), testnet.Serve(t, "unix", say("other"))
	for name, links := range map[string][]string{
		"taken":   {good + "=127.0.0.1:1", taken.String() + "=127.0.0.1:1"},
		"nowhere": {good + "=127.0.0.1:1", "192.0.2.7:80=127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			ready := func(string) { t.Error("it was ready") }
			err := New(Config{Links: parseLinks(t, links...), Control: control.Off, Ready: ready}).Run(t.Context())
			u, ok := errors.AsType[*spec.UserError](err)
			if !ok || u.Hint == "" || !strings.HasPrefix(u.What, "open link ") {
				t.Errorf("got %v, want an error with a hint", err)
			}
			if _, err := testnet.DialErr(good); err == nil {
				t.Error("the good link listens")
			}
		})
	}
	wantFrom(t, taken.String(), "other")
}

func TestDaemon_BadLinkOfAnOriginIsAloneInError(t *testing.T) {
	blue, taken, good := testnet.Serve(t, "tcp4", say("blue")), testnet.Serve(t, "unix", say("other")), socket(t)
	d := start(t, Config{Origins: []Origin{
		Static{Links: parseLinks(t, taken.String()+"="+blue.String()+";name=bad", good+"="+blue.String()), Warnings: []string{"one is misspelt"}},
		Static{Links: parseLinks(t, good+"=127.0.0.1:1;name=late")},
	}})
	wantFrom(t, good, "blue")
	testnet.Eventually(t, testnet.Patience, func() bool { return len(d.Snapshot().Warnings) == 1 })
	states := map[string]spec.LinkState{}
	for _, l := range d.Snapshot().Links {
		states[l.Name] = l.State
		if l.State == spec.StateError && l.Error == "" {
			t.Errorf("%s does not say why", l.Name)
		}
	}
	if states["bad"] != spec.StateError || states["late"] != spec.StateError || states[good] != spec.StateUp {
		t.Errorf("states are %v", states)
	}
	_, err := d.Swap(t.Context(), control.SwapRequest{Link: "bad", Target: "127.0.0.1:2"})
	if err == nil || !strings.HasPrefix(err.Error(), "open link bad: ") {
		t.Errorf("swap of a link in error: %v", err)
	}
}

// changing is an origin that a test drives.
type changing chan []spec.Link

func (c changing) Watch(ctx context.Context, set func(spec.Wish)) error {
	for {
		select {
		case links, ok := <-c:
			if !ok {
				return errors.New("its source broke")
			}
			set(spec.Wish{Links: links})
		case <-ctx.Done():
			return nil
		}
	}
}

func TestDaemon_FollowsItsOrigins(t *testing.T) {
	testnet.CheckLeaks(t)
	blue, green := testnet.Serve(t, "tcp4", say("blue")), testnet.Serve(t, "tcp4", say("green"))
	first, second := socket(t), socket(t)
	origin := make(changing)
	d := start(t, Config{Origins: []Origin{origin}})
	origin <- parseLinks(t, first+"="+blue.String())
	live := eventuallyServed(t, first)
	live.want("blue")
	// A link with another target keeps its connections, a new one opens.
	origin <- parseLinks(t, first+"="+green.String(), second+"="+blue.String())
	wantFrom(t, second, waitServed(t, second, "blue"))
	live.want("blue")
	testnet.Eventually(t, testnet.Patience, func() bool { // the new one opens before this one changes
		c := connect(t, first)
		defer c.Close()
		got, err := c.ask()
		return err == nil && got == "green"
	})
	// One that is gone stops listening.
	origin <- parseLinks(t, second+"="+blue.String())
	testnet.Eventually(t, testnet.Patience, func() bool { return !accepts(first) })
	live.want("blue")
	// An origin that ends leaves its links, and says so.
	close(origin)
	testnet.Eventually(t, testnet.Patience, func() bool { return len(d.Snapshot().Warnings) == 1 })
	wantFrom(t, second, "blue")
	if w := d.Snapshot().Warnings; w[0] != "its source broke" {
		t.Errorf("warnings are %q", w)
	}
}

func accepts(address string) bool {
	c, err := testnet.DialErr(address)
	if err == nil {
		c.Close()
	}
	return err == nil
}

func eventuallyServed(t *testing.T, address string) *client {
	t.Helper()
	testnet.Eventually(t, testnet.Patience, func() bool { return accepts(address) })
	return connect(t, address)
}

// waitServed returns the name when somebody listens.
func waitServed(t *testing.T, address, name string) string {
	t.Helper()
	eventuallyServed(t, address).Close()
	return name
}

func TestDaemon_SwapReturnsWhenLiveConnectionsAreAsAsked(t *testing.T) {
	testnet.CheckLeaks(t)
	blue, green := testnet.Serve(t, "tcp4", say("blue")), testnet.Serve(t, "tcp4", say("green"))
	a := socket(t)
	d := start(t, Config{Links: parseLinks(t, a+"="+blue.String()+";name=db")})

	kept := connect(t, a)
	kept.want("blue")
	reply := swap(t, d, control.SwapRequest{Link: "db", Target: green.String(), Live: control.LiveKeep})
	if reply.Former != blue.String() || reply.Target != green.String() || reply.Override == nil || reply.Kept != "" {
		t.Errorf("reply is %+v", reply)
	}
	kept.want("blue")

	cut := connect(t, a)
	cut.want("green")
	swap(t, d, control.SwapRequest{Link: "db", Undo: true, Live: control.LiveCut})
	if n := d.Snapshot().Links[0].Counters.Current; n != 1 {
		t.Errorf("%d live connections after --cut, want only the one to blue", n)
	}
	if _, err := cut.ask(); err == nil {
		t.Error("a connection to the former target is alive after --cut")
	}

	// Drain waits for the client, not for its time.
	done := make(chan error, 1)
	go func() {
		_, err := d.Swap(t.Context(), control.SwapRequest{Link: "db", Target: green.String(), Live: control.LiveDrain, Within: control.Duration(time.Hour)})
		done <- err
	}()
	testnet.Eventually(t, testnet.Patience, func() bool { return d.Snapshot().Links[0].Target == green.String() })
	kept.want("blue")
	select {
	case err := <-done:
		t.Errorf("swap returned %v while a connection was live", err)
	default:
	}
	kept.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDaemon_SwapToItsOwnTargetIsNoOverride(t *testing.T) {
	blue := testnet.Serve(t, "tcp4", say("blue"))
	a := socket(t)
	d := start(t, Config{Links: parseLinks(t, a+"="+blue.String()+";name=db")})
	if reply := swap(t, d, control.SwapRequest{Link: "db", Target: blue.String()}); reply.Override != nil {
		t.Errorf("override is %+v", reply.Override)
	}
}

// A directory that cannot be written: the verb fails, and nothing changed.
func TestDaemon_SwapThatCannotBeSavedChangesNothing(t *testing.T) {
	blue := testnet.Serve(t, "tcp4", say("blue"))
	a, dir := socket(t), filepath.Join(t.TempDir(), "state")
	d := start(t, Config{Links: parseLinks(t, a+"="+blue.String()+";name=db"), StateDir: dir})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Swap(t.Context(), control.SwapRequest{Link: "db", Target: "127.0.0.1:1", Force: true}); err == nil || !strings.HasPrefix(err.Error(), "save override: ") {
		t.Errorf("got %v, want that it was not saved", err)
	}
	wantFrom(t, a, "blue")
	if s := d.Snapshot().Links[0]; s.Override != nil || s.Target != blue.String() {
		t.Errorf("status is %+v", s)
	}
}

func TestDaemon_DrainsAndThenCuts(t *testing.T) {
	blue := testnet.Serve(t, "tcp4", say("blue"))
	for name, c := range map[string]struct {
		drain time.Duration
		leave func(*running, *client)
		alive bool // until it leaves
	}{
		"the client ends":  {time.Hour, func(_ *running, c *client) { c.Close() }, true},
		"a second signal":  {time.Hour, func(d *running, _ *client) { d.Cut() }, true},
		"its time is over": {10 * time.Millisecond, func(*running, *client) {}, false},
	} {
		t.Run(name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			a := socket(t)
			d := start(t, Config{Links: parseLinks(t, a+"="+blue.String()), Drain: c.drain})
			live := connect(t, a)
			defer live.Close()
			live.want("blue")
			d.stop()
			testnet.Eventually(t, testnet.Patience, func() bool { return !accepts(a) })
			if c.alive {
				live.want("blue")
				if _, err := d.Swap(t.Context(), control.SwapRequest{Link: a, Undo: true}); err == nil || err.Error() != "legate is stopping" {
					t.Errorf("a swap while stopping: %v", err)
				}
				if w := d.Snapshot().Warnings; len(w) != 1 || !strings.HasPrefix(w[0], "stopping: ") {
					t.Errorf("status while stopping warns of %q", w)
				}
			}
			c.leave(d, live)
			err := <-d.ended
			d.ended <- err
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// Without holding, a client that came before the endpoints are known would be
// refused.
func TestDaemon_NobodyIsRefusedAtStartAndSwap(t *testing.T) {
	blue, green := testnet.Serve(t, "tcp4", say("blue")), testnet.Serve(t, "tcp4", say("green"))
	for range 5 {
		a := socket(t)
		d := start(t, Config{Links: parseLinks(t, a+"="+blue.String()+";name=db;hold=0")})
		wantFrom(t, a, "blue")
		swap(t, d, control.SwapRequest{Link: "db", Target: green.String()})
		wantFrom(t, a, "green")
		swap(t, d, control.SwapRequest{Link: "db", Undo: true})
		wantFrom(t, a, "blue")
	}
}

func TestDaemon_EndsWhileItProbesADownLink(t *testing.T) {
	testnet.CheckLeaks(t)
	a := socket(t)
	d := start(t, Config{Links: parseLinks(t, a+"="+testnet.RefusingAddr(t, netip.MustParseAddr("127.0.0.1")).String())})
	held := connect(t, a)
	defer held.Close()
	testnet.Eventually(t, testnet.Patience, func() bool { return d.Snapshot().Links[0].State == spec.StateHolding })
}

// Two links that lead to each other: the probes of what failed must not come
// back to us, or they find that all is well, again and again.
func TestDaemon_LoopOfTwoLinksIsDown(t *testing.T) {
	a, b := socket(t), socket(t)
	// One command is refused; from two origins they come together.
	d := start(t, Config{Links: append(parseLinks(t, a+"="+b+";name=a;hold=300ms"), parseLinks(t, b+"="+a+";name=b")...)})
	c := connect(t, a)
	defer c.Close()
	if answer, err := c.ask(); err == nil {
		t.Fatalf("the loop answered %q", answer)
	}
	l := d.Snapshot().Links[0]
	if l.State != spec.StateDown || l.Counters.Total != 1 || l.Endpoints[0].Failed["loop"] != 1 {
		t.Errorf("status: %s, %d connections, attempts failed %v", l.State, l.Counters.Total, l.Endpoints[0].Failed)
	}
	if n := d.Snapshot().Links[1].Counters.Total; n != 0 {
		t.Errorf("the second link got %d connections from us", n)
	}
}

// wishing is an origin that wishes one thing.
type wishing struct{ spec.Wish }

func (w wishing) Watch(ctx context.Context, set func(spec.Wish)) error {
	set(w.Wish)
	<-ctx.Done()
	return nil
}

// Who asks why a container's port refuses is not told that there is no such
// link, but what is wrong with it.
func TestDaemon_WhyTellsOfALinkThatCannotBeHad(t *testing.T) {
	d := start(t, Config{Origins: []Origin{wishing{spec.Wish{Problems: []spec.LinkProblem{
		{Name: "web/6379", Listen: spec.Listen{Protocol: spec.TCP, Host: "localhost", Port: 6379}, Text: "connect.6379=redis", Err: spec.Errorf("take another port", "web serves it itself")},
	}}}}})
	testnet.Eventually(t, testnet.Patience, func() bool { return len(d.Snapshot().Links) == 1 })
	if l := d.Snapshot().Links[0]; l.State != spec.StateError || l.Error != "web serves it itself" || l.Hint != "take another port" {
		t.Errorf("status: %+v", l)
	}
	x, err := d.Why(t.Context(), control.WhyRequest{Caller: "web", Link: "6379"})
	if err != nil || x.Link != "web/6379" || !strings.HasSuffix(x.Verdict, "does not listen: web serves it itself") || !slices.Equal(x.Notes, []string{"take another port"}) {
		t.Errorf("why: %+v, %v", x, err)
	}
}
