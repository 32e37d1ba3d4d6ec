package agent

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"legate/internal/docker"
	"legate/internal/intercept"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// deciding is an agent at an engine that answers about images as it is told,
// without any goroutine but the table's.
type deciding struct {
	*watch
	t    *testing.T
	news *docker.Subscription
	wish spec.Wish
}

// decideAt makes every container one that lives where this process does.
func decideAt(t *testing.T, list string, image http.HandlerFunc) *deciding {
	t.Helper()
	engine := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Api-Version", "1.41")
		switch {
		case strings.HasSuffix(r.URL.Path, "/events"):
			rw.(http.Flusher).Flush()
			<-r.Context().Done()
		case strings.HasSuffix(r.URL.Path, "/containers/json"):
			fmt.Fprint(rw, list)
		case strings.Contains(r.URL.Path, "/containers/"):
			fmt.Fprint(rw, `{"Config":{}}`)
		case strings.Contains(r.URL.Path, "/images/"):
			image(rw, r)
		}
	}))
	t.Cleanup(engine.Close)
	table := docker.NewTable(docker.Config{Host: "tcp://" + engine.Listener.Addr().String()})
	d := &deciding{t: t, news: table.Subscribe(docker.Everyone)}
	t.Cleanup(d.news.Close)
	a := New(Config{Table: table, Labels: spec.LabelConfig{Options: spec.DefaultOptions(), Sources: []string{spec.SourceDocker}}})
	d.watch = newWatch(a, func(w spec.Wish) { d.wish = w })
	d.ctx = t.Context()
	t.Cleanup(d.running.Wait)
	d.until("a list", func() bool { return len(table.All()) > 0 })
	for _, c := range table.All() {
		found, err := intercept.Of(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = found.Namespace.Close() })
		a.spaces[c.ID] = &space{container: c.ID, ns: found.Namespace}
	}
	return d
}

// until decides now and after every change of the table.
func (d *deciding) until(what string, good func() bool) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), testnet.Patience)
	defer cancel()
	for {
		if d.decide(); good() {
			return
		}
		if err := d.news.Next(ctx); err != nil {
			d.t.Fatalf("%s: %v; decided %+v", what, err, d.wish)
		}
	}
}

func (d *deciding) warns(text string) bool {
	return strings.Contains(strings.Join(d.wish.Warnings, "\n"), text)
}

// inList is a container that runs in the engine's list.
func inList(name, image, labels string) string {
	return fmt.Sprintf(`{"Id":%q,"Names":["/%s"],"ImageID":%q,"State":"running","Labels":{%s},"HostConfig":{"NetworkMode":"bridge"},
		"NetworkSettings":{"Networks":{"bridge":{"NetworkID":"n"}}}}`, strings.Repeat(name, 12), name, image, labels)
}

const asks = `"connect.6379":"redis"`

// An engine that fails to tell of an image says so when it is asked again, and
// its container has its links then.
func TestDecide_AnImageIsAskedForAgain(t *testing.T) {
	testnet.CheckLeaks(t)
	var asked atomic.Int32
	d := decideAt(t, "["+inList("a", "one", asks)+"]", func(rw http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			rw.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(rw, `{"message":"the layer store is busy"}`)
			return
		}
		fmt.Fprint(rw, `{"Config":{}}`)
	})
	d.until("a warning", func() bool { return d.warns("container a has no links and serves none") && d.warns("layer store") })
	d.until("the link", func() bool { return len(d.wish.Links) == 1 })
	if len(d.wish.Warnings) != 0 || d.wish.Links[0].For == nil || asked.Load() != 2 {
		t.Errorf("asked %d times, decided %+v", asked.Load(), d.wish)
	}
}

// One image of which the engine does not answer holds up no other container.
func TestDecide_WaitsForNoImage(t *testing.T) {
	testnet.CheckLeaks(t)
	release := make(chan struct{})
	d := decideAt(t, "["+inList("a", "slow", asks)+","+inList("b", "quick", asks)+"]", func(rw http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "slow") {
			<-release
		}
		fmt.Fprint(rw, `{"Config":{}}`)
	})
	defer close(release)
	d.until("the link of b", func() bool { return len(d.wish.Links) == 1 })
	if d.wish.Links[0].Name != "b/6379" || len(d.wish.Warnings) != 0 {
		t.Errorf("decided %+v", d.wish)
	}
	waits := &starting{ctx: t.Context(), id: strings.Repeat("a", 12), ready: make(chan bool, 1)}
	d.waiting = []*starting{waits}
	if d.answer(d.cfg.Table.All()); len(waits.ready) != 0 {
		t.Error("a container starts before it is known which links it asks for")
	}
}

// Where the engine tells of no image, no label is followed, and it is said what
// to allow. A container without any has nothing from its image.
func TestDecide_TrustsNothingThatAnImageMayHaveSaid(t *testing.T) {
	testnet.CheckLeaks(t)
	d := decideAt(t, "["+inList("a", "one", asks)+","+inList("b", "two", `"legate.allow":"*"`)+","+inList("c", "two", "")+"]", func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(http.StatusForbidden)
		fmt.Fprint(rw, `<html><body><h1>403 Forbidden</h1></body></html>`)
	})
	d.until("both warnings in one", func() bool { return d.warns("containers a, b have no links and serve none") })
	if !d.warns("IMAGES=1") || len(d.wish.Links)+len(d.wish.Problems) != 0 {
		t.Errorf("decided %+v", d.wish)
	}
	caller := spec.Container{ID: "caller", Name: "caller", Networks: []string{"bridge"}}
	for name, want := range map[string]string{"b": "what container b accepts is not known", "c": ""} {
		m := spec.Endpoint{Protocol: spec.TCP, Container: strings.Repeat(name, 12), Inside: true}.Plain()
		err := d.Admit(spec.Link{For: &caller}, &m)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || !strings.Contains(spec.HintOf(err), "IMAGES=1")) {
			t.Errorf("to %s: %v (%s)", name, err, spec.HintOf(err))
		}
	}
}

// A source may tell of a server before the agent has decided about it.
func TestAdmit_OfOneThatIsNew(t *testing.T) {
	testnet.CheckLeaks(t)
	d := decideAt(t, "["+inList("a", "one", `"legate.allow":"*"`)+"]", func(rw http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(rw, `{"Config":{}}`)
	})
	d.until("the server", func() bool { return len(d.servers) == 1 })
	d.servers = nil
	m := spec.Endpoint{Protocol: spec.TCP, Container: strings.Repeat("a", 12), Inside: true}.Plain()
	if err := d.Admit(spec.Link{For: &spec.Container{ID: "caller"}}, &m); err != nil {
		t.Error(err)
	}
}
