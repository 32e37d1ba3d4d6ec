package docker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"legate/internal/discover"
	adapter "legate/internal/discover/docker"
	"legate/internal/docker"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// engine is a real engine in a network of its own.
type engine struct {
	*testnet.Process
	host *testnet.Host
	sock string
}

// engines returns the engines of this machine by label: Debian's, and the
// current one where it was built.
func engines(t *testing.T) map[string]string {
	t.Helper()
	testnet.NeedRoot(t)
	found := map[string]string{}
	if path, err := exec.LookPath("dockerd"); err == nil {
		found["installed"] = path
	}
	cache := os.Getenv("LEGATE_CACHE")
	if cache == "" {
		if dir, err := os.UserCacheDir(); err == nil {
			cache = filepath.Join(dir, "legate")
		}
	}
	path := filepath.Join(cache, "engine", "dockerd")
	if _, err := os.Stat(path); err == nil {
		found["current"] = path
	}
	if len(found) == 0 {
		testnet.Skip(t, "needs a Docker engine (package docker.io)")
	}
	return found
}

// startEngine has its mounts in a namespace of their own, where they are gone
// with it, and no containerd of the machine.
func startEngine(t *testing.T, dockerd string) *engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "eng")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		testnet.Eventually(t, testnet.Patience, func() bool { return os.RemoveAll(dir) == nil })
	})
	e := &engine{host: testnet.NewHost(t), sock: dir + "/sock"}
	config := dir + "/daemon.json" // without one of its own it reads the machine's
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	const enter = `mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd && exec "$@"`
	e.run(t, func() {
		e.Process = testnet.StartProcess(t, testnet.ProcessConfig{
			Args: []string{"unshare", "--mount", "sh", "-c", enter, "sh", dockerd, "--config-file", config, "--host=unix://" + e.sock,
				"--data-root=" + dir + "/data", "--exec-root=" + dir + "/exec", "--pidfile=" + dir + "/pid", "--storage-driver=vfs", "--shutdown-timeout=2"},
			Env:   []string{"PATH=" + filepath.Dir(dockerd) + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"},
			Dir:   dir,
			Ready: e.ready,
		})
	})
	t.Cleanup(func() {
		e.Thaw()
		if e.Ended() {
			e.restart(t)
		}
		e.clear(t)
		e.Stop(t, syscall.SIGTERM) // it ends its containerd
	})
	e.importImage(t)
	return e
}

// run runs f where a process that it starts gets the engine's network.
func (e *engine) run(t *testing.T, f func()) {
	t.Helper()
	e.host.Do(t, func() error { f(); return nil })
}

func (e *engine) restart(t *testing.T) {
	t.Helper()
	e.run(t, func() { e.Start(t, e.ready) })
}

func (e *engine) ready() bool {
	c, err := docker.New("unix://" + e.sock)
	if err != nil {
		return false
	}
	defer c.Close()
	_, err = c.APIVersion(context.Background())
	return err == nil
}

// docker runs the command of that name, also at the end of a test.
func (e *engine) docker(t *testing.T, args ...string) string {
	t.Helper()
	return e.feed(t, nil, args...)
}

func (e *engine) feed(t *testing.T, stdin io.Reader, args ...string) string {
	t.Helper()
	cmd := exec.Command("docker", append([]string{"--host", "unix://" + e.sock}, args...)...)
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

// importImage makes the image "box" of the machine's static busybox.
func (e *engine) importImage(t *testing.T) {
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
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))},
		{Typeflag: tar.TypeSymlink, Name: "bin/sh", Linkname: "busybox", Mode: 0o777},
		{Typeflag: tar.TypeSymlink, Name: "bin/test", Linkname: "busybox", Mode: 0o777},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write(program); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	e.feed(t, &b, "import", "--change", "ENV PATH=/bin", "--change", `CMD ["busybox","sleep","1000000"]`, "--change", "EXPOSE 6379", "-", "box")
}

// clear removes every container.
func (e *engine) clear(t *testing.T) {
	t.Helper()
	if ids := strings.Fields(e.docker(t, "ps", "-aq")); len(ids) > 0 {
		e.docker(t, append([]string{"rm", "-f"}, ids...)...)
	}
}

// up starts a container of that name and returns its id.
func (e *engine) up(t *testing.T, name string, args ...string) string {
	t.Helper()
	return e.docker(t, append(append([]string{"run", "-d", "--stop-signal", "KILL", "--name", name}, args...), "box")...)
}

// ip is the address that the engine gave to a container in a network.
func (e *engine) ip(t *testing.T, name, network string) string {
	t.Helper()
	return e.docker(t, "inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", network), name)
}

// compose is what makes a container one of a Compose project.
func compose(project, service string) []string {
	return []string{"--label", "com.docker.compose.project=" + project, "--label", "com.docker.compose.service=" + service}
}

// as says which container this process is; "": none.
func as(t *testing.T, id string) docker.Own {
	t.Helper()
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if id == "" {
		return docker.Own{Mountinfo: empty, Cgroup: empty, Hostname: "the-host"}
	}
	return docker.Own{Mountinfo: empty, Cgroup: empty, Hostname: id[:12]}
}

func (e *engine) source(t *testing.T, own string) *adapter.Source {
	t.Helper()
	return adapter.New(adapter.Config{Engine: docker.Config{Host: "unix://" + e.sock}, Own: as(t, own)})
}

// watch collects what a source says of one name.
type watch struct {
	t      *testing.T
	mu     sync.Mutex
	said   []discover.Result
	err    error // of Watch
	ended  bool
	seen   int // how many of said were looked at; of the test alone
	cancel context.CancelFunc
	done   chan struct{}
}

// ask watches a target, PROJECT/NAME or NAME, until the end of the test.
func ask(t *testing.T, s discover.Source, name string) *watch {
	t.Helper()
	target := spec.Target{Source: spec.SourceDocker, Host: name}
	if project, service, found := strings.Cut(name, "/"); found {
		target.Project, target.Host = project, service
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{t: t, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		err := s.Watch(ctx, discover.Query{Target: target}, w.set)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.err, w.ended = err, true
	}()
	t.Cleanup(w.stop)
	return w
}

func (w *watch) stop() { w.cancel(); <-w.done }

func (w *watch) set(r discover.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, r)
}

// until waits for a result that was not looked at yet.
func (w *watch) until(what string, good func(discover.Result) bool) discover.Result {
	w.t.Helper()
	var found discover.Result
	defer func() {
		if w.t.Failed() {
			w.t.Logf("said until %s: %+v; error %v", what, w.said, w.err)
		}
	}()
	testnet.Await(w.t, what, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for w.seen < len(w.said) {
			w.seen++
			if found = w.said[w.seen-1]; good(found) {
				return true
			}
		}
		return false
	})
	return found
}

// lost waits for the end of the watch and returns its error.
func (w *watch) lost() error {
	w.t.Helper()
	testnet.Await(w.t, "the end of the watch", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.ended
	})
	return w.err
}

// at wants one place, of that container, at that address.
func at(id, addr string) func(discover.Result) bool {
	return func(r discover.Result) bool {
		return r.Err == nil && len(r.Places) == 1 && r.Places[0].Container == id && r.Places[0].Host == addr && r.Places[0].Unhealthy == ""
	}
}

// counter stands before an engine and counts.
type counter struct {
	host string
	mu   sync.Mutex
	// connections that are open, the most there were, and questions by path.
	open, most int
	asked      map[string]int
}

// count proxies to the engine's socket.
func count(t *testing.T, sock string) *counter {
	t.Helper()
	c := &counter{asked: map[string]int{}}
	path := testnet.SocketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.host = "unix://" + path
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", sock)
	}}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.pass(transport, w, r) }),
		ConnState: func(_ net.Conn, s http.ConnState) {
			c.mu.Lock()
			defer c.mu.Unlock()
			switch s {
			case http.StateNew:
				c.open++
				c.most = max(c.most, c.open)
			case http.StateClosed, http.StateHijacked:
				c.open--
			}
		},
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close(); transport.CloseIdleConnections() })
	return c
}

func (c *counter) pass(transport *http.Transport, w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	key := r.Method + " " + r.URL.Path[strings.LastIndex(r.URL.Path, "/"):]
	if r.URL.Query().Get("filters") != "" && strings.HasSuffix(r.URL.Path, "/json") {
		key += " by id"
	}
	c.asked[key]++
	c.mu.Unlock()
	r.URL.Scheme, r.URL.Host, r.RequestURI = "http", "docker", ""
	resp, err := transport.RoundTrip(r)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	flush := http.NewResponseController(w)
	_ = flush.Flush()
	buf := make([]byte, 4096)
	for {
		n, err := resp.Body.Read(buf)
		if _, failed := w.Write(buf[:n]); failed != nil || err != nil {
			return
		}
		_ = flush.Flush()
	}
}

func (c *counter) number(key string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[key]
}
