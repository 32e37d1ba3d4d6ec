package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// right is a flag that the agent's container has, what doctor says of a container without it, and what becomes of links.
type right struct {
	flag, mend string
	says       string // by the agent that lacks it, in its log or status
	serves     bool   // links are opened all the same, after the start
}

func rightsOf(h host) []right {
	return []right{
		{"--cap-add SYS_ADMIN", "--cap-add SYS_ADMIN", "enter a container's network namespace: operation not permitted", false},
		{"--cap-add SYS_PTRACE", "--cap-add SYS_PTRACE", "capabilities SYS_PTRACE and SYS_ADMIN", false},
		{"--pid host", "--pid host", "run the agent with --pid host", false},
		{"-v " + h.Namespaces() + ":/var/run/docker/netns:ro,rslave", "/var/run/docker/netns:/var/run/docker/netns:ro,rslave", "links are opened only after a container has started", true},
		{strings.TrimSpace(h.withSocket()), "-v /var/run/docker.sock:/var/run/docker.sock", "docker.sock", false},
	}
}

// The agent's container needs each of its flags, and says so where one is missing; it needs no other.
func TestAgentRights(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.run("docker network create backend")
		a.redisBorn("redis", "--network", "backend")
		a.run("docker run -d --name web --network backend --label connect.6379=redis legate-e2e/tools sleep 600")
		rights := rightsOf(a)
		const base = " --network host --cap-drop ALL --security-opt apparmor=unconfined "

		out, err := a.try("docker run --rm" + base + allBut(rights, -1) + " legate doctor --agent --all")
		if err != nil {
			t.Errorf("with all flags doctor says:\n%s%s", out, errText(err))
		}
		for i, r := range rights {
			out, err := a.try("docker run --rm" + base + allBut(rights, i) + " legate doctor --agent")
			if !strings.Contains(out, r.mend) || (err == nil) != r.serves {
				t.Errorf("without %s doctor says:\n%s%s", r.flag, out, errText(err))
			}
			name := fmt.Sprintf("agent%d", i)
			a.run("docker run -d --name " + name + base + allBut(rights, i) + " legate agent")
			eventually(t, 20*time.Second, func() (bool, string) {
				status, _ := a.tryCombined("docker exec " + name + " legate status")
				log, _ := a.tryCombined("docker logs " + name)
				return strings.Contains(status+log, r.says), "without " + r.flag + " the agent says:\n" + status + log
			})
			served := func() bool {
				out, err := a.try("docker exec web redis-cli -h localhost get who")
				return err == nil && out == "redis"
			}
			if r.serves {
				eventually(t, 20*time.Second, func() (bool, string) { return served(), "no link is open without " + r.flag })
				doctor, _ := a.tryCombined("docker exec " + name + " legate doctor")
				if !strings.Contains(doctor, "agent legate") || !strings.Contains(doctor, r.says) {
					t.Errorf("without %s doctor says of the agent:\n%s", r.flag, doctor)
				}
			} else if served() {
				t.Errorf("links are open without %s", r.flag)
			}
			a.run("docker rm -f " + name)
		}

		// What it did is told by itself.
		a.startAgent()
		eventually(t, 20*time.Second, func() (bool, string) {
			audit, err := a.tryCombined("docker exec agent legate agent --audit")
			return strings.Contains(audit, "1 link is open in 1 container") && strings.Contains(audit, "web/6379") &&
				strings.Contains(audit, "connect.6379=redis") && strings.Contains(audit, "net:["), audit + errText(err)
		})
		doctor, err := a.tryCombined("docker exec agent legate doctor --all")
		if err != nil || !strings.Contains(doctor, "links are open before a container's first instruction, by the namespaces in /var/run/docker/netns") {
			t.Errorf("doctor says:\n%s%s", doctor, errText(err))
		}
	})
}

func allBut(all []right, i int) string {
	var flags []string
	for j, r := range all {
		if j != i {
			flags = append(flags, r.flag)
		}
	}
	return strings.Join(flags, " ")
}
