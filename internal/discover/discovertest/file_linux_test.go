package discovertest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"legate/internal/discover"
	"legate/internal/spec"
)

// fileBench is a list in a file. What serves it is whoever writes it.
type fileBench struct{ path, text string }

func startFile(t testing.TB) Bench {
	return &fileBench{path: filepath.Join(t.TempDir(), "endpoints.json")}
}

func (b *fileBench) Target() spec.Target {
	return spec.Target{Source: spec.SourceFile, Protocol: spec.TCP, Path: b.path}
}

func (b *fileBench) Sources(testing.TB, string) map[string]discover.Source {
	return map[string]discover.Source{spec.SourceFile: discover.File{}}
}

func (b *fileBench) Set(t testing.TB, addresses ...string) {
	t.Helper()
	type entry struct {
		Address string `json:"address"`
	}
	list := []entry{}
	for _, a := range addresses {
		list = append(list, entry{a + ":6379"})
	}
	text, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	b.text = string(text)
	replace(t, b.path, b.text)
}

func (b *fileBench) Kill(t testing.TB) {
	t.Helper()
	if err := os.Remove(b.path); err != nil {
		t.Fatal(err)
	}
}

func (b *fileBench) Restart(t testing.TB) {
	t.Helper()
	replace(t, b.path, b.text)
}

func (b *fileBench) Address() (network, address string) { return "file", b.path }
