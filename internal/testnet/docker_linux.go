package testnet

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Dockerd is a real Docker engine of a test's own, and a [Process]: nothing of
// it outlives Kill, neither a mount nor a shim nor a container. Its data does,
// until the end of the test, for Restart. Path is its socket.
type Dockerd struct {
	*Process
	// Host is Path as DOCKER_HOST has it.
	Host string
	// Net is its network; nil: that of the test.
	Net *Host
}

// DockerdConfig is an engine to start.
type DockerdConfig struct {
	Program string   // one of [DockerEngines]; required
	Args    []string // more of its arguments
	// Here runs it in the network of the test, so that it can be asked over
	// TCP, and has it leave that alone: its containers are created and never
	// started. The zero value gives it a network of its own.
	Here bool
}

// DockerEngines finds dockerd: "installed", the distribution's, and "current",
// which test/setup/engine.sh builds. Without any the test is skipped. Needs
// root.
func DockerEngines(t testing.TB) map[string]string {
	t.Helper()
	NeedRoot(t)
	found := map[string]string{}
	if path, err := exec.LookPath("dockerd"); err == nil {
		found["installed"] = path
	}
	if path := cached("engine", "dockerd"); path != "" {
		found["current"] = path
	}
	if len(found) == 0 {
		Skip(t, "needs a Docker engine (package docker.io)")
	}
	return found
}

// cached finds what test/setup built; "": it is not there. test/setup/cache.sh
// has the same rule.
func cached(folder, name string) string {
	cache := os.Getenv("LEGATE_CACHE")
	if cache == "" {
		dir, err := os.UserCacheDir() // XDG_CACHE_HOME, else .cache in HOME
		if err != nil {
			return ""
		}
		cache = filepath.Join(dir, "legate")
	}
	path := filepath.Join(cache, folder, name)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// StartDockerd starts an engine without containers and images, and waits until
// it answers.
func StartDockerd(t testing.TB, c DockerdConfig) *Dockerd {
	t.Helper()
	dir := serverDir(t, "")
	e := &Dockerd{Process: &Process{Path: dir + "/sock", kill: unix.SIGKILL}, Host: "unix://" + dir + "/sock"}
	config := dir + "/daemon.json" // without one of its own it reads the machine's
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil {
		t.Fatalf("configure an engine: %v", err)
	}
	args := append([]string{c.Program, "--config-file", config, "--host=" + e.Host, "--data-root=" + dir + "/data",
		"--storage-driver=vfs", "--shutdown-timeout=2"}, c.Args...)
	if c.Here {
		args = append(args, "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false")
	} else {
		e.Net = NewHost(t)
	}
	e.start = func() *exec.Cmd { return e.command(c.Program, args) }
	t.Cleanup(func() {
		e.Kill()
		if t.Failed() {
			t.Logf("%s said:\n%s", c.Program, tail(e.Log(), 4000))
		}
	})
	e.Restart(t)
	t.Cleanup(func() { // or the groups of the containers would stay behind
		e.Thaw()
		if e.Ended() {
			e.Restart(t)
		}
		e.Clear(t)
	})
	return e
}

// command makes the engine the first process of its namespace, with which the
// kernel ends all others, and gives it an empty /run at each start, as that of
// a machine, where no containerd of this one is.
func (e *Dockerd) command(program string, args []string) *exec.Cmd {
	const enter = `mount -t proc proc /proc && mount -t tmpfs tmpfs /run && exec "$@"`
	cmd := serverCommand(nil, append([]string{"sh", "-c", enter, "sh"}, args...)...)
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWPID
	cmd.SysProcAttr.Unshareflags = unix.CLONE_NEWNS // not a Cloneflag: mounts would be shared
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdout, cmd.Stderr = &e.log, &e.log
	return cmd
}

// Restart starts it again after Kill or Stop, with its data, and waits until it
// answers.
func (e *Dockerd) Restart(t testing.TB) {
	t.Helper()
	if e.Net == nil {
		e.Start(t, e.answers)
		return
	}
	e.Net.Do(t, func() error { e.Start(t, e.answers); return nil })
}

func (e *Dockerd) answers() bool {
	client := http.Client{Timeout: Patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", e.Path)
		},
	}}
	response, err := client.Get("http://docker/_ping")
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// Docker runs the command of that name, also at the end of a test, and returns
// what it wrote.
func (e *Dockerd) Docker(t testing.TB, args ...string) string {
	t.Helper()
	return e.feed(t, nil, args...)
}

func (e *Dockerd) feed(t testing.TB, stdin io.Reader, args ...string) string {
	t.Helper()
	cmd := exec.Command("docker", append([]string{"--host", e.Host}, args...)...)
	cmd.Stdin = stdin
	out, err := run(cmd)
	if err != nil {
		t.Fatalf("docker %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// Clear removes all its containers.
func (e *Dockerd) Clear(t testing.TB) {
	t.Helper()
	if ids := strings.Fields(e.Docker(t, "ps", "-aq")); len(ids) > 0 {
		e.Docker(t, append([]string{"rm", "-f"}, ids...)...)
	}
}

// Import makes an image of the machine's static busybox, which sleeps. changes
// are instructions of a Dockerfile, as "EXPOSE 6379".
func (e *Dockerd) Import(t testing.TB, image string, changes ...string) {
	t.Helper()
	args := []string{"import"}
	for _, change := range append([]string{"ENV PATH=/bin", `CMD ["busybox","sleep","1000000"]`}, changes...) {
		args = append(args, "--change", change)
	}
	e.feed(t, busybox(t), append(args, "-", image)...)
}

// busybox is a file system with nothing but that, and sh and test, which health
// checks run.
func busybox(t testing.TB) io.Reader {
	t.Helper()
	program, err := os.ReadFile(find(t, "busybox"))
	if err != nil {
		t.Fatalf("read busybox: %v", err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "bin/sh", Typeflag: tar.TypeSymlink, Linkname: "busybox"},
		{Name: "bin/test", Typeflag: tar.TypeSymlink, Linkname: "busybox"},
		{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))},
	} {
		must(t, w.WriteHeader(h))
	}
	_, err = w.Write(program)
	must(t, err)
	must(t, w.Close())
	return &b
}
