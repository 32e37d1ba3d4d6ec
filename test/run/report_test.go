package main

import (
	"strings"
	"testing"
)

// events as `go test -json` prints them.
const (
	passes = `{"Action":"pass","Package":"p","Test":"TestGood","Elapsed":0.1}
{"Action":"pass","Package":"p","Elapsed":0.2}
`
	fails = `{"Action":"output","Package":"p","Test":"TestBad","Output":"    bad_test.go:7: got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestBad","Elapsed":0.1}
{"Action":"fail","Package":"p","Elapsed":0.2}
`
	skips = `{"Action":"output","Package":"p","Test":"TestRoot","Output":"=== RUN   TestRoot\n"}
{"Action":"output","Package":"p","Test":"TestRoot","Output":"    root_test.go:9: needs root\n"}
{"Action":"skip","Package":"p","Test":"TestRoot","Elapsed":0}
{"Action":"pass","Package":"p","Elapsed":0.2}
`
	crashes = `{"Action":"output","Package":"p","Test":"TestLong","Output":"panic: boom\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\t0.2s\n"}
{"Action":"fail","Package":"p","Elapsed":0.2}
`
	noBuild = `{"ImportPath":"p","Action":"build-output","Output":"p.go:3:2: undefined: x\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"fail","Package":"p","Elapsed":0,"FailedBuild":"p"}
`
)

func TestReport(t *testing.T) {
	for _, tt := range []struct {
		name, events string
		want         []string
	}{
		{"pass", passes, []string{"ok   p", "1 passed, 0 failed, 0 skipped"}},
		{"fail", fails, []string{"got 1, want 2", "FAIL p", "0 passed, 1 failed, 0 skipped"}},
		{"skip", skips, []string{"skipped:\n  p TestRoot: needs root\n", "0 passed, 0 failed, 1 skipped"}},
		{"crash", crashes, []string{"panic: boom", "FAIL p", "0 passed, 1 failed, 0 skipped"}},
		{"build", noBuild, []string{"undefined: x", "FAIL p", "0 passed, 1 failed, 0 skipped"}},
		{"build after a failure elsewhere", fails + strings.ReplaceAll(noBuild, `"p"`, `"q"`), []string{"0 passed, 2 failed"}},
		{"not json", "go: no such module\n", []string{"go: no such module"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			if err := r.read(strings.NewReader(tt.events)); err != nil {
				t.Fatal(err)
			}
			if err := r.close(false); err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, out.String())
				}
			}
		})
	}
}

func TestSkipIsFailureInCI(t *testing.T) {
	r := newReport(new(strings.Builder))
	if err := r.read(strings.NewReader(skips)); err != nil {
		t.Fatal(err)
	}
	if r.close(true) == nil {
		t.Error("a skipped test passed with CI=true")
	}
}
