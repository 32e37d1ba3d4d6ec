package daemon

import (
	"net"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// untiring answers its first datagram again and again.
func untiring(t *testing.T) (address string) {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		_, from, err := c.ReadFrom(make([]byte, 16))
		for tick := time.NewTicker(100 * time.Millisecond); err == nil; <-tick.C {
			_, err = c.WriteTo([]byte("tick"), from)
		}
	}()
	return c.LocalAddr().String()
}

// A connection whose server says nothing, and a session whose server does not
// stop, end with the container: they would keep its network alive.
func TestAgent_WhatIsLeftOfAContainerThatEndedIsCut(t *testing.T) {
	for name, begin := range map[string]func(*testing.T) (target, listen string){
		"tcp": func(t *testing.T) (string, string) { return testnet.Listen(t, "tcp4").String(), "6379" },
		"udp": func(t *testing.T) (string, string) { return "udp://" + untiring(t), "53/udp" },
	} {
		t.Run(name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			target, listen := begin(t)
			e, web := newStandIn(t), newTenant(t, idOf("a"))
			e.set("start", idOf("a"), asks(web, "web", listen, target))
			d := e.agentOf(t)
			d.awaitLink(t, "web/"+listen, spec.StateUp)
			port, _, _ := strings.Cut(listen, "/")
			c := web.dial(t, name, "127.0.0.1:"+port)
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			testnet.Await(t, "the connection", func() bool { return len(d.forwarder.Connections(nil)) == 1 })
			c.Close()
			web.end()
			e.remove(idOf("a"))
			d.awaitNoLinks(t)
			web.awaitGone(t)
			testnet.Await(t, "the end of the connection", func() bool { return len(d.forwarder.Connections(nil)) == 0 })
		})
	}
}

// A link that is withdrawn while its container lives leaves its connections
// alone; the end of the container ends them.
func TestAgent_WithdrawnLinkKeepsItsConnections(t *testing.T) {
	testnet.CheckLeaks(t)
	echo := testnet.Serve(t, "tcp4", testnet.Echo)
	e, web := newStandIn(t), newTenant(t, idOf("a"))
	asking := asks(web, "web", "6379", echo.String())
	e.set("start", idOf("a"), asking)
	d := e.agentOf(t)
	d.awaitLink(t, "web/6379", spec.StateUp)
	c := web.dial(t, "tcp", "127.0.0.1:6379")
	exchange(t, c)
	asking.labels = map[string]string{"connect.6380": asking.labels["connect.6379"]}
	e.set("update", idOf("a"), asking)
	d.awaitLink(t, "web/6380", spec.StateUp)
	exchange(t, c)
	web.end()
	testnet.Await(t, "the end of the connection", func() bool { return len(d.forwarder.Connections(nil)) == 0 })
	c.Close()
	web.awaitGone(t)
}

// Who lives in the network of a container lives there on when that has ended.
func TestAgent_LodgersKeepTheirConnectionsUntilTheyEnd(t *testing.T) {
	testnet.CheckLeaks(t)
	echo := testnet.Serve(t, "tcp4", testnet.Echo)
	e, vpn := newStandIn(t), newTenant(t, idOf("a"))
	web := vpn.lodger(t, idOf("b"))
	e.set("start", idOf("a"), box{name: "vpn", pid: vpn.pid})
	asking := asks(web, "web", "6379", echo.String())
	asking.mode = "container:" + idOf("a")
	e.set("start", idOf("b"), asking)
	d := e.agentOf(t)
	d.awaitLink(t, "web/6379", spec.StateUp)
	c := web.dial(t, "tcp", "127.0.0.1:6379")
	exchange(t, c)
	vpn.end()
	e.set("die", idOf("a"), box{name: "vpn", state: "exited"})
	d.awaitNoLinks(t)
	exchange(t, c)
	web.end()
	e.remove(idOf("b"))
	testnet.Await(t, "the end of the connection", func() bool { return len(d.forwarder.Connections(nil)) == 0 })
	c.Close()
	web.awaitGone(t)
}

// Of those that end while the engine is lost nothing is left either.
func TestAgent_EndsWhileTheEngineIsLost(t *testing.T) {
	testnet.CheckLeaks(t)
	echo := testnet.Serve(t, "tcp4", testnet.Echo)
	e, web, other := newStandIn(t), newTenant(t, idOf("a")), newTenant(t, idOf("b"))
	e.set("start", idOf("a"), asks(web, "web", "6379", echo.String()))
	e.set("start", idOf("b"), asks(other, "other", "6379", echo.String()))
	d := e.agentOf(t)
	d.awaitLink(t, "web/6379", spec.StateUp)
	d.awaitLink(t, "other/6379", spec.StateUp)
	c := other.dial(t, "tcp", "127.0.0.1:6379")
	e.lose()
	lost := func() bool { return strings.Contains(strings.Join(d.Snapshot().Warnings, "\n"), "the engine is lost") }
	testnet.Await(t, "the loss", lost)
	web.end()
	testnet.Await(t, "the end of its link", func() bool { return len(d.Snapshot().Links) == 1 })
	web.awaitGone(t)
	d.awaitLink(t, "other/6379", spec.StateUp)
	exchange(t, c)
	if !lost() {
		t.Error("it does not say any more that the engine is lost")
	}
}

// A container that is renamed has its links where they were.
func TestAgent_RenamedContainersLinkIsOpenStill(t *testing.T) {
	testnet.CheckLeaks(t)
	e, web := newStandIn(t), newTenant(t, idOf("a"))
	asking := asks(web, "web", "6379", testnet.Listen(t, "tcp4").String())
	e.set("start", idOf("a"), asking)
	d := e.agentOf(t)
	before := d.awaitLink(t, "web/6379", spec.StateUp).Place
	asking.name = "shop"
	e.set("rename", idOf("a"), asking)
	after := d.awaitLink(t, "shop/6379", spec.StateUp).Place
	if before.Opened == nil || after.Opened == nil || !after.Opened.Equal(*before.Opened) {
		t.Errorf("opened %v, after it was renamed %v", before.Opened, after.Opened)
	}
}

// The engine may name a process that is not of the container: its number is
// another's by now, or it counts them where we are not.
func TestAgent_OpensNothingInAnothersNetwork(t *testing.T) {
	testnet.CheckLeaks(t)
	e, other := newStandIn(t), newTenant(t, idOf("b"))
	e.set("start", idOf("a"), asks(other, "web", "6379", testnet.Listen(t, "tcp4").String()))
	d := e.agentOf(t)
	testnet.Await(t, "a warning", func() bool {
		s := d.Snapshot()
		if len(s.Links) != 0 {
			t.Fatalf("a link of a is open in the network of b: %+v", s.Links)
		}
		return strings.Contains(strings.Join(s.Warnings, "\n"), "is not of container aaaaaaaaaaaa")
	})
}

// A port that a container exposes is known to be its own before it runs, also
// when that is not its first time.
func TestAgent_OpensNoPortThatAContainerExposes(t *testing.T) {
	testnet.CheckLeaks(t)
	e, web := newStandIn(t), newTenant(t, idOf("a"))
	asking := asks(web, "web", "6379", testnet.Listen(t, "tcp4").String())
	asking.state, asking.exposes = "created", []string{"6379/tcp"}
	e.hush(true) // the engine does not answer for a while
	e.set("create", idOf("a"), asking)
	d := e.agentOf(t)
	testnet.Await(t, "a question", func() bool { return e.questions() > 0 })
	e.hush(false)
	testnet.Await(t, "the answer", func() bool { c := d.containers.Get(idOf("a")); return c != nil && c.Exposed != nil })
	for _, p := range []*tenant{web, newTenant(t, idOf("a"))} {
		asks, err := d.agent.Ready(t.Context(), idOf("a"), p.pid)
		if s := d.Snapshot().Links; err != nil || !asks || len(s) != 1 || !strings.Contains(s[0].Error, "exposes port 6379") {
			t.Errorf("when it starts: %v, %v, %+v", asks, err, s)
		}
		asking.state, asking.pid = "running", p.pid
		e.set("start", idOf("a"), asking)
		testnet.Await(t, "the start", func() bool { return d.containers.Get(idOf("a")).Runs() })
		p.end()
		asking.state = "exited"
		e.set("die", idOf("a"), asking)
		testnet.Await(t, "its end", func() bool { return !d.containers.Get(idOf("a")).Runs() })
	}
}

func exchange(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(testnet.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}
