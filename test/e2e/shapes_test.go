package e2e

import (
	"strings"
	"testing"
	"time"
)

// redisAnswers runs a client container on h and returns whether the server answered.
func (h host) redisAnswers(options, arguments string) (ok bool, why string) {
	command := "docker run --rm " + options + " --entrypoint redis-cli relateiq/redis-cli " + arguments + " PING"
	out, err := h.try(command)
	return out == "PONG", command + ": " + out + errText(err)
}

// answersAtOnce fails the test unless the first client that is started gets its answer.
func (h host) answersAtOnce(options, arguments string) {
	h.t.Helper()
	if ok, why := h.redisAnswers(options, arguments); !ok {
		h.t.Fatal(why)
	}
}

// The short shape: client, ambassador and server on one host, no published port.
func TestOneAmbassadorOnOneHost(t *testing.T) {
	eachEngine(t, func(_ *testing.T, w *world) {
		w.a.run("docker run -d --name redis crosbymichael/redis")
		w.a.run("docker run -d --link redis:redis --name redis_ambassador legate")
		w.a.awaitListening("redis_ambassador", "6379")
		w.a.answersAtOnce("--link redis_ambassador:redis", "-h redis")
	})
}

// What `dokku redis:expose` types, with Legate as its $PLUGIN_AMBASSADOR_IMAGE.
func TestDokkuExpose(t *testing.T) {
	eachEngine(t, func(_ *testing.T, w *world) {
		w.a.run("docker run -d --name dokku.redis.lollipop crosbymichael/redis")
		w.a.run("docker container run -d --link dokku.redis.lollipop:redis --name dokku.redis.lollipop.ambassador " +
			"-p 6379:6379 --restart always --label dokku=ambassador legate")
		w.a.awaitListening("dokku.redis.lollipop.ambassador", "6379")
		w.b.answersAtOnce("", "-h 192.168.1.52")
	})
}

func TestTwoLinksInOneAmbassador(t *testing.T) {
	eachEngine(t, func(_ *testing.T, w *world) {
		w.a.run("docker run -d --name redis-one crosbymichael/redis")
		w.a.run("docker run -d --name redis-two --expose 6380 legate-e2e/tools redis-server --port 6380 --protected-mode no")
		w.a.run("docker run -d --link redis-one:one --link redis-two:two --name ambassador legate")
		w.a.awaitListening("ambassador", "6379")
		w.a.awaitListening("ambassador", "6380")
		w.a.answersAtOnce("--link ambassador:redis", "-h redis")
		w.a.answersAtOnce("--link ambassador:redis", "-h redis -p 6380")
	})
}

// The form with host and port as two arguments.
func TestTwoArgumentForm(t *testing.T) {
	eachEngine(t, func(_ *testing.T, w *world) {
		w.a.run("docker run -d --name web crosbymichael/redis redis-server --port 80 --protected-mode no")
		w.a.run("docker run -d --name ambassador -p 9999:80 legate " + w.a.address("web") + " 80")
		w.a.awaitListening("ambassador", "80")
		w.b.answersAtOnce("", "-h 192.168.1.52 -p 9999")
	})
}

// With the Docker socket an ambassador reads its own --link and the ports that the linked container
// exposes; it needs neither variables nor probing. A second port, which the server serves but does
// not expose, tells this from probing, which would open it, too.
func TestLinkWithDockerSocket(t *testing.T) {
	eachEngine(t, func(_ *testing.T, w *world) {
		w.a.docker("run", "-d", "--name", "redis", "crosbymichael/redis", "sh", "-c",
			"redis-server --port 6380 --protected-mode no & exec redis-server --protected-mode no")
		w.a.run("docker run -d --link redis:redis --name ambassador -v " + w.a.Socket + ":/var/run/docker.sock legate")
		w.a.awaitListening("ambassador", "6379")
		w.a.answersAtOnce("--link ambassador:redis", "-h redis")
		if ok, _ := w.a.redisAnswers("--link ambassador:redis", "-h redis -p 6380"); ok {
			w.t.Error("a port that the linked container does not expose was opened")
		}
	})
}

// Without the socket, on engines that set no variables, /etc/hosts and probing are what is left. The
// server may start later than the ambassador.
func TestLinkWithoutDockerSocket(t *testing.T) {
	eachEngine(t, func(_ *testing.T, w *world) {
		w.a.docker("run", "-d", "--name", "redis", "crosbymichael/redis", "sh", "-c",
			"while [ ! -e /tmp/go ]; do sleep 0.1; done; exec redis-server --protected-mode no")
		w.a.run("docker run -d --link redis:redis --name ambassador legate")
		w.a.run("docker exec redis sh -c true>/tmp/go")
		w.a.awaitListening("ambassador", "6379")
		w.a.answersAtOnce("--link ambassador:redis", "-h redis")
	})
}

// Neither links nor variables nor arguments: the ambassador says what it could have been given.
func TestNoLinkGiven(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		out, err := w.a.tryCombined("docker run --rm legate")
		if err == nil || !strings.Contains(err.Error(), "exit status 2") {
			t.Errorf("docker run legate without a link: %v, want exit status 2", err)
		}
		for _, want := range []string{"error:", "hint:"} {
			if !strings.Contains(out, want) {
				t.Errorf("docker run legate without a link says nothing with %q:\n%s", want, out)
			}
		}
	})
}

// awaitListening waits until something in the container's network namespace listens on port.
func (h host) awaitListening(container, port string) {
	h.t.Helper()
	address := h.address(container)
	eventually(h.t, 20*time.Second, func() (bool, string) {
		conn, err := h.dial(address + ":" + port)
		if err != nil {
			return false, "port " + port + " of " + container + errText(err)
		}
		return conn.Close() == nil, "close"
	})
}

// address is the container's IPv4 address on its first network.
func (h host) address(container string) string {
	h.t.Helper()
	out := h.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", container)
	if out == "" {
		h.t.Fatalf("container %s has no address", container)
	}
	return strings.Fields(out)[0]
}
