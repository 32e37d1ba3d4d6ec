// Package conventions tests what the compiler does not hold: which package may import which, and what
// every package owes its reader.
package conventions

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// pkg is what these tests need of `go list -json` (go help list).
type pkg struct {
	ImportPath   string
	Dir          string
	Name         string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	// IgnoredGoFiles are those of other platforms.
	IgnoredGoFiles []string
	Imports        []string
	Deps           []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out := goTool(t, nil, "list", "-json", "./...")
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("read go list: %v", err)
		}
		all = append(all, p)
	}
}

func goTool(t *testing.T, env []string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s go %s: %v\n%s", strings.Join(env, " "), strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// layers says for each package which others of ours it may import, and what goes wrong otherwise.
var layers = map[string]struct {
	may []string
	why string
}{
	"cmd/legate": {[]string{"internal/cli"},
		"main only starts the command line; what it did itself could not be tested"},
	"internal/cli": {[]string{"internal/check", "internal/control", "internal/daemon", "internal/docker", "internal/runc", "internal/spec", "internal/systemd"},
		"a command that reached past control would show another truth than the API, or work only in the same process"},
	"internal/daemon": {[]string{"internal/agent", "internal/check", "internal/control", "internal/docker", "internal/discover", "internal/discover/consul", "internal/discover/dns", "internal/discover/docker", "internal/discover/etcd", "internal/endpoints", "internal/forward", "internal/pump", "internal/spec", "internal/systemd"},
		"it puts the parts together, but does not know how it was asked to"},
	"internal/agent": {[]string{"internal/docker", "internal/intercept", "internal/pump", "internal/spec"},
		"what containers ask for, as links: how links are served is for forward, when they are applied for daemon"},
	"internal/runc": {[]string{"internal/control", "internal/spec"},
		"an engine runs it several times for each container: what it imports is loaded each time"},
	"internal/control": {[]string{"internal/spec"},
		"the API must not depend on the process behind it: a client on a laptop uses the same package"},
	"internal/check": {[]string{"internal/spec"},
		"one question over a connection that somebody else makes: when to ask, and what follows, is for endpoints"},
	"internal/docker": {[]string{"internal/spec"},
		"one table of containers for all; it knows none of its readers"},
	"internal/discover": {[]string{"internal/spec"},
		"a source says what exists; who may serve is decided in endpoints"},
	"internal/discover/dns": {[]string{"internal/discover", "internal/spec"},
		"an adapter asks its dependency and decides nothing: what all of them share is in discover"},
	"internal/discover/consul": {[]string{"internal/discover", "internal/spec"},
		"an adapter asks its dependency and decides nothing: what all of them share is in discover"},
	"internal/discover/etcd": {[]string{"internal/discover", "internal/spec"},
		"the etcd client is heavy: only its adapter may pull it in"},
	"internal/discover/docker": {[]string{"internal/discover", "internal/docker", "internal/spec"},
		"the Docker client is heavy: only its adapter may pull it in"},
	"internal/endpoints": {[]string{"internal/spec"},
		"one state for all links: it must not know links"},
	"internal/forward": {[]string{"internal/endpoints", "internal/pump", "internal/spec"},
		"links are decided here without knowing where endpoints or orders come from"},
	"internal/systemd": {[]string{"internal/spec"},
		"it passes descriptors to another process and back: what they are for is for daemon"},
	"internal/intercept": {[]string{"internal/pump", "internal/spec"},
		"what enters namespaces is audited line by line: it must not know containers, policy or links' behaviour"},
	"internal/pump": {nil,
		"bytes between two sockets: a second engine must be able to replace the first, with nothing of ours to adapt"},
	"internal/spec": {nil,
		"pure data that everything shares; an import from it would be a cycle sooner or later"},
	"internal/testnet": {nil,
		"hostile peers for everybody's tests; knowing one of the tested would be a cycle"},
}

func TestImportsGoDownOnly(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, "legate/")
		if strings.HasPrefix(name, "test/") || strings.HasSuffix(name, "test") {
			continue // tests and suites may see everything
		}
		layer, known := layers[name]
		if !known {
			t.Errorf("%s is in no layer: add it to the table with what it may import, and why", name)
			continue
		}
		for _, imported := range p.Imports {
			ours, isOurs := strings.CutPrefix(imported, "legate/")
			if isOurs && !slices.Contains(layer.may, ours) {
				t.Errorf("%s imports %s: %s", name, ours, layer.why)
			}
		}
	}
}

// A dependency of the data path would be audited with it, and could block or allocate in it.
func TestCoreStandsOnStandardLibrary(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains([]string{"legate/internal/spec", "legate/internal/pump", "legate/internal/forward", "legate/internal/endpoints"}, p.ImportPath) {
			continue
		}
		for _, dep := range p.Deps {
			foreign := strings.Contains(strings.Split(dep, "/")[0], ".")
			if foreign && !strings.HasPrefix(dep, "golang.org/x/sys/") {
				t.Errorf("%s depends on %s", p.ImportPath, dep)
			}
		}
	}
}

// Test helpers in the product would register test flags and grow the binary.
func TestProductImportsNoTestCode(t *testing.T) {
	for _, p := range packages(t) {
		if strings.HasSuffix(p.Name, "test") || p.Name == "testnet" {
			continue
		}
		for _, imported := range p.Imports {
			if imported == "testing" || imported == "legate/internal/testnet" {
				t.Errorf("%s imports %s outside its tests", p.ImportPath, imported)
			}
		}
	}
}

func TestEveryPackageHasOneComment(t *testing.T) {
	for _, p := range packages(t) {
		files := slices.Concat(p.GoFiles, p.IgnoredGoFiles)
		if len(p.GoFiles) == 0 {
			files = slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		}
		var with []string
		for _, file := range files {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Doc != nil {
				with = append(with, file)
			}
		}
		if len(with) != 1 {
			t.Errorf("%s has package comments in %v, want one", p.ImportPath, with)
		}
	}
}

// The verbs are for laptops, too, and arm64 is a platform of the image.
func TestCompilesElsewhere(t *testing.T) {
	for _, platform := range []string{"darwin/arm64", "linux/arm64"} {
		t.Run(platform, func(t *testing.T) {
			goos, goarch, _ := strings.Cut(platform, "/")
			goTool(t, []string{"GOOS=" + goos, "GOARCH=" + goarch, "CGO_ENABLED=0"}, "build", "./...")
		})
	}
}

// An exception without a cause is a rule that nobody follows any more.
func TestEveryLintExceptionHasAReason(t *testing.T) {
	directive := regexp.MustCompile("//\\s*no" + "lint.*")
	explained := regexp.MustCompile("^//no" + "lint:[a-z,]+ // .{10,}")
	for _, p := range packages(t) {
		for _, file := range slices.Concat(p.GoFiles, p.IgnoredGoFiles, p.TestGoFiles, p.XTestGoFiles) {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range directive.FindAllString(string(text), -1) {
				if !explained.MatchString(found) {
					t.Errorf("%s/%s: %q names no linter or no reason", p.ImportPath, file, found)
				}
			}
		}
	}
}
