package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"legate/internal/testnet"
	"legate/test/e2e/lab"
)

// world is what one scenario sees: both Docker hosts, empty, on one engine, and the one for registries.
type world struct {
	t       *testing.T
	lab     *lab.Lab
	a, b, r host
}

// host types docker commands on one host; a command that fails ends the test.
type host struct {
	*lab.Host
	t *testing.T
}

// eachEngine runs a scenario on every engine, at the same time: the hosts of one do not know those of
// the other. Each run starts with empty hosts and leaves them so.
func eachEngine(t *testing.T, scenario func(t *testing.T, w *world)) {
	t.Helper()
	engines(t, func(lab.Engine) bool { return true }, scenario)
}

// engines is eachEngine for a scenario that is for some of them.
func engines(t *testing.T, are func(lab.Engine) bool, scenario func(t *testing.T, w *world)) {
	t.Helper()
	needs(t)
	engines, missing := lab.Engines(t.Context())
	for _, engine := range engines {
		if !are(engine) {
			continue
		}
		t.Run("engine="+engine.Label, func(t *testing.T) {
			t.Parallel()
			scenario(t, enter(t, engine))
		})
	}
	for _, why := range missing {
		t.Run("engine=missing", func(t *testing.T) { testnet.Skip(t, why) })
	}
}

func needs(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		testnet.Skip(t, "needs root for network namespaces and Docker engines")
	}
	for _, program := range []string{"ip", "docker", "nsenter", "unshare", "redis-server", "redis-cli", "socat", "busybox", "dnsmasq"} {
		if _, err := exec.LookPath(program); err != nil {
			testnet.Skip(t, "needs "+program+": run test/setup/packages.sh")
		}
	}
	if _, err := lab.Postgres(); err != nil {
		testnet.Skip(t, err.Error())
	}
}

func enter(t *testing.T, engine lab.Engine) *world {
	t.Helper()
	hosts := suite.get(t, engine)
	if err := hosts.Reset(t.Context()); err != nil {
		t.Fatalf("empty the hosts: %v", err)
	}
	w := &world{t: t, lab: hosts, a: host{hosts.A, t}, b: host{hosts.B, t}, r: host{hosts.R, t}}
	t.Cleanup(w.leave)
	return w
}

func (w *world) leave() {
	if w.t.Failed() {
		w.a.describe()
		w.b.describe()
	}
	if err := w.lab.Reset(context.Background()); err != nil {
		w.t.Errorf("empty the hosts: %v", err)
	}
}

// describe logs what a person would ask for first: which containers there are and what they said.
func (h host) describe() {
	ctx := context.Background()
	list, _ := h.Docker(ctx, "ps", "-a")
	h.t.Logf("host %s:\n%s", h.Name, list)
	names, _ := h.Docker(ctx, "ps", "-a", "--format", "{{.Names}}")
	for name := range strings.FieldsSeq(names) {
		said, _ := h.Command(ctx, "logs", "--tail", "30", name).CombinedOutput()
		h.t.Logf("host %s, docker logs %s:\n%s", h.Name, name, said)
	}
}

// run types a command as documented, "docker run -d ..."; words are split at spaces. It returns
// what the command printed.
func (h host) run(command string) string {
	h.t.Helper()
	return h.docker(words(h.t, command)...)
}

// try is run for a command that may fail.
func (h host) try(command string) (string, error) {
	h.t.Helper()
	return h.tryDocker(words(h.t, command)...)
}

func (h host) docker(args ...string) string {
	h.t.Helper()
	out, err := h.tryDocker(args...)
	if err != nil {
		h.t.Fatalf("on host %s: %v\n%s", h.Name, err, out)
	}
	return out
}

func (h host) tryDocker(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := h.Docker(ctx, args...)
	return strings.TrimSpace(out), err
}

func words(t *testing.T, command string) []string {
	t.Helper()
	all := strings.Fields(command)
	if len(all) < 2 || all[0] != "docker" {
		t.Fatalf("not a docker command: %q", command)
	}
	return all[1:]
}

// eventually waits for a condition of the outside world; why says what was seen instead.
func eventually(t *testing.T, within time.Duration, condition func() (ok bool, why string)) {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.Background(), within, fmt.Errorf("not within %v", within))
	defer cancel()
	if err := lab.Poll(ctx, condition); err != nil {
		t.Fatal(err)
	}
}

// tryCombined returns both streams, as they appear on a screen.
func (h host) tryCombined(command string) (string, error) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := h.Command(ctx, words(h.t, command)...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
