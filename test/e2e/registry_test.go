package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"legate/internal/testnet"
	"legate/test/e2e/lab"
)

// registry is one that runs on host R, by the commands that a user types.
type registry struct {
	serve string // on host R
	// ready is a page that exists as soon as it serves, and text that is in it then.
	ready, says string
	// ambassador is typed on host B, put and remove on host R: for an entry by its number, an address
	// and a port.
	ambassador string
	put        func(entry int, ip, port string) string
	remove     func(entry int) string
}

var (
	consul = registry{
		serve:      "consul agent -dev -bind 192.168.1.55 -client 0.0.0.0 -dns-port 53",
		ready:      "http://192.168.1.55:8500/v1/status/leader",
		says:       "192.168.1.55",
		ambassador: "docker run -d --name ambassador -e CONSUL_HTTP_ADDR=192.168.1.55:8500 legate 6379=consul:redis",
		put: func(entry int, ip, port string) string {
			return fmt.Sprintf("consul services register -name redis -id redis-%d -address %s -port %s", entry, ip, port)
		},
		remove: func(entry int) string { return fmt.Sprintf("consul services deregister -id redis-%d", entry) },
	}
	etcd = registry{
		serve:      "etcd --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://192.168.1.55:2379",
		ready:      "http://192.168.1.55:2379/health",
		says:       `"true"`,
		ambassador: "docker run -d --name ambassador legate 6379=etcd://192.168.1.55:2379/services/redis",
		put: func(entry int, ip, port string) string {
			return fmt.Sprintf("etcdctl put /services/redis/%d %s:%s", entry, ip, port)
		},
		remove: func(entry int) string { return fmt.Sprintf("etcdctl del /services/redis/%d", entry) },
	}
)

// needsPrograms skips a test that needs registries which are not built here.
func needsPrograms(t *testing.T, registries ...registry) {
	t.Helper()
	for _, r := range registries {
		name, _, _ := strings.Cut(r.serve, " ")
		if _, err := lab.Program(name); err != nil {
			testnet.Skip(t, err.Error())
		}
	}
}

// serve starts registries on host R, which end with the test, and returns when they serve.
func (w *world) serve(registries ...registry) {
	w.t.Helper()
	var servers []*lab.Server
	for _, r := range registries {
		words := strings.Fields(r.serve)
		server, err := w.r.Serve(words[0], words[1:]...)
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() {
			server.Stop()
			if w.t.Failed() {
				w.t.Logf("%s said:\n%s", words[0], server.Log())
			}
		})
		servers = append(servers, server)
	}
	for i, r := range registries {
		eventually(w.t, 30*time.Second, func() (bool, string) {
			if servers[i].Ended() {
				w.t.Fatalf("%s: it ended", r.serve)
			}
			page := w.r.page(r.ready)
			return strings.Contains(page, r.says), r.ready + " says " + page
		})
	}
}

// page reads a page as a program on the host would; what went wrong is in its place.
func (h host) page(url string) string {
	client := http.Client{
		Timeout: time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return h.Dial(ctx, network, address)
			},
		},
	}
	resp, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body) + errText(err)
}

// types types a command on the host, outside every container; words are split at spaces.
func (h host) types(command string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Minute)
	defer cancel()
	if out, err := h.Exec(ctx, strings.Fields(command)...); err != nil {
		h.t.Fatalf("on host %s: %v\n%s", h.Name, err, out)
	}
}
