package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"

	"legate/internal/discover"
)

// said is how many left-out keys are named; of a registry full of something
// else one would read for long.
const said = 3

// errNothing is that no key is there; its user knows where.
var errNothing = errors.New("nothing is there")

// layout reads the values of a path by key: those of its children, else the
// one at the path itself. What is deeper down is nobody's child.
func layout(path string, values map[string]string) discover.Result {
	var children, own []string
	deeper := 0
	for key := range values {
		rest := strings.TrimPrefix(strings.TrimPrefix(key, "/"), path)
		switch child := strings.TrimPrefix(rest, "/"); {
		case rest == "":
			own = append(own, key)
		case child == "": // how browsers of etcd mark a folder
		case strings.Contains(child, "/"):
			deeper++
		default:
			children = append(children, key)
		}
	}
	from := "the values below /" + path
	if len(children) == 0 {
		children, from = own, "the value at /"+path
	}
	if len(children) == 0 {
		return discover.Result{Err: errNothing, Detail: leftDeeper(deeper)}
	}
	sort.Strings(children)
	r := places(children, values)
	r.Detail = strings.Join(nonEmpty(from, r.Detail, leftDeeper(deeper)), "; ")
	return r
}

func leftDeeper(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("left out what is deeper down (keys: %d)", n)
}

func nonEmpty(parts ...string) []string {
	kept := parts[:0]
	for _, part := range parts {
		if part != "" {
			kept = append(kept, part)
		}
	}
	return kept
}

// places parses the values of keys. Some that are wrong are left out and said;
// when all are, that is a mistake of whoever wrote them, not the absence of
// endpoints.
func places(keys []string, values map[string]string) (r discover.Result) {
	known := make(map[discover.Place]bool, len(keys))
	var bad []string
	for _, key := range keys {
		place, err := parse(values[key])
		if err != nil {
			bad = append(bad, fmt.Sprintf("%.100q: %v", key, err))
			continue
		}
		if !known[place] { // a key in both spellings
			known[place] = true
			r.Places = append(r.Places, place)
		}
	}
	if len(bad) == 0 {
		return r
	}
	r.Detail = "left out " + strings.Join(bad[:min(said, len(bad))], "; ")
	if more := len(bad) - said; more > 0 {
		r.Detail += fmt.Sprintf("; and %d more", more)
	}
	if len(r.Places) == 0 {
		r.Err = fmt.Errorf("no value is an address: %s", strings.TrimPrefix(r.Detail, "left out "))
	}
	return r
}

// named is an endpoint in the format of etcd's own naming package:
// https://etcd.io/docs/v3.5/dev-guide/grpc_naming/
type named struct {
	Op       int
	Addr     string
	Metadata json.RawMessage
}

// shares are what of its metadata means something here. It is the writer's
// own, and may be anything else, too.
type shares struct {
	Weight   *uint16
	Priority *uint16
}

// parse reads one value.
func parse(value string) (discover.Place, error) {
	value = strings.TrimSpace(value)
	if value == "" {
		return discover.Place{}, errors.New("empty")
	}
	if value[0] != '{' {
		return address(value)
	}
	var n named
	if err := json.Unmarshal([]byte(value), &n); err != nil {
		return discover.Place{}, fmt.Errorf("no JSON that etcd's naming writes: %.60q", value)
	}
	if n.Op != 0 {
		return discover.Place{}, fmt.Errorf("its Op is %d, not 0", n.Op)
	}
	if n.Addr == "" {
		return discover.Place{}, fmt.Errorf("no Addr in %.60q", value)
	}
	place, err := address(n.Addr)
	if err != nil {
		return discover.Place{}, err
	}
	if len(n.Metadata) == 0 || n.Metadata[0] != '{' {
		return place, nil
	}
	s := shares{Weight: &place.Weight, Priority: &place.Priority}
	if err := json.Unmarshal(n.Metadata, &s); err != nil {
		return discover.Place{}, errors.New("weight and priority are to be numbers up to 65535")
	}
	return place, nil
}

// addressLimit is more than the longest name of a host (RFC 1035: 255) with a
// scheme and a port.
const addressLimit = 300

// address reads what is to be one. What is not may be a whole file that
// somebody keeps in the registry, which no message should repeat.
func address(text string) (discover.Place, error) {
	if len(text) > addressLimit {
		return discover.Place{}, fmt.Errorf("too long for an address: %.60q", text)
	}
	return discover.ParsePlace(text)
}
