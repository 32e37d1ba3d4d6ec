package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// form is a way to start ambassadord, or connectable's target, on host B.
type form struct {
	command string
	port    string // of host B, where it is published
	watched bool   // it follows the change
}

// forms are the ancestors' arguments, word for word, but for the addresses. What they call
// redis-1.example.com is host R, where no Redis is: the next one serves.
var forms = map[string]form{
	"static":          {"docker run -d -p 8080:8080 legate 192.168.1.52:8080", "8080", false},
	"name":            {"docker run -d -p 6379:6379 --add-host redis.example.com:192.168.1.52 legate redis.example.com:6379", "6379", false},
	"list":            {"docker run -d -p 6380:6379 --add-host redis-1.example.com:192.168.1.55 --add-host redis-2.example.com:192.168.1.52 legate redis-1.example.com:6379,redis-2.example.com:6379", "6380", false},
	"srv":             {"docker run -d -p 10001:10000 --dns 192.168.1.55 legate redis.service.consul", "10001", true},
	"etcd":            {"docker run -d -p 10002:10000 legate etcd://192.168.1.55:2379/path/to/backend/nodes", "10002", true},
	"etcd, a value":   {"docker run -d -p 10003:10000 legate etcd://192.168.1.55:2379/path/to/backend/node", "10003", true},
	"consul":          {"docker run -d -p 10004:10000 legate consul://192.168.1.55:8500/path/to/backend/nodes", "10004", true},
	"consul, a value": {"docker run -d -p 10005:10000 legate consul://192.168.1.55:8500/path/to/backend/node", "10005", true},
	"connectable":     {"docker run -d -p 6000:6000 -e LEGATE_DNS=192.168.1.55 legate 6000=redis.service.consul", "6000", true},
}

// TestAncestorsForms starts all of them beside each other on host B. Redis is on host A; then it is
// another one, on another port, and whoever watches follows.
func TestAncestorsForms(t *testing.T) {
	needsPrograms(t, consul, etcd)
	eachEngine(t, func(_ *testing.T, w *world) {
		w.serve(consul, etcd)
		w.a.redisSays("one", "-p 6379:6379 -p 8080:6379")
		w.a.redisSays("two", "-p 6381:6379")
		w.registerEverywhere("6379")
		var all []container
		for name, f := range forms {
			name = strings.ReplaceAll(name, ", a ", "-")
			all = append(all, container{w.b, name, strings.Fields(strings.TrimPrefix(f.command, "docker run -d "))})
		}
		w.start(all...)
		for _, f := range forms {
			w.awaitWho(f, "one")
		}
		w.registerEverywhere("6381")
		for _, f := range forms {
			if f.watched {
				w.awaitWho(f, "two")
			}
		}
	})
}

// registerEverywhere has the registries say that Redis is on that port of host A.
func (w *world) registerEverywhere(port string) {
	w.t.Helper()
	const at = "192.168.1.52:"
	w.r.types("etcdctl put /path/to/backend/nodes/1 " + at + port)
	w.r.types("etcdctl put /path/to/backend/node " + at + port)
	w.r.types("consul kv put path/to/backend/nodes/1 " + at + port)
	w.r.types("consul kv put path/to/backend/node " + at + port)
	w.r.types(consul.put(1, "192.168.1.52", port))
}

// awaitWho waits until it is that Redis which answers, and makes sure that it stays so.
func (w *world) awaitWho(f form, want string) {
	w.t.Helper()
	eventually(w.t, 20*time.Second, func() (bool, string) {
		who, err := w.a.who("192.168.1.53:" + f.port)
		return who == want, fmt.Sprintf("%s: %q answers, want %q%s", f.command, who, want, errText(err))
	})
	for range 3 {
		if who, err := w.a.who("192.168.1.53:" + f.port); who != want {
			w.t.Errorf("%s: now %q answers, after %q%s", f.command, who, want, errText(err))
		}
	}
}

// who asks the Redis at an address which one it is; "": it does not say.
func (h host) who(address string) (string, error) {
	conn, err := h.redis(address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.within(5 * time.Second)
	if err := conn.send("GET", "who"); err != nil {
		return "", err
	}
	size, err := conn.line()
	if err != nil || size == "$-1" {
		return "", err
	}
	return conn.line()
}

// ambassadord --links has every port of every linked container.
func TestAncestorsLinks(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.a.run("docker run -d --name redis crosbymichael/redis")
		w.a.run("docker run -d --name http --expose 8080 legate-e2e/tools redis-server --port 8080 --protected-mode no")
		w.a.run("docker run -d --name ambassador --link redis:redis --link http:http -p 6379:6379 -p 8080:8080 legate --links")
		w.a.awaitRedis("redis")
		w.a.run("docker exec redis redis-cli SET who redis")
		w.a.run("docker exec http redis-cli -p 8080 SET who http")
		for port, want := range map[string]string{"6379": "redis", "8080": "http"} {
			eventually(t, 20*time.Second, func() (bool, string) {
				who, err := w.b.who("192.168.1.52:" + port)
				return who == want, fmt.Sprintf("on port %s %q answers, want %q%s", port, who, want, errText(err))
			})
		}
	})
}
