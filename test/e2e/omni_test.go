package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// startOmni starts ambassadord's container as its users did.
func (h host) startOmni(options string) {
	h.t.Helper()
	h.run("docker run -d" + h.withSocket() + "--name backends " + options + " legate --omnimode")
	eventually(h.t, 20*time.Second, func() (bool, string) {
		log, err := h.tryCombined("docker logs backends")
		return strings.Contains(log, "containers, by their address"), log + errText(err)
	})
}

// setUpIptables is their second command. Engine 20.10 cannot start a privileged container where it lacks
// itself one of the capabilities that it knows.
func (h host) setUpIptables() {
	h.t.Helper()
	const command = "docker run --rm %s --net container:backends legate --setup-iptables"
	out, err := h.tryCombined(fmt.Sprintf(command, "--privileged"))
	if err != nil && strings.Contains(out, "unable to apply caps") {
		h.t.Log("this engine has no privileged containers here; with one capability instead")
		out, err = h.tryCombined(fmt.Sprintf(command, "--cap-add NET_ADMIN"))
	}
	if err != nil || !strings.Contains(out, "leads to 10000") {
		h.t.Fatalf("--setup-iptables: %s%s", out, errText(err))
	}
}

// asks runs a client whose first act is to ask the ambassador's port for who serves there.
func (h host) asks(options, port string) (string, error) {
	h.t.Helper()
	return h.try("docker run --rm " + options + " legate-e2e/tools redis-cli -h backends -p " + port + " get who")
}

// The commands of ambassadord's users, word for word: an ambassador without any right, the redirect by a
// container that lives for a moment, and clients that were linked to it.
func TestOmniAsAmbassadord(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.redisBorn("redis")
		a.redisBorn("other")
		a.startOmni("")
		a.setUpIptables()
		a.awaitRedis("other")
		const linked = "--link backends:backends "
		for client, c := range map[string]struct{ options, port, want string }{
			"a container":        {linked + "-e BACKEND_6379=redis", "6379", "redis"},
			"two of them":        {linked + "-e BACKEND_6379=redis -e BACKEND_1=docker:other:6379", "1", "other"},
			"an address":         {linked + "-e BACKEND_7000=" + a.address("redis") + ":6379", "7000", "redis"},
			"several":            {linked + "-e BACKEND_80=10.255.255.1:6379,docker:other:6379", "80", "other"},
			"a label":            {linked + "--label connect.6379=other", "6379", "other"},
			"at its own port":    {linked + "-e BACKEND_10000=docker:redis:6379", "10000", "redis"},
			"in another network": {"--network container:lodging -e BACKEND_6379=other", "6379", "other"},
		} {
			if strings.Contains(c.options, "lodging") {
				a.run("docker run -d --name lodging " + linked + "legate-e2e/tools sleep 600")
			}
			if got, err := a.asks(c.options, c.port); err != nil || got != c.want {
				t.Errorf("%s: %s serves, want %s%s", client, got, c.want, errText(err))
			}
		}
		for client, options := range map[string]string{
			"another port":          linked + "-e BACKEND_6380=redis",
			"nothing":               linked,
			"what it may not reach": linked + "-e BACKEND_6379=127.0.0.1:6379",
		} {
			if got, err := a.asks(options, "6379"); err == nil && (got == "redis" || got == "other") {
				t.Errorf("a client that asks for %s is served by %s", client, got)
			}
		}

		a.run("docker run -d --name web " + linked + "-e BACKEND_6379=redis legate-e2e/tools sleep 600")
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec backends legate status")
			return strings.Contains(status, "web/BACKEND_6379"), status
		})
		why := a.run("docker exec backends legate why web 6379")
		if !strings.Contains(why, "by its address") || !strings.Contains(why, "goes to") {
			t.Errorf("why says:\n%s", why)
		}
	})
}

// An address goes from a container that is removed to another one, which must not get what the first one
// asked for; and what the first one still had open ends.
func TestOmniAddressUsedAgain(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.run("docker network create --subnet 10.99.0.0/24 fixed")
		a.redisBorn("one", "--network", "fixed")
		a.redisBorn("two", "--network", "fixed")
		a.startOmni("--cap-add NET_ADMIN")
		a.run("docker network connect fixed backends")
		const at = "--network fixed --ip 10.99.0.50 "
		for i := range 5 {
			a.run(fmt.Sprintf("docker run -d --name first%d %s-e BACKEND_6379=one legate-e2e/tools sh -c ", i, at) + "redis-cli${IFS}-h${IFS}backends${IFS}subscribe${IFS}x")
			link := fmt.Sprintf("first%d/BACKEND_6379", i)
			eventually(t, 20*time.Second, func() (bool, string) {
				status := a.run("docker exec backends legate status")
				clients := a.run("docker exec one redis-cli client list")
				return strings.Contains(status, link) && strings.Contains(clients, "cmd=subscribe"), status + clients
			})
			a.run(fmt.Sprintf("docker rm -f first%d", i))
			if got, err := a.asks(at+"-e BACKEND_6379=two", "6379"); err != nil || got != "two" {
				t.Errorf("another container with the address is served by %q, want two%s", got, errText(err))
			}
			if got, err := a.asks(at, "6379"); err == nil && (got == "one" || got == "two") {
				t.Errorf("a container with the address that asks for nothing is served by %s", got)
			}
			eventually(t, 10*time.Second, func() (bool, string) {
				clients := a.run("docker exec one redis-cli client list")
				return !strings.Contains(clients, "cmd=subscribe"), clients
			})
		}
	})
}

// What a crash could leave behind is taken away by a command, and made anew by the next start.
func TestOmniCleanUp(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.redisBorn("redis")
		a.startOmni("--cap-add NET_ADMIN")
		const client = "--link backends:backends -e BACKEND_6379=redis"
		served := func() (bool, string) {
			got, err := a.asks(client, "6379")
			return err == nil && got == "redis", got + errText(err)
		}
		eventually(t, 20*time.Second, served)
		a.run("docker exec backends legate agent --clean-up")
		if got, err := a.asks(client, "6379"); err == nil && got == "redis" {
			t.Error("ports are redirected after --clean-up")
		}
		a.run("docker exec backends legate agent --setup-iptables")
		eventually(t, 20*time.Second, served)
		a.run("docker kill backends")
		a.run("docker start backends")
		eventually(t, 20*time.Second, served)
	})
}

// In the host's network a redirect would take every port of the host.
func TestOmniLeavesTheHostsPorts(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		a := w.a
		a.redisSays("redis", "-p 6379:6379")
		a.startOmni("--network host --cap-add NET_ADMIN")
		eventually(t, 20*time.Second, func() (bool, string) {
			status := a.run("docker exec backends legate status")
			return strings.Contains(status, "it is in the host's network"), status
		})
		out, err := a.tryCombined("docker run --rm --network host --cap-add NET_ADMIN legate --setup-iptables")
		if err == nil || !strings.Contains(out, "something else serves port") {
			t.Errorf("--setup-iptables in the host's network says: %s%s", out, errText(err))
		}
		w.awaitWhoAt("192.168.1.52:6379", "redis")
	})
}

func (w *world) awaitWhoAt(address, want string) {
	w.t.Helper()
	eventually(w.t, 20*time.Second, func() (bool, string) {
		who, err := w.b.who(address)
		return who == want, fmt.Sprintf("%q answers at %s, want %q%s", who, address, want, errText(err))
	})
}
