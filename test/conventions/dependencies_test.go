package conventions

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dependencyRow is a row of the table in ARCHITECTURE.md: module and reason.
var dependencyRow = regexp.MustCompile(`(?m)^\| ([a-z0-9.]+\.[a-z]+/\S+) \| (.*\S.*) \|$`)

// A dependency that nobody can give a reason for stays for ever, and one that
// came without its row came without a thought.
func TestEveryDirectDependencyHasItsReason(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]string{}
	for _, row := range dependencyRow.FindAllStringSubmatch(string(text), -1) {
		reasons[row[1]] = row[2]
	}
	product := productDeps(t)
	for _, module := range directRequirements(t) {
		reason, ok := reasons[module]
		if !ok {
			t.Errorf("go.mod requires %s, and the table of direct dependencies in ARCHITECTURE.md gives no reason for it", module)
			continue
		}
		delete(reasons, module)
		shipped := slices.ContainsFunc(product, func(p string) bool { return p == module || strings.HasPrefix(p, module+"/") })
		if said := !strings.Contains(reason, "(tests only)"); said != shipped {
			t.Errorf("ARCHITECTURE.md says of %s %q; is it in the product: %v", module, reason, shipped)
		}
	}
	for module := range reasons {
		t.Errorf("ARCHITECTURE.md has a reason for %s, which go.mod does not require directly", module)
	}
}

func directRequirements(t *testing.T) []string {
	t.Helper()
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(goTool(t, nil, "mod", "edit", "-json"), &mod); err != nil {
		t.Fatalf("read go.mod: %v", err)
	}
	var direct []string
	for _, r := range mod.Require {
		if !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	return direct
}

// productDeps are the packages in the binary.
func productDeps(t *testing.T) []string {
	t.Helper()
	for _, p := range packages(t) {
		if p.ImportPath == "legate/cmd/legate" {
			return p.Deps
		}
	}
	t.Fatal("no package legate/cmd/legate")
	return nil
}
