package consul

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"legate/internal/discover"
	"legate/internal/spec"
)

// checkResult is what holds of every result, whatever was answered.
func checkResult(t *testing.T, r discover.Result, err error) {
	t.Helper()
	if err != nil && (len(r.Places) > 0 || r.Err != nil) {
		t.Errorf("it failed (%v) and has a result: %+v", err, r)
	}
	texts := []string{r.Detail}
	for _, e := range []error{err, r.Err} {
		if e != nil {
			texts = append(texts, e.Error())
		}
	}
	for _, p := range r.Places {
		texts = append(texts, p.Unhealthy)
		if p.Host == "" || p.Weight == 0 || p.Path != "" || strings.ContainsFunc(p.Host, unicode.IsSpace) {
			t.Errorf("the place is %+v", p)
		}
	}
	for _, text := range texts {
		if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) || utf8.RuneCountInString(text) > 3000 {
			t.Errorf("the text is %q", text)
		}
	}
}

func needSeeds(f *testing.F) {
	f.Helper()
	if seeds, _ := filepath.Glob("testdata/fuzz/" + f.Name() + "/*"); len(seeds) == 0 {
		f.Fatal("no seeds are committed")
	}
}

func FuzzService(f *testing.F) {
	needSeeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := service{name: "redis"}.read(answer{status: http.StatusOK, body: body})
		checkResult(t, r, err)
	})
}

func FuzzKeys(f *testing.F) {
	needSeeds(f)
	f.Fuzz(func(t *testing.T, path string, body []byte) {
		target := spec.Target{Source: spec.SourceConsulKV, Path: path}
		if !printable(path) {
			return // spec refuses it
		}
		r, err := topicOf(target).read(answer{status: http.StatusOK, body: body})
		checkResult(t, r, err)
	})
}

func printable(text string) bool {
	return len(text) < 200 && utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

func FuzzRefused(f *testing.F) {
	needSeeds(f)
	f.Fuzz(func(t *testing.T, status int, header string, body []byte) {
		r := &http.Response{StatusCode: status, Header: http.Header{"Location": {header}}}
		err := refused(r, body)
		if (err == nil) != (status == http.StatusOK) {
			t.Errorf("%d is %v", status, err)
		}
		if err != nil {
			c := client{name: "127.0.0.1:8500"}
			checkResult(t, discover.Result{}, c.failed(service{name: "redis"}.query(), err))
		}
	})
}
