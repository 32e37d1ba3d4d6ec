package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// engines returns the real engines of this machine: Debian's, and the current
// one where it was built.
func engines(t *testing.T) map[string]string {
	t.Helper()
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
	if path := filepath.Join(cache, "engine", "dockerd"); exists(path) {
		found["current"] = path
	}
	return found
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// startEngine runs an engine that touches nothing outside its own directory
// and network namespace, and returns its DOCKER_HOST. Its containers are
// created and never started.
func startEngine(t *testing.T, dockerd string) string {
	t.Helper()
	return runEngine(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}, dockerd)
}

// startEngineHere runs one in our own network namespace, so that it can be
// asked over TCP, and has it leave that alone.
func startEngineHere(t *testing.T, dockerd string, args ...string) string {
	t.Helper()
	return runEngine(t, nil, dockerd, append(args, "--ip-forward=false", "--ip-masq=false")...)
}

func runEngine(t *testing.T, attr *syscall.SysProcAttr, dockerd string, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	host := "unix://" + dir + "/engine.sock"
	cmd := exec.Command(dockerd, "--host="+host, "--data-root="+dir+"/data", "--exec-root="+dir+"/exec", "--pidfile="+dir+"/pid",
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=vfs")
	cmd.Args = append(cmd.Args, args...)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(dockerd)+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.SysProcAttr = attr
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it ends its containerd
		_ = cmd.Wait()
		log.Close()
		if text, err := os.ReadFile(dir + "/log"); err == nil && t.Failed() {
			t.Logf("engine: %s", text)
		}
	})
	testnet.Eventually(t, testnet.Patience, func() bool {
		conn, err := net.Dial("unix", dir+"/engine.sock")
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return host
}

// docker runs the command of that name and returns its output.
func docker(t *testing.T, host string, stdin []byte, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "docker", append([]string{"--host", host}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func emptyImage(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "empty", Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestLinks_OfRealEngines(t *testing.T) {
	testnet.NeedRoot(t)
	found := engines(t)
	if len(found) == 0 {
		testnet.Skip(t, "needs a Docker engine (package docker.io)")
	}
	for label, dockerd := range found {
		t.Run(label, func(t *testing.T) {
			testnet.CheckLeaks(t)
			host := startEngine(t, dockerd)
			docker(t, host, emptyImage(t), "import", "--change", "EXPOSE 6379", "--change", "EXPOSE 53/udp", "--change", `CMD ["/x"]`, "-", "server")
			docker(t, host, nil, "create", "--name", "redis", "-p", "127.0.0.1::9000", "--expose", "7/sctp", "server")
			docker(t, host, nil, "create", "--name", "plain", "--expose", "80", "server")
			id := docker(t, host, nil, "create", "--name", "ambassador", "--link", "redis:cache", "--link", "redis:store", "--link", "plain", "server")
			alone := docker(t, host, nil, "create", "--name", "alone", "server")

			c, err := New(host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got, err := c.Links(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			image := []Port{{spec.UDP, 53}, {spec.TCP, 6379}}
			want := []Linked{
				{Name: "plain", Aliases: []string{"plain"}, Ports: []Port{image[0], {spec.TCP, 80}, image[1]}},
				{Name: "redis", Aliases: []string{"cache", "store"}, Ports: append(slices.Clone(image), Port{spec.TCP, 9000})},
			}
			if !equal(got, want) {
				t.Errorf("links %+v, want %+v", got, want)
			}
			if got, err := c.Links(t.Context(), id[:12]); err != nil || !equal(got, want) {
				t.Errorf("by the short id: %+v %v", got, err)
			}
			if got, err := c.Links(t.Context(), alone); err != nil || len(got) != 0 {
				t.Errorf("a container without links has %+v %v", got, err)
			}
			_, err = c.Links(t.Context(), idA)
			wantUserError(t, err, "does not know this container")
		})
	}
}

// equal compares everything but the ids, of which it wants 64 digits.
func equal(got, want []Linked) bool {
	return slices.EqualFunc(got, want, func(a, b Linked) bool {
		return a.Name == b.Name && len(a.ID) == 64 && slices.Equal(a.Aliases, b.Aliases) && slices.Equal(a.Ports, b.Ports)
	})
}

func TestLinks_OfUserDefinedNetworks(t *testing.T) {
	testnet.NeedRoot(t)
	for label, dockerd := range engines(t) {
		t.Run(label, func(t *testing.T) {
			host := startEngine(t, dockerd)
			docker(t, host, emptyImage(t), "import", "--change", "EXPOSE 6379", "--change", `CMD ["/x"]`, "-", "server")
			docker(t, host, nil, "network", "create", "net")
			docker(t, host, nil, "create", "--name", "redis", "--network", "net", "server")
			id := docker(t, host, nil, "create", "--name", "ambassador", "--network", "net", "--link", "redis:cache", "--link", "later", "server")
			c, err := New(host)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			got, err := c.Links(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 2 || got[0].Name != "later" || got[0].ID != "" || len(got[0].Ports) != 0 ||
				got[1].Name != "redis" || !slices.Equal(got[1].Aliases, []string{"cache"}) || !slices.Equal(got[1].Ports, []Port{{spec.TCP, 6379}}) {
				t.Errorf("links %+v", got)
			}
		})
	}
}

func TestNew_HostsThatAreNone(t *testing.T) {
	for _, host := range []string{"ssh://me@host", "/var/run/docker.sock", "unix://", "tcp://", "npipe:////./pipe/docker_engine"} {
		_, err := New(host)
		wantUserError(t, err, "DOCKER_HOST")
	}
}

func TestLinks_EngineThatCannotBeAsked(t *testing.T) {
	dir := t.TempDir()
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/dead.sock"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	tests := map[string]string{
		"unix://" + dir + "/none.sock":    "there is no Docker socket",
		"unix://" + dir + "/dead.sock":    "nothing answers",
		"tcp://" + closed.Addr().String(): "nothing answers",
	}
	for host, what := range tests {
		c, err := New(host)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.Links(t.Context(), idA)
		wantUserError(t, err, what)
		c.Close()
	}
}

func TestLinks_EndsWithItsContext(t *testing.T) {
	testnet.CheckLeaks(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	c, err := New("tcp://" + silent.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Links(ctx, idA)
		done <- err
	}()
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}
