package discovertest

import (
	"flag"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"

	"legate/internal/testnet"
)

// TestMain has all adapters wait at the same time: by default as many tests
// run at once as there are processors, and these do little but wait.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run()) //nolint:forbidigo // the code is the outcome of the tests
}

const (
	nobodyAsks = "DNS knows neither users nor certificates"
	asRoot     = "a file has no user but that of the machine, and root may read everything"
)

// adapters is what each source is tested with, and why not with the rest.
func adapters() map[string]Adapter {
	return map[string]Adapter{
		"consul":    consulAdapter(startConsul),
		"consul-kv": consulAdapter(startConsulKV),
		"etcd":      etcdAdapter(false),
		"etcd-3.4":  etcdAdapter(true),
		"dns": {
			Start: startDNS, Down: "connection refused", Paused: "no answer in time",
			Doubts: "that a name does not exist is what a name server says, too, that was just restarted",
			Lacks:  map[string]string{"credentials_refused": nobodyAsks, "certificates_wrong": nobodyAsks},
		},
		"srv": {
			Start: startSRV, Down: "connection refused", Paused: "no answer in time",
			Doubts: "that a name does not exist is what a name server says, too, that was just restarted",
			Lacks:  map[string]string{"credentials_refused": nobodyAsks, "certificates_wrong": nobodyAsks},
		},
		"docker":         dockerAdapter(installed),
		"docker-current": dockerAdapter(built),
		"file": {
			Start: startFile, Down: "no such file",
			Lacks: map[string]string{
				"slow":                       "it is read at once: what a slow disk delays is the program itself",
				"paused":                     "nobody serves it who could be paused",
				"restarted_without_its_data": "a list without entries is a statement, not a loss",
				"credentials_refused":        asRoot,
				"certificates_wrong":         asRoot,
			},
		},
	}
}

func TestAdapters(t *testing.T) {
	testnet.CheckLeaks(t)
	all := adapters()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			Run(t, all[name])
		})
	}
}

// registry remembers what a server was told.
type registry struct{ named []string }

// change adds what is new, and then removes what is gone.
func (r *registry) change(addresses []string, add, remove func(address string)) {
	for _, a := range addresses {
		if !slices.Contains(r.named, a) {
			add(a)
		}
	}
	for _, a := range r.named {
		if !slices.Contains(addresses, a) {
			remove(a)
		}
	}
	r.named = slices.Clone(addresses)
}

// environment is the variables of one test, instead of the process's.
type environment struct {
	mu     sync.Mutex
	values map[string]string // guarded by mu
}

func (e *environment) set(name, value string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.values == nil {
		e.values = map[string]string{}
	}
	e.values[name] = value
}

// with is the environment with another value of one variable, if that is not
// "".
func (e *environment) with(name, value string) func(string) string {
	return func(asked string) string {
		if asked == name && value != "" {
			return value
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.values[asked]
	}
}
