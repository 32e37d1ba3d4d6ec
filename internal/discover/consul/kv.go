package consul

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"legate/internal/discover"
)

// keys asks for addresses in the key-value store: the values of all keys below
// a path, or, when there are none, the value of the path itself.
type keys struct{ path string }

func trimSlashes(path string) string { return strings.Trim(path, "/") }

func (k keys) query() query {
	return query{path: "/v1/kv/" + escapePath(k.path), values: url.Values{"recurse": {"true"}}, about: "key " + k.path, permission: "key " + k.path}
}

func escapePath(path string) string {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i] = url.PathEscape(part)
	}
	return strings.Join(parts, "/")
}

func (k keys) none(server string) error {
	return fmt.Errorf("no address is at key %s in Consul at %s", k.path, server)
}

// pair is a key and its value.
// https://developer.hashicorp.com/consul/api-docs/kv#read-key
type pair struct {
	Key   *string
	Value []byte
}

func (k keys) read(a answer) (r discover.Result, err error) {
	if a.status == http.StatusNotFound {
		return r, nil
	}
	var pairs []pair
	if err := decode(a.body, &pairs); err != nil {
		return r, err
	}
	pairs, below, err := k.choose(pairs)
	if err != nil {
		return r, err
	}
	var places []discover.Place
	var left []string
	for _, one := range pairs {
		found, bad := parseValue(string(one.Value))
		places = append(places, found...)
		for _, why := range bad {
			left = append(left, readable(*one.Key)+" has "+why)
		}
	}
	detail := "the value of key " + k.path
	if below {
		detail = "the values below key " + k.path
	}
	return result(places, left, detail), nil
}

// choose takes the keys below the path, else the path's own. Consul matches
// what keys begin with, so neighbours with a longer name are in its answer;
// keys that end in a slash are the folders of its web page.
func (k keys) choose(pairs []pair) (chosen []pair, below bool, err error) {
	var own []pair
	prefix := k.path + "/"
	if k.path == "" {
		prefix = ""
	}
	for _, one := range pairs {
		switch {
		case one.Key == nil:
			return nil, false, errNotConsul
		case *one.Key == k.path:
			own = append(own, one)
		case strings.HasPrefix(*one.Key, prefix) && !strings.HasSuffix(*one.Key, "/"):
			chosen = append(chosen, one)
		}
	}
	if len(chosen) == 0 {
		return own, false, nil
	}
	return chosen, true, nil
}

// parseValue reads one address, or several with commas or white space between
// them.
func parseValue(value string) (places []discover.Place, bad []string) {
	fields := strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' })
	if len(fields) == 0 {
		return nil, []string{"an empty value"}
	}
	for _, field := range fields {
		p, err := discover.ParsePlace(field)
		if err != nil {
			bad = append(bad, fmt.Sprintf("%q: %s", readable(field), readable(err.Error())))
			continue
		}
		places = append(places, p)
	}
	return places, bad
}
