package e2e

import (
	"strings"
	"testing"
	"time"
)

func TestConsulFollowsRedis(t *testing.T) { followsRedis(t, consul) }

func TestEtcdFollowsRedis(t *testing.T) { followsRedis(t, etcd) }

// followsRedis: the client on host B knows Redis by a service's name only. Redis is re-created on host
// A with another published port, moves to host B, and moves back; each of it planned, so that the new
// one is registered before the old one ends, or not, so that there is none for a while. The client goes
// on with no restart, no edit and no failed request.
func followsRedis(t *testing.T, r registry) {
	needsPrograms(t, r)
	eachEngine(t, func(t *testing.T, w *world) {
		w.serve(r)
		w.a.redisSays("one", "-p 6379:6379")
		w.r.types(r.put(1, "192.168.1.52", "6379"))
		w.b.run(r.ambassador)
		w.b.loop("ambassador:redis")
		w.b.awaitAnswer("one")

		// Planned: its entry stands beside the old one, for a while.
		w.a.redisSays("two", "-p 6380:6379")
		w.r.types(r.put(2, "192.168.1.52", "6380"))
		w.r.types(r.remove(1))
		w.b.awaitAnswer("two")
		w.a.run("docker rm -f one")

		// The old one goes first; the entry is changed when the new one is up.
		w.goes("two")
		w.a.redisSays("three", "-p 6381:6379")
		w.r.types(r.put(2, "192.168.1.52", "6381"))
		w.b.awaitAnswer("three")

		// The same, and to another host.
		w.goes("three")
		w.b.redisSays("four", "-p 6390:6379")
		w.r.types(r.put(2, "192.168.1.53", "6390"))
		w.b.awaitAnswer("four")

		// And back, planned, by a change of the entry.
		w.a.redisSays("five", "-p 6382:6379")
		w.r.types(r.put(2, "192.168.1.52", "6382"))
		w.b.awaitAnswer("five")
		w.b.run("docker rm -f four")

		w.b.awaitAnswer("five")
		w.b.onlyAnswers("one", "two", "three", "four", "five")
		for _, name := range []string{"ambassador", "client"} {
			if n := w.b.run("docker inspect -f {{.RestartCount}}/{{.State.Status}} " + name); n != "0/running" {
				t.Errorf("%s is %s, want it to run as it was started", name, n)
			}
		}
		t.Logf("%d requests", len(w.b.answers()))
	})
}

// redisSays starts a Redis which says its container's name, and returns when it does.
func (h host) redisSays(name, options string) {
	h.t.Helper()
	h.run("docker run -d --name " + name + " " + options + " crosbymichael/redis")
	h.awaitRedis(name)
	h.run("docker exec " + name + " redis-cli SET who " + name)
}

// goes removes the only Redis, on host A, and returns when the client on host B is held.
func (w *world) goes(name string) {
	w.t.Helper()
	w.a.refuse(name)
	w.a.run("docker rm -f " + name)
	w.b.awaitStatus("ambassador", "holding")
}

// refuse has a Redis take no new connections, and returns when those that it has are answered: a
// request that a server took to its grave fails, whoever carried it.
func (h host) refuse(name string) {
	h.t.Helper()
	h.types("nsenter --net=/proc/" + h.run("docker inspect -f {{.State.Pid}} "+name) + "/ns/net " +
		"iptables -A INPUT -i eth0 -p tcp --syn -j REJECT --reject-with tcp-reset")
	eventually(h.t, 10*time.Second, func() (bool, string) {
		out := h.run("docker exec " + name + " redis-cli INFO clients")
		return strings.Contains(out, "connected_clients:1\r\n"), name + " still has clients:\n" + out // ourselves
	})
}

// awaitStatus waits until legate status, in that container, says something.
func (h host) awaitStatus(ambassador, what string) (status string) {
	h.t.Helper()
	eventually(h.t, 20*time.Second, func() (bool, string) {
		var err error
		status, err = h.try("docker exec " + ambassador + " legate status")
		return strings.Contains(status, what), "legate status says:\n" + status + errText(err)
	})
	return status
}
