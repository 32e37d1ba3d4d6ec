package spec_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"legate/internal/spec"
)

// TestFuzz_SeedsAreThere keeps a fuzz target from running on nothing: its
// seeds are the files that go test reads in testdata/fuzz.
func TestFuzz_SeedsAreThere(t *testing.T) {
	for _, name := range []string{"FuzzParseLink", "FuzzEnvLinks", "FuzzParseHosts", "FuzzLabels"} {
		seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", name, "*"))
		if err != nil || len(seeds) < 3 {
			t.Errorf("%s has %d seeds (%v)", name, len(seeds), err)
		}
		for _, seed := range seeds {
			if b, err := os.ReadFile(seed); err != nil || !strings.HasPrefix(string(b), "go test fuzz v1\n") {
				t.Errorf("%s is not a seed (%v)", seed, err)
			}
		}
	}
}

func FuzzParseLink(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		links, err := spec.ParseLink(text, config())
		if err != nil {
			checkMessage(t, err)
			if links != nil {
				t.Error("links together with an error")
			}
			return
		}
		if len(links) == 0 {
			t.Fatal("neither links nor an error")
		}
		for _, l := range []spec.Link{links[0], links[len(links)-1]} {
			checkParsesBack(t, l)
		}
		if _, err := spec.ParseLinks([]string{text}, config()); err != nil {
			t.Errorf("good alone, bad as an argument: %v", err)
		}
	})
}

func checkParsesBack(t *testing.T, l spec.Link) {
	t.Helper()
	if err := spec.Validate(l); err != nil {
		t.Errorf("parsed and not valid: %v", err)
	}
	if l.Options.Check.Password != "" { // a link does not give it away
		if again, err := spec.ParseLink(l.String(), config()); err == nil {
			t.Errorf("%q was taken: %+v", l.String(), again)
		}
		l.Options.Check.Password = ""
	}
	again, err := spec.ParseLink(l.String(), config())
	if err != nil || len(again) != 1 {
		t.Fatalf("%q: %v (%v)", l.String(), again, err)
	}
	l.Text, l.Origin = l.String(), again[0].Origin
	if !reflect.DeepEqual(again[0], l) {
		t.Errorf("%q is another link: %+v, want %+v", l.Text, again[0], l)
	}
}

// checkMessage wants an error that can be shown in one line.
func checkMessage(t *testing.T, err error) {
	t.Helper()
	var u *spec.UserError
	if !errors.As(err, &u) || u.What == "" {
		t.Fatalf("not a UserError: %#v", err)
	}
	if !utf8.ValidString(u.What) || strings.ContainsAny(u.What, "\n\r\x00\x1b") {
		t.Errorf("cannot be shown: %q", u.What)
	}
}

func FuzzEnvLinks(f *testing.F) {
	f.Fuzz(func(t *testing.T, environ, hosts string) {
		o := config()
		o.Hosts = spec.ParseHosts(strings.NewReader(hosts))
		links, warnings, err := spec.EnvLinks(strings.Split(environ, "\n"), o)
		if err != nil {
			checkMessage(t, err)
		}
		if err != nil && (len(links) > 0 || len(warnings) == 0) {
			t.Errorf("error %v with links %v and warnings %q", err, links, warnings)
		}
		seen := map[spec.Listen]bool{}
		for _, l := range links {
			if seen[l.Listen] {
				t.Errorf("two links on %s", l.Listen)
			}
			seen[l.Listen] = true
			checkParsesBack(t, l)
		}
	})
}

func FuzzParseHosts(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		seen := map[spec.HostEntry]bool{}
		for _, e := range spec.ParseHosts(strings.NewReader(text)) {
			if seen[e] {
				t.Errorf("twice: %+v", e)
			}
			seen[e] = true
			if !e.Addr.IsValid() || len(e.ID) != 12 || e.Own != (e.Alias == "") || e.Own != (e.Name == "") {
				t.Errorf("incomplete: %+v", e)
			}
			if !strings.Contains(text, e.ID) || !strings.Contains(text, e.Alias) {
				t.Errorf("not in the text: %+v", e)
			}
		}
	})
}

// FuzzLabels reads labels in lines KEY=VALUE, those of the container and those
// of its image.
func FuzzLabels(f *testing.F) {
	f.Fuzz(func(t *testing.T, own, image string) {
		c := web(strings.Split(own, "\n")...)
		fromImage := labels(strings.Split(image, "\n")...)
		o := labelConfig()
		o.Sources = []string{"docker", "consul", "dns"}
		links, problems := spec.ContainerLinks(c, fromImage, o)
		seen := map[spec.Listen]bool{}
		for _, l := range links {
			if err := spec.Validate(l); err != nil || seen[l.Listen] || l.Listen.Namespace != c.ID || l.Listen.Host != "localhost" || !strings.HasPrefix(l.Name, "web/") {
				t.Errorf("a bad link: %v: %+v", err, l)
			}
			seen[l.Listen] = true
			for _, target := range l.Targets {
				if err := o.Policy.MayAsk(c, target); err != nil {
					t.Errorf("%s may not be asked for: %v", target, err)
				}
			}
			checkShown(t, l.Name, l.Text)
			checkAlone(t, c, fromImage, l, o)
		}
		for _, p := range problems {
			checkMessage(t, p.Err)
			checkShown(t, p.Name, p.Text)
			if seen[p.Listen] {
				t.Errorf("both a link and a problem: %+v", p)
			}
		}
		if again, same := spec.ContainerLinks(c, fromImage, o); !reflect.DeepEqual(again, links) || !reflect.DeepEqual(same, problems) {
			t.Error("another answer at the second time")
		}
		caller := c.Own(fromImage, false)
		for _, server := range []spec.Container{caller, member("db", "blog", "db", "legate.allow="+own)} {
			if err := spec.CheckAllow(server); err != nil {
				checkMessage(t, err)
			}
			if err := spec.Allows(server, caller); err != nil {
				checkMessage(t, err)
			}
		}
	})
}

func checkShown(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsAny(text, "\n\r\x00\x1b") {
			t.Errorf("cannot be shown: %q", text)
		}
	}
}

// checkAlone wants the link that its own labels make without those of others.
func checkAlone(t *testing.T, c spec.Container, image map[string]string, l spec.Link, o spec.LabelConfig) {
	t.Helper()
	port := strings.TrimPrefix(spec.Listen{Protocol: l.Listen.Protocol, Port: l.Listen.Port}.String(), "localhost:")
	alone := web()
	for key, value := range c.Labels {
		if strings.Contains(key, "connect."+port+".") || strings.HasSuffix(key, "connect."+port) || key == "legate.connect" {
			alone.Labels[key] = value
		}
	}
	links, _ := spec.ContainerLinks(alone, image, o)
	for _, one := range links {
		if reflect.DeepEqual(one, l) {
			return
		}
	}
	t.Errorf("touched by labels of other links: %+v, alone: %+v", l, links)
}
