package e2e

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

const (
	socatAmbassador  = "svendowideit/ambassador"
	legateAmbassador = "legate"
)

// TestWalkThroughSocat is the baseline: the walk-through of 2013, word for word, with the image of
// 2013. On Engine 29 it fails as its users report, because --link sets no variables any more.
func TestWalkThroughSocat(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		walkThrough(w, socatAmbassador, socatAmbassador)
		if w.lab.Engine.Major >= 29 {
			w.socatFindsNoLink()
			return
		}
		w.a.awaitRedis("redis")
		// The socat image loses what arrives while it and the server start.
		eventually(t, 20*time.Second, func() (bool, string) { return w.clientReaches("redis_ambassador2") })
		w.serverHeardFromClient()
	})
}

// TestWalkThrough types the same commands with Legate in place of one ambassador or of both. With
// Legate in both places the first client that is started gets its answer.
func TestWalkThrough(t *testing.T) {
	for _, images := range [][2]string{
		{legateAmbassador, legateAmbassador},
		{legateAmbassador, socatAmbassador},
		{socatAmbassador, legateAmbassador},
	} {
		t.Run(strings.ReplaceAll(images[0]+"+"+images[1], "/", "_"), func(t *testing.T) {
			eachEngine(t, func(_ *testing.T, w *world) { w.walkThroughWorks(images[0], images[1]) })
		})
	}
}

func (w *world) walkThroughWorks(image1, image2 string) {
	w.t.Helper()
	walkThrough(w, image1, image2)
	if image1 == socatAmbassador && w.lab.Engine.Major >= 29 {
		w.socatFindsNoLink() // and the best second ambassador cannot mend that
		return
	}
	w.a.awaitRedis("redis")
	within := 20 * time.Second
	if image1 == legateAmbassador && image2 == legateAmbassador {
		within = 0 // no second try
	}
	eventually(w.t, within, func() (bool, string) { return w.clientReaches("redis_ambassador2") })
	w.serverHeardFromClient()
	if image1 == legateAmbassador {
		w.envShowsLink()
	}
}

// envShowsLink looks into an ambassador as its users do, although the image has no env program.
func (w *world) envShowsLink() {
	w.t.Helper()
	want := "REDIS_PORT_6379_TCP=tcp://172.17.0."
	if w.lab.Engine.Major >= 29 {
		want = "PATH=/bin"
	}
	if env := w.a.run("docker exec redis_ambassador1 env"); !strings.Contains(env, want) {
		w.t.Errorf("docker exec redis_ambassador1 env has no %s:\n%s", want, env)
	}
}

// walkThrough types the commands of 2013 with one image for each ambassador.
func walkThrough(w *world, image1, image2 string) {
	w.t.Helper()
	w.a.run("docker run -d --name redis crosbymichael/redis")
	w.a.run("docker run -d --link redis:redis --name redis_ambassador1 -p 6379:6379 " + image1)
	w.b.run("docker run -d --name redis_ambassador2 --expose 6379 -e REDIS_PORT_6379_TCP=tcp://192.168.1.52:6379 " + image2)
}

// clientReaches types the last command of the walk-through and, at redis-cli's prompt, what a user
// would.
func (w *world) clientReaches(ambassador string) (ok bool, screen string) {
	screen = w.b.terminal("docker run -i -t --rm --link "+ambassador+":redis relateiq/redis-cli", "SET from host-b\nGET from\nEXIT\n")
	return strings.Contains(screen, `"host-b"`), "the client saw: " + screen
}

// serverHeardFromClient makes sure that it was the Redis of host A that answered.
func (w *world) serverHeardFromClient() {
	w.t.Helper()
	if got := w.a.run("docker exec redis redis-cli GET from"); got != "host-b" {
		w.t.Fatalf("the server on host A has %q, not what the client on host B wrote", got)
	}
}

// socatFindsNoLink asserts what users of Engine 29 see: the ambassador runs, but has no variable and
// so no listener, and the client gets nothing.
func (w *world) socatFindsNoLink() {
	w.t.Helper()
	if env := w.a.run("docker exec redis_ambassador1 env"); strings.Contains(env, "_TCP=") {
		w.t.Fatalf("Engine %s sets link variables after all:\n%s", w.lab.Engine.Label, env)
	}
	if sockets := w.a.run("docker exec redis_ambassador1 netstat -ltn"); strings.Contains(sockets, ":6379") {
		w.t.Fatalf("the socat ambassador listens after all:\n%s", sockets)
	}
	out, err := w.b.try("docker run --rm --link redis_ambassador2:redis relateiq/redis-cli PING")
	if err == nil || strings.Contains(out, "PONG") {
		w.t.Fatalf("the client got an answer after all: %q, %v", out, err)
	}
}

// awaitRedis waits for a Redis server inside its own container.
func (h host) awaitRedis(container string) {
	h.t.Helper()
	eventually(h.t, 20*time.Second, func() (bool, string) {
		out, err := h.try("docker exec " + container + " redis-cli PING")
		return out == "PONG", "redis in " + container + " said " + out + errText(err)
	})
}

// terminal runs a command on a terminal of its own (docker -t insists on one), types input and
// returns what was on the screen.
func (h host) terminal(command, input string) string {
	h.t.Helper()
	cmd := exec.Command("timeout", "20", "script", "--quiet", "--return", "--command", command, "/dev/null")
	cmd.Env = h.Environ()
	cmd.Stdin = strings.NewReader(input)
	screen, err := cmd.CombinedOutput()
	return string(screen) + errText(err)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}
