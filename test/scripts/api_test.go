package scripts

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"legate/internal/testnet"
)

// docSocket and docServers are what the examples of docs/api.md talk to.
const (
	docSocket = "/run/legate/legate.sock"
	docBlue   = "192.168.1.52:6379"
	docGreen  = "192.168.1.53:6379"
)

// Every curl line of docs/api.md is typed as it stands, in order, to a real
// legate; the answer must have the shape of the one that is printed below it.
func TestAPI_ExamplesAnswerAsDocumented(t *testing.T) {
	curl := realCurl(t)
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	examples := examplesIn(t, string(text))
	if len(examples) < 10 {
		t.Fatalf("docs/api.md has %d examples; is it read in full?", len(examples))
	}
	dir := openDir(t)
	socket, address := filepath.Join(dir, "legate.sock"), fmt.Sprintf("127.0.0.1:%d", freePort())
	blue := greeter(t)
	places := strings.NewReplacer(docSocket, socket, docBlue, blue, docGreen, greeter(t), "curl ", curl+" ")
	legate := command("--control", socket, "--state-dir", filepath.Join(dir, "state"), address+"="+blue+";name=redis")
	start(t, legate)
	client := hello(t, address) // whom the examples drain
	defer client.Close()
	for _, e := range examples {
		e.check(t, places)
	}
	client.Close()
	stop(t, legate)
}

// hello connects, again until somebody listens, and returns after the greeting.
func hello(t *testing.T, address string) net.Conn {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.SetReadDeadline(deadline) // the read fails then, too
			if _, err := c.Read(make([]byte, 6)); err != nil {
				t.Fatalf("read: %v", err)
			}
			return c
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens: %v", err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// A path that nobody describes is one that nobody finds.
func TestAPI_EveryPathIsDescribed(t *testing.T) {
	code, err := os.ReadFile("../../internal/control/control.go")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	paths := regexp.MustCompile(`"(/v1/\w+)"`).FindAllStringSubmatch(string(code), -1)
	if len(paths) < 6 {
		t.Fatalf("found the paths %q only", paths)
	}
	for _, p := range paths {
		if !regexp.MustCompile(`(?m)^## (GET|POST) ` + p[1] + `$`).Match(text) {
			t.Errorf("docs/api.md has no chapter for %s", p[1])
		}
	}
}

// Nor one that is not there in words: every field of a snapshot, and every word
// that one can have.
func TestAPI_EveryWordIsDescribed(t *testing.T) {
	text, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	for path, pattern := range map[string]string{
		"snapshot.go": `json:"(\w+)|LinkState = "([^"]+)"`,
		"explain.go":  `json:"(\w+)|Health = "([^"]+)"`,
		"spec.go":     `Origin = "([^"]+)"`,
	} {
		code, err := os.ReadFile("../../internal/spec/" + path)
		if err != nil {
			t.Fatal(err)
		}
		words := regexp.MustCompile(pattern).FindAllStringSubmatch(string(code), -1)
		if len(words) < 5 {
			t.Fatalf("found the words %q only in %s", words, path)
		}
		for _, w := range words {
			word := strings.Join(w[1:], "")
			if !strings.Contains(string(text), "`"+word+"`") && !strings.Contains(string(text), `"`+word+`"`) {
				t.Errorf("docs/api.md says nothing of %q", word)
			}
		}
	}
}

// realCurl is not the one that the scripts have.
func realCurl(t *testing.T) string {
	t.Helper()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "curl")
		if found, err := exec.LookPath(path); err == nil && !strings.Contains(dir, "testscript-main") {
			return found
		}
	}
	testnet.Skip(t, "curl is not installed")
	return ""
}

// example is a command and what it prints.
type example struct {
	line            int
	command, answer string
}

// examplesIn finds the blocks of shell, each with the block of JSON below it.
func examplesIn(t *testing.T, text string) (found []example) {
	t.Helper()
	var block []string
	kind, from := "", 0
	for i, line := range strings.Split(text, "\n") {
		switch {
		case kind == "" && strings.HasPrefix(line, "```"):
			kind, from, block = line, i+1, nil
		case kind != "" && line == "```":
			switch body := strings.Join(block, "\n"); kind {
			case "```sh":
				found = append(found, example{from, body, ""})
			case "```json":
				if n := len(found) - 1; n >= 0 && found[n].answer == "" {
					found[n].answer = body
				} else {
					t.Errorf("docs/api.md:%d: an answer without its command", from)
				}
			}
			kind = ""
		case kind != "":
			block = append(block, line)
		}
	}
	return found
}

func (e example) check(t *testing.T, places *strings.Replacer) {
	t.Helper()
	c := exec.Command("sh", "-c", places.Replace(e.command))
	kill := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	defer kill.Stop()
	out, err := c.CombinedOutput()
	if err != nil {
		t.Errorf("docs/api.md:%d: %s\n%v\n%s", e.line, e.command, err, out)
		return
	}
	var want, got any
	if err := json.Unmarshal([]byte(e.answer), &want); err != nil {
		t.Errorf("docs/api.md:%d: the documented answer: %v", e.line, err)
		return
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Errorf("docs/api.md:%d: %v\n%s", e.line, err, out)
		return
	}
	for _, d := range differences("", want, got) {
		t.Errorf("docs/api.md:%d: %s\n%s", e.line, d, out)
	}
}

// differences compares shapes: the same fields of the same kinds, times that
// are times, lists whose elements look alike.
func differences(at string, want, got any) (list []string) {
	if w, g := kindOf(want), kindOf(got); w != g {
		return []string{fmt.Sprintf("%s is %s, documented as %s", at, g, w)}
	}
	switch want := want.(type) {
	case map[string]any:
		got := got.(map[string]any)
		for key, v := range want {
			if _, ok := got[key]; !ok {
				list = append(list, fmt.Sprintf("%s.%s is documented and not there", at, key))
				continue
			}
			list = append(list, differences(at+"."+key, v, got[key])...)
		}
		for key := range got {
			if _, ok := want[key]; !ok {
				list = append(list, fmt.Sprintf("%s.%s is not documented", at, key))
			}
		}
	case []any:
		got := got.([]any)
		if len(want) != len(got) {
			return []string{fmt.Sprintf("%s has %d elements, documented are %d", at, len(got), len(want))}
		}
		for i, v := range got {
			list = append(list, differences(fmt.Sprintf("%s[%d]", at, i), want[i], v)...)
		}
	}
	slices.Sort(list)
	return list
}

func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "a truth value"
	case float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	case string:
		if _, err := time.Parse(time.RFC3339, v); err == nil {
			return "a time"
		}
	}
	return "a string"
}

func TestAPI_ShapesThatDifferAreFound(t *testing.T) {
	for _, c := range []struct{ want, got, says string }{
		{`{"a":1}`, `{"a":2}`, ""},
		{`{"a":[{"b":"x"}]}`, `{"a":[{"b":"y"}]}`, ""},
		{`{"a":1}`, `{}`, ".a is documented and not there"},
		{`{}`, `{"a":1}`, ".a is not documented"},
		{`{"a":1}`, `{"a":"1"}`, ".a is a string, documented as a number"},
		{`{"a":"2026-01-02T03:04:05Z"}`, `{"a":"soon"}`, ".a is a string, documented as a time"},
		{`{"a":[1]}`, `{"a":[]}`, ".a has 0 elements, documented are 1"},
		{`{"a":[{"b":1}]}`, `{"a":[{"b":true}]}`, ".a[0].b is a truth value, documented as a number"},
	} {
		var want, got any
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(c.got), &got); err != nil {
			t.Fatal(err)
		}
		if says := strings.Join(differences("", want, got), "; "); says != c.says {
			t.Errorf("%s and %s: %q, want %q", c.want, c.got, says, c.says)
		}
	}
}
