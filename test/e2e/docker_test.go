package e2e

import (
	"fmt"
	"testing"
	"time"
)

// withSocket is how a container gets at its engine.
func (h host) withSocket() string { return " -v " + h.Socket + ":/var/run/docker.sock " }

// A container that Legate finds by its name is re-created, and gets another address. What arrives while
// there is none is held, and nothing goes to the stranger who has the old address by then.
func TestDockerFollowsRedis(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.a.run("docker network create backend")
		w.a.redisBorn("redis", "--network", "backend")
		w.a.run("docker run -d --name ambassador --network backend" + w.a.withSocket() + "legate 6379=docker:redis")
		w.a.loopTo("ambassador", "--network", "backend")
		w.a.awaitAnswer("redis")

		before := w.a.address("redis")
		w.a.refuse("redis")
		w.a.run("docker rm -f redis")
		w.a.awaitStatus("ambassador", "holding")
		w.a.redisBorn("stranger", "--network", "backend")
		if after := w.a.address("stranger"); after != before {
			t.Fatalf("the stranger has %s and not %s; this tests nothing", after, before)
		}
		asked := len(w.a.answers())
		w.a.redisBorn("redis", "--network", "backend")
		eventually(t, 20*time.Second, func() (bool, string) {
			more := len(w.a.answers()) - asked
			return more >= 10, fmt.Sprintf("the client got %d answers since", more)
		})
		w.a.onlyAnswers("redis")
	})
}

// redisBorn starts a Redis which says its container's name from its first answer on: where its name
// alone brings clients, they do not wait until it is told. It is told before it listens, and what it has
// saved it loads without answering; from an append-only file it would load with the answer LOADING.
func (h host) redisBorn(name string, options ...string) {
	h.t.Helper()
	h.docker(append(append([]string{"run", "-d", "--name", name}, options...), "crosbymichael/redis", "sh", "-c",
		"redis-server --port 0 --unixsocket /tmp/redis.sock & until redis-cli -s /tmp/redis.sock SET who "+name+"; do sleep 0.05; done; "+
			"redis-cli -s /tmp/redis.sock SHUTDOWN SAVE; wait; exec redis-server --protected-mode no")...)
}

// Two Compose projects have a service redis. Which one is meant must be said, and what Docker finds
// unhealthy gets nothing while another one is well.
func TestDockerProjects(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		labels := func(project string) []string {
			return []string{"--label", "com.docker.compose.project=" + project, "--label", "com.docker.compose.service=redis"}
		}
		for _, project := range []string{"shop", "blog"} {
			w.a.redisBorn(project+"-redis-1", labels(project)...)
		}
		w.a.run("docker run -d --name ambassador" + w.a.withSocket() + "legate 6379=docker:shop/redis 6380=docker:redis")
		status := w.a.awaitStatus("ambassador", "docker:redis may mean docker:blog/redis, docker:shop/redis")
		t.Logf("legate status says:\n%s", status)
		w.a.askedSays("shop-redis-1")

		sick := append(labels("shop"), "--health-cmd", "test -e /tmp/well", "--health-interval", "1s", "--health-retries", "1")
		w.a.redisBorn("shop-redis-2", sick...)
		status = w.a.awaitStatus("ambassador", "health check: unhealthy")
		t.Logf("legate status says:\n%s", status)
		for range 10 {
			w.a.askedSays("shop-redis-1")
		}
		w.a.docker("exec", "shop-redis-2", "sh", "-c", ">/tmp/well")
		eventually(t, 20*time.Second, func() (bool, string) {
			who, err := w.a.who(w.a.address("ambassador") + ":6379")
			return who == "shop-redis-2", fmt.Sprintf("%q answers%s", who, errText(err))
		})
	})
}

// askedSays asks once, through the ambassador.
func (h host) askedSays(want string) {
	h.t.Helper()
	if who, err := h.who(h.address("ambassador") + ":6379"); who != want {
		h.t.Errorf("%q answers, want %q%s", who, want, errText(err))
	}
}
