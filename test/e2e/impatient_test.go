package e2e

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
)

// asked is how much of something a person wants, by a variable, or what there is time for in every run.
func asked(t *testing.T, variable, usual string) int {
	t.Helper()
	text := cmp.Or(os.Getenv(variable), usual)
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is no number of containers", variable, text)
	}
	return n
}

// starts is how often an impatient application is started.
func starts(t *testing.T) int { return asked(t, "LEGATE_STARTS", "6") }

// The first act of an application is to connect. It is served at every start, also when the host has
// something else to do.
func TestAgentImpatient(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		w.a.run("docker network create backend")
		w.a.redisBorn("redis", "--network", "backend")
		w.a.startAgent()
		w.a.run("docker run --rm --network backend legate-e2e/tools redis-cli -h redis ping") // Redis is there
		t.Run("quiet", func(t *testing.T) { host{w.a.Host, t}.impatient(starts(t)) })
		t.Run("busy", func(t *testing.T) {
			for range 2 {
				spin(t)
			}
			host{w.a.Host, t}.impatient(starts(t))
		})
		if t.Failed() {
			log, _ := w.a.tryCombined("docker logs agent")
			t.Logf("the agent says:\n%s", log)
		}
	})
}

// impatient starts the application n times, one after the other.
func (h host) impatient(n int) {
	h.t.Helper()
	refused := 0
	for i := range n {
		name := fmt.Sprintf("impatient%d", i)
		out, err := h.try("docker run --rm --name " + name + " --network backend --label connect.6379=redis legate-e2e/tools redis-cli -h 127.0.0.1 get who")
		if err != nil || out != "redis" {
			refused++
			h.t.Errorf("%s got %q%s", name, out, errText(err))
		}
		if done := i + 1; done%10 == 0 || done == n {
			h.t.Logf("%d of %d starts served", done-refused, done)
		}
	}
}

// spin keeps a core busy until the test ends, and not for ever where nobody is left to end it.
func spin(t *testing.T) {
	t.Helper()
	cmd := exec.Command("timeout", "1800", "sh", "-c", "while :; do :; done")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // which timeout passes on
		_ = cmd.Wait()
	})
}
