package daemon

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/docker"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// inNamespace runs the test again in a network namespace of its own, where
// 172.17.0.0/16 leads to the test, and returns whether this is that run.
// Anywhere else a probe would find whatever the machine serves.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const variable = "LEGATE_TEST_NAMESPACE"
	if os.Getenv(variable) == t.Name() {
		for _, args := range []string{"link set lo up", "route add local 172.17.0.0/16 dev lo"} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", args, err, out)
			}
		}
		return true
	}
	testnet.NeedRoot(t)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("in its namespace: %v\n%s", err, out)
	}
	return false
}

func listen(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestScan_FindsExactlyWhatListens(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	testnet.CheckLeaks(t)
	addr := netip.MustParseAddr("172.17.0.2")
	want := []uint16{1, 6379, 49152, 65535}
	for _, port := range want {
		listen(t, netip.AddrPortFrom(addr, port).String())
	}
	listen(t, "172.17.0.3:80")
	s := newScanner()
	for _, test := range []struct {
		addr netip.Addr
		want []uint16
	}{{addr, want}, {netip.MustParseAddr("172.17.0.4"), nil}} {
		var got []uint16
		start := time.Now()
		whole := s.scan(t.Context(), test.addr, func(port uint16) { got = append(got, port) })
		if !slices.Equal(got, test.want) || !whole {
			t.Errorf("%v: found %v (all tried: %v), want %v", test.addr, got, whole, test.want)
		}
		t.Logf("%v: %v", test.addr, time.Since(start))
	}
}

func TestScan_EndsWithItsContext(t *testing.T) {
	testnet.CheckLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if newScanner().scan(ctx, netip.MustParseAddr("127.0.0.1"), func(uint16) {}) {
		t.Error("a scan that was ended says that it tried every port")
	}
}

func TestOwnShortage_IsNoClosedPort(t *testing.T) {
	if !ownShortage(&net.OpError{Err: os.NewSyscallError("socket", syscall.EMFILE)}) {
		t.Error("a lack of descriptors counts as a closed port")
	}
	if ownShortage(&net.OpError{Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}) {
		t.Error("a closed port counts as a lack of our own")
	}
}

// wishes collects what an origin sets.
type wishes struct {
	mu       sync.Mutex
	times    int
	links    []spec.Link
	warnings []string
}

func (w *wishes) set(wish spec.Wish) {
	links, warnings := wish.Links, wish.Warnings
	w.mu.Lock()
	defer w.mu.Unlock()
	w.times++
	w.links, w.warnings = links, warnings
}

func (w *wishes) texts() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := []string{}
	for _, l := range w.links {
		list = append(list, l.Text)
	}
	return list
}

func (w *wishes) warned(what string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.warnings, func(s string) bool { return strings.Contains(s, what) })
}

func (w *wishes) eventually(t *testing.T, want ...string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("links %v, want %v; warnings %v", w.texts(), want, w.warnings)
		}
	}()
	testnet.Eventually(t, testnet.Patience, func() bool { return slices.Equal(w.texts(), want) })
}

// watch runs an origin until the test ends.
func watch(t *testing.T, o Origin) *wishes {
	t.Helper()
	w := &wishes{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- o.Watch(ctx, w.set) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch ended with %v", err)
		}
	})
	return w
}

// nowhere is a machine with nothing to find on it.
func nowhere(t *testing.T) OriginConfig {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	return OriginConfig{
		Environ: []string{"DOCKER_HOST=unix://" + none + ".sock"},
		Parse:   spec.ParseConfig{Options: spec.DefaultOptions()},
		Hosts:   none,
		Own:     docker.Own{Mountinfo: none, Cgroup: none, Hostname: "laptop"},
	}
}

func hostsFile(t *testing.T, c *OriginConfig, lines ...string) {
	t.Helper()
	text := "127.0.0.1\tlocalhost\n" + strings.Join(lines, "\n") + "\n"
	if c.Hosts == "" || filepath.Base(c.Hosts) == "none" {
		c.Hosts = filepath.Join(t.TempDir(), "hosts")
	}
	if err := os.WriteFile(c.Hosts, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func choose(t *testing.T, c OriginConfig) Origin {
	t.Helper()
	o, err := ChooseOrigin(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

const (
	ownLine   = "172.17.0.9\tfc4dc900a33f"
	redisLine = "172.17.0.2\tcache aad41cda9ecb redis"
	webLine   = "172.17.0.3\tweb bbd41cda9ecb web"
)

func TestHostsOrigin_ProbesAndFollows(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	testnet.CheckLeaks(t)
	c := nowhere(t)
	c.Parse.Options.Check.Role = spec.RolePrimary
	hostsFile(t, &c, redisLine, "172.17.0.2\tstore aad41cda9ecb redis", webLine, ownLine)
	listen(t, "172.17.0.9:1234") // our own: never to be forwarded to ourselves
	listen(t, "172.17.0.2:6379")
	w := watch(t, choose(t, c))
	w.eventually(t, "6379=cache:6379")
	if l := w.links[0]; l.Origin != spec.OriginHosts || l.Targets[0].Source != spec.SourceDNS || l.Targets[0].Host != "cache" {
		t.Errorf("link %+v does not follow the alias", l)
	}
	testnet.Eventually(t, testnet.Patience, func() bool { return w.warned("web serves no TCP port yet") })
	if !w.warned("option check-role: no link has a check") {
		t.Errorf("a role that nobody is asked for is passed over: %v", w.warnings)
	}

	// The second server comes up later, with two ports; one is taken.
	listen(t, "172.17.0.3:80")
	listen(t, "172.17.0.3:6379")
	w.eventually(t, "6379=cache:6379", "80=web:80")
	testnet.Eventually(t, testnet.Patience, func() bool {
		return !w.warned("serves no TCP port") && w.warned("port 6379 of the linked container web is also one of redis")
	})

	// The first one is restarted: another address, one more port. What was
	// open stays.
	listen(t, "172.17.0.4:6380")
	hostsFile(t, &c, "172.17.0.4\tcache aad41cda9ecb redis", webLine, ownLine)
	w.eventually(t, "6379=cache:6379", "80=web:80", "6380=cache:6380")
}

func TestHostsOrigin_FirstInTheFileHasThePort(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := nowhere(t)
	hostsFile(t, &c, webLine, redisLine)
	for _, addr := range []string{"172.17.0.2:80", "172.17.0.3:80"} {
		listen(t, addr)
	}
	o := choose(t, c).(*hostsOrigin)
	scan := o.scan
	o.scan = func(ctx context.Context, addr netip.Addr, found func(uint16)) bool {
		if addr.String() == "172.17.0.3" { // the first in the file is the slower one
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		return scan(ctx, addr, found)
	}
	watch(t, o).eventually(t, "80=web:80")
}

func TestChooseOrigin_Order(t *testing.T) {
	c := nowhere(t)
	hostsFile(t, &c, redisLine, ownLine)
	if _, ok := choose(t, c).(*hostsOrigin); !ok {
		t.Error("the hosts file is not used where there is nothing else")
	}
	c.Environ = append(c.Environ, "DB_PORT_5432_TCP=tcp://192.0.2.1:5432", "CACHE_PORT_6379_TCP=tcp://172.17.0.2:6379")
	w := watch(t, choose(t, c))
	w.eventually(t, "CACHE_PORT_6379_TCP=tcp://172.17.0.2:6379", "DB_PORT_5432_TCP=tcp://192.0.2.1:5432")
	if host := w.links[0].Targets[0].Host; host != "cache" {
		t.Errorf("target host %q does not follow the alias of the hosts file", host)
	}
	c.Environ = append(c.Environ, "LEGATE_LINKS=1=192.0.2.1:1 2=192.0.2.2:2")
	watch(t, choose(t, c)).eventually(t, "1=192.0.2.1:1", "2=192.0.2.2:2")
	c.OnlyLinks = true
	watch(t, choose(t, c)).eventually(t, "CACHE_PORT_6379_TCP=tcp://172.17.0.2:6379", "DB_PORT_5432_TCP=tcp://192.0.2.1:5432")
}

func TestChooseOrigin_NothingNamesTheAlternatives(t *testing.T) {
	tests := map[string]struct {
		environ []string
		lines   []string
		what    []string
	}{
		"nothing":      {what: []string{"no link is given", "no link variables", "no Docker", "no --link entries in /etc/hosts"}},
		"own line":     {lines: []string{ownLine}, what: []string{"no --link entries"}},
		"own address":  {lines: []string{"172.17.0.9\tme fc4dc900a33f", ownLine}, what: []string{"no --link entries"}},
		"no link":      {environ: []string{"FOO_PORT_80_TCP=true"}, what: []string{`"FOO_PORT_80_TCP=true" is not a link`}},
		"Docker's own": {environ: []string{"HOSTNAME=fc4dc900a33f", "PATH=/"}, what: []string{"no link variables"}},
	}
	for label, test := range tests {
		t.Run(label, func(t *testing.T) {
			c := nowhere(t)
			c.Environ = append(c.Environ, test.environ...)
			hostsFile(t, &c, test.lines...)
			_, err := ChooseOrigin(t.Context(), c)
			var user *spec.UserError
			if !errors.As(err, &user) {
				t.Fatalf("error %v", err)
			}
			for _, what := range test.what {
				if !strings.Contains(user.What, what) {
					t.Errorf("error %q does not say %q", user.What, what)
				}
			}
			for _, hint := range []string{"6379=redis:6379", "LEGATE_LINKS", "--link", "docker.sock"} {
				if !strings.Contains(user.Hint, hint) {
					t.Errorf("hint %q does not name %s", user.Hint, hint)
				}
			}
		})
	}
}

func TestChooseOrigin_VariablesOfWhichNothingIsLeft(t *testing.T) {
	for _, environ := range [][]string{
		{"A_PORT_80_TCP=tcp://192.0.2.1:80", "B_PORT_80_TCP=tcp://192.0.2.2:80"},
		{"LEGATE_LINKS=6379:redis"},
	} {
		c := nowhere(t)
		c.Environ = append(c.Environ, environ...)
		hostsFile(t, &c, redisLine)
		_, err := ChooseOrigin(t.Context(), c)
		var user *spec.UserError
		if !errors.As(err, &user) || user.Hint == "" {
			t.Fatalf("%v: error %v, want one with a hint", environ, err)
		}
		for _, v := range environ {
			if name, _, _ := strings.Cut(v, "="); !strings.Contains(user.What, name) {
				t.Errorf("error %q does not name %s", user.What, name)
			}
		}
	}
}

func TestChooseOrigin_DockerThatCannotBeAskedIsAWarning(t *testing.T) {
	c := nowhere(t)
	c.Own.Hostname = "fc4dc900a33f"
	hostsFile(t, &c, ownLine)
	_, err := ChooseOrigin(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "there is no Docker socket") {
		t.Errorf("error %v does not say what is wrong with the engine", err)
	}
	hostsFile(t, &c, redisLine)
	if o := choose(t, c).(*hostsOrigin); len(o.also) != 1 || !strings.Contains(o.also[0], "there is no Docker socket") {
		t.Errorf("warnings %v", o.also)
	}
}

func TestPortLinks(t *testing.T) {
	tcp := func(numbers ...uint16) (list []docker.Port) {
		for _, n := range numbers {
			list = append(list, docker.Port{Protocol: spec.TCP, Number: n})
		}
		return list
	}
	known := map[string]docker.Linked{
		"cache": {Name: "redis", ID: "1", Aliases: []string{"cache", "store"}, Ports: append(tcp(6379), docker.Port{Protocol: spec.UDP, Number: 53})},
		"web":   {Name: "web1", ID: "2", Aliases: []string{"web"}, Ports: tcp(80, 443)},
		"web2":  {Name: "web2", ID: "3", Aliases: []string{"web2"}, Ports: tcp(80, 53)},
		"plain": {Name: "plain", ID: "4", Aliases: []string{"plain"}},
		"later": {Name: "later", Aliases: []string{"later"}},
	}
	parse := spec.ParseConfig{Options: spec.DefaultOptions(), Bind: "127.0.0.1", Origin: spec.OriginDocker}
	parse.Options.Hold, parse.Options.Check.Role = time.Minute, spec.RolePrimary
	links, warnings := portLinks(known, parse)
	var got []string
	for _, l := range links {
		got = append(got, l.Text)
		held := l.Options.Hold == time.Minute || l.Listen.Protocol == spec.UDP // which is never held
		if l.Listen.Host != "127.0.0.1" || !held || l.Origin != spec.OriginDocker {
			t.Errorf("link %+v has not what the command line says", l)
		}
	}
	if want := []string{"53=web2:53", "53/udp=cache:53/udp", "443=web:443", "6379=cache:6379"}; !slices.Equal(got, want) {
		t.Errorf("links %v, want %v", got, want)
	}
	if len(warnings) != 3 || !strings.Contains(warnings[0], "plain exposes no port") ||
		!strings.Contains(warnings[1], "port 80 of the linked container web2 is also one of web1") ||
		!strings.Contains(warnings[2], "option check-role: no link has a check") {
		t.Errorf("warnings %v", warnings)
	}
}

func TestDockerOrigin_KeepsWhatItKnew(t *testing.T) {
	o := &dockerOrigin{parse: spec.ParseConfig{Options: spec.DefaultOptions()}, known: map[string]docker.Linked{}}
	redis := docker.Linked{Name: "redis", ID: "1", Aliases: []string{"cache"}, Ports: []docker.Port{{Protocol: spec.TCP, Number: 6379}}}
	gone := errors.New("the engine is being restarted")
	for _, step := range []struct {
		list  []docker.Linked
		err   error
		pause time.Duration
	}{
		{list: []docker.Linked{redis}, pause: dockerPause},
		{list: nil, pause: dockerPause},
		{list: []docker.Linked{{Name: "redis", Aliases: []string{"cache"}}}, pause: missingPause},
		{err: gone, pause: missingPause},
		{list: []docker.Linked{redis}, pause: dockerPause},
	} {
		o.learn(step.list, step.err)
		if got := texts(o.links, nil); got != "6379=cache:6379\n\n" {
			t.Errorf("after %+v %v: links %q", step.list, step.err, got)
		}
		if warned := len(o.warnings) > 0; warned != (step.err != nil) {
			t.Errorf("after %+v %v: warnings %v", step.list, step.err, o.warnings)
		}
		if got := o.pause(); got != step.pause {
			t.Errorf("after %+v %v: asks again in %v, want %v", step.list, step.err, got, step.pause)
		}
	}
}

func TestProbesAtOnce_LeaveDescriptors(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if n := probesAtOnce(); n < 8 || n > probes || uint64(n) > max(limit.Cur/8/scans, 8) {
		t.Errorf("%s connects at once with a limit of %d descriptors", strconv.Itoa(n), limit.Cur)
	}
}

func TestMeetsItself(t *testing.T) {
	for _, at := range []unix.Sockaddr{
		&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}},
		&unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()},
	} {
		family := unix.AF_INET
		if _, v6 := at.(*unix.SockaddrInet6); v6 {
			testnet.NeedIPv6(t)
			family = unix.AF_INET6
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Bind(fd, at); err != nil {
			t.Fatal(err)
		}
		own, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		if meetsItself(fd) {
			t.Error("a socket that is not connected is connected to itself")
		}
		if err := unix.Connect(fd, own); err != nil {
			t.Fatal(err)
		}
		if !meetsItself(fd) {
			t.Error("a socket that is connected to itself passes for a server")
		}
	}
}
