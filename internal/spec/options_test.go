package spec_test

import (
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
)

const optionNames = "connect-timeout hold when-down settle balance slow-start " +
	"check check-interval check-timeout check-rise check-fall check-role check-user check-password check-password-file " +
	"check-database check-host check-path check-status check-send check-expect " +
	"all-unhealthy on-removed on-unhealthy rebalance " +
	"max-connections endpoint-connections caller-connections caller-rate send-proxy accept-proxy socket-mode socket-group name"

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
	want := spec.DefaultOptions()
	want.ConnectTimeout, want.Hold, want.WhenDown, want.Settle = 1500*time.Millisecond, 0, spec.WhenDownRefuse, 50*time.Millisecond
	want.MaxConnections, want.SocketMode, want.SocketGroup = 100, 0o600, "www-data"
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
		{"drian", "1s", `there is no option "drian"`, "the options are " + strings.ReplaceAll(optionNames, " ", ", ")},
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
	if got := strings.Join(names, " "); got != optionNames {
		t.Errorf("options %s, want %s", got, optionNames)
	}
}

func TestOptionHelp_Defaults(t *testing.T) {
	want := map[string]string{
		"connect-timeout": "3s", "hold": "10s", "when-down": "hold", "settle": "0",
		"max-connections": "0", "socket-mode": "0660", "socket-group": "",
		"balance": "round-robin", "slow-start": "0", "check": "off", "check-interval": "2s", "check-timeout": "1s",
		"check-rise": "2", "check-fall": "3", "check-role": "any", "check-user": "", "check-path": "/", "check-status": "200-399",
		"all-unhealthy": "auto", "on-removed": "keep", "on-unhealthy": "keep", "rebalance": "0",
		"endpoint-connections": "0", "caller-connections": "0", "caller-rate": "0", "send-proxy": "off", "accept-proxy": "",
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
