package spec_test

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
)

// maker makes valid links of every kind.
type maker struct{ *rand.Rand }

func pick[T any](m maker, of ...T) T { return of[m.IntN(len(of))] }

func (m maker) text(alphabet string, length int) string {
	letters := []rune(alphabet)
	var b strings.Builder
	for range 1 + m.IntN(length) {
		b.WriteRune(letters[m.IntN(len(letters))])
	}
	return b.String()
}

func (m maker) path() string {
	return "/" + m.text("ab=,;% ü.-_%41", 12) + "/" + m.text("ab=,;% \u00a0", 8) + "x"
}

func (m maker) port() uint16 { return uint16(1 + m.IntN(65535)) }

func (m maker) listen() spec.Listen {
	l := spec.Listen{Protocol: pick(m, spec.TCP, spec.UDP, spec.Unix)}
	if l.Protocol == spec.Unix {
		l.Path = m.path()
		return l
	}
	l.Host, l.Port = pick(m, "", "localhost", "127.0.0.1", "10.1.2.3", "::1", "fd00::2", "0.0.0.0", "::"), m.port()
	return l
}

func (m maker) target(l spec.Listen) spec.Target {
	t := spec.Target{Source: spec.SourceFixed, Protocol: l.Protocol}
	if l.Protocol != spec.UDP {
		t.Protocol = pick(m, spec.TCP, spec.Unix)
	}
	if t.Protocol == spec.Unix {
		t.Path = m.path()
		return t
	}
	t.Host, t.Port = pick(m, "192.168.1.52", "fd00::52", "8.8.8.8"), m.port()
	if m.IntN(2) == 0 {
		t.Source = spec.SourceDNS
		if m.IntN(2) == 0 {
			return m.ofSource(t)
		}
		t.Host = pick(m, "consul", "unix", "docker", "tcp", "a-b.example.org", "my_redis", "0a", m.text("abcXYZ_", 63), "8000-8010")
	}
	return t
}

func (m maker) ofSource(t spec.Target) spec.Target {
	t.Source = pick(m, spec.SourceSRV, spec.SourceConsul, spec.SourceConsulKV, spec.SourceEtcd, spec.SourceDocker, spec.SourceFile)
	t.Host, t.Port = pick(m, "redis", "a-b_c.example"), 0
	switch t.Source {
	case spec.SourceConsul:
		t.Tag, t.Datacenter = pick(m, "", "primary", "v1.2"), pick(m, "", "eu-1")
	case spec.SourceConsulKV, spec.SourceEtcd:
		t.Host, t.Path = pick(m, "", "127.0.0.1:8500", "[fd00::1]:2379", "etcd.example.org:1"), strings.Trim(m.path(), "/")
	case spec.SourceDocker:
		t.Project, t.Port = pick(m, "", "shop", "a.b"), m.port()
	case spec.SourceFile:
		t.Host, t.Path = "", pick(m, m.path(), "e.json", "../e,=.json")
	}
	return t
}

func (m maker) options() spec.Options {
	o := spec.DefaultOptions()
	for _, set := range []func(){
		func() { o.ConnectTimeout = time.Duration(1+m.IntN(1000)) * time.Millisecond },
		func() { o.Hold = pick(m, 0, time.Nanosecond, time.Minute, time.Hour, 90*time.Minute, 24*time.Hour) },
		func() { o.WhenDown = spec.WhenDownRefuse },
		func() { o.Settle = time.Duration(m.IntN(60_000_000)) * time.Microsecond },
		func() { o.MaxConnections = m.IntN(1 << 30) },
		func() {
			o.Balance, o.Near = pick(m, spec.BalanceFirst, spec.BalanceHash, spec.BalanceRoundRobin), m.IntN(2) == 0
		},
		func() { o.SlowStart, o.Rebalance = pick(m, 0, time.Minute), pick(m, time.Second, 24*time.Hour) },
		func() {
			o.OnRemoved, o.OnUnhealthy = spec.Fate{Kind: spec.FateDrain, Within: pick(m, time.Second, time.Hour)}, spec.Fate{Kind: spec.FateCut}
		},
		func() { o.AllUnhealthy = pick(m, spec.AllUnhealthyTry, spec.AllUnhealthyHold) },
		func() { o.EndpointConnections, o.CallerConnections, o.CallerRate = m.IntN(9), m.IntN(9), m.IntN(9) },
		func() { o.SendProxy, o.AcceptProxy = pick(m, spec.ProxyV1, spec.ProxyV2), "*" },
		func() { m.check(&o.Check) },
	} {
		if m.IntN(3) == 0 {
			set()
		}
	}
	return o
}

func (m maker) check(c *spec.Check) {
	c.Interval, c.Rise = pick(m, time.Second, time.Minute), 1+m.IntN(100)
	switch c.Kind = pick(m, spec.CheckTCP, spec.CheckHTTP, spec.CheckRedis, spec.CheckPostgres, spec.CheckMySQL, spec.CheckAMQP, spec.CheckExpect); c.Kind {
	case spec.CheckHTTP:
		c.Host, c.Path, c.Status = pick(m, "", "web:80", "[::1]:80"), pick(m, "/", "/health?a=b,c"), pick(m, "200", "200-299")
	case spec.CheckRedis:
		c.Role, c.User, c.PasswordFile = pick(m, "", spec.RoleMaster), pick(m, "", "legate"), pick(m, "", "/run/secrets/p")
	case spec.CheckPostgres:
		c.Role, c.User, c.Database = pick(m, "", spec.RolePrimary, spec.RoleStandby), "legate", pick(m, "", "db=1")
	case spec.CheckExpect:
		c.Send, c.Expect = pick(m, `PING\r\n`, `a\x20b\x3b"'=,`, `\\x20\xff\u00fc`), pick(m, "", `+PONG`)
	}
}

func (m maker) link() spec.Link {
	l := spec.Link{Listen: m.listen(), Options: spec.DefaultOptions(), Origin: spec.OriginArguments}
	if l.Listen.Protocol != spec.UDP {
		l.Options = m.options()
	} else if m.IntN(2) == 0 {
		l.Options.MaxConnections = m.IntN(1 << 30)
	}
	if l.Listen.Protocol == spec.Unix {
		l.Options.SocketMode, l.Options.SocketGroup = uint32(m.IntN(0o1000)), pick(m, "", "www-data", "33")
	}
	l.Name = pick(m, l.Listen.String(), l.Listen.String(), "db", "web/8000", "dns/53/udp", "a.b_c-d")
	if l.Listen.Host == "" && l.Listen.Protocol == spec.TCP && m.IntN(2) == 0 {
		l.Name = "*:" + l.Name
		if strings.ContainsAny(l.Name, "abd") {
			l.Name = "db"
		}
	}
	for range 1 + m.IntN(4) {
		l.Targets = append(l.Targets, m.target(l.Listen))
	}
	return l
}

func TestLink_StringParsesBack(t *testing.T) {
	seed := rand.Uint64()
	m, made := maker{rand.New(rand.NewPCG(seed, 0))}, 0
	for range 5000 {
		l := m.link()
		if spec.Validate(l) != nil { // twice the same target, or a loop: rare
			continue
		}
		made++
		l.Text = l.String()
		parsed, err := spec.ParseLink(l.Text, config())
		if err != nil || len(parsed) != 1 || !reflect.DeepEqual(parsed[0], l) {
			t.Fatalf("seed %d: %s\n  made   %#v\n  parsed %#v (%v)", seed, l.Text, l, parsed, err)
		}
		targets, err := spec.ParseTargets(spec.FormatTargets(l.Targets), l)
		if err != nil || !reflect.DeepEqual(targets, l.Targets) {
			t.Fatalf("seed %d: targets of %s: %v (%v)", seed, l.Text, targets, err)
		}
	}
	if made < 4000 {
		t.Errorf("only %d of 5000 links were valid", made)
	}
}

func TestValidate(t *testing.T) {
	good := func() spec.Link {
		links, err := spec.ParseLink("127.0.0.1:6379=redis,10.0.0.1,unix:/r", config())
		if err != nil {
			t.Fatal(err)
		}
		return links[0]
	}
	if err := spec.Validate(good()); err != nil {
		t.Fatal(err)
	}
	for about, spoil := range map[string]func(l *spec.Link){
		"no name":                 func(l *spec.Link) { l.Name = "" },
		"space in the name":       func(l *spec.Link) { l.Name = "a b" },
		"no protocol":             func(l *spec.Link) { l.Listen.Protocol = "" },
		"no listening port":       func(l *spec.Link) { l.Listen.Port = 0 },
		"path beside a port":      func(l *spec.Link) { l.Listen.Path = "/x" },
		"unix with a port":        func(l *spec.Link) { l.Listen = spec.Listen{Protocol: spec.Unix, Path: "/x", Port: 1} },
		"unix, relative":          func(l *spec.Link) { l.Listen = spec.Listen{Protocol: spec.Unix, Path: "x"} },
		"listening on a name":     func(l *spec.Link) { l.Listen.Host = "redis" },
		"address not canonical":   func(l *spec.Link) { l.Listen.Host = "0::1" },
		"no target":               func(l *spec.Link) { l.Targets = nil },
		"target without protocol": func(l *spec.Link) { l.Targets[0].Protocol = "" },
		"target without port":     func(l *spec.Link) { l.Targets[0].Port = 0 },
		"target with a path":      func(l *spec.Link) { l.Targets[0].Path = "/x" },
		"unknown source":          func(l *spec.Link) { l.Targets[0].Source = "carrier pigeon" },
		"name said to be fixed":   func(l *spec.Link) { l.Targets[0].Source = spec.SourceFixed },
		"address said to be dns":  func(l *spec.Link) { l.Targets[1].Source = spec.SourceDNS },
		"name with a final dot":   func(l *spec.Link) { l.Targets[0].Host = "redis." },
		"unix target with a host": func(l *spec.Link) { l.Targets[2].Host = "a" },
		"udp target":              func(l *spec.Link) { l.Targets[0].Protocol = spec.UDP },
		"twice the same":          func(l *spec.Link) { l.Targets[1] = l.Targets[0] },
		"a loop":                  func(l *spec.Link) { l.Targets[1].Host = "127.0.0.1" },
		"zero options":            func(l *spec.Link) { l.Options = spec.Options{} },
		"negative hold":           func(l *spec.Link) { l.Options.Hold = -1 },
		"mode with setuid":        func(l *spec.Link) { l.Options.SocketMode = 0o4660 },
		"negative connections":    func(l *spec.Link) { l.Options.MaxConnections = -1 },
	} {
		l := good()
		spoil(&l)
		if spec.Validate(l) == nil {
			t.Errorf("%s: no error", about)
		}
	}
}
