package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// twoServers starts, on host A, a Redis that says "one" behind the first ambassador and another that
// says "two" on port 6380; on host B the second ambassador leads to the first.
func (w *world) twoServers() {
	w.t.Helper()
	walkThrough(w, "legate", "legate")
	w.a.run("docker run -d --name redis2 -p 6380:6379 crosbymichael/redis")
	for container, name := range map[string]string{"redis": "one", "redis2": "two"} {
		w.a.awaitRedis(container)
		w.a.run("docker exec " + container + " redis-cli SET who " + name)
	}
	w.b.awaitListening("redis_ambassador2", "6379")
}

// loop starts a client container that asks who answers, over and over, a connection each time. Its
// log tells who did, or what went wrong.
func (h host) loop(link string) {
	h.t.Helper()
	h.loopTo("redis", "--link", link)
}

// loopTo is loop for a client that knows the server by that name.
func (h host) loopTo(name string, options ...string) {
	h.t.Helper()
	h.docker(append(append([]string{"run", "-d", "--name", "client"}, options...), "legate-e2e/tools", "sh", "-c",
		"while :; do redis-cli -h "+name+" GET who 2>&1; sleep 0.02; done")...)
}

// answers is what the looping client has seen so far, one line per request.
func (h host) answers() []string {
	h.t.Helper()
	out, err := h.tryCombined("docker logs client")
	if err != nil {
		h.t.Fatalf("read the client's log: %v", err)
	}
	return strings.Split(out, "\n")
}

// awaitAnswer waits until the last ten requests of the looping client were answered by name.
func (h host) awaitAnswer(name string) {
	h.t.Helper()
	const enough = 10
	eventually(h.t, 20*time.Second, func() (bool, string) {
		all := h.answers()
		last := all[max(0, len(all)-enough):]
		for _, line := range last {
			if line != name {
				return false, "the client sees: " + strings.Join(last, " | ")
			}
		}
		return len(last) == enough, "the client has asked only " + strings.Join(last, " | ")
	})
}

// onlyAnswers fails the test unless every request of the looping client was answered, by one of those.
func (h host) onlyAnswers(names ...string) {
	h.t.Helper()
	for i, line := range h.answers() {
		if !slices.Contains(names, line) {
			h.t.Errorf("request %d failed: %s", i+1, line)
		}
	}
}

// The old way to switch: the ambassador is re-created with another address. Requests may fail in
// between, but the client goes on without being touched, because its link's name still leads there.
func TestSwitchByRecreating(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.twoServers()
		w.b.loop("redis_ambassador2:redis")
		w.b.awaitAnswer("one")
		started := w.b.run("docker inspect -f {{.State.StartedAt}} client")

		w.b.run("docker rm -f redis_ambassador2")
		w.b.run("docker run -d --name redis_ambassador2 --expose 6379 -e REDIS_PORT_6379_TCP=tcp://192.168.1.52:6380 legate")
		w.b.awaitAnswer("two")

		if again := w.b.run("docker inspect -f {{.State.StartedAt}} client"); again != started {
			t.Errorf("the client was restarted: %s, then %s", started, again)
		}
	})
}

// The new way: one command, nothing is re-created, and not one request fails.
func TestSwitchBySwap(t *testing.T) {
	eachEngine(t, func(_ *testing.T, w *world) {
		w.twoServers()
		w.b.loop("redis_ambassador2:redis")
		w.b.awaitAnswer("one")

		for _, to := range []struct{ port, name string }{{"6380", "two"}, {"6379", "one"}, {"6380", "two"}} {
			w.b.run("docker exec redis_ambassador2 legate swap 6379 192.168.1.52:" + to.port)
			w.b.awaitAnswer(to.name)
		}
		w.b.run("docker exec redis_ambassador2 legate swap 6379 --undo")
		w.b.awaitAnswer("one")

		w.b.onlyAnswers("one", "two")
	})
}

// The server is restarted, then re-created and gets another address, under the same name on a
// user-defined network. Nobody touches the ambassador, and no client sees a failure: what arrives
// while the server is away is held.
func TestServerMovesOnNetwork(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.a.run("docker network create backend")
		w.a.run("docker run -d --name database --network backend crosbymichael/redis")
		w.a.run("docker run -d --name ambassador --network backend -p 6379:6379 legate 6379=database:6379")
		w.a.awaitListening("ambassador", "6379")
		w.b.answersAtOnce("", "-h 192.168.1.52")

		w.a.run("docker restart database")
		w.b.answersAtOnce("", "-h 192.168.1.52")

		before := w.a.address("database")
		w.a.run("docker rm -f database")
		w.a.run("docker run -d --name newcomer --network backend legate-e2e/tools sleep 600")
		w.a.run("docker run -d --name database --network backend crosbymichael/redis")
		if after := w.a.address("database"); after == before || w.a.address("newcomer") != before {
			t.Fatalf("the server moved from %s to %s, the newcomer has %s; this tests nothing", before, after, w.a.address("newcomer"))
		}
		w.b.answersAtOnce("", "-h 192.168.1.52")
	})
}
