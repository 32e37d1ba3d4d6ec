package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// memory is the resident memory of a container's first process, as the kernel tells it.
func (h host) memory(container string) string {
	h.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%s/status", h.run("docker inspect -f {{.State.Pid}} "+container)))
	if err != nil {
		h.t.Fatalf("read memory of %s: %v", container, err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

func TestImage(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		const limit = 22_000_000 // with every source in; etcd's gRPC is 9 MB of it
		// Not what the engine says: since 29 that is the files and, besides,
		// the compressed layers that it keeps.
		w.a.run("docker create --name unpacked legate")
		size := len(w.a.run("docker export unpacked"))
		if size == 0 || size > limit {
			t.Errorf("the image has %d bytes, want at most %d", size, limit)
		}
		t.Logf("the image has %d bytes, the engine says %s", size, w.a.run("docker image inspect -f {{.Size}} legate"))
		for _, shell := range []string{"sh", "/bin/sh", "/bin/busybox"} {
			if out, err := w.a.try("docker run --rm --entrypoint " + shell + " legate -c true"); err == nil {
				t.Errorf("the image has %s: %s", shell, out)
			}
		}
	})
}

// rights are the options of the image's two ways to run.
var rights = map[string]string{
	"default": "",
	"least":   "--user 65532 --cap-drop ALL --read-only",
}

// As root, which the old images were, and as the README recommends: without any right.
func TestImageRights(t *testing.T) {
	for name, options := range rights {
		t.Run(name, func(t *testing.T) {
			eachEngine(t, func(_ *testing.T, w *world) {
				w.a.run("docker run -d --name redis crosbymichael/redis")
				w.a.run("docker run -d --name ambassador " + options + " legate 6379=" + w.a.address("redis") + ":6379")
				w.a.awaitListening("ambassador", "6379")
				w.a.awaitRedis("redis")
				w.a.answersAtOnce("", "-h "+w.a.address("ambassador"))
				w.a.answersQuestions("ambassador")
			})
		})
	}
}

// answersQuestions asks what users ask an ambassador that has no shell.
func (h host) answersQuestions(ambassador string) {
	h.t.Helper()
	if out := h.run("docker exec " + ambassador + " legate status"); !strings.Contains(out, "6379") {
		h.t.Errorf("legate status does not show the link:\n%s", out)
	}
	if out := h.run("docker exec " + ambassador + " env"); !strings.Contains(out, "PATH=/bin") {
		h.t.Errorf("env does not show the environment:\n%s", out)
	}
}

// Healthy means that the process serves. Nothing answers behind this link, and a restart would not
// help that.
func TestHealthyWhileBackendIsDown(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		for name, options := range rights {
			w.a.run("docker run -d --name " + name + " " + options + " legate 6379=192.168.1.53:6379")
		}
		for name := range rights {
			eventually(t, 40*time.Second, func() (bool, string) {
				health := w.a.run("docker inspect -f {{.State.Health.Status}} " + name)
				if health == "unhealthy" {
					t.Fatal(w.a.run("docker inspect -f {{json .State.Health}} " + name))
				}
				return health == "healthy", "the ambassador is " + health
			})
		}
	})
}

// Docker kills after 10 s; an ambassador that ignored SIGTERM would take them all and exit 137.
func TestStopsInTime(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.a.run("docker run -d --name ambassador legate 6379=192.168.1.53:6379")
		w.a.awaitListening("ambassador", "6379")
		w.a.run("docker stop ambassador")
		if code := w.a.run("docker inspect -f {{.State.ExitCode}} ambassador"); code != "0" {
			t.Errorf("the ambassador exited with %s after docker stop, want 0", code)
		}
	})
}
