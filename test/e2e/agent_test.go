package e2e

import (
	"strings"
	"testing"
	"time"
)

// startAgent runs the agent of a host as the README does, with the directories of this host's engine.
func (h host) startAgent(flags ...string) {
	h.t.Helper()
	h.runAgent("agent", append([]string{"agent"}, flags...)...)
}

// runAgent gives a container of the image all that an agent needs.
func (h host) runAgent(name string, command ...string) {
	h.t.Helper()
	h.awaitAgent(name, h.Agent(name, command...))
}

// awaitAgent types that command, and returns when the agent sees namespaces.
func (h host) awaitAgent(name string, run []string) {
	h.t.Helper()
	h.docker(run...)
	eventually(h.t, 20*time.Second, func() (bool, string) {
		log, err := h.tryCombined("docker logs " + name)
		return strings.Contains(log, "links are open before a container's first instruction"), log + errText(err)
	})
}

// Without an argument the image is what connectable was; where its command line of old is not enough, it says what is.
func TestConnectable(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.run("docker run -d --name connectable -v " + a.Socket + ":/var/run/docker.sock legate")
		eventually(t, 20*time.Second, func() (bool, string) {
			code := a.run("docker inspect -f {{.State.Status}}-{{.State.ExitCode}} connectable")
			return code == "exited-2", code
		})
		log, _ := a.tryCombined("docker logs connectable")
		for _, want := range []string{"no --link that Docker knows of", "nor can this container be the agent", "SYS_ADMIN", "SYS_PTRACE", "the processes of other containers are not seen",
			"docker run -d --name agent --pid host --network host", "--security-opt apparmor=unconfined", "legate 6379=redis:6379"} {
			if !strings.Contains(log, want) {
				t.Errorf("it does not say %q:\n%s", want, log)
			}
		}
		a.run("docker rm connectable")

		a.redisBorn("redis")
		a.runAgent("connectable")
		a.run("docker run -d --name myservice -l connect.6000=docker:redis:6379 legate-e2e/tools sleep 600")
		eventually(t, 20*time.Second, func() (bool, string) {
			out, err := a.try("docker exec myservice redis-cli -h localhost -p 6000 get who")
			return err == nil && out == "redis", out + errText(err)
		})
	})
}

// A container says what it uses, and its application finds it on localhost: again after a restart, and after
// the agent was killed.
func TestAgent(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.run("docker network create backend")
		a.redisBorn("redis", "--network", "backend")
		a.startAgent()

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

// What a container may ask for, and of whom: each rule by somebody who tries to get around it.
func TestAgentRules(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		project := func(name, service string) []string {
			return []string{"--label", "com.docker.compose.project=" + name, "--label", "com.docker.compose.service=" + service}
		}
		a.redisBorn("shop-redis-1", project("shop", "redis")...)
		a.redisBorn("open-redis-1", append(project("open", "cache"), "--label", "legate.allow=shop")...)
		a.run("docker network create lonely")
		a.redisBorn("secret-redis-1", append(project("secret", "vault"), "--network", "lonely")...)
		a.startAgent()

		client := append([]string{"run", "-d", "--name", "web"}, project("shop", "web")...)
		client = append(client,
			"--label", "connect.1001=docker:redis:6379", // of its own project
			"--label", "connect.1002=docker:open/cache:6379", // which allows it
			"--label", "connect.1003=docker:secret/vault:6379", // which does not
			"--label", "connect.1004=127.0.0.1:22", // of this host
			"--label", "connect.1005=unix:/var/run/docker.sock",
			"--label", "connect.1006=file:/etc/passwd",
			"--label", "connect.1007=consul://10.0.0.1:8500/x",
			"--label", "connect.1008=169.254.169.254:80",
			"--label", "connect.1009=192.168.1.52:6379", // the host's own address
			"--label", "connect.70000=redis",
			"--label", "connect.53/udp=redis",
			"legate-e2e/tools", "sleep", "600")
		a.docker(client...)
		says := func(port, want string) {
			t.Helper()
			eventually(t, 20*time.Second, func() (bool, string) {
				out, err := a.try("docker exec web redis-cli -h localhost -p " + port + " get who")
				return err == nil && out == want, out + errText(err)
			})
		}
		says("1001", "shop-redis-1")
		says("1002", "open-redis-1")
		status := a.run("docker exec agent legate status")
		for _, want := range []string{
			"web/1003", "does not accept", "web/1004", "web/1005", "web/1006", "web/1007", "web/1008", "web/1009", "--allow-target=", "70000", "web/53/udp",
		} {
			if !strings.Contains(status, want) {
				t.Errorf("status does not say %q:\n%s", want, status)
			}
		}
		for _, port := range []string{"1003", "1004", "1005", "1006", "1007", "1008", "1009"} {
			if out, err := a.try("docker exec web redis-cli -h localhost -p " + port + " ping"); err == nil && !strings.Contains(out, "Connection re") && !strings.Contains(out, "Could not connect") && !strings.Contains(out, "Server closed") {
				t.Errorf("port %s was served: %s", port, out)
			}
		}

		// A network that came later has an address of the host, too.
		a.run("docker network create --subnet 172.31.99.0/24 --gateway 172.31.99.1 later")
		a.run("docker run -d --name late --network later --label connect.1012=172.31.99.1:22 legate-e2e/tools sleep 600")
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec agent legate status late/1012")
			return strings.Contains(status, "172.31.99.1:22: it is an address of this host"), status
		})

		// Who takes the name of another's service gets none of its callers, and whoever else asks is told of both.
		a.redisBorn("thief", append(project("evil", "x"), "--label", "legate.service=redis", "--label", "legate.allow=*")...)
		a.run("docker run -d --name outsider --label connect.6379=redis legate-e2e/tools sleep 600")
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec agent legate status")
			return strings.Contains(status, "docker:redis:6379 may mean docker:evil/redis, docker:shop/redis") || strings.Contains(status, "docker:redis may mean docker:evil/redis, docker:shop/redis"), status
		})
		for range 5 {
			says("1001", "shop-redis-1")
		}

		// Labels of an image decide nothing, and what the application serves itself is left alone.
		a.docker("commit", "--change", "LABEL connect.2001=redis legate.service=imaged", "web", "legate-e2e/sly")
		a.docker(append(append([]string{"run", "-d", "--name", "sly", "--expose", "6379"}, project("shop", "sly")...),
			"--label", "connect.6379=redis", "--label", "connect.6380=redis", "--label", "connect.6379.force=false", "legate-e2e/sly", "sh", "-c", "redis-server --port 6379 || sleep 600")...)
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec agent legate status")
			return strings.Contains(status, "sly/6380") && strings.Contains(status, "exposes port 6379") && !strings.Contains(status, "sly/2001"), status
		})
		// When it is restarted that is known before its first instruction.
		a.run("docker restart -t 0 sly")
		eventually(t, 20*time.Second, func() (bool, string) {
			out, err := a.try("docker exec sly redis-cli get who")
			return err == nil && out == "", out + errText(err)
		})

		// Who lives in the network of another shares its localhost; who lives in the host's has none of its own.
		a.docker("run", "-d", "--name", "lodger", "--network", "container:web", // of no project: the network counts
			"--label", "connect.1010=docker:shop/redis:6379", "--label", "connect.1012=docker:imaged:6379", "legate-e2e/tools", "sleep", "600")
		says("1010", "shop-redis-1")
		eventually(t, 20*time.Second, func() (bool, string) {
			why := a.run("docker exec agent legate why lodger 1012")
			return strings.Contains(why, "container sly has that from its image alone"), why
		})
		a.docker(append(append([]string{"run", "-d", "--name", "hosted", "--network", "host"}, project("shop", "hosted")...),
			"--label", "connect.1011=redis", "legate-e2e/tools", "sleep", "600")...)
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec agent legate status")
			return strings.Contains(status, "in the host's network"), status
		})

		// Its name may change, and it may be away from every network.
		a.run("docker rename web shopfront")
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec agent legate status")
			return strings.Contains(status, "shopfront/1001") && !strings.Contains(status, "web/1001"), status
		})
		a.docker(append(append([]string{"run", "-d", "--name", "hermit", "--network", "none"}, project("shop", "hermit")...),
			"--label", "connect.6379=redis", "legate-e2e/tools", "sleep", "600")...)
		eventually(t, 20*time.Second, func() (bool, string) {
			out, err := a.try("docker exec hermit redis-cli -h 127.0.0.1 get who")
			return err == nil && out == "shop-redis-1", out + errText(err)
		})
	})
}
