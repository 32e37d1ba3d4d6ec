package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"legate/internal/discover"
	"legate/internal/testnet"
)

func TestParse(t *testing.T) {
	for value, want := range map[string]discover.Place{
		"10.0.0.1:6379":                                           {Host: "10.0.0.1", Port: 6379, Weight: 1},
		" 10.0.0.1:6379\n":                                        {Host: "10.0.0.1", Port: 6379, Weight: 1},
		"tcp://redis.example:6379":                                {Host: "redis.example", Port: 6379, Weight: 1},
		"[fd00::2]:6379":                                          {Host: "fd00::2", Port: 6379, Weight: 1},
		"10.0.0.1":                                                {Host: "10.0.0.1", Weight: 1},
		`{"Op":0,"Addr":"10.0.0.1:6379"}`:                         {Host: "10.0.0.1", Port: 6379, Weight: 1},
		`{"Addr":"h.example:1","Metadata":"x"}`:                   {Host: "h.example", Port: 1, Weight: 1},
		`{"Op":0,"Addr":"10.0.0.1:1","Metadata":null}`:            {Host: "10.0.0.1", Port: 1, Weight: 1},
		`{"Op":0,"Addr":"10.0.0.1:1","Metadata":{"zone":"a"}}`:    {Host: "10.0.0.1", Port: 1, Weight: 1},
		`{"Op":0,"Addr":"10.0.0.1:1","Metadata":{"weight":0}}`:    {Host: "10.0.0.1", Port: 1},
		`{"Op":0,"Addr":"10.0.0.1:1","Metadata":{"weight":null}}`: {Host: "10.0.0.1", Port: 1, Weight: 1},
		`{"Op":0,"Addr":"10.0.0.1:1","Metadata":{"weight":65535,"priority":2,"a":{}}}`: {Host: "10.0.0.1", Port: 1, Weight: 65535, Priority: 2},
	} {
		if got, err := parse(value); err != nil || got != want {
			t.Errorf("parse(%q) = %+v, %v, want %+v", value, got, err, want)
		}
	}
	for value, want := range map[string]string{
		"":                         "empty",
		" ":                        "empty",
		"10.0.0.1:99999":           "",
		strings.Repeat("x", 1<<20): "too long for an address",
		"{":                        "no JSON",
		`{"Op":1,"Addr":"a:1"}`:    "its Op is 1",
		`{"Op":0}`:                 "no Addr",
		`{"Op":0,"Addr":"a:b:c"}`:  "",
		`{"Op":0,"Addr":{"a":"b"}`: "no JSON",
		`{"Addr":"10.0.0.1:1","Metadata":{"weight":-1}}`:     "weight and priority",
		`{"Addr":"10.0.0.1:1","Metadata":{"weight":65536}}`:  "weight and priority",
		`{"Addr":"10.0.0.1:1","Metadata":{"weight":"much"}}`: "weight and priority",
		`{"Addr":"10.0.0.1:1","Metadata":{"priority":1.5}}`:  "weight and priority",
	} {
		if got, err := parse(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse(%q) = %+v, %v, want an error with %q", value, got, err, want)
		}
	}
}

func TestLayout(t *testing.T) {
	for name, c := range map[string]struct {
		values map[string]string
		want   []string // endpoints in order
		detail string
		err    string
	}{
		"none":           {err: "nothing is there"},
		"value":          {values: map[string]string{"/a/b": "10.0.0.1:1"}, want: []string{"10.0.0.1:1"}, detail: "the value at /a/b"},
		"value, no /":    {values: map[string]string{"a/b": "10.0.0.1:1"}, want: []string{"10.0.0.1:1"}, detail: "the value at /a/b"},
		"children first": {values: map[string]string{"/a/b": "10.0.0.1:1", "a/b/x": "10.0.0.2:1"}, want: []string{"10.0.0.2:1"}, detail: "the values below /a/b"},
		"both spellings": {
			values: map[string]string{"/a/b/x": "10.0.0.1:1", "a/b/x": "10.0.0.1:1", "a/b/y": "10.0.0.2:1"},
			want:   []string{"10.0.0.1:1", "10.0.0.2:1"}, detail: "the values below /a/b",
		},
		"folder mark": {values: map[string]string{"/a/b/": "", "/a/b/x": "10.0.0.1:1"}, want: []string{"10.0.0.1:1"}, detail: "the values below /a/b"},
		"deeper": {
			values: map[string]string{"/a/b/x": "10.0.0.1:1", "/a/b/c/d": "10.0.0.2:1", "/a/b/c/e": "v"},
			want:   []string{"10.0.0.1:1"}, detail: "the values below /a/b; left out what is deeper down (keys: 2)",
		},
		"only deeper": {values: map[string]string{"/a/b/c/d": "10.0.0.2:1"}, err: "nothing is there", detail: "left out what is deeper down (keys: 1)"},
		"some wrong": {
			values: map[string]string{"/a/b/1": "10.0.0.1:1", "/a/b/2": "", "/a/b/3": "", "/a/b/4": "", "/a/b/5": "", "/a/b/6": ""},
			want:   []string{"10.0.0.1:1"},
			detail: `the values below /a/b; left out "/a/b/2": empty; "/a/b/3": empty; "/a/b/4": empty; and 2 more`,
		},
		"all wrong": {values: map[string]string{"/a/b/1": ""}, err: `no value is an address: "/a/b/1": empty`, detail: `the values below /a/b; left out "/a/b/1": empty`},
	} {
		r := layout("a/b", c.values)
		if got := addresses(r); !slices.Equal(got, c.want) || r.Detail != c.detail || (r.Err == nil) != (c.err == "") || r.Err != nil && r.Err.Error() != c.err {
			t.Errorf("%s: %q, detail %q, error %v; want %q, %q, %q", name, got, r.Detail, r.Err, c.want, c.detail, c.err)
		}
	}
}

func TestSettings(t *testing.T) {
	ca := testnet.NewCA(t)
	cert, key := ca.Client(t, "legate")
	none := filepath.Join(t.TempDir(), "none")
	if err := os.WriteFile(none, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		host      string
		env       map[string]string
		addresses []string
		tls       bool
		err       string
	}{
		"nothing set":    {addresses: []string{"127.0.0.1:2379"}},
		"the target's":   {host: "10.0.0.1:23790", env: map[string]string{"ETCDCTL_ENDPOINTS": "https://h:1"}, addresses: []string{"10.0.0.1:23790"}},
		"list":           {env: map[string]string{"ETCDCTL_ENDPOINTS": "http://a:1, http://b/,[fd00::1]:3"}, addresses: []string{"a:1", "b:2379", "[fd00::1]:3"}},
		"https":          {env: map[string]string{"ETCDCTL_ENDPOINTS": "https://a:1,https://b:1"}, addresses: []string{"a:1", "b:1"}, tls: true},
		"mixed":          {env: map[string]string{"ETCDCTL_ENDPOINTS": "https://a:1,http://b:1"}, err: "mixes"},
		"scheme":         {env: map[string]string{"ETCDCTL_ENDPOINTS": "ftp://a:1"}, err: "not supported"},
		"a user":         {env: map[string]string{"ETCDCTL_ENDPOINTS": "http://bob:hunter2@a:1"}, err: "has a user before a server"},
		"port":           {env: map[string]string{"ETCDCTL_ENDPOINTS": "a:b"}, err: "no address"},
		"empty element":  {env: map[string]string{"ETCDCTL_ENDPOINTS": "a:1,"}, err: "no address"},
		"authority":      {host: "a:1", env: map[string]string{"ETCDCTL_CACERT": ca.File}, addresses: []string{"a:1"}, tls: true},
		"no authority":   {host: "a:1", env: map[string]string{"ETCDCTL_CACERT": none}, err: "no certificate is in"},
		"no such file":   {host: "a:1", env: map[string]string{"ETCDCTL_CACERT": none + "2"}, err: "read ETCDCTL_CACERT"},
		"pair":           {host: "a:1", env: map[string]string{"ETCDCTL_CERT": cert, "ETCDCTL_KEY": key}, addresses: []string{"a:1"}, tls: true},
		"half a pair":    {host: "a:1", env: map[string]string{"ETCDCTL_CERT": cert}, err: "only one is set"},
		"no pair":        {host: "a:1", env: map[string]string{"ETCDCTL_CERT": none, "ETCDCTL_KEY": key}, err: "read ETCDCTL_CERT"},
		"skip":           {host: "a:1", env: map[string]string{"ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "true"}, addresses: []string{"a:1"}, tls: true},
		"skip no":        {host: "a:1", env: map[string]string{"ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "0"}, addresses: []string{"a:1"}},
		"skip perhaps":   {host: "a:1", env: map[string]string{"ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "maybe"}, err: "neither true nor false"},
		"time":           {host: "a:1", env: map[string]string{"ETCDCTL_DIAL_TIMEOUT": "2"}, err: "is no time"},
		"no password":    {host: "a:1", env: map[string]string{"ETCDCTL_USER": "bob"}, err: "has no password"},
		"empty password": {host: "a:1", env: map[string]string{"ETCDCTL_USER": "bob:"}, err: "has no password"},
		"user":           {host: "a:1", env: map[string]string{"ETCDCTL_USER": "bob:a:b", "ETCDCTL_PASSWORD": "c"}, addresses: []string{"a:1"}},
	} {
		s, err := readSettings(c.host, func(name string) string { return c.env[name] })
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || hint(err) == "" || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: error %v (hint %q), want %q with a hint", name, err, hint(err), c.err)
			}
			continue
		}
		if err != nil || !slices.Equal(s.addresses, c.addresses) || (s.tls != nil) != c.tls {
			t.Errorf("%s: %q, TLS %v, error %v; want %q, %v", name, s.addresses, s.tls != nil, err, c.addresses, c.tls)
		}
		if name == "user" && (s.user != "bob" || s.password != "a:b") {
			t.Errorf("user %q, password %q", s.user, s.password)
		}
	}
}

// Whatever somebody writes into a registry: no panic, and either a place that
// can be used or a short error of one line.
func FuzzParse(f *testing.F) {
	if seeds, _ := filepath.Glob("testdata/fuzz/FuzzParse/*"); len(seeds) == 0 {
		f.Fatal("the seeds are gone")
	}
	f.Fuzz(func(t *testing.T, value string) {
		p, err := parse(value)
		if err != nil {
			if text := err.Error(); len(text) > 10*addressLimit || strings.ContainsAny(text, "\n\r\x1b\x00") {
				t.Errorf("error of %q: %q", value, text)
			}
			return
		}
		if p.Host == "" && p.Path == "" {
			t.Errorf("%q is nowhere: %+v", value, p)
		}
		again, err := parse(value)
		if err != nil || again != p {
			t.Errorf("%q is %+v, then %+v (%v)", value, p, again, err)
		}
		if a, err := netip.ParseAddr(p.Host); err == nil && p.Port != 0 && value[0] != '{' && p.Path == "" {
			if q, err := parse(fmt.Sprintf(`{"Op":0,"Addr":%q}`, netip.AddrPortFrom(a, p.Port))); err != nil || q != p {
				t.Errorf("%q is %+v, in JSON %+v (%v)", value, p, q, err)
			}
		}
	})
}

// Whatever the keys are: what is told does not depend on the order of a map,
// and no value is used twice or forgotten.
func FuzzLayout(f *testing.F) {
	if seeds, _ := filepath.Glob("testdata/fuzz/FuzzLayout/*"); len(seeds) == 0 {
		f.Fatal("the seeds are gone")
	}
	f.Fuzz(func(t *testing.T, path, text string) {
		path = strings.Trim(path, "/")
		var tails map[string]string
		if path == "" || json.Unmarshal([]byte(text), &tails) != nil {
			return
		}
		values := make(map[string]string)
		for tail, value := range tails {
			for _, s := range spans(path) { // as etcd compares
				if key := tail; key == s.key || s.end != "" && key >= s.key && key < s.end {
					values[key] = value
				}
			}
		}
		r, again := layout(path, values), layout(path, maps.Clone(values))
		if !reflect.DeepEqual(r.Places, again.Places) || r.Detail != again.Detail {
			t.Errorf("%+v, then %+v", r, again)
		}
		if len(r.Places) == 0 && r.Err == nil || len(r.Places) > len(values) {
			t.Errorf("%d places of %d values, error %v", len(r.Places), len(values), r.Err)
		}
		if len(values) == 0 && !errors.Is(r.Err, errNothing) {
			t.Errorf("without values: %v", r.Err)
		}
	})
}
