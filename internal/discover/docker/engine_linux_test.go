package docker_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"legate/internal/discover"
	adapter "legate/internal/discover/docker"
	"legate/internal/docker"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// engine is one with the image "box".
type engine struct{ *testnet.Dockerd }

func startEngine(t *testing.T, dockerd string) *engine {
	t.Helper()
	e := &engine{testnet.StartDockerd(t, testnet.DockerdConfig{Program: dockerd})}
	e.Import(t, "box", "EXPOSE 6379")
	e.Import(t, "built", "LABEL com.docker.compose.project=a com.docker.compose.service=api legate.service=db")
	return e
}

// up starts a container of that name and returns its id.
func (e *engine) up(t *testing.T, name string, args ...string) string {
	t.Helper()
	return e.upOf(t, "box", name, args...)
}

// upOf starts one of another image.
func (e *engine) upOf(t *testing.T, image, name string, args ...string) string {
	t.Helper()
	return e.Docker(t, append(append([]string{"run", "-d", "--stop-signal", "KILL", "--name", name}, args...), image)...)
}

// ip is the address that the engine gave to a container in a network.
func (e *engine) ip(t *testing.T, name, network string) string {
	t.Helper()
	return e.Docker(t, "inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).IPAddress}}", network), name)
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
	return adapter.New(adapter.Config{Table: docker.NewTable(docker.Config{Host: e.Host}), Own: as(t, own)})
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
	refuses    string // a part of the paths that it does not let through
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
	refused := c.refuses != "" && strings.Contains(r.URL.Path, c.refuses)
	c.mu.Unlock()
	if refused {
		http.Error(w, "Forbidden", http.StatusForbidden)
		return
	}
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
