package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"legate/internal/control"
	"legate/internal/spec"
	"legate/internal/testnet"
)

func linkStatus(t *testing.T, d *running, name string) spec.LinkStatus {
	t.Helper()
	for _, l := range d.Snapshot().Links {
		if l.Name == name {
			return l
		}
	}
	t.Fatalf("no link %s", name)
	return spec.LinkStatus{}
}

func TestSwap_LeavesTheLinkWhereItWentWhenNobodyServes(t *testing.T) {
	testnet.CheckLeaks(t)
	blue := testnet.Serve(t, "tcp4", say("blue"))
	nobody := socket(t)
	a := socket(t)
	d := start(t, Config{Links: parseLinks(t, a+"="+blue.String()+";name=db;hold=0")})
	before := linkStatus(t, d, "db")
	_, err := d.Swap(t.Context(), control.SwapRequest{Link: "db", Target: nobody, Timeout: control.Duration(50 * time.Millisecond)})
	u, ok := errors.AsType[*spec.UserError](err)
	if !ok || !strings.Contains(u.What, "link db still goes to "+blue.String()) || !strings.Contains(u.Hint, "legate swap db "+nobody+" --force") {
		t.Fatalf("got %#v", err)
	}
	wantFrom(t, a, "blue")
	if after := linkStatus(t, d, "db"); after.Target != before.Target || after.Override != nil || after.Counters.Failed["down"] != 0 {
		t.Errorf("status is %+v, it was %+v", after, before)
	}
}

// There waiting is in vain, and force an outage for certain.
func TestSwap_RefusesAtOnceWhereNobodyCanServe(t *testing.T) {
	testnet.CheckLeaks(t)
	blue, green := testnet.Serve(t, "tcp4", say("blue")).String(), testnet.Serve(t, "tcp4", say("green")).String()
	a, b := socket(t), socket(t)
	d := start(t, Config{Links: parseLinks(t, a+"="+blue+";name=db", b+"="+blue+","+green+";name=web")})
	if _, err := d.Drain(t.Context(), control.DrainRequest{Name: green}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testnet.Patience)
	defer cancel()
	for target, want := range map[string][2]string{
		green: {green + " does not serve: " + green + " is drained; link db still goes to " + blue, "legate resume " + green},
		b:     {b + " does not serve: would loop: the endpoint is our own listener; link db still goes to " + blue, "write where the server itself listens"},
	} {
		_, err := d.Swap(ctx, control.SwapRequest{Link: "db", Target: target, Timeout: control.Duration(time.Hour)})
		u, ok := errors.AsType[*spec.UserError](err)
		if !ok || u.What != want[0] || u.Hint != want[1] {
			t.Errorf("%s: got %#v", target, err)
		}
	}
	swap(t, d, control.SwapRequest{Link: "db", Target: green, Force: true})
	if _, err := d.Drain(t.Context(), control.DrainRequest{Name: blue}); err != nil {
		t.Fatal(err)
	}
	_, err := d.Swap(ctx, control.SwapRequest{Link: "db", Undo: true, Timeout: control.Duration(time.Hour)})
	if spec.HintOf(err) != "legate resume "+blue {
		t.Errorf("undo: got %#v", err)
	}
}

// swapToOneWhoIsLate returns while the swap of db to a socket that nobody serves
// yet asks; how it ends is sent.
func swapToOneWhoIsLate(t *testing.T, d *running, path string) <-chan error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := d.Swap(t.Context(), control.SwapRequest{Link: "db", Target: "unix:" + path, Timeout: control.Duration(time.Hour)})
		ended <- err
	}()
	testnet.Eventually(t, testnet.Patience, func() bool {
		d.applying.Lock()
		defer d.applying.Unlock()
		return len(d.trials) == 1
	})
	return ended
}

// Asking takes its time; nothing else may wait for it.
func TestSwap_HoldsUpNothingWhileItAsks(t *testing.T) {
	testnet.CheckLeaks(t)
	blue, green := testnet.Serve(t, "tcp4", say("blue")), testnet.Serve(t, "tcp4", say("green"))
	late, a, b := testnet.SocketPath(t), socket(t), socket(t)
	d := start(t, Config{Links: parseLinks(t, a+"="+blue.String()+";name=db", b+"="+blue.String()+";name=web")})
	asked := swapToOneWhoIsLate(t, d, late)
	swap(t, d, control.SwapRequest{Link: "web", Target: green.String()})
	wantFrom(t, b, "green")
	wantFrom(t, a, "blue")
	l, err := net.Listen("unix", late)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := <-asked; err != nil {
		t.Errorf("the server came up, and the swap ended with %v", err)
	}
	if to := linkStatus(t, d, "db").Target; to != "unix:"+late {
		t.Errorf("it goes to %s", to)
	}
}

// Of two people who swap one link the second must not undo the first unseen.
func TestSwap_GivesWayToOneThatCameMeanwhile(t *testing.T) {
	testnet.CheckLeaks(t)
	blue, green := testnet.Serve(t, "tcp4", say("blue")), testnet.Serve(t, "tcp4", say("green"))
	late, a := testnet.SocketPath(t), socket(t)
	d := start(t, Config{Links: parseLinks(t, a+"="+blue.String()+";name=db")})
	asked := swapToOneWhoIsLate(t, d, late)
	swap(t, d, control.SwapRequest{Link: "db", Target: green.String()})
	l, err := net.Listen("unix", late)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := <-asked; err == nil || !strings.Contains(err.Error(), "changed by somebody else") {
		t.Errorf("the first swap ended with %v", err)
	}
	wantFrom(t, a, "green")
}

func TestOverrides_OfEveryKindSurviveARestart(t *testing.T) {
	blue, green := testnet.Serve(t, "tcp4", say("blue")), testnet.Serve(t, "tcp4", say("green"))
	a, b, dir := socket(t), socket(t), filepath.Join(t.TempDir(), "state")
	links := parseLinks(t, a+"="+blue.String()+";name=db", b+"="+blue.String()+","+green.String()+";name=web;balance=first")
	first := start(t, Config{Links: links, StateDir: dir})
	swap(t, first, control.SwapRequest{Link: "db", Target: green.String()})
	if _, err := first.Drain(t.Context(), control.DrainRequest{Name: "db"}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Drain(t.Context(), control.DrainRequest{Name: blue.String()}); err != nil {
		t.Fatal(err)
	}
	first.stop()
	if err := <-first.ended; err != nil {
		t.Fatal(err)
	}
	first.ended <- nil

	second := start(t, Config{Links: links, StateDir: dir})
	db := linkStatus(t, second, "db")
	if db.State != spec.StateDrained || db.Mode == nil || db.Override == nil || db.Target != green.String() {
		t.Errorf("after the restart: %+v", db)
	}
	if accepts(a) {
		t.Error("the drained link listens")
	}
	wantFrom(t, b, "green")
	for _, e := range linkStatus(t, second, "web").Endpoints {
		if drained := e.Address == blue.String(); drained != (e.Drained != nil) || drained != (e.Health == spec.HealthDrained) {
			t.Errorf("endpoint %+v", e)
		}
	}
	for _, name := range []string{"db", blue.String()} {
		if r, err := second.Resume(t.Context(), control.ResumeRequest{Name: name}); err != nil || r.Former == nil {
			t.Errorf("resume %s: %+v, %v", name, r, err)
		}
	}
	wantFrom(t, a, "green")
	wantFrom(t, b, "blue")
}

func TestDrain_HoldsThoughNobodyWaitsForItAnyMore(t *testing.T) {
	testnet.CheckLeaks(t)
	blue := testnet.Serve(t, "tcp4", say("blue"))
	a := socket(t)
	d := start(t, Config{Links: parseLinks(t, a+"="+blue.String()+";name=db")})
	live := connect(t, a)
	defer live.Close()
	live.want("blue")
	waitAndEnd(t, d, func(leave func()) { leave() }, context.Canceled)
	waitAndEnd(t, d, func(func()) { resume(t, d, "db") }, errResumed)
	waitAndEnd(t, d, func(func()) { live.Close() }, nil)
}

func resume(t *testing.T, d *running, name string) {
	t.Helper()
	if _, err := d.Resume(t.Context(), control.ResumeRequest{Name: name}); err != nil {
		t.Errorf("resume %s: %v", name, err)
	}
}

// waitAndEnd drains the link and has the waiting end by what act does.
func waitAndEnd(t *testing.T, d *running, act func(leave func()), want error) {
	t.Helper()
	resume(t, d, "db")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := d.Drain(ctx, control.DrainRequest{Name: "db", Wait: true})
		ended <- err
	}()
	testnet.Eventually(t, testnet.Patience, func() bool { return linkStatus(t, d, "db").State == spec.StateDrained })
	act(cancel)
	if err := <-ended; !errors.Is(err, want) {
		t.Errorf("the waiting ended with %v, want %v", err, want)
	}
	if drained := linkStatus(t, d, "db").State == spec.StateDrained; drained == errors.Is(want, errResumed) {
		t.Errorf("drained is %v afterwards", drained)
	}
}

func TestDrain_OfATargetNamesItsEndpoints(t *testing.T) {
	blue := testnet.Serve(t, "tcp4", say("blue"))
	a := socket(t)
	_, port, err := net.SplitHostPort(blue.String())
	if err != nil {
		t.Fatal(err)
	}
	d := start(t, Config{Links: parseLinks(t, a+"=localhost:"+port+";name=db")})
	wantFrom(t, a, "blue")
	_, err = d.Drain(t.Context(), control.DrainRequest{Name: "localhost:" + port})
	u, ok := errors.AsType[*spec.UserError](err)
	if !ok || !strings.Contains(u.What, "is a target") || !strings.Contains(u.Hint, blue.String()) {
		t.Errorf("got %#v", err)
	}
	// Addresses are known in every form.
	r, err := d.Drain(t.Context(), control.DrainRequest{Name: "[::ffff:127.0.0.1]:" + port})
	if err != nil || r.Endpoint != blue.String() {
		t.Errorf("got %+v, %v", r, err)
	}
}

// A swap asks with the rights of this process, and may not for a container
// what that may not itself.
func TestSwap_AsksNobodyWhoIsDeniedToTheContainer(t *testing.T) {
	var asked atomic.Int64
	server := testnet.Serve(t, "tcp4", func(net.Conn) { asked.Add(1) })
	file := filepath.Join(t.TempDir(), "endpoints.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, `[{"address":%q}]`, server), 0o600); err != nil {
		t.Fatal(err)
	}
	web := &spec.Container{ID: "42", Name: "web"}
	links := parseLinks(t, socket(t)+"="+socket(t)+";name=web/80", fmt.Sprintf("127.0.0.1:%d/udp=192.0.2.1:53;name=web/53", testnet.FreePort(t)))
	links[0].For, links[1].For = web, web
	d := start(t, Config{
		Agent:   &AgentConfig{Labels: spec.LabelConfig{Options: spec.DefaultOptions(), Policy: spec.Policy{AllowTargets: []string{"file:" + file}}}},
		Sources: SourceConfig{Environ: []string{"DOCKER_HOST=" + socket(t)}},
		Origins: []Origin{wishing{spec.Wish{Links: links}}},
	})
	testnet.Eventually(t, testnet.Patience, func() bool { return len(d.Snapshot().Links) == 2 })
	for _, l := range links {
		swap := control.SwapRequest{Link: l.Name, Target: "file:" + file, Timeout: control.Duration(50 * time.Millisecond)}
		_, err := d.Swap(t.Context(), swap)
		u, ok := errors.AsType[*spec.UserError](err)
		if !ok || !strings.Contains(u.What, "container web may not have a link to "+server.String()) || !strings.Contains(u.Hint, "--allow-target="+server.String()) {
			t.Errorf("swap of %s: %#v", l.Name, err)
		}
		swap.Force = true
		reply, err := d.Swap(t.Context(), swap)
		if err != nil || len(reply.Warnings) != 1 || !strings.Contains(reply.Warnings[0], "may not have a link") {
			t.Errorf("by force swap of %s warns of %q (%v)", l.Name, reply.Warnings, err)
		}
		testnet.Eventually(t, testnet.Patience, func() bool {
			s := linkStatus(t, d, l.Name)
			return len(s.Endpoints) == 1 && s.Endpoints[0].Health == spec.HealthDenied
		})
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the server was asked %d times", n)
	}
}
