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
	}, noOverrides(), spec.ParseTargets)
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
	p := makePlan([][]spec.Link{links}, overrides{Swaps: map[string]spec.Override{
		"80":   {Target: "b:2,c", Base: "80=a:1"},
		"81":   {Target: "b:2", Base: "81=a:1"},
		"82":   {Target: "b:none", Base: "82=a:1"},
		"lost": {Target: "b:3", Base: "83=a:1"},
	}}, spec.ParseTargets)
	if d := cmp.Diff(map[string]string{"80": "b:2,c:80", "81": "a:1,c:81", "82": "a:1"}, served(p)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if in := p.inForce.Swaps; len(in) != 1 || in["80"].Target != "b:2,c" {
		t.Errorf("in force: %v", in)
	}
	wantWarnings(t, p, "link 81 is now configured as 81=a:1,c", `link 82 was swapped to b:none, which is not a target`, "no link is named lost, whose target was swapped to b:3; forget it with: legate swap lost --undo")
	if got := spec.FormatTargets(p.configured["80"].Targets); got != "a:1" {
		t.Errorf("the override got into the link itself: %s", got)
	}
}

func wantWarnings(t *testing.T, p plan, beginnings ...string) {
	t.Helper()
	if len(p.warnings) != len(beginnings) {
		t.Errorf("warnings are %q, want %q", p.warnings, beginnings)
		return
	}
	for i, want := range beginnings {
		if !strings.HasPrefix(p.warnings[i], want) {
			t.Errorf("warnings are %q, want %q as number %d", p.warnings, want, i)
		}
	}
}

// A link can be swapped and paused at once; an endpoint's drain belongs to no
// link.
func TestPlan_ModesStandBesideSwaps(t *testing.T) {
	p := makePlan([][]spec.Link{parseLinks(t, "80=a:1", "81=a:1", "82=a:1")}, overrides{
		Swaps: map[string]spec.Override{"80": {Kind: spec.OverrideSwap, Target: "b:2", Base: "80=a:1"}},
		Modes: map[string]spec.Override{
			"80":   {Kind: spec.OverridePause, Base: "80=a:1"},
			"81":   {Kind: spec.OverrideDrain, Base: "81=a:1"},
			"82":   {Kind: spec.OverrideDrain, Base: "82=former:1"},
			"lost": {Kind: spec.OverridePause, Base: "83=a:1"},
		},
		Endpoints: map[string]spec.Override{"10.0.0.5:1": {Kind: spec.OverrideDrain}},
	}, spec.ParseTargets)
	modes := map[string]spec.Mode{}
	for _, l := range p.links {
		modes[l.Name] = l.Mode
	}
	if d := cmp.Diff(map[string]spec.Mode{"80": spec.ModePause, "81": spec.ModeDrain, "82": spec.ModeServe}, modes); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if to := served(p)["80"]; to != "b:2" {
		t.Errorf("the paused link goes to %s, want b:2", to)
	}
	if len(p.inForce.Modes) != 2 || len(p.drained()) != 1 {
		t.Errorf("in force: %+v", p.inForce)
	}
	wantWarnings(t, p, "link 82 is now configured as 82=a:1: that it was drained, as 82=former:1, no longer holds; forget it with: legate resume 82",
		"no link is named lost, which was paused; forget it with: legate resume lost")
}

func TestPlan_LinksAreNamedOrFoundAsTheyListen(t *testing.T) {
	p := makePlan([][]spec.Link{parseLinks(t, "127.0.0.1:80=a:1;name=web", "53/udp=a:1")}, noOverrides(), spec.ParseTargets)
	for name, want := range map[string]string{"web": "web", "127.0.0.1:80": "web", "53/udp": "53/udp", "53": "", "80": ""} {
		if l, _ := p.named(name); l.Name != want {
			t.Errorf("%s is %q, want %q", name, l.Name, want)
		}
	}
}

// In containers many links listen alike, and which one is meant the container says.
func TestNamed_OfLinksThatListenAlike(t *testing.T) {
	links := parseLinks(t, "localhost:6379=10.0.0.1:1", "127.0.0.1:80=a:1")
	web, shop := links[0], links[0]
	web.Name, web.Listen.Namespace, web.For = "web/6379", "4:1", &spec.Container{ID: strings.Repeat("a", 64), Name: "web"}
	shop.Name, shop.Listen.Namespace, shop.For = "shop/6379", "4:2", &spec.Container{ID: strings.Repeat("b", 64), Name: "shop"}
	p := makePlan([][]spec.Link{{web, shop, links[1]}}, noOverrides(), nil)
	if l, ok := p.named("localhost:6379"); ok {
		t.Errorf("localhost:6379 is %s", l.Name)
	}
	if l, ok := p.named("127.0.0.1:80"); !ok {
		t.Errorf("127.0.0.1:80 is %q", l.Name)
	}
	for container, want := range map[string]string{"web": "web/6379", "shop": "shop/6379", strings.Repeat("b", 12): "shop/6379", "other": "", "bbb": ""} {
		if l, _ := p.ofContainer(container, "localhost:6379"); l.Name != want {
			t.Errorf("localhost:6379 of %s is %q, want %q", container, l.Name, want)
		}
	}
}
