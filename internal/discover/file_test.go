package discover

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func TestParseFile(t *testing.T) {
	for text, want := range map[string][]Place{
		`[]`: {},
		`[{"address":"10.0.0.5:6379","weight":1,"priority":0}]`:                  {{Host: "10.0.0.5", Port: 6379, Weight: 1}},
		`[{"address":"[fd00::1]:6379","weight":0,"priority":7,"host":"host-a"}]`: {{Host: "fd00::1", Port: 6379, Priority: 7, On: "host-a"}},
		`["redis.example.org:1", "unix:/run/r.sock"]`:                            {{Host: "redis.example.org", Port: 1, Weight: 1}, {Path: "/run/r.sock", Weight: 1}},
	} {
		if got, err := parseFile([]byte(text)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %+v (%v), want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                              "it is empty; no endpoints are []",
		"null":                          "it has null where a list is wanted",
		"[] []":                         "something follows the list",
		"[{]":                           "line 1: invalid character ']' looking for beginning of object key string",
		"[\n{\"address\":1}]":           "cannot unmarshal number",
		`[{"address":"a","wieght":1}]`:  `unknown field "wieght"`,
		`["a:1", "a:1:2"]`:              `entry 2: target "a:1:2" has too many colons`,
		`["a:1", "10.0.0.5"]`:           `entry 2: "10.0.0.5" has no port`,
		`[{"address":"redis"}]`:         `entry 1: "redis" has no port`,
		`["a:1", "consul:redis"]`:       `entry 2: "consul:redis" is a target of a source, and no endpoint`,
		`{"address":"a"}`:               "cannot unmarshal object",
		`[{"address":"a","weight":-1}]`: "cannot unmarshal number -1",
	} {
		if got, err := parseFile([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v (%v), want %s", text, got, err, want)
		}
	}
}

func TestFile_IsFollowed(t *testing.T) {
	testnet.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "endpoints.json")
	n := &notebook{}
	d := New(Config{Set: n.set, Sources: map[string]Source{spec.SourceFile: File{}}})
	defer d.Close()
	target := spec.Target{Source: spec.SourceFile, Protocol: spec.TCP, Port: 0, Path: path}
	says := func(what string, want func(spec.Answer) bool) {
		t.Helper()
		testnet.Await(t, what, func() bool {
			a, ok := n.last(target)
			return ok && want(a)
		})
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	has := func(want ...string) func(spec.Answer) bool {
		return func(a spec.Answer) bool { return a.Err == nil && slices.Equal(texts(a.Endpoints), want) }
	}
	d.Apply([]spec.Target{target})
	says("that the file is missing", func(a spec.Answer) bool {
		return a.Err != nil && strings.Contains(a.Err.Error(), "no such file") && len(a.Endpoints) == 0
	})
	write(`["192.0.2.1:80"]`)
	says("the first endpoint", has("192.0.2.1:80"))
	write(`["192.0.2.1:80", "192.0.2.2:80"]`)
	says("the second endpoint", has("192.0.2.1:80", "192.0.2.2:80"))
	write(`["192.0.2.1:80", `)
	says("what is wrong, with the endpoints kept", func(a spec.Answer) bool {
		return a.Err != nil && strings.Contains(a.Err.Error(), path) && len(a.Endpoints) == 2
	})
	write(`[{"address":"192.0.2.9"}]`)
	says("that an entry has no port, with the endpoints kept", func(a spec.Answer) bool {
		return a.Err != nil && strings.Contains(a.Err.Error(), "has no port") && strings.HasPrefix(spec.HintOf(a.Err), "write it like ") && len(a.Endpoints) == 2
	})
	write(`[]`)
	says("that there is none", has())
	write(`["192.0.2.3:80"]`)
	says("another endpoint", has("192.0.2.3:80"))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	says("that the file is gone, with the endpoint kept", func(a spec.Answer) bool { return a.Err != nil && len(a.Endpoints) == 1 })
}

func TestFile_ThatIsMendedIsReadSoon(t *testing.T) {
	testnet.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "endpoints.json")
	synctest.Test(t, func(t *testing.T) {
		told := watchFile(t, path)
		for _, broken := range []string{"", "[{"} {
			writeFile(t, path, broken, time.Now())
			pass(time.Minute) // as long as people need to see what is wrong
			if r := told(); r.Err == nil {
				t.Errorf("%q is taken for a list: %+v", broken, r)
			}
			writeFile(t, path, `["192.0.2.1:80"]`, time.Now())
			pass(filePoll)
			if r := told(); r.Err != nil || len(r.Places) != 1 {
				t.Errorf("%v after %q was mended: %+v", filePoll, broken, r)
			}
		}
	})
}

func TestFile_ReplacedByOneThatLooksTheSame(t *testing.T) {
	testnet.CheckLeaks(t)
	path, released := filepath.Join(t.TempDir(), "endpoints.json"), time.Unix(1577836800, 0)
	writeFile(t, path, `["192.0.2.1:80"]`, released)
	synctest.Test(t, func(t *testing.T) {
		told := watchFile(t, path)
		pass(time.Minute)
		writeFile(t, path+".new", `["192.0.2.2:80"]`, released)
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
		pass(filePoll)
		if r := told(); len(r.Places) != 1 || r.Places[0].Host != "192.0.2.2" {
			t.Errorf("after a file of the same size and time took its place: %+v", r)
		}
		writeFile(t, path, `["192.0.2.3:80"]`, released) // within one step of the clock
		pass(filePoll)
		if r := told(); len(r.Places) != 1 || r.Places[0].Host != "192.0.2.3" {
			t.Errorf("after it was written again at once: %+v", r)
		}
	})
}

// watchFile watches a file until the test ends, and gives what was told last.
func watchFile(t *testing.T, path string) (told func() Result) {
	t.Helper()
	var mu sync.Mutex
	var last Result
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		_ = File{}.Watch(ctx, Query{Target: spec.Target{Source: spec.SourceFile, Path: path}}, func(r Result) {
			mu.Lock()
			defer mu.Unlock()
			last = r
		})
	})
	t.Cleanup(func() {
		cancel()
		watching.Wait()
	})
	return func() Result {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
}

func writeFile(t *testing.T, path, text string, modified time.Time) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, modified, modified); err != nil {
		t.Fatal(err)
	}
}
