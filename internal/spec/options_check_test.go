package spec_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
)

// What an option takes, and how it is written then.
func TestSetOption_Health(t *testing.T) {
	for _, c := range []struct{ key, value, written string }{
		{"balance", "near", "near:round-robin"},
		{"balance", "near:hash", "near:hash"},
		{"balance", "least-connections", "least-connections"},
		{"slow-start", "90s", "1m30s"},
		{"check", "postgres", "postgres"},
		{"check-interval", "100ms", "100ms"},
		{"check-timeout", "10ms", "10ms"},
		{"check-rise", "100", "100"},
		{"check-role", "any", "any"},
		{"check-role", "standby", "standby"},
		{"check-user", "legate", "legate"},
		{"check-password", "a;b c", "***"},
		{"check-password-file", "/run/secrets/redis", "/run/secrets/redis"},
		{"check-host", "web.example.org:8080", "web.example.org:8080"},
		{"check-path", "/health?deep=1", "/health?deep=1"},
		{"check-status", "204", "204"},
		{"check-status", "200-299", "200-299"},
		{"check-send", `GET x; y\r\n`, `GET\x20x\x3b\x20y\r\n`},
		{"check-send", "a\r\n\x00\xffü\"'", `a\r\n\x00\xff\u00fc"'`},
		{"check-send", `\377\x41\u0042\\`, `\xffAB\\`},
		{"all-unhealthy", "hold", "hold"},
		{"on-removed", "drain", "drain:30s"},
		{"on-unhealthy", "drain:10s", "drain:10s"},
		{"on-unhealthy", "cut", "cut"},
		{"rebalance", "1h", "1h"},
		{"rebalance", "0", "0"},
		{"caller-rate", "50", "50"},
		{"send-proxy", "v2", "v2"},
		{"accept-proxy", "*", "*"},
		{"accept-proxy", "10.0.0.0/8,192.168.1.5,::ffff:10.1.1.1,fd00:0::/16,192.168.1.5/32", "10.0.0.0/8,192.168.1.5,10.1.1.1,fd00::/16"},
	} {
		o := spec.DefaultOptions()
		if err := spec.SetOption(&o, c.key, c.value); err != nil {
			t.Errorf("%s=%s: %v", c.key, c.value, err)
		}
		if got := spec.OptionValue(o, c.key); got != c.written {
			t.Errorf("%s=%s is written %q, want %q", c.key, c.value, got, c.written)
		}
		again := spec.DefaultOptions()
		if err := spec.SetOption(&again, c.key, c.written); c.written != "***" && (err != nil || again != o) {
			t.Errorf("%s=%s: written %q it is something else (%v)", c.key, c.value, c.written, err)
		}
	}
}

func TestSetOption_HealthBadValues(t *testing.T) {
	for _, c := range []struct{ key, value, what, hint string }{
		{"balance", "nearest", `"nearest" is not one of its values`, "write round-robin, least-connections, random, first or hash"},
		{"balance", "near:", `"" is not one of its values`, "write round-robin, least-connections, random, first or hash"},
		{"slow-start", "2h", "2h is out of range", "write a duration from 0 to 1h"},
		{"check", "ping", `"ping" is not one of its values`, "write off, tcp, http, redis, postgres, mysql, amqp or expect"},
		{"check-interval", "50ms", "50ms is out of range", "write a duration from 100ms to 1h"},
		{"check-timeout", "6m", "6m is out of range", "write a duration from 10ms to 5m"},
		{"check-fall", "0", `"0" is not a number of checks`, "write a number from 1 to 100"},
		{"check-rise", "101", `"101" is not a number of checks`, "write a number from 1 to 100"},
		{"check-role", "slave", `"slave" is not one of its values`, "write master, replica, primary, standby or any"},
		{"check-user", "a b", `"a b" cannot be its value`, "write it without spaces and semicolons"},
		{"check-password", "***", "*** stands for a password that is not shown", "write the password itself, or use check-password-file"},
		{"check-password-file", "redis.pw", `"redis.pw" is not the path of a file`, "write the whole path, for example /run/secrets/password"},
		{"check-host", "a/b", `"a/b" cannot be the header Host`, "write NAME or NAME:PORT"},
		{"check-path", "health", `"health" is not a path to ask for`, "write it as it stands in a URL, for example /health"},
		{"check-path", "/a b", `"/a b" is not a path to ask for`, "write it as it stands in a URL, for example /health"},
		{"check-status", "OK", `"OK" is not an HTTP status`, "write a status like 200, or a range like 200-399"},
		{"check-status", "600", `"600" is not an HTTP status`, "write a status like 200, or a range like 200-399"},
		{"check-status", "299-200", `range "299-200" runs backwards`, "write 200-299"},
		{"check-send", `\q`, `"\\q" has an escape that is none`, `write \r, \n, \t, \\ or a byte like \x00`},
		{"check-expect", strings.Repeat("a", 1025), "it has 1025 bytes, and a check takes 1024", "write less"},
		{"on-removed", "drain:", `"" is not a duration`, "durations are written like 500ms, 10s or 2m"},
		{"on-removed", "cut:3s", `"cut:3s" is not one of its values`, "write keep, drain, drain:10s or cut"},
		{"rebalance", "500ms", "500ms is out of range", "write a duration from 1s to 24h"},
		{"caller-connections", "-1", `"-1" is not a number of connections`, "write a number, or 0 for no limit"},
		{"send-proxy", "v3", `"v3" is not one of its values`, "write off, v1 or v2"},
		{"accept-proxy", "10.0.0.1/8", `prefix "10.0.0.1/8" has an address that is not its first`, "write 10.0.0.0/8, or the address alone: 10.0.0.1"},
		{"accept-proxy", "10.0.0.1,*", "* is everybody, so nobody is left to name", "write only *, or only addresses and prefixes"},
		{"accept-proxy", "lb1", `"lb1" is not an address or a prefix`, "write addresses or prefixes like 10.0.0.0/8,192.168.1.5, or * for everybody"},
	} {
		o := spec.DefaultOptions()
		checkError(t, c.key+"="+c.value, spec.SetOption(&o, c.key, c.value), "option "+c.key+": "+c.what, c.hint)
		if o != spec.DefaultOptions() {
			t.Errorf("%s=%s changed the options to %+v", c.key, c.value, o)
		}
	}
}

// Options that only look as if they had an effect are refused.
func TestParseLink_OptionsThatDoNotGoTogether(t *testing.T) {
	for _, c := range []struct{ text, what, hint string }{
		{"1=a;check-role=master", "option check-role: the link has no check", "remove it, or write check=redis or check=postgres"},
		{"1=a;check=tcp;check-path=/", "option check-path: a check of tcp has no use for it", "remove it, or write check=http"},
		{"1=a;check=http;check-database=x", "option check-database: a check of http has no use for it", "remove it, or write check=postgres"},
		{"1=a;check-interval=1s", "option check-interval: the link has no check", "add check=tcp, or another check"},
		{"1=a;check=redis;check-role=primary", `option check-role: a check of redis knows no role "primary"`, "write master or replica"},
		{"1=a;check=postgres;check-user=u;check-role=master", `option check-role: a check of postgres knows no role "master"`, "write primary or standby"},
		{"1=a;check=postgres;check-role=primary", "option check-role: PostgreSQL tells its role only to a user", "add check-user=NAME, and how it logs in: check-password-file=/PATH"},
		{"1=a;check=postgres;check-database=db", "option check-database: it has no user to log in as", "add check-user=NAME, and how it logs in: check-password-file=/PATH"},
		{"1=a;check=expect", "option check: a check of expect needs something to send or to expect", `add check-send=PING\r\n, check-expect=PONG or both`},
		{"1=a;check=redis;check-password-file=/p;check-password=x", "option check-password-file: there is a check-password as well", "remove one of them"},
		{"53/udp=a;check=tcp", "option check has no effect on UDP", "remove it"},
		{"53/udp=a;on-removed=cut", "option on-removed has no effect on UDP", "remove it"},
		{"unix:/s=a:1;accept-proxy=10.0.0.0/8", "option accept-proxy: a client of a unix socket has no address", "write accept-proxy=*"},
		{"1=a;check=redis;check-password=x;y", "what follows option check-password is not an option with a value", "a password with a semicolon is for --check-password or for a file"},
	} {
		links, err := spec.ParseLink(c.text, config())
		shown := strings.ReplaceAll(strings.TrimSuffix(c.text, ";y"), "check-password=x", "check-password=***")
		checkError(t, c.text, err, "link "+quote(shown)+": "+c.what, c.hint)
		if links != nil {
			t.Errorf("%q: gave links together with an error", c.text)
		}
	}
}

func TestParseLink_OptionsThatGoTogether(t *testing.T) {
	for _, text := range []string{
		"1=a;check=tcp;check-interval=1s", "1=a;on-unhealthy=cut;check-fall=1", "53/udp=a;balance=hash;slow-start=1s",
		"1=a;check=expect;check-send=x", "unix:/s=a:1;accept-proxy=*;check=mysql", "1=a;check=redis;check-role=any", "53/tcp+udp=a;check=tcp",
	} {
		if _, err := spec.ParseLink(text, config()); err != nil {
			t.Error(err)
		}
	}
}

// A flag holds for all links: one that has no use for it goes without.
func TestParseLinks_FlagsFitTheLinks(t *testing.T) {
	o := config()
	for key, value := range map[string]string{
		"check": "redis", "check-role": "master", "check-password": "secret", "check-interval": "5s",
		"hold": "1s", "socket-mode": "0600", "accept-proxy": "10.0.0.0/8", "balance": "first",
	} {
		if err := spec.SetOption(&o.Options, key, value); err != nil {
			t.Fatal(err)
		}
	}
	links, err := spec.ParseLinks([]string{"1=a", "2=b;check=postgres", "3=c;check=off", "4/udp=d", "unix:/s=e:5"}, o)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"1=a:1;hold=1s;balance=first;check=redis;check-interval=5s;check-role=master;check-password=***;accept-proxy=10.0.0.0/8",
		"2=b:2;hold=1s;balance=first;check=postgres;check-interval=5s;accept-proxy=10.0.0.0/8",
		"3=c:3;hold=1s;balance=first;accept-proxy=10.0.0.0/8",
		"4/udp=d:4/udp;balance=first",
		"unix:/s=e:5;hold=1s;balance=first;check=redis;check-interval=5s;check-role=master;check-password=***;socket-mode=0600",
	} {
		if got := links[i].String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if err := spec.Validate(links[i]); err != nil {
			t.Errorf("%s: %v", want, err)
		}
	}
	// No link at all with a use for it: it was typed for one that was forgotten.
	_, err = spec.ParseLinks([]string{"1=a;check=mysql"}, o)
	checkError(t, "unused", err, "option check-role: no link has a check with a use for it", "add --check=redis or --check=postgres")
}

// Without the check that it is for, an option would be dropped in silence, and a
// standby get connections that were meant for the primary alone.
func TestParse_SaysWhichDefaultsNoCheckUses(t *testing.T) {
	for _, c := range []struct{ key, value, what, hint string }{
		{"check-role", "primary", "option check-role: no link has a check with a use for it", "add --check=redis or --check=postgres"},
		{"check-interval", "1s", "option check-interval: no link has a check", "add --check=tcp, or another check"},
	} {
		o := config()
		if err := spec.SetOption(&o.Options, c.key, c.value); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"5432=db"}, {"db", "5432"}} {
			_, err := spec.ParseLinks(args, o)
			checkError(t, c.key, err, c.what, c.hint)
		}
		want := []string{c.what + " (" + c.hint + ")"}
		links, warnings, err := spec.LinkList("5432=db", o)
		if len(links) != 1 || !slices.Equal(warnings, want) || err != nil {
			t.Errorf("LEGATE_LINKS: %v, %q, %v; want one link and %q", links, warnings, err, want)
		}
		links, warnings, err = spec.EnvLinks([]string{"DB_PORT_5432_TCP=tcp://10.0.0.1:5432"}, o)
		if len(links) != 1 || !slices.Equal(warnings, want) || err != nil {
			t.Errorf("variables: %v, %q, %v; want one link and %q", links, warnings, err, want)
		}
		if _, warnings, _ := spec.EnvLinks(nil, o); warnings != nil {
			t.Errorf("no variable at all: %q", warnings)
		}
	}
}

func TestOptions_EffectiveCheck(t *testing.T) {
	off, _ := spec.ParseLink("1=a", config())
	if c := off[0].Options.EffectiveCheck(); c != (spec.Check{}) {
		t.Errorf("without a check there is %+v", c)
	}
	implied, _ := spec.ParseLink("1=a;on-unhealthy=drain;send-proxy=v2", config())
	want := spec.DefaultOptions().Check
	want.Kind, want.SendProxy = spec.CheckTCP, spec.ProxyV2
	if c := implied[0].Options.EffectiveCheck(); c != want {
		t.Errorf("on-unhealthy implies %+v, want %+v", c, want)
	}
	asked, _ := spec.ParseLink("1=a;check=redis", config())
	want.Kind, want.SendProxy = spec.CheckRedis, spec.ProxyOff
	if c := asked[0].Options.EffectiveCheck(); c != want {
		t.Errorf("got %+v, want %+v", c, want)
	}
}

// Whatever is printed, logged or kept of a link, its password is not in it.
func TestPassword_IsNeverShown(t *testing.T) {
	const secret = "hunter2"
	var shown []string
	show := func(v any) {
		shown = append(shown, fmt.Sprint(v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), fmt.Sprintf("%q", v))
		if b, err := json.Marshal(v); err == nil {
			shown = append(shown, string(b))
		}
	}
	links, err := spec.ParseLink("1=a;check=redis;check-password="+secret+";name=db", config())
	if err != nil {
		t.Fatal(err)
	}
	if got := string(links[0].Options.Check.Password); got != secret {
		t.Fatalf("the password is %q", got)
	}
	show(links[0])
	show(links[0].String())
	for _, text := range []string{
		"1=a;check-password=%s", "1=a;check=redis;check-password=%s;role=x", "1=a;check=redis;check-password=a;%s", "1=a;check=redis;check-password=a;%s=b",
		"1=a;check=redis;check-pasword=%s", "1=a;check=redis;password=%s;hold=x", "1=a b;check-password=%s", "1=a;check-password=x %s", "?;check-password=%s", "6379;check-password=%s",
		"1=a;check-password=***;check-password=%s",
	} {
		_, err := spec.ParseLink(fmt.Sprintf(text, secret), config())
		if err == nil {
			t.Errorf("%s: no error", text)
		}
		show(err)
		_, err = spec.ParseLinks([]string{fmt.Sprintf(text, secret)}, config())
		show(err)
		_, warnings, err := spec.LinkList(strings.ReplaceAll(fmt.Sprintf(text, secret), " ", ""), config())
		show(warnings)
		show(err)
		_, err = spec.ParseTargets(fmt.Sprintf(text, secret), links[0])
		show(err)
	}
	links[0].Options.Hold = -1
	show(spec.Validate(links[0]))
	links[0].Options.Check.Path, links[0].Options.Hold = "", 0
	show(spec.Validate(links[0]))
	for _, text := range shown {
		if strings.Contains(text, secret) {
			t.Errorf("shown: %s", text)
		}
	}
}

func TestPassword_IsNotReadBackFromWhatIsShown(t *testing.T) {
	links, err := spec.ParseLink("1=a;check=redis;check-password=x", config())
	if err != nil {
		t.Fatal(err)
	}
	if want := "1=a;check=redis;check-password=***"; links[0].Text != want {
		t.Errorf("text %q, want %q", links[0].Text, want)
	}
	if _, err := spec.ParseLink(links[0].String(), config()); err == nil {
		t.Error("*** was taken for the password")
	}
}

func TestOptions_ProxySenders(t *testing.T) {
	o := spec.DefaultOptions()
	if p, all := o.ProxySenders(); p != nil || all {
		t.Errorf("by default: %v, %v", p, all)
	}
	o.AcceptProxy = "*"
	if p, all := o.ProxySenders(); p != nil || !all {
		t.Errorf("of *: %v, %v", p, all)
	}
	o.AcceptProxy = "10.0.0.0/8,fd00::1"
	p, all := o.ProxySenders()
	if all || len(p) != 2 || !p[0].Contains(netip.MustParseAddr("10.9.9.9")) || !p[1].Contains(netip.MustParseAddr("fd00::1")) || p[1].Contains(netip.MustParseAddr("fd00::2")) {
		t.Errorf("of two: %v, %v", p, all)
	}
}

func TestParseCaller(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1": "10.0.0.1:0", "10.0.0.1:5000": "10.0.0.1:5000", "::ffff:10.0.0.1": "10.0.0.1:0",
		"fd00::2": "[fd00::2]:0", "[fd00::2]": "[fd00::2]:0", "[fd00::2]:80": "[fd00::2]:80", "unix": "invalid AddrPort",
	} {
		c, err := spec.ParseCaller(text)
		if err != nil || c.Addr.String() != want {
			t.Errorf("%q: got %s (%v), want %s", text, c.Addr, err, want)
		}
	}
	for _, text := range []string{"", "redis", "10.0.0.1:", "10.0.0.1:99999", "10.0.0", "unix:/run/x"} {
		_, err := spec.ParseCaller(text)
		checkError(t, text, err, quote(text)+" is not a caller", "write its IP address, IP:PORT, or unix")
	}
	_, err := spec.ParseCaller("fe80::1%eth0")
	checkError(t, "zone", err, `address "fe80::1%eth0" has a zone (%...), which links do not have`, "write an address without a zone, or a name")
}

// A long range shares its options, so they are looked at once.
func TestParseLink_LongRangeIsQuick(t *testing.T) {
	start := time.Now()
	if _, err := spec.ParseLink("1-16384=web;check=tcp", config()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}
