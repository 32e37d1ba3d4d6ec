package spec_test

import (
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"legate/internal/spec"
)

func config() spec.ParseConfig { return spec.ParseConfig{Options: spec.DefaultOptions()} }

func quote(s string) string { return strconv.Quote(s) }

// show writes what matters of a link: name, listening address, targets.
func show(links []spec.Link) []string {
	var list []string
	for _, l := range links {
		list = append(list, l.Name+" | "+l.Listen.String()+" | "+spec.FormatTargets(l.Targets))
	}
	return list
}

func TestParseLink_Forms(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"6379=redis:6379", []string{"6379 | 6379 | redis:6379"}},
		{"6379=192.168.1.52:6380", []string{"6379 | 6379 | 192.168.1.52:6380"}},
		{"6379=redis", []string{"6379 | 6379 | redis:6379"}},
		{"6379=10.0.0.1", []string{"6379 | 6379 | 10.0.0.1:6379"}},
		{"6379=[fd00::2]", []string{"6379 | 6379 | [fd00::2]:6379"}},
		{"6379=[FD00:0::2]:1", []string{"6379 | 6379 | [fd00::2]:1"}},
		{"6379=[::ffff:10.0.0.1]:1", []string{"6379 | 6379 | 10.0.0.1:1"}},
		{"6379=tcp://redis:6379", []string{"6379 | 6379 | redis:6379"}},
		{"6379=tcp://redis", []string{"6379 | 6379 | redis:6379"}},
		{"6379=redis:6379/tcp", []string{"6379 | 6379 | redis:6379"}},
		{"6379/tcp=redis", []string{"6379/tcp | 6379 | redis:6379"}},
		{"6379=my_redis.Example.COM.", []string{"6379 | 6379 | my_redis.Example.COM"}},
		{"6379=0day.example", []string{"6379 | 6379 | 0day.example"}},
		{"6379=my_redis.Example.COM.:1", []string{"6379 | 6379 | my_redis.Example.COM:1"}},
		{"redis.service.consul", []string{"10000 | 10000 | redis.service.consul"}},
		{"a.example.org,b.example.org", []string{"10000 | 10000 | a.example.org,b.example.org"}},
		{"53/udp=dns.example.org", []string{"53/udp | 53/udp | dns.example.org/udp"}},
		{"unix:/s=redis.example.org", []string{"unix:/s | unix:/s | srv:redis.example.org"}},
		{"6379=srv:_redis._tcp.example.org.", []string{"6379 | 6379 | srv:_redis._tcp.example.org"}},
		{"6379=consul:redis", []string{"6379 | 6379 | consul:redis"}},
		{"6379=consul:primary.redis@eu1", []string{"6379 | 6379 | consul:primary.redis@eu1"}},
		{"6379=consul:v1.2.redis", []string{"6379 | 6379 | consul:v1.2.redis"}},
		{"6379=consul:redis?tag=a&dc=b", []string{"6379 | 6379 | consul:a.redis@b"}},
		{"6379=consul:my.redis?dc=b", []string{"6379 | 6379 | consul:my.redis?dc=b"}},
		{"6379=consul:my.redis?tag=a", []string{"6379 | 6379 | consul:my.redis?tag=a"}},
		{"consul://127.0.0.1:8500/path/to/backend/nodes", []string{"10000 | 10000 | consul://127.0.0.1:8500/path/to/backend/nodes"}},
		{"etcd://127.0.0.1:4001/path/to/backend/nodes", []string{"10000 | 10000 | etcd://127.0.0.1:4001/path/to/backend/nodes"}},
		{"6379=etcd:///a%2Cb/", []string{"6379 | 6379 | etcd:///a%2Cb"}},
		{"6379=etcd://[::1]:2379/redis", []string{"6379 | 6379 | etcd://[::1]:2379/redis"}},
		{"6379=docker:redis", []string{"6379 | 6379 | docker:redis:6379"}},
		{"6379=docker:shop/redis:6380", []string{"6379 | 6379 | docker:shop/redis:6380"}},
		{"53/udp=docker:dns", []string{"53/udp | 53/udp | docker:dns:53/udp"}},
		{"53/udp=docker:dns:5353/udp", []string{"53/udp | 53/udp | docker:dns:5353/udp"}},
		{"8000-8001=docker:web:9000-9001", []string{"8000 | 8000 | docker:web:9000", "8001 | 8001 | docker:web:9001"}},
		{"6379=file:endpoints.json", []string{"6379 | 6379 | file:endpoints.json"}},
		{"6379=file:///etc/a%3Db.json", []string{"6379 | 6379 | file:/etc/a%3Db.json"}},
		{"6379=10.0.0.1:6379,consul:redis,docker:redis", []string{"6379 | 6379 | 10.0.0.1:6379,consul:redis,docker:redis:6379"}},
		{"6379=docker:2375", []string{"6379 | 6379 | docker:2375"}},
		{"6379=consul:8500,unix:80", []string{"6379 | 6379 | consul:8500,unix:80"}},
		{"6379=a:1,b,10.0.0.3:3", []string{"6379 | 6379 | a:1,b:6379,10.0.0.3:3"}},
		{"6379=a,unix:/run/a.sock", []string{"6379 | 6379 | a:6379,unix:/run/a.sock"}},
		{"53/udp=dns", []string{"53/udp | 53/udp | dns:53/udp"}},
		{"53/udp=udp://8.8.8.8:5353", []string{"53/udp | 53/udp | 8.8.8.8:5353/udp"}},
		{"53/udp=8.8.8.8:5353/udp", []string{"53/udp | 53/udp | 8.8.8.8:5353/udp"}},
		{"53/tcp+udp=dns", []string{"53 | 53 | dns:53", "53/udp | 53/udp | dns:53/udp"}},
		{"[::1]:53/tcp+udp=dns", []string{"[::1]:53 | [::1]:53 | dns:53", "[::1]:53/udp | [::1]:53/udp | dns:53/udp"}},
		{"53/tcp+udp=dns;name=dns", []string{"dns/53 | 53 | dns:53", "dns/53/udp | 53/udp | dns:53/udp"}},
		{"8000-8001=web", []string{"8000 | 8000 | web:8000", "8001 | 8001 | web:8001"}},
		{"8000-8001=web:80", []string{"8000 | 8000 | web:80", "8001 | 8001 | web:80"}},
		{"8000-8001=web:9000-9001,b", []string{"8000 | 8000 | web:9000,b:8000", "8001 | 8001 | web:9001,b:8001"}},
		{"*:8000-8001=web;name=web", []string{"web/8000 | 8000 | web:8000", "web/8001 | 8001 | web:8001"}},
		{"127.0.0.1:8000-8001=web", []string{"127.0.0.1:8000 | 127.0.0.1:8000 | web:8000", "127.0.0.1:8001 | 127.0.0.1:8001 | web:8001"}},
		{"8000-8001/udp=web", []string{"8000/udp | 8000/udp | web:8000/udp", "8001/udp | 8001/udp | web:8001/udp"}},
		{"8000-8000=web", []string{"8000-8000 | 8000 | web:8000"}},
		{"127.0.0.1:6379=redis", []string{"127.0.0.1:6379 | 127.0.0.1:6379 | redis:6379"}},
		{"[::1]:6379=redis", []string{"[::1]:6379 | [::1]:6379 | redis:6379"}},
		{"[0::1]:6379=redis", []string{"[0::1]:6379 | [::1]:6379 | redis:6379"}},
		{"localhost:6379=redis", []string{"localhost:6379 | localhost:6379 | redis:6379"}},
		{"*:6379=redis", []string{"*:6379 | 6379 | redis:6379"}},
		{"[::ffff:10.0.0.1]:6379=redis", []string{"[::ffff:10.0.0.1]:6379 | 10.0.0.1:6379 | redis:6379"}},
		{"0.0.0.0:6379=redis", []string{"0.0.0.0:6379 | 0.0.0.0:6379 | redis:6379"}},
		{"unix:/run/r.sock=redis:6379", []string{"unix:/run/r.sock | unix:/run/r.sock | redis:6379"}},
		{"unix:/run/r.sock=unix:/run/s.sock", []string{"unix:/run/r.sock | unix:/run/r.sock | unix:/run/s.sock"}},
		{"unix:///run//r.sock=redis:6379", []string{"unix:///run//r.sock | unix:/run/r.sock | redis:6379"}},
		{"unix:/a%3Db%2Cc%20d%3b=redis:6379", []string{"unix:/a%3Db%2Cc%20d%3b | unix:/a%3Db%2Cc%20d%3B | redis:6379"}},
		{"6379=unix:/100%25/ü", []string{"6379 | 6379 | unix:/100%25/ü"}},
		{"redis:6379", []string{"6379 | 6379 | redis:6379"}},
		{"192.168.1.100:8080", []string{"8080 | 8080 | 192.168.1.100:8080"}},
		{"redis-1.example.com:6379,redis-2.example.com:6379", []string{"6379 | 6379 | redis-1.example.com:6379,redis-2.example.com:6379"}},
		{"[fd00::2]:6379", []string{"6379 | 6379 | [fd00::2]:6379"}},
		{"udp://dns:53", []string{"53/udp | 53/udp | dns:53/udp"}},
		{"dns:53/udp", []string{"53/udp | 53/udp | dns:53/udp"}},
		{"web:8000-8001", []string{"8000 | 8000 | web:8000", "8001 | 8001 | web:8001"}},
		{"6379=redis;name=db", []string{"db | 6379 | redis:6379"}},
	} {
		links, err := spec.ParseLink(c.text, config())
		if got := show(links); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %q (%v), want %q", c.text, got, err, c.want)
		}
	}
}

func TestParseLink_Fields(t *testing.T) {
	want := spec.Link{
		Name:    "db",
		Listen:  spec.Listen{Protocol: spec.Unix, Path: "/run/a=b"},
		Targets: []spec.Target{{Source: spec.SourceDNS, Protocol: spec.TCP, Host: "a", Port: 1}, {Source: spec.SourceFixed, Protocol: spec.TCP, Host: "fd00::2", Port: 2}, {Source: spec.SourceFixed, Protocol: spec.Unix, Path: "/x,y"}},
		Options: spec.DefaultOptions(),
		Origin:  spec.OriginArguments,
		Text:    "unix:/run/a%3Db=a:1,[fd00::2]:2,unix:/x%2Cy;name=db;hold=0;socket-mode=0600",
	}
	want.Options.Hold, want.Options.SocketMode = 0, 0o600
	links, err := spec.ParseLink(want.Text, config())
	if err != nil || len(links) != 1 || !reflect.DeepEqual(links[0], want) {
		t.Errorf("got %+v (%v), want %+v", links, err, want)
	}
}

func TestParseLink_Bind(t *testing.T) {
	for _, c := range []struct{ bind, text, want string }{
		{"127.0.0.1", "6379=redis", "6379 | 127.0.0.1:6379 | redis:6379"},
		{"::1", "redis:6379", "6379 | [::1]:6379 | redis:6379"},
		{"[::1]", "6379=redis", "6379 | [::1]:6379 | redis:6379"},
		{"localhost", "53/udp=dns", "53/udp | localhost:53/udp | dns:53/udp"},
		{"*", "6379=redis", "6379 | 6379 | redis:6379"},
		{"127.0.0.1", "*:6379=redis", "*:6379 | 6379 | redis:6379"},
		{"127.0.0.1", "10.0.0.1:6379=redis", "10.0.0.1:6379 | 10.0.0.1:6379 | redis:6379"},
		{"127.0.0.1", "unix:/r=redis:1", "unix:/r | unix:/r | redis:1"},
	} {
		o := config()
		o.Bind = c.bind
		links, err := spec.ParseLink(c.text, o)
		if got := strings.Join(show(links), "; "); err != nil || got != c.want {
			t.Errorf("bind %q, %q: got %q (%v), want %q", c.bind, c.text, got, err, c.want)
		}
	}
	for _, bad := range []string{"redis", "127.0.0.1:80", "fe80::1%eth0", "[127.0.0.1]", "[::1"} {
		_, err := spec.ParseBind(bad)
		checkError(t, bad, err, "bind: "+quote(bad)+" is not an address to listen on", "write an address of this host, localhost or *")
	}
}

func TestParseLinks_OldTwoArguments(t *testing.T) {
	for _, c := range []struct{ host, number, want string }{
		{"172.17.0.4", "80", "80 | 80 | 172.17.0.4:80"},
		{"redis", "6379", "6379 | 6379 | redis:6379"},
		{"redis.example.com", "6379", "6379 | 6379 | redis.example.com:6379"},
		{"fd00::2", "80", "80 | 80 | [fd00::2]:80"},
		{"[fd00::2]", "80", "80 | 80 | [fd00::2]:80"},
	} {
		links, err := spec.ParseLinks([]string{c.host, c.number}, config())
		if got := strings.Join(show(links), "; "); err != nil || got != c.want {
			t.Errorf("%s %s: got %q (%v), want %q", c.host, c.number, got, err, c.want)
		}
	}
	_, err := spec.ParseLinks([]string{"redis", "65536"}, config())
	checkError(t, "redis 65536", err, `link "redis 65536": port 65536 does not exist`, "ports are numbers from 1 to 65535")
	_, err = spec.ParseLinks([]string{"127.0.0.1", "80"}, config())
	checkError(t, "127.0.0.1 80", err, `link "127.0.0.1 80": would loop: target 127.0.0.1:80 is the link's own listener`,
		"write the address of the server; inside a container 127.0.0.1 and localhost are the container itself")
	_, err = spec.ParseLinks([]string{"redis:6379", "80"}, config())
	checkError(t, "redis:6379 80", err, `link "80": it is only a port, without a target`, "write 80=HOST:PORT")
	_, err = spec.ParseLinks([]string{"6379", "80"}, config())
	checkError(t, "6379 80", err, `link "6379": it is only a port, without a target`, "write 6379=HOST:PORT")
	_, err = spec.ParseLinks([]string{"8000-8010"}, config())
	checkError(t, "8000-8010", err, `link "8000-8010": it is only a port, without a target`, "write 8000-8010=HOST:PORT")
}

func TestParseLinks_WordIsACommand(t *testing.T) {
	for _, args := range [][]string{{"statsu"}, {"6379=redis", "redis"}, {"re dis"}} {
		_, err := spec.ParseLinks(args, config())
		var c *spec.CommandError
		if !errors.As(err, &c) || c.Word != args[len(args)-1] {
			t.Errorf("%q: got %v, want a CommandError", args, err)
		}
		var u *spec.UserError
		if !errors.As(err, &u) || u.Hint == "" {
			t.Errorf("%q: %v has no hint", args, err)
		}
	}
}

func TestParseLinks_TwoWantOneAddress(t *testing.T) {
	for _, c := range []struct{ first, second, what, hint string }{
		{"6379=a", "6379=b", `link "6379=b": link "6379=a" already listens on 6379`, "give one of them another LISTEN"},
		{"6379=a", "*:6379=b", `link "*:6379=b": link "6379=a" already listens on 6379`, "give one of them another LISTEN"},
		{"6379=a", "127.0.0.1:6379=b", `link "127.0.0.1:6379=b": link "6379=a" already listens on 6379`, "give one of them another LISTEN"},
		{"[::1]:80=a", "localhost:80=b", `link "localhost:80=b": link "[::1]:80=a" already listens on [::1]:80`, "give one of them another LISTEN"},
		{"0.0.0.0:80=a", "localhost:80=b", `link "localhost:80=b": link "0.0.0.0:80=a" already listens on 0.0.0.0:80`, "give one of them another LISTEN"},
		{"8000-8010=a", "8005/tcp=b", `link "8005/tcp=b": link "8000-8010=a" already listens on 8005`, "give one of them another LISTEN"},
		{"unix:/a=b:1", "unix://///a=c:1", `link "unix://///a=c:1": link "unix:/a=b:1" already listens on unix:/a`, "give one of them another LISTEN"},
		{"1=a;name=db", "2=b;name=db", `link "2=b;name=db": link "1=a;name=db" is already called "db"`, "give one of them another name"},
		{"53=a", "53/udp=b", "", ""},
		{"127.0.0.1:80=a", "127.0.0.2:80=b", "", ""},
		{"[::]:80=a", "0.0.0.0:80=b", "", ""},
		{"unix:/a=b:1", "unix:/b=b:1", "", ""},
	} {
		links, err := spec.ParseLinks([]string{c.first, c.second}, config())
		if c.what != "" {
			checkError(t, c.second, err, c.what, c.hint)
		} else if err != nil || len(links) != 2 {
			t.Errorf("%s %s: got %v (%v)", c.first, c.second, links, err)
		}
	}
}

func TestLinkList_OneBadLinkIsAlone(t *testing.T) {
	links, warnings, err := spec.LinkList(" 6379=redis\n80=6380\t6379=b  53/udp=dns ", config())
	if got := strings.Join(show(links), "; "); err != nil || got != "6379 | 6379 | redis:6379; 53/udp | 53/udp | dns:53/udp" {
		t.Errorf("got %q (%v)", got, err)
	}
	want := []string{
		`LEGATE_LINKS: link "80=6380": target "6380" is only a port: which host is meant? (write 80=HOST:6380)`,
		`LEGATE_LINKS: link "6379=b": link "6379=redis" already listens on 6379 (give one of them another LISTEN)`,
	}
	if !reflect.DeepEqual(warnings, want) {
		t.Errorf("warnings %q, want %q", warnings, want)
	}
	if links[0].Origin != spec.OriginEnvironment {
		t.Errorf("origin %q", links[0].Origin)
	}
}

func TestLinkList_NothingLeft(t *testing.T) {
	_, warnings, err := spec.LinkList("redis", config())
	if err == nil || len(warnings) != 1 || err.Error() != warnings[0] {
		t.Errorf("got %q, %v", warnings, err)
	}
	_, _, err = spec.LinkList("  ", config())
	checkError(t, "", err, "LEGATE_LINKS names no link", "write LEGATE_LINKS=6379=redis:6379")
}

func TestParseTargets(t *testing.T) {
	for _, c := range []struct{ link, text, want string }{
		{"6379=redis", "redis2", "redis2:6379"},
		{"6379=redis", "192.168.1.52:6380,b", "192.168.1.52:6380,b:6379"},
		{"53/udp=dns", "8.8.8.8", "8.8.8.8:53/udp"},
		{"unix:/r=redis:1", "tcp://b:2", "b:2"},
		{"8000-8001=web", "web2", "web2:8000"},
		{"6379=redis", "unix:/r", "unix:/r"},
	} {
		links, err := spec.ParseLink(c.link, config())
		if err != nil {
			t.Fatal(err)
		}
		targets, err := spec.ParseTargets(c.text, links[0])
		if got := spec.FormatTargets(targets); err != nil || got != c.want {
			t.Errorf("%s to %s: got %q (%v), want %q", c.link, c.text, got, err, c.want)
		}
		if len(links[0].Targets) != 1 || strings.Contains(c.want, links[0].Targets[0].String()) {
			t.Errorf("%s: the link itself was changed to %v", c.link, links[0].Targets)
		}
	}
}

func TestParseTargets_Bad(t *testing.T) {
	for _, c := range []struct{ link, text, what, hint string }{
		{"6379=redis", "6380", `target "6380" is only a port: which host is meant?`, "write HOST:6380"},
		{"6379=redis", "6380=redis", `target "6380=redis" is a link of its own`, "write only the TARGET, without LISTEN="},
		{"6379=redis", "6379:redis:6379", `"6379:redis:6379" is in Docker's order`, "write redis:6379"},
		{"6379=redis", "redis;hold=1s", "a swap changes the target and no options", "write only TARGET[,TARGET...]"},
		{"6379=redis", "redis:1/udp", "target redis:1/udp does not speak the protocol of LISTEN 6379", "a swap keeps the LISTEN: write a target that takes what it carries"},
		{"53/udp=dns", "unix:/x", "target unix:/x does not speak the protocol of LISTEN 53/udp", "a swap keeps the LISTEN: write a target that takes what it carries"},
		{"unix:/r=redis:1", "redis", `target "redis" has no port, and a unix socket has none to take`, "write a port after it"},
		{"6379=redis", "web:80-81", `target "web:80-81" has 2 ports and LISTEN "6379" has 1`, "make both ranges equally long, or write the targets with commas"},
		{"6379=redis", "localhost", "would loop: target localhost:6379 is the link's own listener", "write the address of the server; inside a container 127.0.0.1 and localhost are the container itself"},
		{"6379=redis", "consul:", `"" cannot be the service of a target in Consul`, "write consul:SERVICE, consul:TAG.SERVICE@DATACENTER or consul:SERVICE?tag=TAG&dc=DATACENTER"},
		{"6379=redis", "", "it is empty", "write HOST:PORT"},
	} {
		links, err := spec.ParseLink(c.link, config())
		if err != nil {
			t.Fatal(err)
		}
		_, err = spec.ParseTargets(c.text, links[0])
		checkError(t, c.text, err, "target "+quote(c.text)+": "+c.what, c.hint)
	}
}
