package discovertest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"legate/internal/discover"
	adapter "legate/internal/discover/docker"
	"legate/internal/docker"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// installed finds Debian's engine, and built the current one that
// test/setup/engine.sh makes.
func installed(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("dockerd")
	if err != nil {
		testnet.Skip(t, "needs a Docker engine (package docker.io)")
	}
	return path
}

func built(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("LEGATE_CACHE")
	if cache == "" {
		if dir, err := os.UserCacheDir(); err == nil {
			cache = filepath.Join(dir, "legate")
		}
	}
	path := filepath.Join(cache, "engine", "dockerd")
	if _, err := os.Stat(path); err != nil {
		testnet.Skip(t, "needs "+path+", which test/setup/engine.sh builds")
	}
	return path
}

// dockerBench is an engine whose containers are the endpoints.
type dockerBench struct {
	registry
	*testnet.Process
	host *testnet.Host
	dir  string
	tls  string        // where it wants certificates, in its own network
	keys docker.Config // what our sources show there; zero: they use the socket
	ca   *testnet.CA   // of the engine's certificate and of its clients'
}

func dockerAdapter(find func(testing.TB) string) Adapter {
	return Adapter{
		Start: func(t testing.TB) Bench { return startDocker(t, find(t)) },
		Down:  "nothing answers at the Docker socket", Paused: "did not answer",
		Takes: "who kills an engine here takes its containers along, as the end of a machine does",
		Credentials: func(t testing.TB, b Bench) Lock {
			e := b.(*dockerBench)
			return e.lock(t, "refuses our certificate", e.ca, testnet.NewCA(t))
		},
		Certificates: func(t testing.TB, b Bench) Lock {
			e := b.(*dockerBench)
			return e.lock(t, "is not trusted", testnet.NewCA(t), e.ca)
		},
		Lacks: map[string]string{"restarted_without_its_data": "an engine knows for certain what runs: a container that it lost is one that died"},
	}
}

// startDocker has the engine in namespaces of its own, which end with it: no
// mount, no shim and no container outlives a kill, and its /run is empty at
// each start, as that of a machine.
func startDocker(t testing.TB, dockerd string) *dockerBench {
	t.Helper()
	dir, err := os.MkdirTemp("", "eng")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		testnet.Eventually(t, testnet.Patience, func() bool { return os.RemoveAll(dir) == nil })
	})
	b := &dockerBench{host: testnet.NewHost(t), dir: dir, ca: testnet.NewCA(t), tls: "127.0.0.1:2376"}
	config := filepath.Join(dir, "daemon.json") // without one of its own it reads the machine's
	replace(t, config, "{}")
	cert, key := b.ca.Server(t, "127.0.0.1")
	const enter = `read pid rest </proc/self/stat && echo $pid >"$1" && mount -t proc proc /proc &&
		mount -t tmpfs tmpfs /run && shift && exec "$@"`
	b.inside(t, func() {
		b.Process = testnet.StartProcess(t, testnet.ProcessConfig{
			Args: []string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enter, "sh", b.pidFile(),
				dockerd, "--config-file", config, "--host=unix://" + b.sock(), "--host=tcp://" + b.tls,
				"--tlsverify", "--tlscacert=" + b.ca.File, "--tlscert=" + cert, "--tlskey=" + key,
				"--data-root=" + dir + "/data", "--storage-driver=vfs"},
			Env:   []string{"PATH=" + filepath.Dir(dockerd) + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"},
			Dir:   dir,
			Ready: b.ready,
		})
	})
	t.Cleanup(func() { b.Set(t) }) // or the groups of the containers would stay behind
	b.docker(t, image(t), "import", "--change", `CMD ["/busybox","sleep","1000000"]`, "-", "box")
	b.docker(t, nil, "network", "create", "--subnet", "10.77.0.0/24", "backend")
	return b
}

func (b *dockerBench) sock() string    { return filepath.Join(b.dir, "sock") }
func (b *dockerBench) pidFile() string { return filepath.Join(b.dir, "pid-outside") }

// inside runs f where a process that it starts is in the engine's network.
func (b *dockerBench) inside(t testing.TB, f func()) {
	t.Helper()
	b.host.Do(t, func() error { f(); return nil })
}

func (b *dockerBench) ready() bool {
	c, err := docker.New("unix://" + b.sock())
	if err != nil {
		return false
	}
	defer c.Close()
	_, err = c.APIVersion(context.Background())
	return err == nil
}

// docker runs the command of that name, also at the end of a test.
func (b *dockerBench) docker(t testing.TB, stdin io.Reader, args ...string) {
	t.Helper()
	cmd := exec.Command("docker", append([]string{"--host", "unix://" + b.sock()}, args...)...)
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// image is one with the machine's static busybox.
func image(t testing.TB) io.Reader {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		testnet.Skip(t, "needs busybox (package busybox-static)")
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "busybox", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func (b *dockerBench) Target() spec.Target {
	return spec.Target{Source: spec.SourceDocker, Protocol: spec.TCP, Host: "redis", Port: 6379}
}

func (b *dockerBench) Sources(t testing.TB, at string) map[string]discover.Source {
	t.Helper()
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	replace(t, nowhere, "")
	config := b.keys
	if config.Host == "" {
		config.Host = "unix://" + cmp.Or(at, b.sock())
	}
	return map[string]discover.Source{spec.SourceDocker: adapter.New(adapter.Config{
		Engine: config, Own: docker.Own{Mountinfo: nowhere, Cgroup: nowhere, Hostname: "the-host"},
	})}
}

func (b *dockerBench) Set(t testing.TB, addresses ...string) {
	t.Helper()
	b.change(addresses,
		func(a string) {
			b.docker(t, nil, "run", "-d", "--restart", "always", "--network", "backend", "--ip", a, "--name", "p-redis-"+a,
				"--label", "com.docker.compose.project=p", "--label", "com.docker.compose.service=redis", "box")
		},
		func(a string) { b.docker(t, nil, "rm", "-f", "p-redis-"+a) })
}

func (b *dockerBench) Kill(testing.TB) { b.Process.Kill() }

func (b *dockerBench) Restart(t testing.TB) {
	t.Helper()
	b.inside(t, func() { b.Start(t, b.ready) })
}

// Freeze stops the engine itself: its process is the one that made its
// namespaces.
func (b *dockerBench) Freeze() {
	if pid := b.pid(); pid > 0 {
		testnet.FreezePID(pid)
	}
}

// Thaw ends Freeze.
func (b *dockerBench) Thaw() {
	if pid := b.pid(); pid > 0 {
		_ = unix.Kill(pid, unix.SIGCONT)
	}
}

// pid is the engine's own, outside its namespace; 0: it does not run.
func (b *dockerBench) pid() int {
	text, err := os.ReadFile(b.pidFile())
	if err != nil || b.Ended() {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

func (b *dockerBench) Address() (network, address string) { return "unix", b.sock() }

// lock is the same engine, asked over TLS by who trusts one authority and has a
// certificate of another.
func (b *dockerBench) lock(t testing.TB, says string, trusted, own *testnet.CA) Lock {
	t.Helper()
	dir := t.TempDir()
	copyFile(t, trusted.File, filepath.Join(dir, "ca.pem"))
	show(t, own, dir)
	address := Forward(t, "tcp", 0, func() (c net.Conn, err error) {
		b.inside(t, func() { c, err = net.Dial("tcp", b.tls) })
		return c, err
	})
	locked := *b
	locked.keys = docker.Config{Host: "tcp://" + address, TLS: true, Certificates: dir}
	return Lock{Bench: &shared{&locked, b}, Says: says, Unlock: func(t testing.TB) {
		copyFile(t, b.ca.File, filepath.Join(dir, "ca.pem"))
		show(t, b.ca, dir)
	}}
}

// shared is the locked way to a server, whose endpoints are set at the open one.
type shared struct {
	*dockerBench
	open Bench
}

func (s *shared) Set(t testing.TB, addresses ...string) { s.open.Set(t, addresses...) }

// show makes a certificate of a client.
func show(t testing.TB, authority *testnet.CA, dir string) {
	t.Helper()
	cert, key := authority.Client(t, "legate")
	copyFile(t, key, filepath.Join(dir, "key.pem"))
	copyFile(t, cert, filepath.Join(dir, "cert.pem"))
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, to, string(text))
}
