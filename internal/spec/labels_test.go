package spec_test

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"legate/internal/spec"
)

const webID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// labels makes a map of KEY=VALUE texts.
func labels(texts ...string) map[string]string {
	m := map[string]string{}
	for _, text := range texts {
		key, value, _ := strings.Cut(text, "=")
		m[key] = value
	}
	return m
}

// web is the container web of Compose project shop, with labels of its own.
func web(texts ...string) spec.Container {
	l := labels(texts...)
	l["com.docker.compose.project"], l["com.docker.compose.service"], l["com.docker.compose.container-number"] = "shop", "web", "1"
	return spec.Container{ID: webID, Name: "web", Image: "shop/web", Labels: l}
}

func labelConfig() spec.LabelConfig { return spec.LabelConfig{Options: spec.DefaultOptions()} }

// userError is the error as people see it; a blank one: it is not for people.
func userError(err error) *spec.UserError {
	u, ok := errors.AsType[*spec.UserError](err)
	if !ok {
		return &spec.UserError{}
	}
	return u
}

// shown is what matters of links and problems, in a line each.
func shown(links []spec.Link, problems []spec.LinkProblem) (made, failed []string) {
	for _, l := range links {
		made = append(made, l.Name+" | "+l.Listen.String()+" | "+spec.FormatTargets(l.Targets))
	}
	for _, p := range problems {
		u := userError(p.Err)
		failed = append(failed, p.Name+" | "+u.What+" ("+u.Hint+")")
	}
	return made, failed
}

func checkLines(t *testing.T, about string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", about, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestContainerLinks(t *testing.T) {
	for _, c := range []struct {
		about  string
		labels []string
		links  []string
	}{
		{"the shortest", []string{"connect.6379=redis"}, []string{"web/6379 | localhost:6379 | docker:redis:6379"}},
		{"of connectable", []string{"connect.6000=redis.service.consul"}, []string{"web/6000 | localhost:6000 | redis.service.consul"}},
		{"udp", []string{"connect.53/udp=ns", "connect.53=ns"}, []string{"web/53 | localhost:53 | docker:ns:53", "web/53/udp | localhost:53/udp | docker:ns:53/udp"}},
		{"the stronger word", []string{"legate.connect.6379=b", "connect.6379=a"}, []string{"web/6379 | localhost:6379 | docker:b:6379"}},
		{"a list wins, too", []string{"legate.connect=6379=b 5432=db.example.org:5433", "connect.6379=a"}, []string{"web/5432 | localhost:5432 | db.example.org:5433", "web/6379 | localhost:6379 | docker:b:6379"}},
		{"a list with options", []string{"legate.connect=\t6379=a;hold=30s;name=cache\n 53/udp=ns  "}, []string{"web/53/udp | localhost:53/udp | docker:ns:53/udp", "web/cache | localhost:6379 | docker:a:6379"}},
		{"several targets", []string{"connect.6379=a,10.0.0.5,consul:b"}, []string{"web/6379 | localhost:6379 | docker:a:6379,10.0.0.5:6379,consul:b"}},
		{"by port, not by text", []string{"connect.80=a", "connect.443=a", "connect.8080=a"}, []string{"web/80 | localhost:80 | docker:a:80", "web/443 | localhost:443 | docker:a:443", "web/8080 | localhost:8080 | docker:a:8080"}},
		{"the last port", []string{"connect.65535=a"}, []string{"web/65535 | localhost:65535 | docker:a:65535"}},
		{"another project", []string{"connect.1=docker:blog/db:5432"}, []string{"web/1 | localhost:1 | docker:blog/db:5432"}},
		{"a Cyrillic letter is another label", []string{"\u0441onnect.6379=redis"}, nil},
		{"labels of others", []string{"connector.6379=a", "connect=a", "com.example.connect.6379=a", "legate.allow=*", "legate.service.80=a"}, nil},
	} {
		links, problems := spec.ContainerLinks(web(c.labels...), nil, labelConfig())
		made, failed := shown(links, problems)
		checkLines(t, c.about, made, c.links)
		checkLines(t, c.about, failed, nil)
		for _, l := range links {
			if err := spec.Validate(l); err != nil || l.Listen.Namespace != webID || l.Origin != spec.OriginLabels {
				t.Errorf("%s: %v, %+v", c.about, err, l)
			}
		}
	}
}

func TestContainerLinks_WhatIsWrongWithOneDoesNotTouchTheOthers(t *testing.T) {
	for _, c := range []struct{ label, want string }{
		{"connect.0=a", `web/connect.0 | label "connect.0=a": port 0 does not exist (ports are numbers from 1 to 65535)`},
		{"connect.65536=a", `web/connect.65536 | label "connect.65536=a": port 65536 does not exist (ports are numbers from 1 to 65535)`},
		{"connect.06379=a", `web/connect.06379 | label "connect.06379=a": "06379" is not a port (ports are numbers from 1 to 65535)`},
		{"connect.+1=a", `web/connect.+1 | label "connect.+1=a": "+1" is not PORT or PORT/udp (write connect.6379 or connect.53/udp)`},
		{"connect.-1=a", `web/connect.-1 | label "connect.-1=a": "-1" is not PORT or PORT/udp (write connect.6379 or connect.53/udp)`},
		{"connect. 80=a", `web/connect. 80 | label "connect. 80=a": " 80" is not PORT or PORT/udp (write connect.6379 or connect.53/udp)`},
		{"connect.\uff18\uff10=a", `web/connect.８０ | label "connect.８０=a": "８０" is not PORT or PORT/udp (write connect.6379 or connect.53/udp)`},
		{"connect.80\x00=a", `web/"connect.80\x00" | label "connect.80\x00=a": "80\x00" is not PORT or PORT/udp (write connect.6379 or connect.53/udp)`},
		{"connect.=a", `web/connect. | label "connect.=a": "" is not PORT or PORT/udp (write connect.6379 or connect.53/udp)`},
		{"connect.redis=6379", `web/connect.redis | label "connect.redis=6379": "redis" is not PORT or PORT/udp (write connect.6379 or connect.53/udp)`},
		{"connect.80/tcp=a", `web/connect.80/tcp | label "connect.80/tcp=a": LISTEN in a label is PORT or PORT/udp (write 80)`},
		{"connect.80/tcp+udp=a", `web/connect.80/tcp+udp | label "connect.80/tcp+udp=a": LISTEN in a label is PORT or PORT/udp (write two, for 80 and 80/udp)`},
		{"connect.80/UDP=a", `web/connect.80/UDP | label "connect.80/UDP=a": "80/UDP" is not PORT or PORT/udp (write connect.6379 or connect.53/udp)`},
		{"connect.8000-8010=a", `web/connect.8000-8010 | label "connect.8000-8010=a": LISTEN in a label is PORT or PORT/udp, and no range (write one for each port)`},
		{"connect.127.0.0.1:80=a", `web/connect.127.0.0.1:80 | label "connect.127.0.0.1:80=a": a label has no address to listen on: that is the container's localhost (write connect.PORT or connect.PORT/udp)`},
		{"legate.connect.[::1]:80=a", `web/legate.connect.[::1]:80 | label "legate.connect.[::1]:80=a": a label has no address to listen on: that is the container's localhost (write legate.connect.PORT or legate.connect.PORT/udp)`},
		{"CONNECT.6379=a", `web/CONNECT.6379 | label "CONNECT.6379=a": labels are written in small letters (write connect.6379)`},
		{"Legate.Connect=80=a", `web/Legate.Connect | label "Legate.Connect=80=a": labels are written in small letters (write legate.connect)`},
		{"legate.conect.80=a", `web/legate.conect.80 | label "legate.conect.80=a": there is no such label (did you mean legate.connect?)`},
		{"connect.80=", `web/80 | label "connect.80=": it has no target (write connect.80=TARGET, or remove it)`},
		{"connect.80=a ", `web/80 | label "connect.80=a ": it has white space in it (remove it, or give each link as an argument of its own; in a path a space is %20)`},
		{"connect.80=a\x00", `web/80 | label "connect.80=a\x00": it has the unprintable character '\x00' in it (remove it)`},
		{"connect.80=81", `web/80 | label "connect.80=81": target "81" is only a port: which host is meant? (write connect.80=HOST:81)`},
		{"connect.80=p\u0430ypal", `web/80 | label "connect.80=pаypal": host "pаypal" has the character 'а', which no host name has (host names have letters, digits, - and _)`},
		{"legate.connect=", `web/legate.connect | label "legate.connect=": it names no link (write legate.connect="6379=redis 5432=postgres", or remove it)`},
		{"legate.connect=redis:6379", `web/legate.connect.redis:6379 | label "legate.connect=redis:6379=": "redis:6379" is not PORT or PORT/udp (write connect.6379 or connect.53/udp)`},
		{"legate.connect=80", `web/legate.connect.80 | label "legate.connect=80=": it has no target (write 80=TARGET)`},
		{"legate.connect=80=a 80=b", `web/80 | label "legate.connect=80=a": label "legate.connect=80=b" is for the same port (remove one of them)`},
		{"connect.80.hold=1s", `web/80 | label "connect.80.hold=1s": it is an option of a link that no label asks for (add the label connect.80=TARGET, or remove this one)`},
		{"connect.80.=1s", `web/connect.80. | label "connect.80.=1s": nothing follows its last dot (write connect.80)`},
		{"connect.80=a;check-password-file=/etc/shadow;check=redis", `web/80 | label "connect.80=a;check-password-file=/etc/shadow;check=redis": option check-password-file is not for labels: the file would be one of the host (use check-password)`},
		{"connect.80=a;force=maybe", `web/80 | label "connect.80=a;force=maybe": option force: "maybe" is not one of its values (write true or false)`},
		{"connect.80=a;hold=1s;hold=2s", `web/80 | label "connect.80=a;hold=1s;hold=2s": option hold is set twice (write it once)`},
		{"connect.80=a;check-password=s3cret;what", `web/80 | label "connect.80=a;check-password=***": what follows check-password`},
		{"connect.80=unix:/run/docker.sock", `web/80 | label "connect.80=unix:/run/docker.sock": container web may not have a link to unix:/run/docker.sock: it is a socket file of this host (if it should, start the agent with --allow-target=unix:/run/docker.sock)`},
		{"connect.80=localhost", `web/80 | label "connect.80=localhost": container web may not have a link to localhost:80: it is a loopback address of this host (if it should, start the agent with --allow-target=localhost:80)`},
	} {
		links, problems := spec.ContainerLinks(web(c.label, "connect.9=good"), nil, labelConfig())
		made, failed := shown(links, problems)
		checkLines(t, c.label, made, []string{"web/9 | localhost:9 | docker:good:9"})
		if c.label == "connect.80=a;check-password=s3cret;what" {
			if len(failed) != 1 || strings.Contains(failed[0]+problems[0].Text, "s3cret") || strings.Contains(failed[0]+problems[0].Text, "what\"") {
				t.Errorf("a password is shown: %q", failed)
			}
			continue
		}
		checkLines(t, c.label, failed, []string{c.want})
	}
}

func TestContainerLinks_Options(t *testing.T) {
	for _, c := range []struct {
		about  string
		labels []string
		want   string // the link in text form, or what is wrong
	}{
		{"a suffix", []string{"connect.80=a:80", "connect.80.hold=30s"}, "localhost:80=a:80;hold=30s;name=web/80"},
		{"of the stronger word", []string{"connect.80=a:80", "connect.80.hold=30s", "legate.connect.80.hold=5s"}, "localhost:80=a:80;hold=5s;name=web/80"},
		{"in front of a list", []string{"legate.connect=80=a:80;check=redis", "legate.connect.80.check-role=master"}, "localhost:80=a:80;check=redis;check-role=master;name=web/80"},
		{"a name", []string{"connect.80=a:80", "connect.80.name=cache"}, "localhost:80=a:80;name=web/cache"},
		{"with a dot in the protocol's label", []string{"connect.53/udp=a:53", "connect.53/udp.max-connections=4"}, "localhost:53/udp=a:53/udp;max-connections=4;name=web/53/udp"},
		{"twice", []string{"connect.80=a;hold=1s", "connect.80.hold=2s"}, `label "connect.80.hold=2s": option hold is in label "connect.80=a;hold=1s" as well`},
		{"unknown", []string{"connect.80=a", "connect.80.hald=2s"}, `label "connect.80.hald=2s": there is no option "hald"`},
		{"a bad value", []string{"connect.80=a", "connect.80.hold=2"}, `label "connect.80.hold=2": option hold: "2" is not a duration`},
		{"no use", []string{"connect.53/udp=a", "connect.53/udp.hold=2s"}, `label "connect.53/udp.hold=2s": option hold has no effect on UDP`},
		{"a check that is not made", []string{"connect.80=a", "connect.80.check-path=/x"}, `label "connect.80=a": option check-path: the link has no check`},
		{"a file of the host", []string{"connect.80=a;check=redis", "connect.80.check-password-file=/etc/shadow"}, `label "connect.80.check-password-file=/etc/shadow": option check-password-file is not for labels: the file would be one of the host`},
		{"no second option in a value", []string{"connect.80=a", "connect.80.check=redis;hold=0"}, `label "connect.80.check=redis;hold=0": option check: "redis;hold=0" is not one of its values`},
		{"no name that is an address", []string{"connect.80=a", "connect.80.name=6379"}, `label "connect.80.name=6379": option name: "6379" cannot be a name`},
		{"no two of one name", []string{"connect.80=a:80;name=x", "connect.81=a;name=x"}, `link "connect.81=a;name=x": link "connect.80=a:80;name=x" is already called "web/x"`},
	} {
		links, problems := spec.ContainerLinks(web(c.labels...), nil, labelConfig())
		got := "nothing"
		switch {
		case len(problems) > 0:
			got = problems[0].Err.Error()
		case len(links) > 0:
			got = links[0].String()
		}
		if got != c.want {
			t.Errorf("%s: got %s, want %s", c.about, got, c.want)
		}
	}
}

func TestContainerLinks_NoPasswordIsShownOrSentElsewhere(t *testing.T) {
	for _, texts := range [][]string{
		{"connect.80=a;check=redis;check-password=s3cret"},
		{"connect.80=a;check=redis", "connect.80.check-password=s3;cret s3cret"},
		{"connect.80=a", "connect.80.check-password=s3cret"},
		{"connect.80=a", "connect.80.check-pasword=s3cret"},
		{"CONNECT.80.check-password=s3cret"},
		{"CONNECT.80.CHECK-PASSWORD=s3cret"},
		{"legate.conect.80.password=s3cret"},
		{"connect.80.check-password=s3cret"},
		{"connect.80=redis://user:s3cret@a"},
		{"connect.x.check-password=s3cret"},
		{"legate.connect=80=a;check=redis;check-password=s3cret 80=b"},
		{"connect.80.check-password=s3cret" + strings.Repeat("x", 1<<15)},
	} {
		for _, image := range []map[string]string{nil, labels(texts...)} {
			links, problems := spec.ContainerLinks(web(texts...), image, labelConfig())
			for _, l := range links {
				if all := l.Text + l.String(); strings.Contains(all, "cret") {
					t.Errorf("%q: shown in %s", texts, all)
				}
			}
			for _, p := range problems {
				u := userError(p.Err)
				if all := p.Name + p.Text + u.What + u.Hint; strings.Contains(all, "cret") {
					t.Errorf("%q: shown in %s", texts, all)
				}
			}
		}
	}
	o := labelConfig()
	for key, value := range map[string]string{"check": "redis", "check-user": "u", "check-password": "of the operator"} {
		if err := spec.SetOption(&o.Options, key, value); err != nil {
			t.Fatal(err)
		}
	}
	links, _ := spec.ContainerLinks(web("connect.80=evil.example.org:80"), nil, o)
	if len(links) != 1 || links[0].Options.Check.Kind != "redis" || links[0].Options.Check.Password != "" {
		t.Errorf("got %+v", links)
	}
}

// What an image says is not what its user wants, in whatever form.
func TestContainerLinks_IgnoresLabelsOfTheImage(t *testing.T) {
	image := labels("connect.80=evil", "legate.connect=81=evil", "legate.connect.82=evil", "connect.83.hold=1s", "connect.84=old", "other=x")
	texts := []string{"connect.80=evil", "legate.connect=81=evil", "legate.connect.82=evil", "connect.82=good", "connect.83=good", "connect.83.hold=1s", "connect.84=new", "other=x"}
	links, problems := spec.ContainerLinks(web(texts...), image, labelConfig())
	made, failed := shown(links, problems)
	checkLines(t, "links", made, []string{"web/82 | localhost:82 | docker:good:82", "web/83 | localhost:83 | docker:good:83", "web/84 | localhost:84 | docker:new:84"})
	checkLines(t, "problems", failed, []string{
		`web/connect.80 | label "connect.80=evil": it is from the image shop/web, and ignored (start the agent with --trust-image-labels, or set the label legate.connect.80 on the container)`,
		`web/connect.83.hold | label "connect.83.hold=1s": it is from the image shop/web, and ignored (start the agent with --trust-image-labels, or set the label legate.connect.83.hold on the container)`,
		`web/legate.connect | label "legate.connect=81=evil": it is from the image shop/web, and ignored (start the agent with --trust-image-labels, or set labels like connect.6379 on the container)`,
		`web/legate.connect.82 | label "legate.connect.82=evil": it is from the image shop/web, and ignored (start the agent with --trust-image-labels, or set the label connect.82 on the container)`,
	})
	for i, l := range links {
		if l.Options != spec.DefaultOptions() || !problems[i].Ignored {
			t.Errorf("got %+v, %+v", l, problems[i])
		}
	}
	o := labelConfig()
	o.TrustImageLabels = true
	links, problems = spec.ContainerLinks(web(texts...), image, o)
	if len(links) != 5 || len(problems) != 0 {
		t.Errorf("trusted: got %v, %v", links, problems)
	}
}

func TestContainerLinks_BareWordsGoThroughTheSources(t *testing.T) {
	for _, c := range []struct{ sources, label, want string }{
		{"docker", "connect.6379=redis", "docker:redis:6379"},
		{"docker,consul,dns", "connect.6379=redis", "docker:redis:6379,consul:redis,redis:6379"},
		{"consul,docker", "connect.53/udp=ns", "consul:ns/udp,docker:ns:53/udp"},
		{"docker,etcd:///services", "connect.6379=redis", "docker:redis:6379,etcd:///services/redis"},
		{"consul:///a/b", "connect.6379=redis", "consul:///a/b/redis"},
		{"dns,docker", "connect.1=a,b", "a:1,docker:a:1,b:1,docker:b:1"},
		{"docker,consul", "connect.1=a.b", "a.b"},
		{"docker,consul", "connect.1=a:2", "a:2"},
		{"docker,consul", "connect.1=tcp://a:2", "a:2"},
		{"consul,docker", "connect.1=docker:a", "docker:a:1"},
	} {
		o := labelConfig()
		var err error
		if o.Sources, err = spec.ParseSources(c.sources); err != nil {
			t.Fatal(err)
		}
		links, problems := spec.ContainerLinks(web(c.label), nil, o)
		if len(links) != 1 || strings.ReplaceAll(spec.FormatTargets(links[0].Targets), "consul:ns,", "consul:ns/udp,") != c.want {
			t.Errorf("%s: got %v, %v, want %s", c.label, links, problems, c.want)
			continue
		}
		for _, target := range links[0].Targets {
			if bare := !strings.ContainsAny(c.label[strings.Index(c.label, "=")+1:], ".:/"); bare && !(spec.LabelConfig{Sources: o.Sources[target.Rank : target.Rank+1]}).Chosen(target) || !bare && target.Rank != 0 || target.Question().Rank != 0 {
				t.Errorf("%s: rank %d of %s", c.label, target.Rank, target)
			}
			if (target.Source == spec.SourceDocker) != (target.Home == "shop") || target.Question().Home != target.Home {
				t.Errorf("%s: home %q of %s", c.label, target.Home, target)
			}
		}
		_, text, _ := strings.Cut(c.label, "=")
		swapped, err := spec.ContainerTargets(text, web().Own(nil, false), links[0], o)
		if err != nil || !reflect.DeepEqual(swapped, links[0].Targets) {
			t.Errorf("%s: a swap leads to %v (%v)", c.label, swapped, err)
		}
	}
	for _, bad := range []string{"", "docker,", "etcd", "docker,docker", "Docker", "docker, consul", "etcd://", "etcd:///", "etcd:///a/", "etcd://host:1/a", "consul:///a,consul:///a", "consul:///a?dc=b", "etcd:///a%2Cb"} {
		if list, err := spec.ParseSources(bad); err == nil {
			t.Errorf("%q: got %q", bad, list)
		}
	}
}

func TestLabelConfig_ChosenIsWhatTheOperatorNamed(t *testing.T) {
	o := spec.LabelConfig{Sources: []string{"consul", "etcd:///services", "dns"}}
	for target, want := range map[spec.Target]bool{
		{Source: spec.SourceConsul, Host: "redis"}:                             true,
		{Source: spec.SourceDocker, Host: "redis"}:                             false,
		{Source: spec.SourceEtcd, Path: "services/redis"}:                      true,
		{Source: spec.SourceEtcd, Path: "services/a/b"}:                        true,
		{Source: spec.SourceEtcd, Path: "services"}:                            false,
		{Source: spec.SourceEtcd, Path: "servicesx/redis"}:                     false,
		{Source: spec.SourceEtcd, Path: "secrets/redis"}:                       false,
		{Source: spec.SourceEtcd, Path: "services/redis", Host: "10.0.0.1:79"}: false,
		{Source: spec.SourceConsulKV, Path: "services/redis"}:                  false,
		{Source: spec.SourceDNS, Host: "redis", Port: 1}:                       true,
		{Source: spec.SourceDNS, Host: "192.168.1.52.nip.io", Port: 22}:        false,
	} {
		if o.Chosen(target) != want {
			t.Errorf("%v: chosen %t", target, !want)
		}
	}
}

func TestContainerLinks_ProjectsDoNotShareTheAnswer(t *testing.T) {
	links, _ := spec.ContainerLinks(web("connect.1=redis"), nil, labelConfig())
	other := web("connect.1=redis")
	other.Labels["com.docker.compose.project"] = "blog"
	others, _ := spec.ContainerLinks(other, nil, labelConfig())
	if links[0].Targets[0].Question() == others[0].Targets[0].Question() {
		t.Error("the containers of two projects ask the same question")
	}
}

func TestContainerLinks_RefusesWhatTheContainerServes(t *testing.T) {
	c := web("connect.80=a", "connect.53=a", "connect.81=a;force=true", "connect.82=a", "connect.82.force=1", "connect.83=a", "connect.83.force=false")
	for _, port := range []uint16{80, 81, 82, 83} {
		c.Exposed = append(c.Exposed, spec.Port{Protocol: spec.TCP, Number: port})
	}
	c.Exposed = append(c.Exposed, spec.Port{Protocol: spec.UDP, Number: 53})
	made, failed := shown(spec.ContainerLinks(c, nil, labelConfig()))
	checkLines(t, "links", made, []string{"web/53 | localhost:53 | docker:a:53", "web/81 | localhost:81 | docker:a:81", "web/82 | localhost:82 | docker:a:82"})
	if len(failed) != 2 || !strings.Contains(failed[0], `label "connect.80=a": container web exposes port 80: the application itself serves there`) ||
		!strings.Contains(failed[0], "legate.connect.80.force=true") || !strings.HasPrefix(failed[1], "web/83") {
		t.Errorf("got %q", failed)
	}
}

func TestContainerLinks_InWhoseNamespace(t *testing.T) {
	o := labelConfig()
	o.Policy.AllowTargets = []string{"localhost"}
	c := web("connect.80=127.0.0.1")
	links, problems := spec.ContainerLinks(c, nil, o)
	if len(links) != 1 || links[0].Listen != (spec.Listen{Protocol: spec.TCP, Host: "localhost", Port: 80, Namespace: webID}) || links[0].Listen.String() != "localhost:80" {
		t.Errorf("the host's loopback from a container's: got %v, %v", links, problems)
	}
	c.Lodges = "landlord"
	if links, _ = spec.ContainerLinks(c, nil, o); len(links) != 1 || links[0].Listen.Namespace != "landlord" {
		t.Errorf("a lodger: got %v", links)
	}
	c.Lodges, c.OnHost = "", true
	if links, problems = spec.ContainerLinks(c, nil, o); len(links) != 0 || len(problems) != 1 || !strings.Contains(problems[0].Err.Error(), "would loop") {
		t.Errorf("in the host's network: got %v, %v", links, problems)
	}
}

func TestContainerLinks_HaveBounds(t *testing.T) {
	var texts []string
	for i := range 400 {
		texts = append(texts, fmt.Sprintf("connect.%d=a", i+1))
	}
	links, problems := spec.ContainerLinks(web(texts...), nil, labelConfig())
	if len(links) != 256 || links[255].Listen.Port != 256 || len(problems) != 65 || !strings.Contains(problems[64].Err.Error(), "80 more labels of container web") {
		t.Errorf("got %d links and %d problems, the last %v", len(links), len(problems), problems[len(problems)-1])
	}
	huge := strings.Repeat("ä", 1<<16)
	links, problems = spec.ContainerLinks(web("connect.1="+huge, "connect."+huge+"=a", "legate.connect="+huge, "Connect."+huge+"=x", "connect.2=a", "connect.2.hold="+huge[:1<<14], "connect.3=a", "legate.connect.3="+huge), nil, labelConfig())
	if len(links) != 0 || len(problems) != 6 { // connect.2 and connect.3 once each
		t.Errorf("got %v, %v", links, problems)
	}
	for _, p := range problems {
		if u := userError(p.Err); len(p.Name)+len(p.Text)+len(u.What)+len(u.Hint) > 4000 {
			t.Errorf("problem %.100s has %d bytes", p.Name, len(p.Name)+len(p.Text)+len(u.What)+len(u.Hint))
		}
	}
}

func TestContainerLinks_TextTellsWhatIsAskedFor(t *testing.T) {
	links, _ := spec.ContainerLinks(web("connect.80=a", "legate.connect.80.hold=1s", "connect.80.check=tcp", "connect.81=b"), nil, labelConfig())
	if links[0].Text != "connect.80=a connect.80.check=tcp legate.connect.80.hold=1s" || links[1].Text != "connect.81=b" {
		t.Errorf("got %q and %q", links[0].Text, links[1].Text)
	}
}

func TestCaller_IsNamedByItsContainer(t *testing.T) {
	c := web()
	at := spec.CallerAt(netip.MustParseAddr("172.17.0.3"))
	if at.String() != "172.17.0.3" {
		t.Errorf("got %s", at)
	}
	at.Container = &c
	if at.String() != "web" {
		t.Errorf("got %s", at)
	}
	c.Name = ""
	if at.String() != "0123456789ab" {
		t.Errorf("got %s", at)
	}
}
