package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// startAgent runs the agent of a host as the README does, with the directories of this host's engine.
func (h host) startAgent(flags ...string) {
	h.t.Helper()
	h.run("docker run -d --name agent --pid host --network host --cap-drop ALL --cap-add SYS_ADMIN --cap-add SYS_PTRACE" +
		" --security-opt apparmor=unconfined" + h.withSocket() + "-v " + h.Namespaces() + ":/var/run/docker/netns:ro,rslave legate agent " + strings.Join(flags, " "))
	eventually(h.t, 20*time.Second, func() (bool, string) {
		log, err := h.tryCombined("docker logs agent")
		return strings.Contains(log, "links are open before a container's first instruction"), log + errText(err)
	})
}

// A container says what it uses, and its application finds it on localhost: before its first instruction,
// again after a restart, and after the agent was killed.
func TestAgent(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.run("docker network create backend")
		a.redisBorn("redis", "--network", "backend")
		a.startAgent()

		// Its first act is to connect.
		for i := range 10 {
			name := fmt.Sprintf("impatient%d", i)
			out, err := a.try("docker run --rm --name " + name + " --network backend --label connect.6379=redis legate-e2e/tools redis-cli -h 127.0.0.1 get who")
			if err != nil || out != "redis" {
				t.Errorf("%s got %q%s", name, out, errText(err))
			}
		}

		a.run("docker run -d --name web --network backend --label connect.6379=redis --label connect.6379.name=cache legate-e2e/tools sleep 600")
		ask := func() (bool, string) {
			out, err := a.try("docker exec web redis-cli -h localhost get who")
			return err == nil && out == "redis", out + errText(err)
		}
		eventually(t, 20*time.Second, ask)
		status := a.run("docker exec agent legate status")
		if !strings.Contains(status, "web/cache") {
			t.Errorf("status does not name the link of web:\n%s", status)
		}
		why := a.run("docker exec agent legate why web cache")
		if !strings.Contains(why, "container web") || !strings.Contains(why, "goes to") {
			t.Errorf("why says:\n%s", why)
		}

		a.run("docker restart -t 0 web")
		eventually(t, 20*time.Second, ask)
		a.run("docker kill agent")
		a.run("docker start agent")
		eventually(t, 20*time.Second, ask)

		// Nobody else has it, and what is not allowed is refused with the rule.
		a.run("docker run -d --name stranger --label connect.6379=redis legate-e2e/tools sleep 600")
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec agent legate status")
			return strings.Contains(status, "stranger/6379") && strings.Contains(status, "denied"), status
		})
		if out, err := a.try("docker exec stranger redis-cli -h localhost get who"); err == nil && out == "redis" {
			t.Error("a container that shares neither project nor network was served")
		}
		a.run("docker rm -f web stranger")
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec agent legate status")
			return !strings.Contains(status, "web/") && !strings.Contains(status, "stranger/"), status
		})
	})
}
