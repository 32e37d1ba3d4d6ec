package daemon

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/intercept"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// standIn answers in place of an engine: a real one in a test has its
// containers in a namespace of processes that an agent in this one does not see.
type standIn struct {
	*httptest.Server
	events chan string

	mu     sync.Mutex // guards the following
	boxes  map[string]box
	silent bool // about single containers
	asked  int  // how often it was asked about one
}

// box is a container as a test has it.
type box struct {
	name, state, mode string // "": running, bridge
	labels            map[string]string
	exposes           []string
	pid               int
}

func newStandIn(t *testing.T) *standIn {
	t.Helper()
	s := &standIn{events: make(chan string, 16), boxes: map[string]box{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

// ServeHTTP answers as version 1.41 of the engine's interface does.
func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Api-Version", "1.41")
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasSuffix(r.URL.Path, "/_ping"):
	case strings.HasSuffix(r.URL.Path, "/events"):
		s.tell(w, r)
	case strings.HasSuffix(r.URL.Path, "/containers/json"):
		s.list(w)
	case strings.Contains(r.URL.Path, "/images/"):
		write(w, map[string]any{"Config": map[string]any{}})
	default:
		s.about(filepath.Base(filepath.Dir(r.URL.Path)), w)
	}
}

func (s *standIn) tell(w http.ResponseWriter, r *http.Request) {
	w.(http.Flusher).Flush()
	for {
		select {
		case e := <-s.events:
			fmt.Fprintln(w, e)
			w.(http.Flusher).Flush()
		case <-r.Context().Done():
			return
		}
	}
}

func (s *standIn) list(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []any{}
	for id, b := range s.boxes {
		all = append(all, map[string]any{"Id": id, "Names": []string{"/" + b.name}, "ImageID": "sha256:1", "Labels": b.labels,
			"State": b.state, "HostConfig": map[string]any{"NetworkMode": b.mode}})
	}
	write(w, all)
}

// about inspects one container.
func (s *standIn) about(id string, w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	b, known := s.boxes[id]
	if !known || s.silent {
		w.WriteHeader(http.StatusNotFound)
		write(w, map[string]any{"message": "no such container"})
		return
	}
	ports := map[string]any{}
	for _, p := range b.exposes {
		ports[p] = map[string]any{}
	}
	write(w, map[string]any{"Id": id, "State": map[string]any{"Pid": b.pid}, "Config": map[string]any{"ExposedPorts": ports}})
}

// hush has it answer no question about single containers, or answer again.
func (s *standIn) hush(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = on
}

// questions counts those.
func (s *standIn) questions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func write(w http.ResponseWriter, what any) { _ = json.NewEncoder(w).Encode(what) }

// set makes a container be so, and tells of it.
func (s *standIn) set(action, id string, b box) {
	if b.state == "" {
		b.state = "running"
	}
	if b.mode == "" {
		b.mode = "bridge"
	}
	s.mu.Lock()
	s.boxes[id] = b
	s.mu.Unlock()
	s.event(action, id)
}

func (s *standIn) remove(id string) {
	s.mu.Lock()
	delete(s.boxes, id)
	s.mu.Unlock()
	s.event("destroy", id)
}

func (s *standIn) event(action, id string) {
	s.events <- fmt.Sprintf(`{"Type":"container","Action":%q,"Actor":{"ID":%q},"time":%d}`, action, id, time.Now().Unix())
}

// lose has the engine be gone.
func (s *standIn) lose() {
	s.Listener.Close()
	s.CloseClientConnections()
}

// agentOf runs an agent beside it, whose containers may reach this machine.
func (s *standIn) agentOf(t *testing.T) *running {
	t.Helper()
	return start(t, Config{
		Agent: &AgentConfig{Namespaces: filepath.Join(t.TempDir(), "netns"), Labels: spec.LabelConfig{
			Options: spec.DefaultOptions(), Policy: spec.Policy{AllowTargets: []string{"127.0.0.1"}}}},
		Sources: SourceConfig{Environ: []string{"DOCKER_HOST=tcp://" + s.Listener.Addr().String()}},
	})
}

// asks is a container that asks for one link.
func asks(p *tenant, name, listen, target string) box {
	return box{name: name, pid: p.pid, labels: map[string]string{"connect." + listen: target}}
}

// idOf makes an id of one digit.
func idOf(digit string) string { return strings.Repeat(digit, 64) }

// tenant is the first process of a container, in a network of its own, where a
// cable ends: hub has the other end for as long as the network is there.
type tenant struct {
	pid int
	end func()
	ns  string // its namespace, as a path
	hub *testnet.Host
}

// newTenant starts the process of the container with that id.
func newTenant(t *testing.T, id string) *tenant {
	t.Helper()
	p := startIn(t, id, unix.CLONE_NEWNET)
	p.hub = testnet.NewHost(t)
	p.do(t, func() error { return exec.Command("ip", "link", "set", "lo", "up").Run() })
	p.hub.Do(t, func() error {
		return exec.Command("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", fmt.Sprint(p.pid)).Run()
	})
	return p
}

// lodger starts the process of one more container in the same network.
func (p *tenant) lodger(t *testing.T, id string) (l *tenant) {
	t.Helper()
	p.do(t, func() error { l = startIn(t, id, 0); return nil })
	l.hub = p.hub
	return l
}

func startIn(t *testing.T, id string, flags uintptr) *tenant {
	t.Helper()
	testnet.NeedRoot(t)
	group, err := os.Open(newCgroup(t, id))
	if err != nil {
		t.Fatal(err)
	}
	defer group.Close()
	cmd := exec.Command("sleep", "1000000")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd()), Cloneflags: flags}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	t.Cleanup(end)
	return &tenant{pid: cmd.Process.Pid, end: end, ns: fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)}
}

// newCgroup makes the group that the processes of a container are in.
func newCgroup(t *testing.T, id string) string {
	t.Helper()
	parent, err := os.MkdirTemp(cgroup2(t), "docker-")
	if err != nil {
		t.Fatal(err)
	}
	group := filepath.Join(parent, id)
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		testnet.Await(t, "the end of a group", func() bool { return unix.Rmdir(group) == nil })
		_ = unix.Rmdir(parent)
	})
	return group
}

func cgroup2(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, " - cgroup2 ") {
			return strings.Fields(line)[4]
		}
	}
	testnet.Skip(t, "needs a mounted cgroup2")
	return ""
}

// do runs f inside the network.
func (p *tenant) do(t *testing.T, f func() error) {
	t.Helper()
	ns, err := intercept.Open(p.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := ns.Do(f); err != nil {
		t.Fatal(err)
	}
}

// dial connects from inside the network.
func (p *tenant) dial(t *testing.T, network, address string) (c net.Conn) {
	t.Helper()
	p.do(t, func() (err error) { c, err = net.Dial(network, address); return err })
	t.Cleanup(func() { c.Close() })
	return c
}

// awaitGone waits until nothing keeps the network alive.
func (p *tenant) awaitGone(t *testing.T) {
	t.Helper()
	testnet.Await(t, "the end of the network", func() (gone bool) {
		p.hub.Do(t, func() error { gone = exec.Command("ip", "link", "show", "cable").Run() != nil; return nil })
		return gone
	})
}

// awaitLink waits until the link of that name is in that state.
func (d *running) awaitLink(t *testing.T, name string, state spec.LinkState) (found spec.LinkStatus) {
	t.Helper()
	testnet.Await(t, "link "+name, func() bool {
		links := d.Snapshot().Links
		i := slices.IndexFunc(links, func(l spec.LinkStatus) bool { return l.Name == name && l.State == state })
		if i >= 0 {
			found = links[i]
		}
		return i >= 0
	})
	return found
}

func (d *running) awaitNoLinks(t *testing.T) {
	t.Helper()
	testnet.Await(t, "that no link is left", func() bool { return len(d.Snapshot().Links) == 0 })
}
