package docker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"legate/internal/discover"
	adapter "legate/internal/discover/docker"
	"legate/internal/docker"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// TestWatch runs all that needs no engine of its own on one engine.
func TestWatch(t *testing.T) {
	for label, dockerd := range testnet.DockerEngines(t) {
		t.Run(label, func(t *testing.T) {
			e := startEngine(t, dockerd)
			e.Docker(t, "network", "create", "backend")
			e.Docker(t, "network", "create", "other")
			for name, test := range map[string]func(*testing.T, *engine){
				"life of a container": testLife, "health": testHealth, "address taken over": testTakenOver,
				"networks": testNetworks, "projects": testProjects, "modes": testModes, "many watches": testMany,
				"labels of images": testImages, "an engine that hides images": testNoImages,
			} {
				t.Run(name, func(t *testing.T) {
					testnet.CheckLeaks(t)
					defer e.Clear(t)
					test(t, e)
				})
			}
		})
	}
}

func testLife(t *testing.T, e *engine) {
	w := ask(t, e.source(t, ""), "redis")
	defer w.stop()
	r := w.until("word that there is none", func(r discover.Result) bool { return r.Err != nil })
	wantUserError(t, r.Err, `is named "redis"`)
	if r.Weak {
		t.Error("the engine's own list is weak evidence")
	}
	id := e.up(t, "redis")
	first := e.ip(t, "redis", "bridge")
	r = w.until("the container", at(id, first))
	if want := "container redis on network bridge, exposes 6379/tcp"; r.Detail != want {
		t.Errorf("detail %q, want %q", r.Detail, want)
	}
	if p := r.Places[0]; p.Weight != 1 || p.Port != 0 || p.On != "" || len(p.Container) != 64 {
		t.Errorf("place %+v", p)
	}

	e.Docker(t, "stop", "redis")
	w.until("its death", dies(id))
	e.up(t, "squatter") // takes the lowest free address
	e.Docker(t, "start", "redis")
	second := e.ip(t, "redis", "bridge")
	if second == first {
		t.Fatalf("it came back at %s", first)
	}
	if r = w.until("the new address", at(id, second)); slices.Contains(r.Dead, id) {
		t.Error("it is dead and alive")
	}

	e.Docker(t, "restart", "redis")
	w.until("its second death", dies(id))
	w.until("its third life", at(id, e.ip(t, "redis", "bridge")))

	e.Docker(t, "rename", "redis", "valkey")
	w.until("that nobody has the name", func(r discover.Result) bool { return r.Err == nil && len(r.Places) == 0 && len(r.Dead) == 0 })
	e.Docker(t, "rename", "valkey", "redis")
	w.until("the name back", at(id, e.ip(t, "redis", "bridge")))

	e.Docker(t, "rm", "-f", "redis")
	r = w.until("its removal", dies(id))
	if r.Weak || r.Err != nil {
		t.Errorf("removal is told as %+v", r)
	}
}

// dies wants that the container is told to be dead and is in no place.
func dies(id string) func(discover.Result) bool {
	return func(r discover.Result) bool {
		return slices.Contains(r.Dead, id) && !slices.ContainsFunc(r.Places, func(p discover.Place) bool { return p.Container == id })
	}
}

func testHealth(t *testing.T, e *engine) {
	w := ask(t, e.source(t, ""), "web")
	defer w.stop()
	id := e.up(t, "web", "--health-cmd", "test -e /well", "--health-interval", "300ms", "--health-retries", "2")
	says := func(why string) func(discover.Result) bool {
		return func(r discover.Result) bool { return len(r.Places) == 1 && r.Places[0].Unhealthy == why }
	}
	w.until("the start", says("Docker: health check: starting"))
	w.until("the failed check", says("Docker: health check: unhealthy"))
	e.Docker(t, "exec", "web", "busybox", "touch", "/well")
	w.until("the good check", says(""))
	e.Docker(t, "pause", "web")
	w.until("the pause", says("Docker: container is paused"))
	e.Docker(t, "unpause", "web")
	w.until("its end", says(""))
	e.Docker(t, "kill", "web")
	w.until("its death", dies(id))
}

func testTakenOver(t *testing.T, e *engine) {
	w := ask(t, e.source(t, ""), "db1")
	defer w.stop()
	id := e.up(t, "db1")
	ip := e.ip(t, "db1", "bridge")
	w.until("the container", at(id, ip))
	e.Docker(t, "rm", "-f", "db1")
	e.up(t, "stranger")
	if got := e.ip(t, "stranger", "bridge"); got != ip {
		t.Fatalf("the stranger is at %s and not at %s", got, ip)
	}
	w.until("the death", dies(id))
	again := e.up(t, "db1")
	r := w.until("the new one", at(again, e.ip(t, "db1", "bridge")))
	if r.Places[0].Host == ip || !slices.Contains(r.Dead, id) {
		t.Errorf("%+v, want %s dead and nothing at %s", r, id, ip)
	}
	for _, r := range w.said {
		for _, p := range r.Places {
			if p.Host == ip && p.Container != id {
				t.Errorf("%s was told of another container: %+v", ip, p)
			}
		}
	}
}

func testNetworks(t *testing.T, e *engine) {
	own := e.up(t, "legate", "--network", "backend")
	id := e.up(t, "cache", "--network", "other")
	w := ask(t, e.source(t, own), "cache")
	defer w.stop()
	r := w.until("word of the networks", func(r discover.Result) bool { return r.Err != nil })
	wantUserError(t, r.Err, "shares no network")
	if hint := hintOf(r.Err); hint != "docker network connect other legate" {
		t.Errorf("hint %q", hint)
	}
	e.Docker(t, "network", "connect", "backend", "cache")
	w.until("the address in the shared one", at(id, e.ip(t, "cache", "backend")))
	e.Docker(t, "network", "disconnect", "backend", "cache")
	w.until("the end of what was there", dies(id))
	w.until("the loss", func(r discover.Result) bool { return r.Err != nil })
	e.Docker(t, "network", "connect", "other", "legate")
	w.until("our own move", at(id, e.ip(t, "cache", "other")))
}

func testProjects(t *testing.T, e *engine) {
	own := e.up(t, "a-legate-1", compose("a", "legate")...)
	outside, inside := e.source(t, ""), e.source(t, own)
	b := e.up(t, "b-redis-1", compose("b", "redis")...)
	fromHost, fromA := ask(t, outside, "redis"), ask(t, inside, "redis")
	defer fromHost.stop()
	defer fromA.stop()
	fromHost.until("the only one", at(b, e.ip(t, "b-redis-1", "bridge")))
	fromA.until("the only one", at(b, e.ip(t, "b-redis-1", "bridge")))

	a := e.up(t, "a-redis-1", compose("a", "redis")...)
	r := fromHost.until("that it is not clear", func(r discover.Result) bool { return r.Err != nil })
	wantUserError(t, r.Err, "docker:redis may mean docker:a/redis, docker:b/redis")
	fromA.until("our own", at(a, e.ip(t, "a-redis-1", "bridge")))
	named := ask(t, outside, "b/redis")
	defer named.stop()
	named.until("the one that was named", at(b, e.ip(t, "b-redis-1", "bridge")))

	a2 := e.up(t, "a-redis-2", compose("a", "redis")...)
	fromA.until("both of a scaled service", func(r discover.Result) bool {
		ids := []string{}
		for _, p := range r.Places {
			ids = append(ids, p.Container)
		}
		return len(ids) == 2 && slices.Contains(ids, a) && slices.Contains(ids, a2)
	})
	seen := fromA.seen
	e.Docker(t, "rm", "-f", "a-redis-1", "a-redis-2")
	fromA.until("that ours are gone", func(r discover.Result) bool { return r.Err == nil && len(r.Places) == 0 })
	for _, r := range fromA.said[seen:] {
		if slices.ContainsFunc(r.Places, func(p discover.Place) bool { return p.Container == b }) {
			t.Errorf("another project's while ours is being replaced: %+v", r)
		}
	}
	labelled := e.up(t, "c1", "--label", "legate.service.6379=store")
	store := ask(t, outside, "store")
	defer store.stop()
	store.until("the labelled one", at(labelled, e.ip(t, "c1", "bridge")))
}

// Whoever publishes an image does not decide what containers of it serve. What
// Compose starts itself it gives a number, and no image that it builds has one.
func testImages(t *testing.T, e *engine) {
	table := docker.NewTable(docker.Config{Host: e.Host})
	source := func(trust adapter.Trust) *adapter.Source {
		return adapter.New(adapter.Config{Table: table, Own: as(t, ""), Trust: trust})
	}
	e.upOf(t, "built", "stranger")
	for name, want := range map[string]string{"db": "has that from its image alone", "a/api": "has that from its image alone", "c/api": `project c is named "api"`} {
		w := ask(t, source(adapter.TrustDoubted), name)
		defer w.stop()
		r := w.until("word that nobody has the name", func(r discover.Result) bool { return r.Err != nil })
		wantUserError(t, r.Err, want)
	}
	own := e.up(t, "own", "--label", "legate.service=db")
	api := e.upOf(t, "built", "a-api-1", append(compose("a", "api"), "--label", "com.docker.compose.container-number=1")...)
	for name, want := range map[string]string{"db": own, "api": api, "a/api": api} {
		for _, trust := range []adapter.Trust{adapter.TrustOwn, adapter.TrustDoubted} {
			w := ask(t, source(trust), name)
			defer w.stop()
			// That one runs may be news that is still to come.
			if r := w.until("the container", func(r discover.Result) bool { return len(r.Places) > 0 }); len(r.Places) != 1 || r.Places[0].Container != want {
				t.Errorf("the first that is told of %s: %+v", name, r)
			}
		}
	}
	e.Docker(t, "rm", "-f", "a-api-1") // which has it, too, and is of a project
	both := ask(t, source(adapter.TrustAll), "db")
	defer both.stop()
	both.until("that labels of images count", func(r discover.Result) bool { return len(r.Places) == 2 })
}

// A proxy may let no question about images through. What the operator asks for
// by name he gets as ever, and is told what that rests on; a container's labels
// get nobody who may have the name from an image.
func testNoImages(t *testing.T, e *engine) {
	c := count(t, e.Path)
	c.refuses = "/images/"
	source := func(trust adapter.Trust) *adapter.Source {
		return adapter.New(adapter.Config{Table: docker.NewTable(docker.Config{Host: c.host}), Own: as(t, ""), Trust: trust})
	}
	id := e.up(t, "c1", "--label", "legate.service=store")
	e.up(t, "plain")
	w := ask(t, source(adapter.TrustDoubted), "store")
	defer w.stop()
	r := w.until("the container", func(discover.Result) bool { return true })
	if !at(id, e.ip(t, "c1", "bridge"))(r) || !strings.Contains(r.Detail, "labels of container c1 are believed") || !strings.Contains(r.Detail, "IMAGES=1") {
		t.Errorf("the operator is told %+v", r)
	}
	strict := source(adapter.TrustOwn)
	agents := ask(t, strict, "store")
	defer agents.stop()
	r = agents.until("an answer", func(discover.Result) bool { return true })
	if wantUserError(t, r.Err, "container c1 may be, which is not known"); !strings.Contains(hintOf(r.Err), "IMAGES=1") {
		t.Errorf("the hint is %q", hintOf(r.Err))
	}
	for _, name := range []string{"c1", "plain"} {
		named := ask(t, strict, name)
		defer named.stop()
		if r := named.until("one by its own name", func(discover.Result) bool { return true }); len(r.Places) != 1 || strings.Contains(r.Detail, "believed") {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func testModes(t *testing.T, e *engine) {
	own := e.up(t, "legate")
	host := e.up(t, "onhost", "--network", "host")
	e.up(t, "landlord")
	lodger := e.up(t, "lodger", "--network", "container:landlord")
	e.up(t, "alone", "--network", "none")
	sidecar := e.up(t, "sidecar", "--network", "container:legate")

	fromHost, fromInside := e.source(t, ""), e.source(t, own)
	expect := func(s *adapter.Source, name string, good func(discover.Result) bool) *watch {
		w := ask(t, s, name)
		w.until(name, good)
		return w
	}
	fails := func(text string) func(discover.Result) bool {
		return func(r discover.Result) bool { return r.Err != nil && strings.Contains(r.Err.Error(), text) }
	}
	for _, w := range []*watch{
		expect(fromHost, "onhost", at(host, "127.0.0.1")),
		expect(fromInside, "onhost", fails("in the host's network, and Legate is not")),
		expect(fromHost, "alone", fails("has no")),
		expect(fromInside, "sidecar", at(sidecar, "127.0.0.1")),
		expect(fromInside, "legate", fails(`is named "legate"`)),
	} {
		defer w.stop()
	}
	w := expect(fromInside, "lodger", at(lodger, e.ip(t, "landlord", "bridge")))
	defer w.stop()
	e.Docker(t, "stop", "landlord")
	w.until("that its network is gone", dies(lodger))
	w.until("why", fails("lives in the network of one that does not run"))
}

func testMany(t *testing.T, e *engine) {
	c := count(t, e.Path)
	s := adapter.New(adapter.Config{Table: docker.NewTable(docker.Config{Host: c.host}), Own: as(t, "")})
	var watches []*watch
	for i := range 200 {
		w := ask(t, s, fmt.Sprintf("svc%d", i))
		watches = append(watches, w)
		defer w.stop()
	}
	for _, w := range watches {
		w.until("an answer", func(r discover.Result) bool { return r.Err != nil })
	}
	if n := c.number("GET /events"); n != 1 {
		t.Errorf("%d streams of events for 200 watches", n)
	}
	whole := c.number("GET /json")
	id := e.up(t, "svc7")
	watches[7].until("the container", at(id, e.ip(t, "svc7", "bridge")))
	e.Docker(t, "rm", "-f", "svc7")
	watches[7].until("its death", dies(id))
	if c.mu.Lock(); c.most > 3 {
		t.Errorf("%d connections at once", c.most)
	}
	c.mu.Unlock()
	if now := c.number("GET /json"); now > whole+2 { // the slow ones that come anyway
		t.Errorf("the whole list was read %d times for one container", now-whole)
	}
	for i, w := range watches {
		w.mu.Lock()
		if n := len(w.said); i != 7 && n != 1 {
			t.Errorf("watch %d was told %d times of what is not its", i, n)
		}
		w.mu.Unlock()
	}
	t.Logf("asked %v, at most %d connections", c.asked, c.most)
}

func TestWatch_EngineLost(t *testing.T) {
	for label, dockerd := range testnet.DockerEngines(t) {
		t.Run(label, func(t *testing.T) {
			e := startEngine(t, dockerd)
			s := e.source(t, "")
			id := e.up(t, "redis", "--restart", "no")
			w := ask(t, s, "redis")
			w.until("the container", at(id, e.ip(t, "redis", "bridge")))
			e.Stop(t, syscall.SIGTERM)
			err := w.lost()
			var user *spec.UserError
			if !errors.As(err, &user) || strings.Contains(user.What, "EOF") {
				t.Errorf("error %v of an engine that ended", err)
			}
			again := ask(t, s, "redis")
			wantUserError(t, again.lost(), "Docker socket "+e.Path)

			e.Restart(t)
			r := firstAnswer(t, s, "redis")
			if !dies(id)(r) {
				t.Errorf("after the restart: %+v, want %s dead", r, id)
			}
			e.Docker(t, "start", "redis")
			w = ask(t, s, "redis")
			w.until("the container again", at(id, e.ip(t, "redis", "bridge")))
			w.stop()

			e.Freeze()
			w = ask(t, s, "redis")
			wantUserError(t, w.lost(), "did not answer: nothing came within 5s")
			e.Thaw()
			if r := firstAnswer(t, s, "redis"); !at(id, e.ip(t, "redis", "bridge"))(r) {
				t.Errorf("after the pause: %+v", r)
			}
		})
	}
}

// firstAnswer watches again and again until there is one, as Discovery does.
func firstAnswer(t *testing.T, s discover.Source, name string) (r discover.Result) {
	t.Helper()
	testnet.Await(t, "an answer", func() bool {
		w := ask(t, s, name)
		defer w.stop()
		testnet.Await(t, "an answer or the end of the watch", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.ended || len(w.said) > 0
		})
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.said) > 0 {
			r = w.said[0]
		}
		return len(w.said) > 0
	})
	return r
}

func wantUserError(t *testing.T, err error, what string) {
	t.Helper()
	var user *spec.UserError
	if !errors.As(err, &user) || !strings.Contains(user.What, what) || user.Hint == "" {
		t.Errorf("error %v, want one of %q with a hint", err, what)
	}
}

func hintOf(err error) string {
	var user *spec.UserError
	if !errors.As(err, &user) {
		return ""
	}
	return user.Hint
}
