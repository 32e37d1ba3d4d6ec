package daemon

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"legate/internal/spec"
)

func parseLinks(t *testing.T, texts ...string) []spec.Link {
	t.Helper()
	links, err := spec.ParseLinks(texts, spec.ParseConfig{Options: spec.DefaultOptions()})
	if err != nil {
		t.Fatal(err)
	}
	return links
}

func served(p plan) map[string]string {
	goes := map[string]string{}
	for _, l := range p.links {
		goes[l.Name] = spec.FormatTargets(l.Targets)
	}
	return goes
}

func TestPlan_TheFirstHasTheAddressAndTheName(t *testing.T) {
	p := makePlan([][]spec.Link{
		parseLinks(t, "80=a:1", "81=a:1;name=web"),
		parseLinks(t, "80=b:1", "82=b:1;name=web", "83=b:1"),
	}, nil)
	if d := cmp.Diff(map[string]string{"80": "a:1", "web": "a:1", "83": "b:1"}, served(p)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	var why []string
	for _, r := range p.refused {
		if r.State != spec.StateError {
			t.Errorf("%s is %s", r.Name, r.State)
		}
		why = append(why, r.Name+": "+r.Error)
	}
	if d := cmp.Diff([]string{"80: link 80 already listens on 80", "web: link 81 already has that name"}, why); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestPlan_OverridesHoldWhileTheLinkIsTheSame(t *testing.T) {
	links := parseLinks(t, "80=a:1", "81=a:1,c", "82=a:1")
	p := makePlan([][]spec.Link{links}, map[string]spec.Override{
		"80":   {Target: "b:2,c", Base: "80=a:1"},
		"81":   {Target: "b:2", Base: "81=a:1"},
		"82":   {Target: "b:none", Base: "82=a:1"},
		"lost": {Target: "b:3", Base: "83=a:1"},
	})
	if d := cmp.Diff(map[string]string{"80": "b:2,c:80", "81": "a:1,c:81", "82": "a:1"}, served(p)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if len(p.overrides) != 1 || p.overrides["80"].Target != "b:2,c" {
		t.Errorf("in force: %v", p.overrides)
	}
	for i, want := range []string{"link 81 is now configured as 81=a:1,c", `link 82 was swapped to b:none, which is not a target`, "no link is named lost"} {
		if i >= len(p.warnings) || !strings.HasPrefix(p.warnings[i], want) {
			t.Errorf("warnings are %q, want %q as number %d", p.warnings, want, i)
		}
	}
	if got := spec.FormatTargets(p.configured["80"].Targets); got != "a:1" {
		t.Errorf("the override got into the link itself: %s", got)
	}
}

func TestPlan_LinksAreNamedOrFoundAsTheyListen(t *testing.T) {
	p := makePlan([][]spec.Link{parseLinks(t, "127.0.0.1:80=a:1;name=web", "53/udp=a:1")}, nil)
	for name, want := range map[string]string{"web": "web", "127.0.0.1:80": "web", "53/udp": "53/udp", "53": "", "80": ""} {
		if l, _ := p.named(name); l.Name != want {
			t.Errorf("%s is %q, want %q", name, l.Name, want)
		}
	}
}
