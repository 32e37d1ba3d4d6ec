package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestAsAgent_GivesAmbassadordsLinesTheirCommand(t *testing.T) {
	for _, c := range []struct{ typed, meant string }{
		{"--omnimode", "agent --omnimode"},
		{"--omnimode --log json", "agent --omnimode --log json"},
		{"--setup-iptables", "agent --setup-iptables"},
		{"agent --omnimode", "agent --omnimode"},
		{"--links", "--links"},
		{"6379=redis:6379 --omnimode", "6379=redis:6379 --omnimode"},
		{"", ""},
	} {
		if got := asAgent(strings.Fields(c.typed)); !slices.Equal(got, strings.Fields(c.meant)) {
			t.Errorf("%q is %q, want %q", c.typed, got, c.meant)
		}
	}
}

func TestOmni_OneThingAtATime(t *testing.T) {
	for _, typed := range []string{"--omnimode --setup-iptables", "--setup-iptables --clean-up", "agent --omnimode --clean-up"} {
		var said bytes.Buffer
		code := Main(Process{Args: append([]string{"legate"}, strings.Fields(typed)...), Stdout: &said, Stderr: &said})
		if code != exitUsage || !strings.Contains(said.String(), "use one of them") {
			t.Errorf("%s: exit code %d\n%s", typed, code, &said)
		}
	}
}
