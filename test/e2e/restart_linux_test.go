package e2e

import (
	"bufio"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"legate/internal/testnet"
)

// liveRestore has the containers of the host outlive its engine until the test ends.
func (h host) liveRestore() {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := h.LiveRestore(ctx, true); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := h.LiveRestore(ctx, false); err != nil {
			h.t.Error(err)
		}
	})
}

// restartEngine does what systemctl restart docker does, and calls meanwhile when the engine is down.
func (h host) restartEngine(meanwhile func()) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := h.StopEngine(ctx); err != nil {
		h.t.Fatal(err)
	}
	defer func() {
		if err := h.StartEngine(ctx); err != nil {
			h.t.Fatal(err)
		}
	}()
	meanwhile()
}

// redisIn is a connection of the application in a container, through its link.
func (h host) redisIn(container string) *redisConn {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testnet.Patience)
	defer cancel()
	conn, err := h.DialIn(ctx, h.run("docker inspect --format {{.State.Pid}} "+container), "tcp", "127.0.0.1:6379")
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	return &redisConn{conn, bufio.NewReader(conn)}
}

// Where containers outlive their engine, their links and all connections do, with the agent in one of them.
func TestAgentLiveRestore(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.liveRestore()
		a.run("docker network create backend")
		a.redisBorn("redis", "--network", "backend")
		a.startAgent()
		a.client("web", "--network backend --label connect.6379=redis")
		a.awaitWhoIn("web", "-h 127.0.0.1", "redis")

		old := a.redisIn("web")
		goesOn := func() {
			t.Helper()
			old.within(testnet.Patience)
			if err := old.ping(); err != nil {
				t.Errorf("the connection from before: %v", err)
			}
		}
		goesOn()
		end := make(chan struct{})
		p := a.ping("web", end)
		more := func() { p.await(t, 300) }
		more()
		a.restartEngine(func() {
			more()
			goesOn()
		})
		more()
		a.newcomer()
		goesOn()
		close(end)
		p.asking.Wait()
		t.Logf("answered %d, refused %d, lost %d", p.answered.Load(), p.refused.Load(), p.lost.Load())
		if p.refused.Load()+p.lost.Load() > 0 {
			t.Errorf("%d connects were refused, %d lost", p.refused.Load(), p.lost.Load())
		}

		// Where there is no systemd the engine makes its socket anew, and only what has the directory finds it.
		anew := func() {
			if err := a.RenewSocket(); err != nil {
				t.Error(err)
			}
		}
		a.restartEngine(anew)
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec agent legate status")
			return strings.Contains(status, "the engine is lost, and links stay as they are") && strings.Contains(status, "mount the socket's directory"), status
		})
		if who := a.whoIn("web", "-h 127.0.0.1"); who != "redis" {
			t.Errorf("with the engine lost it is served by %q", who)
		}
		a.run("docker rm -f agent")
		at := []string{"-v", filepath.Dir(a.Socket) + ":/engine", "-e", "DOCKER_HOST=unix:///engine/" + filepath.Base(a.Socket)}
		a.awaitAgent("agent", slices.Insert(a.Agent("agent", "agent"), len([]string{"run", "-d"}), at...))
		a.awaitWhoIn("web", "-h 127.0.0.1", "redis")
		a.restartEngine(anew)
		a.newcomer()
	})
}

// newcomer starts a container, which shows whether the agent follows the engine.
func (h host) newcomer() {
	h.t.Helper()
	h.client("newcomer", "--network backend --label connect.6379=redis")
	h.awaitWhoIn("newcomer", "-h 127.0.0.1", "redis")
	h.run("docker rm -f newcomer")
	eventually(h.t, 20*time.Second, func() (bool, string) {
		status := h.run("docker exec agent legate status")
		return !strings.Contains(status, "newcomer/"), status
	})
}

// Where containers end with their engine, those that start with it again have their links again: by an agent that is
// one of them, and by one that is none and so was there all the time.
func TestAgentEngineRestart(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		const always = "--restart always --stop-timeout 1 "
		a.run("docker network create backend")
		a.redisBorn("redis", strings.Fields(always+"--network backend")...)
		a.client("web", always+"--network backend --label connect.6379=redis")
		again := func() {
			t.Helper()
			a.awaitWhoIn("web", "-h 127.0.0.1", "redis")
			before := a.run("docker inspect --format {{.State.StartedAt}} web")
			a.restartEngine(func() {})
			if now := a.run("docker inspect --format {{.State.StartedAt}} web"); now == before {
				t.Error("web has outlived its engine")
			}
			a.awaitWhoIn("web", "-h 127.0.0.1", "redis")
			out, err := a.try("docker run --rm --network backend --label connect.6379=redis legate-e2e/tools redis-cli -h 127.0.0.1 get who")
			if err != nil || out != "redis" {
				t.Errorf("a new container got %q%s", out, errText(err))
			}
		}
		a.startAgent()
		a.run("docker update --restart always agent")
		again()
		a.run("docker rm -f agent")
		a.asService()
		again()
	})
}
