package spec_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"legate/internal/spec"
)

// policy is that of a host with the addresses 10.0.0.1, 172.17.0.1 and
// 2001:db8::1.
func policy(allow ...string) spec.Policy {
	return spec.Policy{AllowTargets: allow, IsHost: func(a netip.Addr) bool {
		return slices.Contains([]string{"10.0.0.1", "172.17.0.1", "2001:db8::1"}, a.String())
	}}
}

// target reads one as a label has it, on port 80.
func target(t *testing.T, text string) spec.Target {
	t.Helper()
	on := spec.Link{Listen: spec.Listen{Protocol: spec.TCP, Host: "localhost", Port: 80, Namespace: webID}}
	targets, err := spec.ParseTargets(text, on)
	if err != nil {
		t.Fatal(err)
	}
	return targets[0]
}

// suggested is what the hint says that --allow-target should be.
func suggested(t *testing.T, err error) string {
	t.Helper()
	u, ok := errors.AsType[*spec.UserError](err)
	if !ok {
		t.Fatalf("not a UserError: %v", err)
	}
	_, text, found := strings.Cut(u.Hint, "--allow-target=")
	if !found || spec.CheckAllowTarget(text) != nil {
		t.Errorf("hint %q does not help", u.Hint)
	}
	return text
}

func TestPolicy_MayAsk(t *testing.T) {
	for text, what := range map[string]string{
		"10.0.0.5": "", "[2001:db8::2]:80": "", "redis": "", "redis:6379": "", "redis.example.org": "", "srv:_r._tcp.example.org": "",
		"docker:redis": "", "docker:blog/redis": "", "consul:redis": "", "consul:///path": "", "etcd:///path": "",
		"10.0.0.1": "an address of this host", "172.17.0.1:22": "an address of this host", "[2001:db8::1]:80": "an address of this host",
		"[::ffff:10.0.0.1]:80": "an address of this host",
		"127.0.0.1":            "loopback", "127.8.9.10:22": "loopback", "[::1]:22": "loopback", "[::ffff:127.0.0.1]:22": "loopback", "0.1.2.3": "loopback",
		"localhost": "loopback", "LocalHost:22": "loopback", "localhost.": "loopback", "db.localhost": "loopback", "db.localhost:5432": "loopback",
		"169.254.169.254": "link-local", "[fe80::1]:80": "link-local", "[::ffff:169.254.169.254]:80": "link-local",
		"224.0.0.1": "one server", "255.255.255.255": "one server", "[ff02::1]:80": "one server",
		"unix:/run/docker.sock": "socket file", "file:/etc/shadow": "a file", "file:endpoints.json": "a file",
		"consul://10.0.0.9:8500/x": "a server of its own", "etcd://127.0.0.1:2379/x": "a server of its own", "consul://consul:8500/x": "a server of its own",
	} {
		to := target(t, text)
		err := policy().MayAsk(web(), to)
		if what == "" {
			if err != nil {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "container web ") {
			t.Errorf("%s: got %v, want %s", text, err, what)
			continue
		}
		if err := policy(suggested(t, err)).MayAsk(web(), to); err != nil {
			t.Errorf("%s: as the hint says: %v", text, err)
		}
	}
}

func TestPolicy_AllowTargets(t *testing.T) {
	for _, c := range []struct {
		allow, text string
		ok          bool
	}{
		{"127.0.0.1", "127.0.0.1:22", true},
		{"127.0.0.1:5432", "127.0.0.1:5432", true},
		{"127.0.0.1:5432", "127.0.0.1:22", false},
		{"127.0.0.1:5432", "localhost:5432", true},
		{"localhost:5432", "127.0.0.1:5432", true},
		{"localhost:5432", "[::1]:5432", true},
		{"localhost:5432", "[::1]:22", false},
		{"localhost", "127.0.0.2:80", false},
		{"127.0.0.0/8", "127.0.0.2:80", true},
		{"[::1]:22", "[::1]:22", true},
		{"::1", "[::1]:22", true},
		{"::ffff:127.0.0.1", "127.0.0.1:22", true},
		{"169.254.0.0/16", "169.254.169.254", true},
		{"unix:/run/a", "unix:/run/a", true},
		{"unix:/run//a", "unix:/run/a", true},
		{"unix:/run/a", "unix:/run/ab", false},
		{"unix:/run/a", "unix:/run/a/b", false},
		{"unix:/run/a/*", "unix:/run/a/b/c", true},
		{"unix:/run/a/*", "unix:/run/ab", false},
		{"unix:/run/a/*", "unix:/run//a/b", true},
		{"unix:*", "unix:/run/docker.sock", true},
		{"unix:*", "file:/etc/shadow", false},
		{"file:/srv/*", "file:/srv/endpoints.json", true},
		{"consul://10.0.0.9:8500/*", "consul://10.0.0.9:8500/x/y", true},
		{"consul://10.0.0.9:8500/*", "consul://10.0.0.99:8500/x", false},
		{"consul://10.0.0.9:8500/*", "etcd://10.0.0.9:8500/x", false},
		{"etcd://*", "etcd://10.0.0.9:2379/x", true},
		{"10.0.0.9", "consul://10.0.0.9:8500/x", false},
	} {
		if err := spec.CheckAllowTarget(c.allow); err != nil {
			t.Errorf("%s: %v", c.allow, err)
		}
		if err := policy("nonsense", c.allow).MayAsk(web(), target(t, c.text)); (err == nil) != c.ok {
			t.Errorf("--allow-target=%s, %s: got %v", c.allow, c.text, err)
		}
	}
	for _, bad := range []string{
		"", "*", "redis", "redis:6379", "10.0.0.1/8", "10.0.0.0/33", "127.0.0.1:0", "127.0.0.1:80-90", "127.0.0.1:*", ":80", "80", "fe80::1%eth0", "[::1",
		"unix:", "unix:run", "unix:/run*", "unix:/*/x", "unix:/run/*/*", "consul://10.0.0.9*", "http://x", "docker:*", "consul:redis", "file:", "::ffff:10.0.0.0/104",
	} {
		if err := spec.CheckAllowTarget(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestPolicy_MayReach(t *testing.T) {
	tcp := func(text string) spec.Endpoint {
		return spec.Endpoint{Protocol: spec.TCP, Addr: netip.MustParseAddrPort(text)}
	}
	for _, c := range []struct {
		e              spec.Endpoint
		own, operators bool // whether it may, by the source
	}{
		{tcp("10.0.0.5:80"), true, true},
		{tcp("[2001:db8::5]:80"), true, true},
		{tcp("10.0.0.1:80"), false, true},
		{tcp("[::ffff:10.0.0.1]:80"), false, true},
		{tcp("[2001:db8::1]:80"), false, true},
		{tcp("127.0.0.1:80"), false, false},
		{tcp("127.1.1.1:80"), false, false},
		{tcp("[::1]:80"), false, false},
		{tcp("[::ffff:127.0.0.1]:80"), false, false},
		{tcp("0.0.0.0:80"), false, false},
		{tcp("[::]:80"), false, false},
		{tcp("169.254.169.254:80"), false, false},
		{tcp("[fe80::1%eth0]:80"), false, false},
		{tcp("224.0.0.1:80"), false, false},
		{spec.Endpoint{Protocol: spec.TCP}, false, false},
		{spec.Endpoint{Protocol: spec.Unix, Path: "/run/docker.sock"}, false, false},
	} {
		for byOperator, may := range map[bool]bool{false: c.own, true: c.operators} {
			err := policy().MayReach(web(), c.e, byOperator)
			if (err == nil) != may {
				t.Errorf("%s, by operator %v: got %v", c.e, byOperator, err)
			}
			if err != nil && (c.e.Addr.IsValid() || c.e.Path != "") {
				if err := policy(suggested(t, err)).MayReach(web(), c.e, byOperator); err != nil {
					t.Errorf("%s: as the hint says: %v", c.e, err)
				}
			}
		}
	}
	if err := policy("169.254.0.0/16", "fe80::/10").MayReach(web(), tcp("[fe80::1%eth0]:80"), false); err != nil {
		t.Errorf("a zone keeps an address from being allowed: %v", err)
	}
}

// member is a container with labels of its own; its project "" is none.
func member(name, project, service string, texts ...string) spec.Container {
	l := labels(texts...)
	if project != "" {
		l["com.docker.compose.project"], l["com.docker.compose.service"], l["com.docker.compose.container-number"] = project, service, "1"
	}
	return spec.Container{ID: "id of " + name, Name: name, Labels: l}.Own(nil, false)
}

func TestAllows(t *testing.T) {
	caller := member("blog-web-1", "blog", "web", "team=front", "example.org/role=edge")
	for _, c := range []struct {
		allow string
		ok    bool
	}{
		{"*", true}, {"blog", true}, {"shop,blog", true}, {" shop , blog ", true}, {"blog/web", true}, {"team=front", true}, {"team=*", true},
		{"example.org/role", true}, {"example.org/role=edge", true}, {"!,blog", true},
		{"", false}, {" ", false}, {"shop", false}, {"web", false}, {"Blog", false}, {"bl\u03bfg", false}, {"blog/db", false}, {"blog/", false}, {"/web", false},
		{"team", false}, {"team=", false}, {"team=back", false}, {"=front", false}, {"example.org", false}, {"example.org/rol", false}, {"blog*", false},
		{"blog/*", false}, {"**", false}, {"blog\x00", false}, {"blog;shop", false}, {"blog/web/x", false}, {strings.Repeat("x,", 1<<14) + "blog", false},
	} {
		server := member("shop-db-1", "shop", "db", "legate.allow="+c.allow)
		err := spec.Allows(server, caller)
		if (err == nil) != c.ok {
			t.Errorf("legate.allow=%.50q: got %v", c.allow, err)
		}
		if err != nil {
			checkMessage(t, err)
			if !strings.Contains(err.Error(), "shop-db-1") || !strings.Contains(err.Error(), "legate.allow") || len(err.Error()) > 1000 {
				t.Errorf("legate.allow=%.50q: which rule refused? %v", c.allow, err)
			}
		}
		if err := spec.Allows(server, server); err != nil {
			t.Errorf("legate.allow=%.50q: itself: %v", c.allow, err)
		}
	}
}

func TestAllows_WithoutTheLabel(t *testing.T) {
	in := func(c spec.Container, networks ...string) spec.Container {
		c.Networks = networks
		return c
	}
	for _, c := range []struct {
		about          string
		server, caller spec.Container
		ok             bool
	}{
		{"one project", member("db", "shop", "db"), member("web", "shop", "web"), true},
		{"two projects", member("db", "shop", "db"), member("web", "blog", "web"), false},
		{"no project is not one that they share", member("db", "", ""), member("web", "", ""), false},
		{"one network", in(member("db", "shop", "db"), "n1", "n2"), in(member("web", "blog", "web"), "n3", "n2"), true},
		{"two networks", in(member("db", "shop", "db"), "n1"), in(member("web", "blog", "web"), "n2"), false},
		{"no id is not one that they share", in(member("db", "", ""), ""), in(member("web", "", ""), ""), false},
		{"the label instead", in(member("db", "shop", "db", "legate.allow=blog"), "n1"), in(member("web", "shop", "web"), "n1"), false},
	} {
		err := spec.Allows(c.server, c.caller)
		if (err == nil) != c.ok {
			t.Errorf("%s: got %v", c.about, err)
		}
	}
	err := spec.Allows(member("db", "shop", "db"), member("web", "blog", "web"))
	u, _ := errors.AsType[*spec.UserError](err)
	const what = "container db (shop/db) does not accept container web (blog/web): without a label legate.allow it accepts its own Compose project and its networks"
	if u.What != what || u.Hint != "set the label legate.allow=blog on db, or put both in one network" {
		t.Errorf("got %q (%q)", u.What, u.Hint)
	}
}

// An image that opens its servers, or whose containers pass for others'.
func TestAllows_ImagesDecideNothing(t *testing.T) {
	image := labels("legate.allow=*", "role=edge", "com.docker.compose.project=shop", "com.docker.compose.service=web", "com.docker.compose.container-number=1")
	server := spec.Container{ID: "1", Name: "db", Labels: image}.Own(image, false)
	if err := spec.Allows(server, member("web", "blog", "web")); err == nil {
		t.Error("the image's legate.allow counts")
	}
	for _, trust := range []bool{false, true} {
		caller := spec.Container{ID: "2", Name: "web", Labels: image}.Own(image, trust)
		if caller.Project != "" || caller.Service != "" {
			t.Errorf("trusted %v: passes for %s/%s", trust, caller.Project, caller.Service)
		}
		for _, allow := range []string{"", "legate.allow=shop", "legate.allow=shop/web"} {
			if err := spec.Allows(member("db", "shop", "db", allow), caller); err == nil {
				t.Errorf("trusted %v, %q: a container passes for one of its image's project", trust, allow)
			}
		}
		if err := spec.Allows(member("db", "shop", "db", "legate.allow=role=edge"), caller); (err == nil) != trust {
			t.Errorf("trusted %v: a label of the image: %v", trust, err)
		}
	}
}

// Compose writes its labels on the images that it builds.
func TestContainerOwn_OfAnImageThatComposeBuilt(t *testing.T) {
	image := labels("com.docker.compose.project=shop", "com.docker.compose.service=web", "com.docker.compose.version=2.40")
	started := labels("com.docker.compose.project=shop", "com.docker.compose.service=web", "com.docker.compose.version=2.40", "com.docker.compose.container-number=1")
	if c := (spec.Container{Labels: started}).Own(image, false); c.Project != "shop" || c.Service != "web" || c.Labels["com.docker.compose.project"] != "shop" {
		t.Errorf("started by Compose: got %+v", c)
	}
	if c := (spec.Container{Labels: image}).Own(image, false); c.Project != "" || c.Service != "" || len(c.Labels) != 0 {
		t.Errorf("started by somebody else: got %+v", c)
	}
	named := labels("com.docker.compose.project=mine", "com.docker.compose.service=web")
	if c := (spec.Container{Labels: named}).Own(image, false); c.Project != "mine" || c.Service != "" {
		t.Errorf("with a project by hand: got %+v", c)
	}
	started["com.docker.compose.oneoff"] = "True"
	if c := (spec.Container{Labels: started}).Own(image, false); c.Project != "shop" || c.Service != "" {
		t.Errorf("docker compose run: got %+v", c)
	}
}

func TestCheckAllow(t *testing.T) {
	if err := spec.CheckAllow(member("db", "shop", "db", "legate.allow=blog,team=x,*")); err != nil {
		t.Error(err)
	}
	err := spec.CheckAllow(member("db", "shop", "db", "legate.allow=blog, bl og"))
	if err == nil || err.Error() != `container db: label "legate.allow=blog, bl og": "bl og" is not a rule` {
		t.Errorf("got %v", err)
	}
}

func TestHolders(t *testing.T) {
	servers := []spec.Container{
		member("other", "a", "x", "legate.service=other"), member("first", "shop", "db", "legate.service.5432=db"), member("second", "blog", "db", "legate.service=db"),
		member("third", "shop", "standby", "legate.service=db"), member("alone", "", "", "legate.service=db"),
	}
	names := func(list []spec.Container) (text string) {
		for _, c := range list {
			text += c.Name + " "
		}
		return text
	}
	holders, refused := spec.Holders("db", servers)
	if names(holders) != "first third " || names(refused) != "second alone " {
		t.Errorf("got %s and %s", names(holders), names(refused))
	}
	err := spec.NotHolder("db", refused[0], holders[0])
	if err.Error() != "service db of container second (blog/db) is held by container first (shop/db)" {
		t.Errorf("got %v", err)
	}
	if holders, refused = spec.Holders("", servers); holders != nil || refused != nil {
		t.Errorf("of no name: got %v, %v", holders, refused)
	}
}
