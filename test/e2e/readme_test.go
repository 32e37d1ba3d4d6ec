package e2e

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// command is one that the README shows, with what it prints there.
type command struct {
	host string // "A"
	text string
	says []string
}

// chapter reads a chapter of the README: by section, its commands in their order. Commands are indented
// lines that begin with "docker", on to the first line that does not end with a backslash; indented lines
// behind one are its output. The comment "# host B" says where the next ones are typed.
func chapter(t *testing.T, title string) map[string][]command {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(readme), "\n## "+title+"\n")
	if !found {
		t.Fatalf("README.md has no chapter %q", title)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	sections := map[string][]command{}
	on := ""
	for section := range strings.SplitSeq(text, "\n### ") {
		heading, body, _ := strings.Cut(section, "\n")
		sections[heading], on = commands(body, on)
	}
	return sections
}

func commands(body, on string) ([]command, string) {
	var all []command
	open := false // the last command goes on in the next line
	for line := range strings.Lines(body) {
		text, indented := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		last := len(all) - 1
		switch {
		case !indented || text == "":
		case open:
			all[last].text += "\n" + text
			open = strings.HasSuffix(text, `\`)
		case strings.HasPrefix(text, "# host "):
			on = text[len("# host "):][:1]
		case strings.HasPrefix(text, "docker "):
			all = append(all, command{host: on, text: text})
			open = strings.HasSuffix(text, `\`)
		case last >= 0:
			all[last].says = append(all[last].says, text)
		}
	}
	return all, on
}

func (c command) has(words string) bool { return strings.Contains(c.text, words) }

// fails tells whether the README shows an error.
func (c command) fails() bool {
	for _, line := range c.says {
		if strings.HasPrefix(line, "error: ") {
			return true
		}
	}
	return false
}

// typeIn types a command of the README on its host and fails the test unless it does and says what the
// README shows.
func (w *world) typeIn(c command) {
	w.t.Helper()
	on := w.a
	if c.host == "B" {
		on = w.b
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	var stdout, stderr bytes.Buffer
	shell := exec.CommandContext(ctx, "sh", "-c", c.text)
	shell.Env, shell.Stdout, shell.Stderr = on.Environ(), &stdout, &stderr
	began := time.Now()
	err := shell.Run()
	w.t.Logf("host %s, %v: %s\n%s%s%s", c.host, time.Since(began).Round(time.Millisecond), c.text, &stdout, &stderr, errText(err))
	if failed := err != nil; failed != c.fails() {
		w.t.Fatalf("%s: %v; the README shows:\n%s", c.text, err, strings.Join(c.says, "\n"))
	}
	if len(c.says) == 0 {
		return
	}
	out, complaints := c.streams()
	if !pattern(out).Match(stdout.Bytes()) || !pattern(complaints).Match(stderr.Bytes()) {
		w.t.Errorf("%s\nsays:\n%s%s\nbut in the README:\n%s", c.text, &stdout, &stderr, strings.Join(c.says, "\n"))
	}
}

// streams parts what the README shows: a screen has both streams, in an order that is not certain.
func (c command) streams() (stdout, stderr []string) {
	for _, line := range c.says {
		word, _, _ := strings.Cut(line, " ")
		switch word {
		case "error:", "hint:", "note:", "warning:":
			stderr = append(stderr, line)
		default:
			stdout = append(stdout, line)
		}
	}
	return stdout, stderr
}

// pattern matches output that has the same words. Figures, versions and the ports of clients may be
// others; a line of "..." stands for any lines.
func pattern(lines []string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`^\s*`)
	for _, line := range lines {
		if strings.TrimSpace(line) == "..." {
			b.WriteString(`(?s:.*)`)
			continue
		}
		for word := range strings.FieldsSeq(line) {
			core := strings.Trim(word, "(),;:")
			before, after, _ := strings.Cut(word, core)
			b.WriteString(regexp.QuoteMeta(before) + alike(core) + regexp.QuoteMeta(after) + `\s+`)
		}
	}
	b.WriteString(`$`)
	return regexp.MustCompile(b.String())
}

var (
	version = regexp.MustCompile(`^v?\d+\.\d+\.\d+$`)
	unit    = regexp.MustCompile(`^[kMG]?B$`)
	number  = regexp.MustCompile(`^\d+(\.\d+)?((µs|ms|s|m|h)\d*)*$`)
)

// alike is a pattern for what may stand in the place of a word.
func alike(word string) string {
	address, err := netip.ParseAddrPort(word)
	switch {
	case err == nil && address.Port() >= 30000:
		return regexp.QuoteMeta(address.Addr().String()) + `:\d+`
	case word == "5432" || word == "6379":
		return word
	case version.MatchString(word):
		return `\S+`
	case unit.MatchString(word):
		return `[kMG]?B`
	case number.MatchString(word):
		return `[\d.]+((µs|ms|s|m|h)\d*)*`
	}
	return regexp.QuoteMeta(word)
}
