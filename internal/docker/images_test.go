package docker

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// What an image says of its containers is apart from what they say themselves.
func TestContainer_SaysWhatItsImageDoesNot(t *testing.T) {
	built := map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "redis", "legate.service": "store"}
	byCompose := func(s *container.Summary) { s.Labels["com.docker.compose.container-number"] = "1" }
	for name, c := range map[string]struct {
		c                 *Container
		project, service  string
		services, trusted []string
	}{
		"of an image without labels": {judged(nil, nil), "shop", "redis", []string{"cache", "store"}, []string{"cache", "store"}},
		"of one that Compose built":  {judged(nil, built), "", "", []string{"cache"}, []string{"cache", "store"}},
		"of that, by Compose":        {judged(byCompose, built), "shop", "redis", []string{"cache"}, []string{"cache", "store"}},
		"of one that is not known":   {containerOf(listed(nil)), "", "", nil, []string{"cache", "store"}},
	} {
		if c.c.Project != c.project || c.c.Service != c.service || !slices.Equal(c.c.Services, c.services) {
			t.Errorf("%s it says %q %q %q", name, c.c.Project, c.c.Service, c.c.Services)
		}
		if got := c.c.Trusting().Services; !slices.Equal(got, c.trusted) {
			t.Errorf("%s, trusted, it says %q, want %q", name, got, c.trusted)
		}
		if !slices.Contains(c.c.indexed(), "store") {
			t.Errorf("%s who looks for store does not hear of it", name)
		}
	}
	bare := containerOf(listed(func(s *container.Summary) { s.Labels = nil }))
	if !bare.Judged() || bare.Pending() {
		t.Error("one without labels has to be asked about")
	}
}

// Every image is asked about once, a few at a time; where one failed, one at a
// time until an answer is good.
func TestAsker_AsksAgainOneAtATime(t *testing.T) {
	a, now := newAsker(), time.Now()
	takeAll := func() (ids []string) {
		for {
			id, _, ok := a.take(now)
			if !ok {
				return ids
			}
			ids = append(ids, id)
		}
	}
	want := func(what string, got []string, want int) {
		t.Helper()
		if len(got) != want {
			t.Errorf("%s: asks for %q, want %d", what, got, want)
		}
	}
	for i := range 2 * imagesAtOnce {
		a.want(fmt.Sprint(i))
		a.want(fmt.Sprint(i))
	}
	first := takeAll()
	want("at first", first, imagesAtOnce)
	for _, id := range first {
		a.hear(imageAnswer{id: id, err: errForeign}, now)
	}
	rest := takeAll()
	want("those that never were", rest, imagesAtOnce)
	for _, id := range rest {
		a.hear(imageAnswer{id: id, err: errForeign}, now)
	}
	want("at once", takeAll(), 0)
	for pause := firstRegret; pause < longestRegret; pause *= 2 {
		now = now.Add(pause - 1)
		want(fmt.Sprint("before ", pause), takeAll(), 0)
		now = now.Add(1)
		again := takeAll()
		want(fmt.Sprint("after ", pause), again, 1)
		a.hear(imageAnswer{id: again[0], again: true, err: errForeign}, now)
	}
	now = now.Add(longestRegret)
	good := takeAll()
	want("after the longest pause", good, 1)
	a.hear(imageAnswer{id: good[0], again: true}, now)
	want("after a good answer", takeAll(), imagesAtOnce)
}

func TestAsker_ForgetsWhatNobodyHas(t *testing.T) {
	a := newAsker()
	a.want("gone")
	a.want("here")
	a.forget(func(id string) bool { return id == "gone" })
	if id, _, ok := a.take(time.Now()); id != "here" || !ok || a.known["gone"] {
		t.Errorf("asks for %q, knows %v", id, a.known)
	}
}

// fakeEngine has a list of containers and answers about images as it is told.
type fakeEngine struct {
	*httptest.Server
	list  string
	image func(rw http.ResponseWriter, id string)

	mu    sync.Mutex
	asked []string // images
}

func startFakeEngine(t *testing.T, list string, image func(http.ResponseWriter, string)) *fakeEngine {
	t.Helper()
	e := &fakeEngine{list: list, image: image}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *fakeEngine) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	rw.Header().Set("Api-Version", "1.41")
	_, image, found := strings.Cut(r.URL.Path, "/images/")
	switch {
	case strings.HasSuffix(r.URL.Path, "/events"):
		rw.(http.Flusher).Flush()
		<-r.Context().Done() // none is ever told
	case strings.HasSuffix(r.URL.Path, "/containers/json"):
		fmt.Fprint(rw, e.list)
	case found:
		e.mu.Lock()
		e.asked = append(e.asked, strings.TrimSuffix(image, "/json"))
		e.mu.Unlock()
		e.image(rw, strings.TrimSuffix(image, "/json"))
	}
}

func (e *fakeEngine) asks() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.asked)
}

func (e *fakeEngine) table() *Table {
	return NewTable(Config{Host: "tcp://" + e.Listener.Addr().String()})
}

const twoOfOne = `[{"Id":"a","Names":["/a"],"ImageID":"one","Labels":{"legate.service":"db"}},{"Id":"b","Names":["/b"],"ImageID":"one","Labels":{"legate.service":"db"}}]`

// An engine that once fails to tell of an image is asked again, and who reads
// the table hears what it says then.
func TestTable_AsksAgainForAnImage(t *testing.T) {
	testnet.CheckLeaks(t)
	var once sync.Once
	e := startFakeEngine(t, twoOfOne, func(rw http.ResponseWriter, _ string) {
		failed := false
		once.Do(func() { failed = true })
		if failed {
			rw.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(rw, `{"message":"the layer store is busy"}`)
			return
		}
		fmt.Fprint(rw, `{"Config":{"Labels":{"maker":"x"}}}`)
	})
	table := e.table()
	s := table.Subscribe("db")
	defer s.Close()
	failed := false
	for {
		if err := s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		named := table.Named("db")
		a, b := named[0], named[1]
		failed = failed || a.Doubt != nil
		if a.From != nil && b.From != nil {
			break
		}
	}
	if !failed || e.asks() != 2 {
		t.Errorf("asked %d times, failed: %t", e.asks(), failed)
	}
	for _, c := range table.Named("db") {
		if !slices.Equal(c.Services, []string{"db"}) || c.Doubt != nil || c.From.Labels["maker"] != "x" {
			t.Errorf("%+v", c)
		}
	}
}

// While an engine does not answer about an image, it is heard in all else.
func TestTable_WaitsForNoImage(t *testing.T) {
	testnet.CheckLeaks(t)
	release := make(chan struct{})
	e := startFakeEngine(t, `[{"Id":"a","Names":["/a"],"ImageID":"slow","Labels":{"x":"y"}},{"Id":"b","Names":["/b"],"ImageID":"quick","Labels":{"legate.service":"db"}}]`, func(rw http.ResponseWriter, id string) {
		if id == "slow" {
			<-release
		}
		fmt.Fprint(rw, `{"Config":{}}`)
	})
	defer close(release)
	table := e.table()
	s := table.Subscribe("db")
	defer s.Close()
	for len(table.Named("db")) == 0 || !table.Named("db")[0].Judged() {
		if err := s.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if a := table.Named("a"); len(a) != 1 || !a[0].Pending() {
		t.Errorf("one whose image is not known yet: %+v", a)
	}
}

// A proxy that does not let questions about images through is told of with what
// it has to let through.
func TestClient_MayAskImages(t *testing.T) {
	for status, hint := range map[int]string{http.StatusNotFound: "", http.StatusOK: "", http.StatusForbidden: "IMAGES=1"} {
		e := startFakeEngine(t, "[]", func(rw http.ResponseWriter, _ string) {
			rw.WriteHeader(status)
			fmt.Fprint(rw, `{"message":"so it is"}`)
		})
		c, err := New("tcp://" + e.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		err = c.MayAskImages(t.Context())
		if c.Close(); (err != nil) != (hint != "") || err != nil && !strings.Contains(spec.HintOf(err), hint) {
			t.Errorf("status %d: %v", status, err)
		}
	}
}
