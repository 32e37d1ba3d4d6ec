package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/test/e2e/lab"
)

// Where a container's network is another than the usual one, or changes, its links are where they should be.
func TestAgentNetworks(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.a.run("docker network create backend")
		w.a.redisBorn("redis", "--network", "backend")
		w.a.redisBorn("open", "--network", "backend", "--label", "legate.allow=*")
		w.a.startAgent()
		for _, c := range []struct {
			name string
			run  func(*testing.T, host)
		}{
			{"IPv6 alone", w.ipv6Alone},
			{"IPv6 afterwards", ipv6Later},
			{"macvlan", macvlan},
			{"client is connected afterwards", connectedClient},
			{"server is connected afterwards", connectedServer},
			{"paused client", pausedClient},
			{"paused server", pausedServer},
			{"address used again", addressUsedAgain},
			{"TCP and UDP", tcpAndUDP},
			{"no shell", noShell},
		} {
			t.Run(c.name, func(t *testing.T) { c.run(t, host{w.a.Host, t}) })
		}
	})
}

// client starts a container that has these options and does nothing by itself.
func (h host) client(name, options string) {
	h.t.Helper()
	h.run("docker run -d --name " + name + " " + options + " legate-e2e/tools sleep 600")
}

// who asks, in a container, who serves there.
func (h host) whoIn(container, at string) string {
	h.t.Helper()
	out, err := h.try("docker exec " + container + " redis-cli " + at + " get who")
	return out + errText(err)
}

// awaitWhoIn waits until that one serves at an address in a container, such as "-h ::1 -p 6380".
func (h host) awaitWhoIn(container, at, want string) {
	h.t.Helper()
	eventually(h.t, 20*time.Second, func() (bool, string) {
		who := h.whoIn(container, at)
		return who == want, fmt.Sprintf("in %s at %s serves %q, want %q", container, at, who, want)
	})
}

// awaitDenied waits until the link of a container is refused for the rule on networks.
func (h host) awaitDenied(link string) {
	h.t.Helper()
	eventually(h.t, 20*time.Second, func() (bool, string) {
		status := h.run("docker exec agent legate status " + link)
		return strings.Contains(status, "denied"), status
	})
}

// awaitLive waits until a link has so many connections.
func (h host) awaitLive(link string, n int64) {
	h.t.Helper()
	eventually(h.t, 20*time.Second, func() (bool, string) {
		var status spec.Snapshot
		text := h.run("docker exec agent legate status --json " + link)
		err := json.Unmarshal([]byte(text), &status)
		return err == nil && len(status.Links) == 1 && status.Links[0].Counters.Current == n, text
	})
}

// subscribe leaves a connection open from a container, and returns when the server has it.
func (h host) subscribe(client, at, server string) {
	h.t.Helper()
	h.run("docker exec -d " + client + " redis-cli " + at + " subscribe " + client)
	eventually(h.t, 20*time.Second, func() (bool, string) { return h.subscribed(client, server) })
}

// subscribed tells whether the server has that connection.
func (h host) subscribed(client, server string) (bool, string) {
	out := h.run("docker exec " + server + " redis-cli pubsub numsub " + client)
	return strings.HasSuffix(out, "\n1"), server + " has subscribers: " + out
}

func (h host) awaitUnsubscribed(client, server string) {
	h.t.Helper()
	eventually(h.t, 20*time.Second, func() (bool, string) {
		still, why := h.subscribed(client, server)
		return !still, why
	})
}

// The only addresses of the server are of IPv6, where the engine has such networks. Localhost is both.
func (w *world) ipv6Alone(t *testing.T, a host) {
	alone := ""
	if w.lab.Engine.Major >= 28 {
		alone = "--ipv4=false "
	}
	a.run("docker network create " + alone + "--ipv6 --subnet fd00:61::/64 six")
	a.redisBorn("sixth", "--network", "six")
	for i := range 2 {
		for _, localhost := range []string{"127.0.0.1", "::1"} {
			out, err := a.try(fmt.Sprintf("docker run --rm --network six --label connect.6379=sixth legate-e2e/tools redis-cli -h %s get who", localhost))
			if err != nil || out != "sixth" {
				t.Errorf("client %d got %q at %s%s", i, out, localhost, errText(err))
			}
		}
	}
	a.client("six-web", "--network six --label connect.6379=sixth")
	a.awaitWhoIn("six-web", "-h localhost", "sixth")
	why := a.run("docker exec agent legate why six-web 6379")
	if !strings.Contains(why, "container sixth on network six") || alone != "" && !strings.Contains(why, "goes to ["+a.address6("sixth")+"]:6379") {
		t.Errorf("why says:\n%s", why)
	}
}

// A container has ::1 from when it gets into a network of IPv6, and then its links are there, too: also those that were
// opened before, by an agent that came later than the container.
func ipv6Later(t *testing.T, a host) {
	a.client("later", "--network backend --label connect.6379=redis")
	a.run("docker restart -t 0 agent")
	a.awaitWhoIn("later", "-h 127.0.0.1", "redis")
	a.run("docker network connect six later")
	a.awaitWhoIn("later", "-h ::1", "redis")
}

// A container in a macvlan network cannot reach its own host, but its localhost; and the host cannot reach a server
// there, but from inside that.
func macvlan(t *testing.T, a host) {
	a.run("docker network create --driver macvlan --subnet 10.98.0.0/24 --opt parent=eth0 lan")
	a.client("lan-web", "--network lan --label connect.6379=open --label connect.6380=docker:redis:6379")
	a.awaitWhoIn("lan-web", "-h 127.0.0.1", "open")
	a.awaitDenied("lan-web/6380")
	if who := a.whoIn("lan-web", "-h "+a.address("open")); who == "open" {
		t.Error("it reaches the server without a link")
	}
	a.redisBorn("lan-redis", "--network", "lan", "--label", "legate.allow=*")
	a.client("lan-user", "--network backend --label connect.6379=lan-redis")
	a.awaitWhoIn("lan-user", "-h 127.0.0.1", "lan-redis")
	if c, err := a.dial(a.address("lan-redis") + ":6379"); err == nil {
		c.Close()
		t.Error("the host reaches the server by its address")
	}
}

// A container gets its link with the network that it shares with the server, and loses it with that.
func connectedClient(t *testing.T, a host) {
	a.client("guest", "--label connect.6379=redis")
	a.awaitDenied("guest/6379")
	a.run("docker network connect backend guest")
	a.awaitWhoIn("guest", "-h 127.0.0.1", "redis")
	a.subscribe("guest", "-h 127.0.0.1", "redis")
	a.run("docker network disconnect backend guest")
	a.awaitDenied("guest/6379")
	a.awaitUnsubscribed("guest", "redis")
	if who := a.whoIn("guest", "-h 127.0.0.1"); who == "redis" {
		t.Error("it is served in no common network")
	}
	a.run("docker network disconnect bridge guest")
	a.run("docker network connect backend guest")
	a.awaitWhoIn("guest", "-h 127.0.0.1", "redis")
}

// The same for the server, and one that stays in another common network goes on serving.
func connectedServer(t *testing.T, a host) {
	a.run("docker network create annex")
	a.redisBorn("mover", "--network", "backend")
	a.client("annexed", "--network annex --label connect.6379=mover")
	a.awaitDenied("annexed/6379")
	a.client("neighbour", "--network backend --label connect.6379=mover")
	a.awaitWhoIn("neighbour", "-h 127.0.0.1", "mover")
	a.subscribe("neighbour", "-h 127.0.0.1", "mover")
	a.run("docker network connect annex mover")
	a.awaitWhoIn("annexed", "-h 127.0.0.1", "mover")
	if ok, why := a.subscribed("neighbour", "mover"); !ok {
		t.Error("the connection of before ended: " + why)
	}
	a.subscribe("annexed", "-h 127.0.0.1", "mover")
	a.run("docker network disconnect backend mover")
	a.awaitWhoIn("annexed", "-h 127.0.0.1", "mover")
	a.run("docker network connect backend mover")
	a.run("docker network disconnect annex mover")
	a.awaitDenied("annexed/6379")
	a.awaitLive("annexed/6379", 0) // mover itself cannot be told: it has lost the address
}

// A container that is paused has its links, and what was open, when it goes on.
func pausedClient(t *testing.T, a host) {
	a.client("sleeper", "--network backend --label connect.6379=redis")
	a.awaitWhoIn("sleeper", "-h 127.0.0.1", "redis")
	a.subscribe("sleeper", "-h 127.0.0.1", "redis")
	a.run("docker pause sleeper")
	eventually(t, 20*time.Second, func() (bool, string) {
		list := a.run("docker ps --filter status=paused --format {{.Names}}")
		return list == "sleeper", list
	})
	out, err := a.try("docker run --rm --network container:sleeper legate-e2e/tools redis-cli -h 127.0.0.1 get who")
	if err != nil || out != "redis" {
		t.Errorf("while it is paused, another one in its network got %q%s", out, errText(err))
	}
	a.run("docker unpause sleeper")
	if ok, why := a.subscribed("sleeper", "redis"); !ok {
		t.Error(why)
	}
	if who := a.whoIn("sleeper", "-h 127.0.0.1"); who != "redis" {
		t.Errorf("once it goes on it is served by %q", who)
	}
}

// A server that is paused gets connections only where there is no other; those wait until it goes on.
func pausedServer(t *testing.T, a host) {
	for _, name := range []string{"left", "right"} {
		a.redisBorn(name, "--network", "backend", "--label", "legate.service=twins")
		a.awaitRedis(name)
	}
	a.client("asker", "--network backend --label connect.6379=twins --label connect.6379.balance=first")
	a.awaitWhoIn("asker", "-h 127.0.0.1", "left")
	a.run("docker pause left")
	a.awaitWhoIn("asker", "-h 127.0.0.1", "right")
	for range 5 {
		if who := a.whoIn("asker", "-h 127.0.0.1"); who != "right" {
			t.Errorf("%q answers while left is paused", who)
		}
	}
	if status := a.run("docker exec agent legate status asker/6379"); !strings.Contains(status, "paused") {
		t.Errorf("status does not say that left is paused:\n%s", status)
	}
	a.run("docker rm -f right")
	answer := make(chan string, 1)
	go func() { answer <- a.whoIn("asker", "-h 127.0.0.1") }()
	a.awaitLive("asker/6379", 1)
	a.run("docker unpause left")
	if who := <-answer; who != "left" {
		t.Errorf("%q answers when left goes on", who)
	}
}

// Who gets the address of a removed container gets none of its links: they are in a network that has gone.
func addressUsedAgain(t *testing.T, a host) {
	a.run("docker network create --subnet 10.99.0.0/24 fixed")
	for _, name := range []string{"one", "two"} {
		a.redisBorn(name, "--network", "fixed")
	}
	const at = "--network fixed --ip 10.99.0.50 "
	for i := range 2 {
		first := fmt.Sprintf("first%d", i)
		a.client(first, at+"--label connect.6379=one")
		a.awaitWhoIn(first, "-h 127.0.0.1", "one")
		a.subscribe(first, "-h 127.0.0.1", "one")
		a.run("docker rm -f " + first)
		const ask = " legate-e2e/tools redis-cli -h 127.0.0.1 get who"
		if out, err := a.try("docker run --rm " + at + "--label connect.6379=two" + ask); err != nil || out != "two" {
			t.Errorf("another container with the address is served by %q, want two%s", out, errText(err))
		}
		if out, err := a.try("docker run --rm " + at + ask); err == nil && !strings.Contains(out, "refused") {
			t.Errorf("a container with the address that asks for nothing got %q", out)
		}
		a.awaitUnsubscribed(first, "one")
	}
}

// One number may be two links.
func tcpAndUDP(t *testing.T, a host) {
	a.run("docker run -d --name dns --network backend legate-e2e/tools dnsmasq --keep-in-foreground --no-resolv --no-hosts " +
		"--user=root --pid-file=/tmp/dnsmasq.pid --address=/who.example/10.1.2.3")
	a.client("resolver", "--network backend --label connect.53/udp=dns --label connect.53=docker:redis:6379 --label connect.5353=dns:53")
	eventually(t, 20*time.Second, func() (bool, string) {
		out, err := a.try("docker exec resolver nslookup -type=a who.example 127.0.0.1")
		return strings.Contains(out, "10.1.2.3"), "nslookup: " + out + errText(err)
	})
	a.awaitWhoIn("resolver", "-h 127.0.0.1 -p 53", "redis")
	status := a.run("docker exec agent legate status")
	for _, link := range []string{"resolver/53/udp", "resolver/53 "} {
		if !strings.Contains(status, link) {
			t.Errorf("status does not name the link %s:\n%s", link, status)
		}
	}
}

// An image of one static program: nothing in it can help to open a link.
func noShell(t *testing.T, a host) {
	if err := a.Import(t.Context(), bare); err != nil {
		t.Fatal(err)
	}
	cmd := a.Command(t.Context(), words(t, "docker run --rm -i --network backend --label connect.6379=redis legate-e2e/bare")...)
	cmd.Stdin = strings.NewReader("GET who\r\nQUIT\r\n")
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "$5\r\nredis\r\n+OK\r\n" {
		t.Errorf("it got %q%s", out, errText(err))
	}
	if out, err := a.tryCombined("docker run --rm --entrypoint sh legate-e2e/bare"); err == nil || !strings.Contains(out, "sh") {
		t.Errorf("it has a shell: %s", out)
	}
}

var bare = lab.Image{Name: "legate-e2e/bare", Bare: "nc", Changes: []string{`ENTRYPOINT ["/nc","127.0.0.1","6379"]`}}
