package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// A server is reached from inside its own network, whatever leads there from elsewhere: nothing at all to one
// with --network none, not even from the host.
func TestAgentReach(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.run("docker network create front")
		a.run("docker network create --internal back")
		a.startAgent()
		a.redisBorn("vault", "--network", "none", "--label", "legate.allow=*")
		a.redisBorn("hidden", "--network", "back", "--label", "legate.allow=*")
		a.redisBorn("closed", "--network", "none")
		a.run("docker run -d --name echo --network none --label legate.allow=* legate-e2e/tools socat UDP4-LISTEN:7000,fork EXEC:cat")
		a.run("docker run -d --name guest --network container:vault --label legate.allow=* legate-e2e/tools sleep 600")
		a.run("docker run -d --name web --network front --label connect.6379=vault --label connect.6380=docker:hidden:6379" +
			" --label connect.6381=docker:closed:6379 --label connect.6382=docker:guest:6379 --label connect.6382.check=redis" +
			" --label connect.7000/udp=docker:echo:7000 legate-e2e/tools sleep 600")
		says := func(port, want string) {
			t.Helper()
			eventually(t, 20*time.Second, func() (bool, string) {
				out, err := a.try("docker exec web redis-cli -h 127.0.0.1 -p " + port + " get who")
				return err == nil && out == want, out + errText(err)
			})
		}
		says("6379", "vault")
		says("6380", "hidden")
		says("6382", "vault") // who lodges with it has its localhost
		eventually(t, 20*time.Second, func() (bool, string) {
			out, err := a.tryDocker("exec", "web", "sh", "-c", "echo datagram | socat -t1 - UDP4:127.0.0.1:7000")
			return err == nil && out == "datagram", out + errText(err)
		})
		if out, err := a.try("docker exec web redis-cli -h 127.0.0.1 -p 6381 ping"); err == nil && out == "PONG" {
			t.Error("a server that allows nobody was reached")
		}
		why := a.run("docker exec agent legate why web 6379")
		if !strings.Contains(why, "container vault from inside its own network") || !strings.Contains(why, "goes to 127.0.0.1:6379@") {
			t.Errorf("why says:\n%s", why)
		}
		why = a.run("docker exec agent legate why web 6381")
		if !strings.Contains(why, "does not accept") {
			t.Errorf("why says of the closed one:\n%s", why)
		}

		// Only its drain is asked for by what it is called.
		endpoint := regexp.MustCompile(`127\.0\.0\.1:6379@[0-9a-f]{12}`).FindString(a.run("docker exec agent legate why web 6379"))
		a.run("docker exec agent legate drain " + endpoint)
		if out, _ := a.try("docker exec web redis-cli -h 127.0.0.1 -p 6379 get who"); out == "vault" {
			t.Error("a drained endpoint was given a connection")
		}
		a.run("docker exec agent legate resume " + endpoint)
		says("6379", "vault")

		// An agent that comes later finds who lodges with whom.
		a.run("docker restart -t 0 agent")
		says("6382", "vault")
		says("6379", "vault")

		// Its next life has another network.
		a.run("docker restart -t 0 vault")
		says("6379", "vault")
		a.run("docker rm -f vault guest")
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec agent legate status web/6379")
			return !strings.Contains(status, "@"), status
		})
	})
}
