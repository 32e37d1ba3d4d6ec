package spec_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"legate/internal/spec"
)

// backends are the links of container web, as it has these variables.
func backends(c spec.Container, variables ...string) ([]spec.Link, []spec.LinkProblem) {
	return spec.BackendLinks(c, 3, variables, spec.Image{}, labelConfig())
}

// Every form that ambassadord's command line took, and ours.
func TestBackendLinks(t *testing.T) {
	for _, c := range []struct{ variable, link string }{
		{"BACKEND_6379=redis.services.consul", "web/BACKEND_6379 | 6379 | redis.services.consul"},
		{"BACKEND_8080=192.168.1.100:8080", "web/BACKEND_8080 | 8080 | 192.168.1.100:8080"},
		{"BACKEND_80=192.168.1.100:8080", "web/BACKEND_80 | 80 | 192.168.1.100:8080"},
		{"BACKEND_6379=redis.example.com:6379", "web/BACKEND_6379 | 6379 | redis.example.com:6379"},
		{"BACKEND_6379=redis-1.example.com:6379,redis-2.example.com:6380", "web/BACKEND_6379 | 6379 | redis-1.example.com:6379,redis-2.example.com:6380"},
		{"BACKEND_6379=redis", "web/BACKEND_6379 | 6379 | docker:redis:6379"},
		{"BACKEND_6379=consul:redis;name=cache", "web/cache | 6379 | consul:redis"},
		{"BACKEND_443=[fd00::2]:8443", "web/BACKEND_443 | 443 | [fd00::2]:8443"},
		{"BACKEND_10000=consul:///path/to/nodes", "web/BACKEND_10000 | 10000 | consul:///path/to/nodes"},
		{"BACKEND_URL=http://example.org", ""},
		{"BACKEND_=redis", ""},
		{"BACKEND_6379", ""},
		{"BACKEND_53/udp=ns", ""},
		{"MY_BACKEND_6379=redis", ""},
		{"backend_6379=redis", ""},
	} {
		links, problems := backends(web(), c.variable)
		made, failed := shown(links, problems)
		var want []string
		if c.link != "" {
			want = []string{c.link}
		}
		checkLines(t, c.variable, made, want)
		checkLines(t, c.variable, failed, nil)
		if spec.IsBackend(c.variable) != (c.link != "") {
			t.Errorf("%s makes a link: %v", c.variable, spec.IsBackend(c.variable))
		}
		for _, l := range links {
			if err := spec.Validate(l); err != nil || l.Listen != spec.SwitchedListen(webID, 3, l.Listen.Port) || !l.Listen.Switched() || l.Origin != spec.OriginBackends {
				t.Errorf("%s: %v, %+v", c.variable, err, l)
			}
		}
	}
}

// A container that was started again, or another one with the same address, has
// other links.
func TestSwitchedListen_IsOfOneLifeOfOneContainer(t *testing.T) {
	a := spec.SwitchedListen("a", 1, 80)
	for _, b := range []spec.Listen{spec.SwitchedListen("b", 1, 80), spec.SwitchedListen("a", 2, 80), spec.SwitchedListen("a", 1, 81)} {
		if a == b {
			t.Errorf("both are %+v", b)
		}
	}
	if (spec.Listen{Protocol: spec.TCP, Port: 80, Namespace: webID}).Switched() || (spec.Listen{}).Switched() {
		t.Error("another Listen is switched")
	}
}

func TestBackendLinks_WhatIsWrongWithOneDoesNotTouchTheOthers(t *testing.T) {
	for _, c := range []struct{ variable, want string }{
		{"BACKEND_0=a", `web/BACKEND_0 | variable "BACKEND_0=a": port 0 does not exist (ports are numbers from 1 to 65535)`},
		{"BACKEND_06379=a", `web/BACKEND_06379 | variable "BACKEND_06379=a": "06379" is not a port (ports are numbers from 1 to 65535)`},
		{"BACKEND_6379=", `web/BACKEND_6379 | variable "BACKEND_6379=": it has no target (write BACKEND_6379=TARGET, or remove it)`},
		{"BACKEND_6379=127.0.0.1:6379", `web/BACKEND_6379 | variable "BACKEND_6379=127.0.0.1:6379": container web may not have`},
		{"BACKEND_6379=unix:/run/redis.sock", `web/BACKEND_6379 | variable "BACKEND_6379=unix:/run/redis.sock": container web may not have`},
		{"BACKEND_6379=etcd://10.0.0.5:2379/a", `web/BACKEND_6379 | variable "BACKEND_6379=etcd://10.0.0.5:2379/a": container web may not have`},
		{"BACKEND_6379=a;check-password-file=/etc/shadow", `web/BACKEND_6379 | variable "BACKEND_6379=a;check-password-file=/etc/shadow": option check-password-file is not for labels`},
		{"BACKEND_6379=a b", `web/BACKEND_6379 | variable "BACKEND_6379=a b": it has white space in it`},
	} {
		links, problems := backends(web(), c.variable, "BACKEND_5432=db")
		made, failed := shown(links, problems)
		checkLines(t, c.variable, made, []string{"web/BACKEND_5432 | 5432 | docker:db:5432"})
		if len(failed) != 1 || !strings.HasPrefix(failed[0], c.want) {
			t.Errorf("got %q, want %q", failed, c.want)
		}
	}
}

// Labels count as well, and the variable wins; who serves a port at home may
// want it here all the same.
func TestBackendLinks_BesideLabels(t *testing.T) {
	c := web("connect.6379=old", "connect.5432=db", "connect.53/udp=ns", "connect.bad=x")
	c.Exposed = []spec.Port{{Protocol: spec.TCP, Number: 80}}
	links, problems := backends(c, "BACKEND_80=site", "BACKEND_6379=redis", "BACKEND_6379=second")
	made, failed := shown(links, problems)
	checkLines(t, "links", made, []string{
		"web/BACKEND_80 | 80 | docker:site:80",
		"web/BACKEND_5432 | 5432 | docker:db:5432",
		"web/BACKEND_6379 | 6379 | docker:redis:6379",
	})
	checkLines(t, "problems", failed, nil)
}

func TestBackendLinks_ThoseOfTheImageAreNotFollowed(t *testing.T) {
	image := spec.Image{Variables: []string{"PATH=/bin", "BACKEND_6379=evil", "BACKEND_80=a"}}
	variables := []string{"BACKEND_6379=evil", "BACKEND_80=b"}
	links, problems := spec.BackendLinks(web(), 1, variables, image, labelConfig())
	made, failed := shown(links, problems)
	checkLines(t, "links", made, []string{"web/BACKEND_80 | 80 | docker:b:80"})
	checkLines(t, "problems", failed, nil)
	o := labelConfig()
	o.TrustImageLabels = true
	if links, _ := spec.BackendLinks(web(), 1, variables, image, o); len(links) != 2 {
		t.Errorf("trusted: got %+v", links)
	}
}

func TestBackendLinks_AreBounded(t *testing.T) {
	var variables []string
	for port := range 1000 {
		variables = append(variables, fmt.Sprintf("BACKEND_%d=a", port+1))
	}
	links, problems := backends(web(), append(variables, "BACKEND_2000="+strings.Repeat("a", 1<<20))...)
	if len(links) > 256 || len(problems) > 64 {
		t.Errorf("%d links and %d problems", len(links), len(problems))
	}
	for _, p := range problems {
		checkMessage(t, p.Err)
	}
}

func FuzzBackends(f *testing.F) {
	if seeds, _ := os.ReadDir(filepath.Join("testdata", "fuzz", "FuzzBackends")); len(seeds) == 0 {
		f.Fatal("no seeds are committed")
	}
	f.Fuzz(func(t *testing.T, one, two string) {
		variables := []string{one, two, "BACKEND_1=one"}
		links, problems := backends(web(), variables...)
		seen := map[spec.Listen]bool{}
		for _, l := range links {
			if err := spec.Validate(l); err != nil || seen[l.Listen] || !l.Listen.Switched() {
				t.Errorf("%v: %+v", err, l)
			}
			seen[l.Listen] = true
			checkShown(t, l.Name, l.Text)
		}
		for _, p := range problems {
			checkMessage(t, p.Err)
			checkShown(t, p.Name, p.Text)
		}
		if again, same := backends(web(), variables...); !reflect.DeepEqual(again, links) || !reflect.DeepEqual(same, problems) {
			t.Error("another answer at the second time")
		}
	})
}
