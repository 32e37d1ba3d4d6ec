package e2e

import (
	"net"
	"strings"
	"testing"
	"time"
)

func TestIPv6Network(t *testing.T) {
	eachEngine(t, func(_ *testing.T, w *world) {
		w.a.run("docker network create --ipv6 --subnet fd00:6::/64 six")
		w.a.run("docker run -d --name database --network six crosbymichael/redis")
		w.a.run("docker run -d --name ambassador --network six legate 6379=[" + w.a.address6("database") + "]:6379")
		w.a.awaitListening("ambassador", "6379")

		w.a.answersAtOnce("--network six", "-h "+w.a.address6("ambassador")) // v6 to v6
		w.a.answersAtOnce("--network six", "-h "+w.a.address("ambassador"))  // v4 to v6
	})
}

func (h host) address6(container string) string {
	h.t.Helper()
	out := h.docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}", container)
	if ip := net.ParseIP(out); ip == nil {
		h.t.Fatalf("container %s has no IPv6 address, but %q", container, out)
	}
	return out
}

// A real DNS server on host A, asked by a real resolver on host B through a UDP link.
func TestDNSBehindUDPLink(t *testing.T) {
	eachEngine(t, func(_ *testing.T, w *world) {
		w.a.run("docker network create names")
		w.a.run("docker run -d --name dns --network names legate-e2e/tools dnsmasq --keep-in-foreground --no-resolv --no-hosts " +
			"--user=root --pid-file=/tmp/dnsmasq.pid --address=/who.example/10.1.2.3")
		w.a.run("docker run -d --name ambassador --network names -p 53:53/udp legate 53/udp=dns:53")
		eventually(w.t, 20*time.Second, func() (bool, string) {
			out, err := w.b.try("docker run --rm legate-e2e/tools nslookup -type=a who.example 192.168.1.52")
			return strings.Contains(out, "10.1.2.3"), "nslookup: " + out + errText(err)
		})
	})
}

// Two containers without a common network share a volume with a unix socket in it; the ambassador is
// on either side of one.
func TestUnixSocketVolume(t *testing.T) {
	eachEngine(t, func(_ *testing.T, w *world) {
		w.a.run("docker volume create sockets")
		w.a.run("docker run -d --name database --network none -v sockets:/run/redis crosbymichael/redis " +
			"redis-server --port 0 --unixsocket /run/redis/database.sock")
		w.a.run("docker run -d --name ambassador -v sockets:/run/redis legate " +
			"6379=unix:/run/redis/database.sock unix:/run/redis/front.sock=unix:/run/redis/database.sock")
		w.a.awaitListening("ambassador", "6379")

		w.a.answersAtOnce("", "-h "+w.a.address("ambassador"))                                // TCP to unix
		w.a.answersAtOnce("--network none -v sockets:/run/redis", "-s /run/redis/front.sock") // unix to unix
	})
}
