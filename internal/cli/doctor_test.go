package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"

	"legate/internal/check"
	"legate/internal/daemon"
	"legate/internal/spec"
	"legate/internal/testnet"
)

var (
	onHost      = host{system: "linux", program: "/usr/bin/legate"}
	inBridge    = host{system: "linux", container: true, ownNetwork: true, root: true}
	inHostsNet  = host{system: "linux", container: true, root: true}
	everyPlace  = []host{onHost, inBridge, inHostsNet}
	dockerFlags = "docker run "
)

// doctorLinks reads links for a judgement.
func doctorLinks(t *testing.T, texts ...string) []spec.Link {
	t.Helper()
	links, err := spec.ParseLinks(texts, spec.ParseConfig{Options: spec.DefaultOptions()})
	if err != nil {
		t.Fatal(err)
	}
	return links
}

// want is a finding, with parts of its words.
type wantFinding struct {
	verdict    verdict
	what, mend string
}

func (w wantFinding) check(t *testing.T, name string, found []finding) {
	t.Helper()
	for _, f := range found {
		if f.Verdict == w.verdict && strings.Contains(f.What, w.what) && strings.Contains(f.Mend, w.mend) {
			return
		}
	}
	t.Errorf("%s: found %+v, want %+v", name, found, w)
}

func TestDoctor_JudgesWhatTheKernelGrants(t *testing.T) {
	plenty := grants{descriptors: 1 << 20, somaxconn: 4096, ports: [2]int{32768, 60999}}
	with := func(change func(*grants)) grants {
		g := plenty
		change(&g)
		return g
	}
	limited := func(n int) demand {
		return demandOf(doctorLinks(t, fmt.Sprintf("6379=10.0.0.1:6379;max-connections=%d", n)))
	}
	for name, c := range map[string]struct {
		host
		grants
		want wantFinding
	}{
		"all is well":                {onHost, plenty, wantFinding{verdictOK, "1048576 files", ""}},
		"the engine has no room":     {onHost, with(func(g *grants) { g.descriptors = 64 }), wantFinding{verdictMissing, "64 files", "LimitNOFILE=65536"}},
		"few":                        {inBridge, with(func(g *grants) { g.descriptors = 1024 }), wantFinding{verdictWeak, "room for 224 to 448 connections", "docker run --ulimit nofile=65536:65536"}},
		"fewer than asked for":       {onHost, with(func(g *grants) { g.descriptors, g.wanted = 20000, limited(10000) }), wantFinding{verdictMissing, "max-connections of 10000 take 20128", "sudo prlimit --pid $$ --nofile=65536:65536"}},
		"fewer than all may need":    {inHostsNet, with(func(g *grants) { g.descriptors, g.wanted = 65536, limited(20000) }), wantFinding{verdictWeak, "take 80128 descriptors when all of them are busy", "--ulimit nofile=131072:131072"}},
		"a short queue":              {onHost, with(func(g *grants) { g.somaxconn = 128 }), wantFinding{verdictWeak, "somaxconn is 128", "sudo sysctl -w net.core.somaxconn=4096"}},
		"in a container":             {inBridge, with(func(g *grants) { g.somaxconn = 128 }), wantFinding{verdictWeak, "", "docker run --sysctl net.core.somaxconn=4096"}},
		"on the host's network":      {inHostsNet, with(func(g *grants) { g.somaxconn = 128 }), wantFinding{verdictWeak, "", "on the host: sudo sysctl -w net.core.somaxconn=4096"}},
		"too few local ports":        {onHost, with(func(g *grants) { g.wanted = limited(30000) }), wantFinding{verdictWeak, "may need 30000 connections to one endpoint, and there are 28232", "ip_local_port_range='1024 65535'"}},
		"local ports in a container": {inBridge, with(func(g *grants) { g.wanted = limited(30000) }), wantFinding{verdictWeak, "", "--sysctl net.ipv4.ip_local_port_range='1024 65535'"}},
		"local ports for two endpoints": {onHost, with(func(g *grants) {
			g.wanted = demandOf(doctorLinks(t, "6379=10.0.0.1:6379,10.0.0.2:6379;max-connections=30000"))
		}), wantFinding{verdictOK, "28232 for", ""}},
		"none for unix sockets": {onHost, with(func(g *grants) {
			g.wanted = demandOf(doctorLinks(t, "6379=unix:/run/x.sock;max-connections=30000"))
		}), wantFinding{verdictOK, "28232 for", ""}},
	} {
		c.want.check(t, name, judgeSystem(c.host, c.grants))
	}
}

func TestDoctor_JudgesListeningAddresses(t *testing.T) {
	addresses := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.1.1.1"), netip.MustParseAddr("fe80::1")}
	for name, c := range map[string]struct {
		host
		link string
		listening
		want wantFinding
	}{
		"free":                               {onHost, "6379=10.0.0.1:6379", listening{}, wantFinding{verdictOK, "every address, tcp port 6379", ""}},
		"ours":                               {onHost, "6379=10.0.0.1:6379", listening{ours: "legate"}, wantFinding{verdictOK, "the running legate legate", ""}},
		"taken":                              {onHost, "6379=10.0.0.1:6379", listening{err: syscall.EADDRINUSE, has: holder{pid: 12, name: "redis-server"}}, wantFinding{verdictMissing, "by redis-server (pid 12)", "sudo kill 12; or listen elsewhere: legate 16379=10.0.0.1:6379"}},
		"published":                          {onHost, "6379=10.0.0.1:6379", listening{err: syscall.EADDRINUSE, has: holder{pid: 12, name: "docker-proxy"}}, wantFinding{verdictMissing, "a container publishes it", "docker ps --filter publish=6379"}},
		"by another's":                       {onHost, "53/udp=10.0.0.1:53", listening{err: syscall.EADDRINUSE}, wantFinding{verdictMissing, "may not see", "sudo ss -lnup 'sport = :53'"}},
		"by our other":                       {onHost, "127.0.0.1:6379=10.0.0.1:6379", listening{err: syscall.EADDRINUSE, has: holder{instance: "legate", link: "6379"}}, wantFinding{verdictMissing, "link 6379 of the running legate", "legate swap 6379 10.0.0.1:6379 --control legate"}},
		"in a container":                     {inBridge, "6379=10.0.0.1:6379", listening{err: syscall.EADDRINUSE, has: holder{pid: 12, name: "redis-server"}}, wantFinding{verdictMissing, "pid 12 here", "end that process"}},
		"privileged":                         {onHost, "80=10.0.0.1:80", listening{err: syscall.EACCES, unprivileged: 1024}, wantFinding{verdictMissing, "port 80 is below 1024", "sudo setcap cap_net_bind_service=+ep /usr/bin/legate"}},
		"privileged in a container":          {inBridge, "80=10.0.0.1:80", listening{err: syscall.EACCES, unprivileged: 1024}, wantFinding{verdictMissing, "", "--sysctl net.ipv4.ip_unprivileged_port_start=0"}},
		"privileged on the host's network":   {inHostsNet, "80=10.0.0.1:80", listening{err: syscall.EACCES, unprivileged: 1024}, wantFinding{verdictMissing, "", "--cap-add NET_BIND_SERVICE"}},
		"forbidden otherwise":                {onHost, "6379=10.0.0.1:80", listening{err: syscall.EACCES, unprivileged: 1024}, wantFinding{verdictMissing, "permission denied", "journalctl -k"}},
		"an address of others":               {onHost, "10.9.9.9:80=10.0.0.1:80", listening{err: syscall.EADDRNOTAVAIL, addresses: addresses}, wantFinding{verdictMissing, "(it has 127.0.0.1, 10.1.1.1)", "legate 80=10.0.0.1:80"}},
		"the host's address in a container":  {inBridge, "10.9.9.9:80=10.0.0.1:80", listening{err: syscall.EADDRNOTAVAIL, addresses: addresses}, wantFinding{verdictMissing, "no address of this container", "docker run -p 10.9.9.9:80:80"}},
		"IPv6 where it is off":               {onHost, "[::1]:80=10.0.0.1:80", listening{err: syscall.EADDRNOTAVAIL, noIPv6: true}, wantFinding{verdictMissing, "IPv6 is off", "sudo sysctl -w net.ipv6.conf.all.disable_ipv6=0"}},
		"IPv6 where a container has it off":  {inBridge, "[::1]:80=10.0.0.1:80", listening{err: syscall.EADDRNOTAVAIL, noIPv6: true}, wantFinding{verdictMissing, "IPv6 is off", "docker run --sysctl net.ipv6.conf.all.disable_ipv6=0"}},
		"a foreign IPv6 address, IPv6 is on": {onHost, "[fd00::1]:80=10.0.0.1:80", listening{err: syscall.EADDRNOTAVAIL, addresses: addresses}, wantFinding{verdictMissing, "fd00::1 is no address of this host", ""}},
		"a directory that is not there":      {onHost, "unix:/no/x.sock=10.0.0.1:80", listening{socket: socketFile{dir: directory{err: fs.ErrNotExist}}}, wantFinding{verdictMissing, "no directory /no", "sudo install -d -o $(id -un) /no"}},
		"a directory missing in a container": {inBridge, "unix:/no/x.sock=10.0.0.1:80", listening{socket: socketFile{dir: directory{err: fs.ErrNotExist}}}, wantFinding{verdictMissing, "no directory /no", "docker run -v /no:/no"}},
		"a directory of others":              {onHost, "unix:/no/x.sock=10.0.0.1:80", listening{socket: socketFile{dir: directory{err: fs.ErrPermission}}}, wantFinding{verdictMissing, "permission denied", "sudo chown $(id -un) /no"}},
		"a live socket":                      {onHost, "unix:/no/x.sock=10.0.0.1:80", listening{socket: socketFile{there: "live"}}, wantFinding{verdictMissing, "a running process listens", "ss -xlp src /no/x.sock"}},
		"a stale socket":                     {onHost, "unix:/no/x.sock=10.0.0.1:80", listening{socket: socketFile{there: "stale"}}, wantFinding{verdictOK, "", ""}},
		"a file":                             {onHost, "unix:/no/x.sock=10.0.0.1:80", listening{socket: socketFile{there: "other"}}, wantFinding{verdictMissing, "is no socket", "choose another path; this shows what is there: ls -l /no/x.sock"}},
		"a group that is not there":          {onHost, "unix:/no/x.sock=10.0.0.1:80;socket-group=redis", listening{socket: socketFile{group: errors.New("find group redis: unknown")}}, wantFinding{verdictMissing, "find group redis", "getent group redis"}},
		"another's group":                    {onHost, "unix:/no/x.sock=10.0.0.1:80;socket-group=redis", listening{socket: socketFile{group: errNotMember}}, wantFinding{verdictMissing, "group redis", "usermod -aG redis"}},
		"another's group in a container":     {inBridge, "unix:/no/x.sock=10.0.0.1:80;socket-group=77", listening{socket: socketFile{group: errNotMember}}, wantFinding{verdictMissing, "group 77", "docker run --group-add 77"}},
		"something that nobody thought of":   {onHost, "6379=10.0.0.1:80", listening{err: syscall.EIO}, wantFinding{verdictMissing, "input/output error", ""}},
		"taken, with options":                {onHost, "6379=10.0.0.1:6379;hold=3s;name=db", listening{err: syscall.EADDRINUSE, has: holder{pid: 12, name: "x"}}, wantFinding{verdictMissing, "", "listen elsewhere: legate '16379=10.0.0.1:6379;hold=3s;name=db'"}},
		"an address of others, with options": {onHost, "10.9.9.9:80=10.0.0.1:80;hold=3s", listening{err: syscall.EADDRNOTAVAIL, addresses: addresses}, wantFinding{verdictMissing, "", "legate '80=10.0.0.1:80;hold=3s'"}},
		"the port above the last one it has": {onHost, "60000=10.0.0.1:80", listening{err: syscall.EADDRINUSE, has: holder{pid: 1, name: "x"}}, wantFinding{verdictMissing, "", "legate 50000=10.0.0.1:80"}},
	} {
		c.listening.link = doctorLinks(t, c.link)[0]
		c.want.check(t, name, judgeListening(c.host, c.listening))
	}
}

func TestDoctor_JudgesTargets(t *testing.T) {
	at := func(a string) spec.Endpoint {
		return spec.Endpoint{Protocol: spec.TCP, Addr: netip.MustParseAddrPort(a)}
	}
	refused := fmt.Errorf("connect: %w", syscall.ECONNREFUSED)
	for name, c := range map[string]struct {
		host
		answers []answer
		lookup  error
		others  bool
		want    wantFinding
	}{
		"answers":                  {onHost, []answer{{endpoint: at("10.0.0.1:80")}}, nil, false, wantFinding{verdictOK, "answers", ""}},
		"refused":                  {onHost, []answer{{endpoint: at("10.0.0.1:80"), err: refused}}, nil, false, wantFinding{verdictMissing, "target web:80 (10.0.0.1:80): connect", "sport = :80"}},
		"refused, others serve":    {onHost, []answer{{endpoint: at("10.0.0.1:80"), err: refused}}, nil, true, wantFinding{verdictWeak, "refused", ""}},
		"timed out":                {onHost, []answer{{endpoint: at("10.0.0.1:80"), err: os.ErrDeadlineExceeded}}, nil, false, wantFinding{verdictMissing, "timeout", "firewall"}},
		"no way":                   {onHost, []answer{{endpoint: at("10.0.0.1:80"), err: syscall.EHOSTUNREACH}}, nil, false, wantFinding{verdictMissing, "no route", "ip route get 10.0.0.1"}},
		"itself, of a container":   {inBridge, []answer{{endpoint: at("127.0.0.1:80"), err: refused}}, nil, false, wantFinding{verdictMissing, "refused", "--add-host host.docker.internal:host-gateway"}},
		"well there, but not well": {inBridge, []answer{{endpoint: at("127.0.0.1:80"), err: errClosesAtOnce}}, nil, false, wantFinding{verdictMissing, "closes at once", "the server's own log"}},
		"mute":                     {onHost, []answer{{endpoint: at("10.0.0.1:80"), err: errors.Join(check.ErrMute, os.ErrDeadlineExceeded)}}, nil, false, wantFinding{verdictMissing, "", "nc -v 10.0.0.1 80; if it is only slow: check-timeout=5s"}},
		"loop":                     {onHost, []answer{{endpoint: at("127.0.0.1:80"), loop: "80"}}, nil, false, wantFinding{verdictMissing, "would loop: link 80", "another port"}},
		"a name that is not there": {onHost, nil, errors.New("look up web: no such name"), false, wantFinding{verdictMissing, "no such name", "getent ahosts web"}},
		"a container's name":       {inBridge, nil, errors.New("look up web: no such name"), false, wantFinding{verdictMissing, "no such name", "docker network connect"}},
		"udp":                      {onHost, []answer{{endpoint: at("10.0.0.1:80"), untried: true}}, nil, false, wantFinding{verdictOK, "nobody can tell", ""}},
	} {
		link := doctorLinks(t, "80=web:80")[0]
		r := reached{link: link, target: link.Targets[0], endpoints: c.answers, lookup: c.lookup}
		c.want.check(t, name, judgeTarget(c.host, r, c.others))
	}
}

// Not / of the host, and not its /run.
func TestDoctor_MountsNothingThatIsShared(t *testing.T) {
	for path, want := range map[string]string{
		"/nosuch.sock":          "docker run -v /nosuch.sock:/nosuch.sock ...",
		"/run/redis.sock":       "docker run -v /run/redis.sock:/run/redis.sock ...",
		"/var/run/redis.sock":   "docker run -v /var/run/redis.sock:/var/run/redis.sock ...",
		"/run/redis/redis.sock": "docker run -v /run/redis:/run/redis ...",
	} {
		if got := inBridge.mendPath(path, fs.ErrNotExist); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// Every finding says what mends it.
func TestDoctor_SaysWhatMendsASource(t *testing.T) {
	for target, want := range map[string]string{
		"srv:_redis._tcp.example.org": "dig SRV _redis._tcp.example.org",
		"etcd:///services/redis":      "etcd://HOST:PORT/services/redis",
	} {
		l := doctorLinks(t, "6379="+target)[0]
		r := reached{link: l, target: l.Targets[0], lookup: errors.New("no answer")}
		wantFinding{verdictMissing, "no answer", want}.check(t, target, judgeTarget(onHost, r, false))
	}
}

// A server that took the connection is up, and no firewall is before it.
func TestDoctor_TellsAMuteServerFromNone(t *testing.T) {
	s := testnet.Serve(t, "tcp4", func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	link := fmt.Sprintf("%d=%s;check=redis;check-timeout=50ms", testnet.FreePort(t), s)
	found := judgeTargets(onHost, reach(t.Context(), doctorLinks(t, link), daemon.SourceConfig{}))
	wantFinding{verdictMissing, "no answer within 50ms", "see whether it is a server that speaks redis: nc -v "}.check(t, link, found)
}

// One endpoint that serves makes the rest a weakness.
func TestDoctor_ALinkWorksWithOneEndpoint(t *testing.T) {
	s := testnet.Serve(t, "tcp4", func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) })
	closing := testnet.Serve(t, "tcp4", func(net.Conn) {})
	link := fmt.Sprintf("%d=%s,%s", testnet.FreePort(t), closing, s)
	found := judgeTargets(onHost, reach(t.Context(), doctorLinks(t, link), daemon.SourceConfig{}))
	wantFinding{verdictOK, s.String() + " answers", ""}.check(t, link, found)
	wantFinding{verdictWeak, closing.String() + ": it accepts, and closes at once", ""}.check(t, link, found)

	only := fmt.Sprintf("%d=%s", testnet.FreePort(t), closing)
	wantFinding{verdictMissing, "closes at once", ""}.check(t, only, judgeTargets(onHost, reach(t.Context(), doctorLinks(t, only), daemon.SourceConfig{})))
}

// The parser of links sees loops of addresses; those of names show here.
func TestDoctor_FindsLoopsOfNames(t *testing.T) {
	port := testnet.FreePort(t)
	// An address of this host's own that is not loopback would do as well.
	links := doctorLinks(t, fmt.Sprintf("%d=127.0.0.1:%d", port, port+1))
	own := []netip.Addr{netip.MustParseAddr("10.1.1.1")}
	for at, want := range map[string]string{"10.1.1.1": links[0].Name, "127.0.0.1": links[0].Name, "10.1.1.2": ""} {
		e := spec.Endpoint{Protocol: spec.TCP, Addr: netip.AddrPortFrom(netip.MustParseAddr(at), uint16(port))}
		if got := loopOf(e, links, own); got != want {
			t.Errorf("a target at %s is link %q, want %q", at, got, want)
		}
	}
	elsewhere := doctorLinks(t, fmt.Sprintf("10.1.1.1:%d=127.0.0.1:%d", port, port+1))
	e := spec.Endpoint{Protocol: spec.TCP, Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port))}
	if got := loopOf(e, elsewhere, own); got != "" {
		t.Errorf("a target on loopback is link %q, which listens on another address", got)
	}
}

func TestDoctor_ReadsPasswordFiles(t *testing.T) {
	file := t.TempDir() + "/password"
	link := "6379=127.0.0.1:1;check=redis;check-user=u;check-password-file=" + file
	found := judgeTargets(onHost, []reached{{link: doctorLinks(t, link)[0], secret: readable(file)}})
	wantFinding{verdictMissing, "no such file", "install -m 400 /dev/stdin " + file}.check(t, link, found)
	found = judgeTargets(inBridge, reach(t.Context(), doctorLinks(t, link), daemon.SourceConfig{}))
	wantFinding{verdictMissing, "no such file", "docker run -v " + file}.check(t, link, found)
	if len(found) != 1 {
		t.Errorf("what cannot be asked is said to fail: %v", found)
	}
	closed := []reached{{link: doctorLinks(t, link)[0], secret: os.ErrPermission}}
	wantFinding{verdictMissing, "permission", "chmod 400 " + file}.check(t, link, judgeTargets(onHost, closed))
	wantFinding{verdictMissing, "permission", "docker run --user"}.check(t, link, judgeTargets(inBridge, closed))
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := readable(file); err != nil {
		t.Error(err)
	}
}

func TestDoctor_JudgesRunningLinks(t *testing.T) {
	for state, want := range map[spec.LinkState]wantFinding{
		spec.StateUp:       {verdictOK, "up", ""},
		spec.StateError:    {verdictMissing, "not listening on 6379: it is taken", "legate status db --control legate"},
		spec.StateDown:     {verdictMissing, "10.0.0.1:6379: connection refused", "legate status db --control legate"},
		spec.StateHolding:  {verdictMissing, "connection refused", ""},
		spec.StateDegraded: {verdictWeak, "connection refused", ""},
		spec.StatePaused:   {verdictWeak, "paused", "legate resume db --control legate"},
		spec.StateDrained:  {verdictWeak, "refused", "legate resume db --control legate"},
	} {
		l := spec.LinkStatus{Name: "db", Listen: "6379", State: state, Endpoints: []spec.EndpointStatus{{Address: "10.0.0.1:6379", LastError: "connection refused"}}}
		if state == spec.StateError {
			l.Error = "it is taken"
		}
		want.check(t, string(state), judgeRunning(spec.Snapshot{Instance: "legate", Links: []spec.LinkStatus{l}}))
	}
	drained := spec.LinkStatus{Name: "db", State: spec.StateDown, Endpoints: []spec.EndpointStatus{{Address: "10.0.0.1:6379", Health: spec.HealthDrained}}}
	wantFinding{verdictMissing, "down: 10.0.0.1:6379 is drained", "legate resume 10.0.0.1:6379 --control legate"}.check(t, "drained endpoint", judgeRunning(spec.Snapshot{Instance: "legate", Links: []spec.LinkStatus{drained}}))
	asking := spec.LinkStatus{Name: "db", State: spec.StateHolding, Sources: []spec.SourceStatus{{Target: "db.test:1", Source: "dns"}}}
	wantFinding{verdictMissing, "down: db.test:1 has no answer yet", "legate status db"}.check(t, "asking", judgeRunning(spec.Snapshot{Instance: "legate", Links: []spec.LinkStatus{asking}}))
	atLimit := spec.LinkStatus{Name: "db", State: spec.StateUp, Limit: 3, Counters: spec.LinkCounters{Current: 3}}
	wantFinding{verdictWeak, "the limit of 3 connections is reached; others wait", "legate status db"}.check(t, "at its limit", judgeRunning(spec.Snapshot{Instance: "legate", Links: []spec.LinkStatus{atLimit}}))
	full := spec.LinkStatus{Name: "db", State: spec.StateUp, Full: true, Counters: spec.LinkCounters{Held: 2}}
	wantFinding{verdictWeak, "2 connections wait since every endpoint has as many as it may", "legate status db"}.check(t, "full", judgeRunning(spec.Snapshot{Instance: "legate", Links: []spec.LinkStatus{full}}))
	source := spec.LinkStatus{Name: "db", State: spec.StateUp, Error: "look up db: no such name"}
	wantFinding{verdictWeak, "look up db", ""}.check(t, "source", judgeRunning(spec.Snapshot{Links: []spec.LinkStatus{source}}))
	wantFinding{verdictWeak, "no links", ""}.check(t, "none", judgeRunning(spec.Snapshot{}))
}

func TestDoctor_JudgesPlaces(t *testing.T) {
	denied := fmt.Errorf("write to /x: %w", fs.ErrPermission)
	dir := func(err error) directory { return directory{path: "/x", err: err} }
	one := func(f finding) []finding { return []finding{f} }
	for name, c := range map[string]struct {
		found []finding
		want  wantFinding
	}{
		"state":                    {one(judgeStateDir(onHost, dir(nil))), wantFinding{verdictOK, "/x", ""}},
		"state denied":             {one(judgeStateDir(onHost, dir(denied))), wantFinding{verdictMissing, "denied", "sudo install -d -o $(id -un) -m 700 /x"}},
		"state denied inside":      {one(judgeStateDir(inBridge, dir(denied))), wantFinding{verdictMissing, "denied", "-v legate-state:/x"}},
		"state on the host's root": {one(judgeStateDir(onHost, directory{path: "/x", volatile: true})), wantFinding{verdictOK, "", ""}},
		"state in the container":   {one(judgeStateDir(inBridge, directory{path: "/x", volatile: true})), wantFinding{verdictWeak, "goes with it", "-v legate-state:/x"}},
		"control off":              {judgeControl(onHost, controlPlaces{off: true}, nil), wantFinding{verdictOK, "off", ""}},
		"control":                  {judgeControl(onHost, controlPlaces{dirs: []directory{dir(denied), {path: "/y"}}}, nil), wantFinding{verdictOK, "goes to /y", ""}},
		"control abstract":         {judgeControl(onHost, controlPlaces{dirs: []directory{dir(denied)}, abstract: true}, nil), wantFinding{verdictOK, "abstract", ""}},
		"control nowhere":          {judgeControl(onHost, controlPlaces{dirs: []directory{dir(denied)}}, nil), wantFinding{verdictMissing, "denied", "--control off"}},
		"control asked":            {judgeControl(onHost, controlPlaces{asked: true, dirs: []directory{dir(denied)}}, nil), wantFinding{verdictMissing, "denied", "sudo install -d -o $(id -un) -m 755 /x"}},
		"control of a running one": {judgeControl(onHost, controlPlaces{dirs: []directory{dir(denied)}}, []spec.Snapshot{{}}), wantFinding{verdictOK, "answers", ""}},
		"docker":                   {one(judgeDocker("1.51", nil, true)), wantFinding{verdictOK, "API 1.51", ""}},
		"images":                   {one(judgeImages(nil, true)), wantFinding{verdictOK, "of an image", ""}},
		"images of an agent":       {one(judgeImages(spec.Errorf("IMAGES=1", "refuses"), true)), wantFinding{verdictMissing, "no links: refuses", "IMAGES=1"}},
		"images for our own links": {one(judgeImages(spec.Errorf("IMAGES=1", "refuses"), false)), wantFinding{verdictWeak, "are believed", "IMAGES=1"}},
		"docker needed":            {one(judgeDocker("", spec.Errorf("--group-add 99", "no permission"), true)), wantFinding{verdictMissing, "no permission", "--group-add 99"}},
		"docker not needed":        {one(judgeDocker("", spec.Errorf("--group-add 99", "no permission"), false)), wantFinding{verdictWeak, "no permission", "--group-add 99"}},
		"no links in a container":  {one(noLinks(inBridge, spec.Errorf("give one", "no link"))), wantFinding{verdictMissing, "no link", "give one"}},
		"no links on a host":       {one(noLinks(onHost, spec.Errorf("give one", "no link"))), wantFinding{verdictWeak, "only the host", "legate doctor"}},
	} {
		c.want.check(t, name, c.found)
	}
}

// A command for another kind of place would not work, or would do harm there.
func TestDoctor_CommandsFitThePlace(t *testing.T) {
	for _, h := range everyPlace {
		poor := grants{descriptors: 1024, somaxconn: 128, ports: [2]int{1, 2}, wanted: demand{streams: 5, localPorts: 5}}
		for _, f := range judgeSystem(h, poor) {
			if f.Verdict == verdictOK {
				continue
			}
			born := strings.Contains(f.Mend, dockerFlags)
			if born && !h.container || h.root && h.container && !born && !strings.HasPrefix(f.Mend, "on the host: ") {
				t.Errorf("on %+v: %s", h, f.Mend)
			}
		}
	}
}

func TestDoctor_OutputIsAligned(t *testing.T) {
	var out bytes.Buffer
	printFindings(&out, []finding{missing("link 6379", "do it", "no"), weak("queue", "", "short"), fine("x", "good")}, false)
	want := "missing  link 6379  no\n                    mend: do it\nweak     queue      short\n\n1 missing, 1 weak, 1 ok (--all shows them)\n"
	if out.String() != want {
		t.Errorf("printed\n%swant\n%s", out.String(), want)
	}
}

func TestDoctor_NamesAnEndpointThatClosesEarly(t *testing.T) {
	l := spec.LinkStatus{Name: "db", State: spec.StateUp, Endpoints: []spec.EndpointStatus{
		{Address: "10.0.0.1:5432", Health: spec.HealthClosing, LastError: "closed its last connection at once"},
	}}
	found := judgeRunning(spec.Snapshot{Instance: "legate", Links: []spec.LinkStatus{l}})
	wantFinding{verdictWeak, "10.0.0.1:5432: closed its last connection at once", "legate status db"}.check(t, "closing", found)
}
