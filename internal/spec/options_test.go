package spec_test

import (
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
)

func TestSetOption(t *testing.T) {
	o := spec.DefaultOptions()
	for _, set := range [][2]string{
		{"connect-timeout", "1500ms"}, {"hold", "0"}, {"when-down", "refuse"}, {"settle", "50ms"},
		{"max-connections", "100"}, {"socket-mode", "0600"}, {"socket-group", "www-data"},
	} {
		if err := spec.SetOption(&o, set[0], set[1]); err != nil {
			t.Error(err)
		}
	}
	want := spec.Options{
		ConnectTimeout: 1500 * time.Millisecond, WhenDown: spec.WhenDownRefuse, Settle: 50 * time.Millisecond,
		MaxConnections: 100, SocketMode: 0o600, SocketGroup: "www-data",
	}
	if o != want {
		t.Errorf("got %+v, want %+v", o, want)
	}
}

func TestSetOption_BadValueChangesNothing(t *testing.T) {
	for _, c := range []struct{ key, value, what, hint string }{
		{"hold", "", `option hold: "" is not a duration`, "durations are written like 500ms, 10s or 2m"},
		{"hold", "-0.1s", "option hold: -0.1s is out of range", "write a duration from 0 to 24h"},
		{"connect-timeout", "1h", "option connect-timeout: 1h is out of range", "write a duration from 1ms to 5m"},
		{"when-down", "Hold", `option when-down: "Hold" is not one of its values`, "write hold or refuse"},
		{"max-connections", "+5", `option max-connections: "+5" is not a number of connections`, "write a number, or 0 for no limit"},
		{"max-connections", "2147483648", `option max-connections: "2147483648" is not a number of connections`, "write a number, or 0 for no limit"},
		{"socket-mode", "rw", `option socket-mode: "rw" is not an octal mode from 0 to 0777`, "write it as chmod takes it, for example 0660"},
		{"socket-group", "a b", `option socket-group: "a b" cannot be a group`, "write the group's name or number"},
		{"name", "db", "option name is only for one link", "write LINK;name=VALUE"},
		{"drian", "1s", `there is no option "drian"`, "the options are connect-timeout, hold, when-down, settle, max-connections, socket-mode, socket-group, name"},
	} {
		o := spec.DefaultOptions()
		checkError(t, c.key, spec.SetOption(&o, c.key, c.value), c.what, c.hint)
		if o != spec.DefaultOptions() {
			t.Errorf("%s=%s changed the options to %+v", c.key, c.value, o)
		}
	}
}

func TestOptionHelp_DescribesWhatSetOptionTakes(t *testing.T) {
	var names []string
	for _, info := range spec.OptionHelp() {
		names = append(names, info.Name)
		if info.Kind == "" || info.Help == "" || strings.Contains(info.Help, "\n") {
			t.Errorf("%s has no kind or no help of one line", info.Name)
		}
		if info.PerLink {
			continue
		}
		o := spec.DefaultOptions()
		if err := spec.SetOption(&o, info.Name, info.Default); err != nil || o != spec.DefaultOptions() {
			t.Errorf("%s: the default %q gives %+v (%v)", info.Name, info.Default, o, err)
		}
		if want := "LEGATE_" + strings.ReplaceAll(strings.ToUpper(info.Name), "-", "_"); info.Env != want {
			t.Errorf("%s: variable %q, want %q", info.Name, info.Env, want)
		}
		if got := spec.OptionValue(o, info.Name); got != info.Default {
			t.Errorf("%s: value %q, want %q", info.Name, got, info.Default)
		}
	}
	want := "connect-timeout hold when-down settle max-connections socket-mode socket-group name"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("options %s, want %s", got, want)
	}
}

func TestOptionHelp_Defaults(t *testing.T) {
	want := map[string]string{
		"connect-timeout": "3s", "hold": "10s", "when-down": "hold", "settle": "0",
		"max-connections": "0", "socket-mode": "0660", "socket-group": "",
	}
	for key, value := range want {
		if got := spec.OptionValue(spec.DefaultOptions(), key); got != value {
			t.Errorf("%s is %q by default, want %q", key, got, value)
		}
	}
}

func TestSuggest(t *testing.T) {
	verbs := []string{"run", "status", "swap", "validate", "version", "demo", "connect-timeout"}
	for word, want := range map[string]string{
		"statsu": "status", "stats": "status", "swpa": "swap", "vaildate": "validate", "verison": "version", "rnu": "run",
		"timeout": "connect-timeout", "redis": "", "x": "", "postgres": "", "": "",
	} {
		if got := spec.Suggest(word, verbs); got != want {
			t.Errorf("%q: got %q, want %q", word, got, want)
		}
	}
}
