package spec

import (
	"errors"
	"strings"
	"testing"
)

// Each link alone is fine, and no connection would ever come through.
func TestParseLinks_RefusesLoopsOverSeveralLinks(t *testing.T) {
	for _, c := range []struct {
		links string
		from  string // the link that is refused; "" for none
		to    string
	}{
		{"1000=127.0.0.1:2000 2000=127.0.0.1:1000", "2000=127.0.0.1:1000", "1000=127.0.0.1:2000"},
		{"1000=127.0.0.1:2000 2000=web:80", "1000=127.0.0.1:2000", "2000=web:80"},
		{"2000=web:80 1000=db:5432,localhost:2000", "1000=db:5432,localhost:2000", "2000=web:80"},
		{"unix:/run/a=unix:/run/b unix:/run/b=unix:/run/a", "unix:/run/b=unix:/run/a", "unix:/run/a=unix:/run/b"},
		{"53/udp=[::1]:54 54/udp=[::1]:53", "54/udp=[::1]:53", "53/udp=[::1]:54"},
		{"1000=127.0.0.1:2000 2000/udp=127.0.0.1:1000", "", ""},
		{"127.0.0.1:1000=127.0.0.2:2000 127.0.0.1:2000=127.0.0.2:1000", "", ""},
		{"1000=10.0.0.1:2000 2000=10.0.0.1:1000", "", ""},
	} {
		_, err := ParseLinks(strings.Fields(c.links), ParseConfig{Options: DefaultOptions()})
		if c.from == "" {
			if err != nil {
				t.Errorf("%s: %v", c.links, err)
			}
			continue
		}
		u, ok := errors.AsType[*UserError](err)
		if !ok || u.Hint == "" || !strings.Contains(u.What, `"`+c.from+`": would loop`) || !strings.Contains(u.What, `where link "`+c.to+`" listens`) {
			t.Errorf("%s: got %v, want an error of %s that names %s", c.links, err, c.from, c.to)
		}
	}
}

func TestLinkList_WarnsOfALoop(t *testing.T) {
	links, warnings, err := LinkList("1000=127.0.0.1:2000 2000=127.0.0.1:1000", ParseConfig{Options: DefaultOptions()})
	if err != nil || len(links) != 1 || len(warnings) != 1 || !strings.Contains(warnings[0], "would loop") {
		t.Errorf("got %v, %q, %v", links, warnings, err)
	}
}

func TestLinkVariables_AreThoseThatBecomeLinks(t *testing.T) {
	got := LinkVariables([]string{"WEB_PORT_80_TCP=tcp://10.0.0.1:80", "PATH=/bin", "A_PORT_80_TCP=true", "DB_PORT_53_UDP=udp://10.0.0.2:53"})
	if strings.Join(got, " ") != "DB_PORT_53_UDP WEB_PORT_80_TCP" {
		t.Errorf("got %q", got)
	}
}
