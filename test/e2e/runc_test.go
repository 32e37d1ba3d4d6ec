package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runtimeHost is a host whose engine has the runtimes "waits", which waits for 30 s, and "closed", which waits for one
// and then fails the start.
type runtimeHost struct {
	host
	dir string // with legate-runc and the agent's socket
}

func withRuntimes(t *testing.T, h host) runtimeHost {
	t.Helper()
	dir, err := os.MkdirTemp("", "legate-runc") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// First the containers: without their runtime Engine 20.10 says that it has removed them, and they run on.
		for id := range strings.FieldsSeq(h.run("docker ps -aq")) {
			h.run("docker rm -f " + id)
		}
		os.RemoveAll(dir)
	})
	program := filepath.Join(dir, "legate-runc")
	if out, err := exec.Command("go", "build", "-o", program, "legate/cmd/legate").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	type runtime struct {
		Path string   `json:"path"`
		Args []string `json:"runtimeArgs"`
	}
	at := []string{"--legate-control", dir + "/run/legate.sock"}
	config, err := json.Marshal(map[string]any{"runtimes": map[string]runtime{
		"waits":  {program, append(at, "--legate-wait", "30s")},
		"closed": {program, append(at, "--legate-closed", "--legate-wait=1s")},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := h.Runtimes(ctx, string(config), "waits", "closed"); err != nil {
		t.Fatal(err)
	}
	return runtimeHost{h, dir}
}

// startAgent runs the agent under the stricter runtime, which must not keep the agent itself from starting.
func (h runtimeHost) startAgent(flags, says string) {
	h.t.Helper()
	h.run("docker run -d --name agent --runtime closed --pid host --network host --cap-drop ALL --cap-add SYS_ADMIN --cap-add SYS_PTRACE" +
		" --security-opt apparmor=unconfined" + h.withSocket() + "-v " + h.dir + "/run:/run/legate " + flags + " legate agent")
	eventually(h.t, 20*time.Second, func() (bool, string) {
		log, err := h.tryCombined("docker logs --tail 20 agent")
		return strings.Contains(log, says), log + errText(err)
	})
}

// waiting tells whether a runtime holds a container up now.
func (h runtimeHost) waiting() bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && bytes.HasPrefix(text, []byte(h.dir+"/legate-runc\x00")) && bytes.Contains(text, []byte("\x00start\x00")) {
			return true
		}
	}
	return false
}

// whileFrozen starts an impatient application, which is served although the agent was frozen when it started.
func (h runtimeHost) whileFrozen(ask string, meanwhile func()) {
	h.t.Helper()
	h.run("docker kill --signal STOP agent")
	slow := h.Command(h.t.Context(), words(h.t, "docker run --rm --runtime waits"+ask)...)
	var said bytes.Buffer
	slow.Stdout, slow.Stderr = &said, &said
	if err := slow.Start(); err != nil {
		h.t.Fatal(err)
	}
	eventually(h.t, 20*time.Second, func() (bool, string) { return h.waiting(), "nothing waits" })
	meanwhile()
	h.run("docker kill --signal CONT agent")
	if err := slow.Wait(); err != nil || strings.TrimSpace(said.String()) != "redis" {
		h.t.Errorf("the one that waited got %q%s", said.String(), errText(err))
	}
}

// With the runtime, a container's first connect is served also where the agent is slow, and nothing else waits for it.
func TestRuntime(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		h := withRuntimes(t, w.a)
		h.run("docker network create backend")
		h.redisBorn("redis", "--network", "backend", "--label", "legate.allow=*")
		h.startAgent("-v "+h.Namespaces()+":/var/run/docker/netns:ro,rslave", "links are open before a container's first instruction")
		const ask = " --network backend --label connect.6379=redis legate-e2e/tools redis-cli -h 127.0.0.1 get who"

		for _, runtime := range []string{"waits", "closed"} {
			if out, err := h.try("docker run --rm --runtime " + runtime + ask); err != nil || out != "redis" {
				t.Errorf("under %s got %q%s", runtime, out, errText(err))
			}
		}
		if out, err := h.try("docker run --rm --runtime waits --network none --label connect.6379=redis legate-e2e/tools redis-cli -h 127.0.0.1 ping"); err != nil && !strings.Contains(out+err.Error(), "reset") {
			t.Errorf("without a network got %q%s", out, errText(err))
		}

		t.Run("guest and host network", func(t *testing.T) {
			h.run("docker run -d --name landlord --runtime waits --network backend --label connect.6379=redis legate-e2e/tools sleep 600")
			out, err := h.try("docker run --rm --runtime waits --network container:landlord --label connect.6380=docker:redis:6379 legate-e2e/tools redis-cli -h 127.0.0.1 -p 6380 get who")
			if err != nil || out != "redis" {
				t.Errorf("a guest got %q%s", out, errText(err))
			}
			h.run("docker run --rm --runtime closed --network host --label connect.6379=redis legate-e2e/tools true") // its link is in error
			h.run("docker restart -t 0 landlord")
			h.run("docker rm -f landlord")
		})

		t.Run("slow agent", func(t *testing.T) {
			h := runtimeHost{host{h.Host, t}, h.dir}
			h.whileFrozen(ask, func() {
				h.run("docker run --rm --runtime closed legate-e2e/tools true") // others do not wait
				if !h.waiting() {
					t.Error("it did not go on waiting for the frozen agent")
				}
				out, err := h.try("docker run --rm --runtime closed" + ask)
				if err == nil || !strings.Contains(err.Error(), "the agent did not open the links of the container within 1s") {
					t.Errorf("closed, and the agent frozen: got %q%s", out, errText(err))
				}
			})
			for range starts(t) - 1 {
				h.whileFrozen(ask, func() {})
			}
		})

		// It sees no namespace appear, so that only what the runtime tells it can be in time.
		t.Run("late agent", func(t *testing.T) {
			h.run("docker rm -f agent")
			h.startAgent("", "links are opened only after a container has started")
			for range starts(t) {
				if out, err := h.try("docker run --rm --runtime waits" + ask); err != nil || out != "redis" {
					t.Errorf("got %q%s", out, errText(err))
				}
			}
			doctor, _ := h.tryCombined("docker exec agent legate doctor")
			if !strings.Contains(doctor, "have containers wait for them: legate help runc") {
				t.Errorf("doctor says:\n%s", doctor)
			}
		})

		t.Run("no agent", func(t *testing.T) {
			h.run("docker kill agent")
			began := time.Now()
			h.run("docker run --rm --runtime waits --label connect.6379=redis legate-e2e/tools true")
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it waited %v for an agent that is not there", took)
			}
			out, err := h.try("docker run --rm --runtime closed" + ask)
			if err == nil || !strings.Contains(err.Error(), "no legate answers on "+h.dir+"/run/legate.sock") {
				t.Errorf("closed, and no agent: got %q%s", out, errText(err))
			}
			h.run("docker run --rm --runtime closed legate-e2e/tools true")
			h.run("docker start agent")
			eventually(t, 20*time.Second, func() (bool, string) {
				out, err := h.try("docker run --rm --runtime closed" + ask)
				return err == nil && out == "redis", out + errText(err)
			})
		})
	})
}
