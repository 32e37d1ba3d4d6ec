package agent

import (
	"net/netip"
	"strings"
	"testing"

	"legate/internal/docker"
	"legate/internal/spec"
)

// However an endpoint was found, what the container behind it allows decides,
// and nothing of this host is reached through it.
func TestAdmit(t *testing.T) {
	a := New(Config{Table: docker.NewTable(docker.Config{}), Labels: spec.LabelConfig{Sources: []string{spec.SourceDocker, spec.SourceConsul}}})
	a.host.now.Store(&map[netip.Addr]bool{netip.MustParseAddr("192.168.1.52"): true})
	a.servers = map[string]spec.Container{
		"shop":   {ID: "shop", Name: "shop-redis-1", Project: "shop"},
		"secret": {ID: "secret", Name: "vault", Project: "secret"},
		"open":   {ID: "open", Name: "open", Project: "open", Labels: map[string]string{"legate.allow": "shop"}},
	}
	a.at = map[netip.Addr]string{netip.MustParseAddr("172.18.0.2"): "shop", netip.MustParseAddr("172.18.0.3"): "secret", netip.MustParseAddr("172.18.0.4"): "open"}
	web := spec.Container{ID: "web", Name: "web", Project: "shop"}
	link := func(source string) spec.Link {
		return spec.Link{For: &web, Targets: []spec.Target{{Source: source, Host: "x"}}}
	}
	for name, c := range map[string]struct {
		link      spec.Link
		address   string
		container string
		want      string // part of why not; "": it may
	}{
		"of its own project":             {link(spec.SourceDocker), "172.18.0.2:6379", "shop", ""},
		"of another":                     {link(spec.SourceDocker), "172.18.0.3:6379", "secret", "does not accept"},
		"of another that allows it":      {link(spec.SourceDocker), "172.18.0.4:6379", "open", ""},
		"the same by its address":        {link(spec.SourceFixed), "172.18.0.3:6379", "", "does not accept"},
		"the same by a name":             {link(spec.SourceDNS), "[::ffff:172.18.0.3]:6379", "", "does not accept"},
		"one that nobody knows any more": {link(spec.SourceDocker), "172.18.0.9:6379", "gone", "is not known"},
		"in the host's network":          {link(spec.SourceDocker), "127.0.0.1:22", "shop", "loopback"},
		"somewhere else":                 {link(spec.SourceDNS), "10.0.0.1:6379", "", ""},
		"this host, by a name":           {link(spec.SourceDNS), "192.168.1.52:6379", "", "address of this host"},
		"this host, by the operator's":   {link(spec.SourceConsul), "192.168.1.52:6379", "", ""},
		"loopback, by the operator's":    {link(spec.SourceConsul), "127.0.0.1:6379", "", "loopback"},
		"a link that is for everybody":   {spec.Link{}, "127.0.0.1:6379", "", ""},
		"metadata of the cloud, by name": {link(spec.SourceDNS), "169.254.169.254:80", "", "link-local"},
	} {
		m := spec.Endpoint{Protocol: spec.TCP, Addr: netip.MustParseAddrPort(c.address), Container: c.container}.Plain()
		err := a.Admit(c.link, &m)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// The loopback of a container is its own, and what it allows decides there, too.
func TestAdmit_InsideAContainer(t *testing.T) {
	a := New(Config{Table: docker.NewTable(docker.Config{}), Labels: spec.LabelConfig{Sources: []string{spec.SourceDocker}}})
	a.servers = map[string]spec.Container{
		"closed": {ID: "closed", Name: "closed"},
		"open":   {ID: "open", Name: "open", Labels: map[string]string{"legate.allow": "*"}},
	}
	web := spec.Container{ID: "web", Name: "web"}
	for _, c := range []struct {
		container string
		inside    bool
		want      string
	}{
		{"open", true, ""},
		{"open", false, "loopback address of this host"},
		{"closed", true, "does not accept"},
		{"gone", true, "is not known"},
	} {
		e := spec.Endpoint{Protocol: spec.TCP, Addr: netip.MustParseAddrPort("127.0.0.1:6379"), Container: c.container, Inside: c.inside}
		m := e.Plain()
		err := a.Admit(spec.Link{For: &web, Targets: []spec.Target{{Source: spec.SourceDocker, Host: "x"}}}, &m)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c, err, c.want)
		}
	}
}

func TestWay(t *testing.T) {
	a := New(Config{})
	made := 0
	a.ways.Store(&map[string]way{"here": {"4:5", func(int, int) (int, error) { made++; return 7, nil }}})
	at := netip.MustParseAddrPort("127.0.0.1:6379")
	for _, c := range []struct {
		endpoint  spec.Endpoint
		namespace string
		err       bool
	}{
		{spec.Endpoint{Addr: at, Container: "here"}, "4:5", false},
		{spec.Endpoint{Addr: at, Container: "here", Inside: true}, "4:5", false},
		{spec.Endpoint{Addr: at, Container: "elsewhere"}, "", false}, // by its address
		{spec.Endpoint{Addr: at, Container: "elsewhere", Inside: true}, "", true},
	} {
		namespace, socket, err := a.Way(&c.endpoint)
		if namespace != c.namespace || (err != nil) != c.err || (socket != nil) != (c.namespace != "") {
			t.Errorf("%+v: from %q, with a socket %t, %v", c.endpoint, namespace, socket != nil, err)
			continue
		}
		if socket != nil {
			_, _ = socket(0, 0)
		}
	}
	if made != 2 {
		t.Errorf("%d sockets were made, want 2", made)
	}
}

// Nothing but a container's own addresses is taken for the container: a socket
// file has none, and most containers lack one of IPv6.
func TestAdmit_SocketFileIsNobodys(t *testing.T) {
	a := New(Config{Table: docker.NewTable(docker.Config{}), Labels: spec.LabelConfig{Policy: spec.Policy{AllowTargets: []string{"unix:/run/redis.sock"}}}})
	a.servers = map[string]spec.Container{"secret": {ID: "secret", Name: "vault", Project: "secret"}}
	a.at = owners([]*docker.Container{{ID: "secret", Networks: []docker.Network{{Name: "secret", V4: netip.MustParseAddr("172.18.0.3")}}}})
	web := spec.Container{ID: "web", Name: "web", Project: "shop"}
	for _, c := range []struct {
		endpoint spec.Endpoint
		allowed  bool
	}{
		{spec.Endpoint{Protocol: spec.Unix, Path: "/run/redis.sock"}, true},
		{spec.Endpoint{Protocol: spec.TCP, Addr: netip.MustParseAddrPort("172.18.0.3:80")}, false},
	} {
		m := c.endpoint.Plain()
		if err := a.Admit(spec.Link{For: &web}, &m); (err == nil) != c.allowed {
			t.Errorf("%v: %v, want allowed %t", c.endpoint, err, c.allowed)
		}
	}
}
