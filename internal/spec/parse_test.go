package spec_test

import (
	"testing"

	"legate/internal/spec"
)

func config() spec.ParseConfig { return spec.ParseConfig{Options: spec.DefaultOptions()} }

func TestParseLinks_OldTwoArguments(t *testing.T) {
	links, err := spec.ParseLinks([]string{"172.17.0.4", "80"}, config())
	if err != nil || len(links) != 1 || links[0].String() != "80=172.17.0.4:80" {
		t.Fatalf("got %v, %v", links, err)
	}
}
