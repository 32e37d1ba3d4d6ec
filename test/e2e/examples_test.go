package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"legate/internal/testnet"
	"legate/test/e2e/lab"
)

// The primary is killed while a request waits, and the standby promoted: the application goes on writing, as it
// was started, and nobody told it or the agent anything.
func TestExamplePostgres(t *testing.T) {
	if composeFor(lab.Engine{}) == "" {
		testnet.Skip(t, "needs docker compose or docker-compose: run test/setup/packages.sh")
	}
	have := func(engine lab.Engine) bool { return composeFor(engine) != "" }
	engines(t, have, func(t *testing.T, w *world) {
		image, err := lab.OfficialPostgres("postgres:17")
		if err != nil {
			t.Fatal(err)
		}
		w.provide(image)
		// An engine makes its folder of namespaces for its first container. Before Engine 23 docker compose does not.
		w.a.run("docker run --rm legate version")
		e := w.example("postgres", "docker compose", composeFor(w.lab.Engine))
		e.variables = []string{"DOCKER_SOCKET=" + w.a.Socket, "DOCKER_NETNS=" + w.a.Namespaces()}
		before := ""
		for _, l := range e.lines("compose.yml") {
			switch {
			case strings.Contains(l.text, "kill primary"):
				w.a.awaitStreaming("standby", time.Time{})
				before = w.a.started("agent", "web", "standby")
			case strings.Contains(l.text, "down"):
				e.behind.Wait()
				if now := w.a.started("agent", "web", "standby"); now != before {
					t.Errorf("they do not all run as they were started:\n%s\nbefore:\n%s", now, before)
				}
			}
			e.types(l)
		}
	})
}

// composeFor is the command for Compose files on an engine; "": this machine has none. Debian's docker-compose is
// older than the API that Engine 29 asks for at least.
func composeFor(engine lab.Engine) string {
	v2 := exec.Command("docker", "compose", "version")
	v2.Env = append(os.Environ(), "DOCKER_CONFIG=/nonexistent") // what the user alone has is not there for the hosts
	if v2.Run() == nil {
		return "docker compose"
	}
	if _, err := exec.LookPath("docker-compose"); err == nil && engine.Major < 29 {
		return "docker-compose"
	}
	return ""
}

// started is since when containers run.
func (h host) started(names ...string) string {
	h.t.Helper()
	return h.docker(append([]string{"inspect", "-f", "{{.Name}} is {{.State.Status}} since {{.State.StartedAt}}"}, names...)...)
}

func TestExampleConsul(t *testing.T) {
	redisMoves(t, consul, lab.Image{Name: "hashicorp/consul:1.21", Changes: []string{`ENTRYPOINT ["consul"]`}})
}

func TestExampleEtcd(t *testing.T) {
	redisMoves(t, etcd, lab.Image{Name: "quay.io/coreos/etcd:v3.6.5", Programs: []string{"etcdctl"}})
}

// redisMoves: Redis moves to the other host, where Docker gives it another port, and its entry in the registry with
// it. No request of the client fails. The image gets the program of the registry.
func redisMoves(t *testing.T, r registry, image lab.Image) {
	needsPrograms(t, r)
	name, _, _ := strings.Cut(r.serve, " ")
	program, err := lab.Program(name)
	if err != nil {
		t.Fatal(err)
	}
	image.Programs = append(image.Programs, program)
	eachEngine(t, func(t *testing.T, w *world) {
		w.provide(image)
		for _, h := range []host{w.a, w.b} {
			h.run("docker tag crosbymichael/redis redis:7")
		}
		w.b.run("docker run -d -P redis:7") // it gets the first port, which Redis has on host A
		e := w.example(name)
		all := e.lines("README.md")
		removal := slices.IndexFunc(all, func(l line) bool { return l.text == "docker rm -f agent" })
		if removal < 0 {
			t.Fatal("the example does not say how to remove it")
		}
		for _, l := range all[:removal] {
			e.types(l)
		}
		client := writer{w.b, "web", regexp.MustCompile(`^\d+$`).MatchString}
		client.goesOn(time.Now())
		client.neverFailed(time.Time{})
		if n := w.b.run("docker inspect -f {{.RestartCount}}/{{.State.Status}} web"); n != "0/running" {
			t.Errorf("web is %s, want it to run as it was started", n)
		}
		if a, b := e.port["192.168.1.52"], e.port["192.168.1.53"]; a == "" || b == "" || a == b {
			t.Errorf("Redis was published on port %q, then on port %q: want another", a, b)
		}
		for _, l := range all[removal:] {
			e.types(l)
		}
		if left := w.a.run("docker ps -aq"); left != "" {
			t.Errorf("host A is left with containers %s", left)
		}
	})
}

// provide has images on both hosts.
func (w *world) provide(images ...lab.Image) {
	w.t.Helper()
	err := w.lab.Each(func(h *lab.Host) error {
		for _, image := range images {
			if err := h.Import(w.t.Context(), image); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// example types what a file of examples/ tells its reader to type, in the folder of the file.
type example struct {
	*world
	dir       string
	instead   []string // pairs: what the file names, and what stands for it here
	variables []string // that a user of such hosts would set
	exports   map[string]string
	port      map[string]string // by the host's address, what a script said that it wrote
	behind    sync.WaitGroup    // commands with an & behind
}

// line is one command and what comes back.
type line struct {
	hosts      string // "A", or "A and B"
	text, says string
}

func (w *world) example(name string, instead ...string) *example {
	e := &example{
		world: w, dir: filepath.Join("..", "..", "examples", name), instead: instead,
		exports: map[string]string{}, port: map[string]string{},
	}
	w.t.Cleanup(e.behind.Wait)
	return e
}

// lines reads the commands of a file: what is indented, in a Compose file behind the # of its comments. "# host B" or
// "# hosts A and B" says where the next ones are typed, and what stands behind #=> comes back.
func (e *example) lines(file string) (all []line) {
	e.t.Helper()
	text, err := os.ReadFile(filepath.Join(e.dir, file))
	if err != nil {
		e.t.Fatal(err)
	}
	indent := "    "
	if filepath.Ext(file) == ".yml" {
		indent = "#     "
	}
	place := regexp.MustCompile(`^# hosts? (.*)`)
	hosts := "A"
	for typed := range strings.Lines(strings.ReplaceAll(string(text), "\\\n", "")) {
		command, indented := strings.CutPrefix(typed, indent)
		if on := place.FindStringSubmatch(command); on != nil {
			hosts = on[1]
		} else if indented {
			command, says, _ := strings.Cut(command, "#=> ")
			all = append(all, line{hosts, strings.TrimSpace(command), strings.TrimSpace(says)})
		}
	}
	if len(all) == 0 {
		e.t.Fatalf("%s has no commands", file)
	}
	return all
}

func (e *example) types(l line) {
	e.t.Helper()
	for _, h := range []host{e.a, e.b} {
		if !strings.Contains(l.hosts, strings.ToUpper(h.Name)) {
			continue
		}
		if text, behind := strings.CutSuffix(l.text, " &"); behind {
			e.behind.Go(func() {
				if err := e.once(h, text, l.says); err != nil {
					e.t.Error(err)
				}
			})
			continue
		}
		if strings.HasPrefix(l.text, "export ") {
			e.exports[h.Name] += l.text + "\n"
			continue
		}
		if err := e.typeOn(h, l); err != nil {
			e.t.Fatal(err)
		}
	}
}

// typeOn types a command, until it says what the file shows: what only asks may be asked again.
func (e *example) typeOn(h host, l line) error {
	if l.says == "" {
		return e.once(h, l.text, "")
	}
	ctx, cancel := context.WithTimeoutCause(e.t.Context(), time.Minute, errors.New("not within a minute"))
	defer cancel()
	return lab.Poll(ctx, func() (bool, string) {
		err := e.once(h, l.text, l.says)
		return err == nil, fmt.Sprint(err)
	})
}

func (e *example) once(h host, text, says string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	mounts := []string{"-v /var/run/docker.sock:", "-v " + h.Socket + ":", "-v /var/run/docker/netns:", "-v " + h.Namespaces() + ":"}
	typed := strings.NewReplacer(append(mounts, e.instead...)...).Replace(text)
	out, err := h.Shell(ctx, e.dir, e.exports[h.Name]+typed, e.variables...)
	if err != nil || !strings.Contains(out, says) {
		return fmt.Errorf("on host %s: %s\nsays:\n%s%s\nbut in the example: %s", h.Name, text, out, errText(err), says)
	}
	e.t.Logf("host %s: %s\n%s", h.Name, text, out)
	if at := regexp.MustCompile(` (\S+):(\d+) \(redis\d\)`).FindStringSubmatch(out); at != nil {
		e.port[at[1]] = at[2]
	}
	return nil
}
