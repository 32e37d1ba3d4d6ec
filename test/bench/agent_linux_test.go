package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/test/bench/load"
	"legate/test/bench/peers"
	"legate/test/bench/stats"
	"legate/test/e2e/lab"
)

// Both ends as they are in containers, without one.
func TestClients_DoAsTheyAreAsked(t *testing.T) {
	s, err := load.Listen(netip.MustParseAddrPort("127.0.0.2:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	questions, ask := io.Pipe()
	hear, answers := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- clientsMain(questions, answers) }()
	c := &conversation{in: ask, questions: json.NewEncoder(ask), answers: json.NewDecoder(hear)}
	shape := pingPong(1)
	shape.Time = 20 * time.Millisecond
	if _, err := c.ask(ping{}); err == nil {
		t.Error("a load was put on nobody")
	}
	for range 2 {
		if _, err := c.ask(ping{Addr: s.Addr, Shape: shape}); err != nil {
			t.Fatal(err)
		}
		if r, err := c.ask(ping{}); err != nil || r.Units == 0 || r.P50 <= 0 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if _, err := c.ask(ping{Addr: "127.0.0.3:1", Shape: shape}); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("where nobody listens: %v", err)
	}
	if _, err := c.ask(ping{Addr: s.Addr, Shape: shape}); err != nil {
		t.Errorf("after a failure: %v", err)
	}
	if err := ask.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestListening_CountsWhatIsOnLocalhost(t *testing.T) {
	first, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	port := first.Addr().(*net.TCPAddr).Port
	for name, c := range map[string]struct{ first, count, want int }{
		"it": {port, 1, 1}, "before it": {port - 1, 1, 0}, "among others": {port - 1, 2, 1},
	} {
		if got, err := listening(c.first, c.count); err != nil || got < c.want || c.want == 1 && got == 0 {
			t.Errorf("%s: %d, %v, want %d", name, got, err, c.want)
		}
	}
}

func TestOnBridge_ComparesHAProxyWithOneThreadAndTwo(t *testing.T) {
	host := &lab.Host{Socket: "/run/engine.sock"}
	configs := map[string]string{}
	for _, p := range onBridge(host, peers.List(peers.Config{})) {
		configs[p.Name] = p.Config
	}
	if len(configs) != 4 || !strings.Contains(configs["haproxy"], "nbthread 2\n") || !strings.Contains(configs["haproxy-1"], "nbthread 1\n") {
		t.Errorf("%q", configs)
	}
	for _, want := range []string{"bind :6379\n", "server one server:6379\n"} {
		if !strings.Contains(configs["haproxy"], want) {
			t.Errorf("no %q in %q", want, configs["haproxy"])
		}
	}
}

func TestLinks_AreSummedUp(t *testing.T) {
	began := time.Now()
	link := func(container string, after time.Duration) spec.LinkStatus {
		at := began.Add(after)
		return spec.LinkStatus{Place: &spec.Place{Container: container, Opened: &at}}
	}
	now := spec.Snapshot{Started: began, Links: []spec.LinkStatus{
		link("a", 5*time.Millisecond), link("b", time.Second), link("a", 3*time.Millisecond), link("a", 4*time.Millisecond),
		{}, {Place: &spec.Place{Container: "b"}},
	}}
	if n := len(opened(now)); n != 4 {
		t.Errorf("%d links are open", n)
	}
	if each := perLink(now); len(each) != 1 || each[0] != 0.001 {
		t.Errorf("seconds per link %v; a container with one has none", each)
	}
	r := typical()
	r.Part, r.Rows, r.Links = partLinks, nil, &linkSum{Containers: 2, Links: 4, Late: 1, RSS: stats.Over([]float64{30e6, 31e6, 29e6})}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"an agent with 4 links: 2 containers with 2 each", "resident memory MB", "30.0", "1 of 2 containers lacked"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
