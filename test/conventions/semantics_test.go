package conventions

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	testName = regexp.MustCompile("`([a-z0-9]+)\\.(Test\\w+)((?:/[^`/]+)*)`")
	testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
)

// A promise whose test was renamed away is a promise that nobody keeps.
func TestSemanticsAreProven(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs", "semantics.md"))
	if err != nil {
		t.Fatal(err)
	}
	sources := testSources(t)
	rows := 0
	for i, line := range strings.Split(string(text), "\n") {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| when |") {
			continue
		}
		rows++
		names := testName.FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("docs/semantics.md:%d names no test: %s", i+1, line)
		}
		for _, n := range names {
			if !sources.have(n[1], n[2], n[3]) {
				t.Errorf("docs/semantics.md:%d names %s, which does not exist", i+1, n[0])
			}
		}
	}
	if rows == 0 {
		t.Error("docs/semantics.md has no rows")
	}
}

// suite is what the tests of one folder are made of.
type suite struct {
	funcs map[string]bool
	// text of all Go files in the folder and below it: a suite that another
	// package holds, as pumptest does for pump, is below it.
	text      string
	scenarios map[string]bool // of testscript
}

type suites map[string]*suite

func testSources(t *testing.T) suites {
	t.Helper()
	all := make(suites)
	for _, top := range []string{"internal", "test"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			return all.add(path)
		})
		if err != nil {
			t.Fatalf("read the tests: %v", err)
		}
	}
	return all
}

func (all suites) add(path string) error {
	ext := filepath.Ext(path)
	if ext != ".go" && ext != ".txtar" {
		return nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for dir := filepath.Dir(path); filepath.Base(dir) != "internal" && filepath.Base(dir) != "test"; dir = filepath.Dir(dir) {
		s := all[filepath.Base(dir)]
		if s == nil {
			s = &suite{funcs: make(map[string]bool), scenarios: make(map[string]bool)}
			all[filepath.Base(dir)] = s
		}
		if ext == ".txtar" {
			s.scenarios[strings.TrimSuffix(filepath.Base(path), ext)] = true
			continue
		}
		s.text += string(text)
		if dir == filepath.Dir(path) && strings.HasSuffix(path, "_test.go") {
			for _, f := range testFunc.FindAllStringSubmatch(string(text), -1) {
				s.funcs[f[1]] = true
			}
		}
	}
	return nil
}

// have tells whether a folder has a test function and, for each level of its
// sub-tests but a pattern, that name as a string or a scenario.
func (all suites) have(pkg, test, sub string) bool {
	s := all[pkg]
	if s == nil || !s.funcs[test] {
		return false
	}
	for _, name := range strings.Split(strings.TrimPrefix(sub, "/"), "/") {
		if name != "" && name != ".*" && !strings.Contains(s.text, `"`+name+`"`) && !s.scenarios[name] {
			return false
		}
	}
	return true
}
