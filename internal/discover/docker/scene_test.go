package docker

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"legate/internal/discover"
	"legate/internal/docker"
	"legate/internal/spec"
)

// box makes a container that runs, with its name for an id. Networks are
// NAME=ADDRESS.
func box(name, project, service string, networks ...string) *docker.Container {
	c := &docker.Container{ID: name, Name: name, Project: project, Service: service, State: docker.StateRunning, Mode: "bridge"}
	for _, n := range networks {
		network, addr, _ := strings.Cut(n, "=")
		a := docker.Network{Name: network, ID: network, Endpoint: network + name}
		if ip, err := netip.ParseAddr(addr); err == nil && ip.Is4() {
			a.V4 = ip
		} else if err == nil {
			a.V6 = ip
		}
		c.Networks = append(c.Networks, a)
	}
	return c
}

// with changes a container.
func with(c *docker.Container, change func(*docker.Container)) *docker.Container {
	change(c)
	return c
}

func mode(m string) func(*docker.Container) { return func(c *docker.Container) { c.Mode = m } }

func state(s string) func(*docker.Container) {
	return func(c *docker.Container) {
		c.State = s
		if !c.Runs() {
			c.Networks = nil
		}
	}
}

func label(services ...string) func(*docker.Container) {
	return func(c *docker.Container) { c.Services = services }
}

// sceneOf asks for NAME or PROJECT/NAME.
func sceneOf(name string, own *docker.Container, all ...*docker.Container) scene {
	s := scene{target: spec.Target{Source: spec.SourceDocker, Host: name}, own: own}
	if project, service, found := strings.Cut(name, "/"); found {
		s.target.Project, s.target.Host = project, service
	}
	if own != nil {
		all = append(all, own)
	}
	for _, c := range all {
		if slices.Contains(c.Keys(), s.target.Host) {
			s.named = append(s.named, c)
		}
	}
	s.get = func(id string) *docker.Container {
		for _, c := range all {
			if c.ID == id {
				return c
			}
		}
		return nil
	}
	s.all = func() []*docker.Container { return all }
	return s
}

func entering(s scene) scene {
	s.enters = true
	return s
}

func TestJudge(t *testing.T) {
	lone := box("redis", "", "", "bridge=172.17.0.2")
	a1, a2 := box("a-redis-1", "a", "redis", "a_default=10.0.1.2"), box("a-redis-2", "a", "redis", "a_default=10.0.1.3")
	b := box("b-redis-1", "b", "redis", "b_default=10.0.2.2", "shared=10.0.9.2")
	stopped := func(c *docker.Container) *docker.Container { copied := *c; return with(&copied, state("exited")) }
	inA := box("legate", "a", "legate", "a_default=10.0.1.9", "shared=10.0.9.9")
	inBridge := box("legate", "", "", "bridge=172.17.0.9")
	onHost := with(box("legate", "", ""), mode("host"))

	tests := map[string]struct {
		scene scene
		want  string // ID@ADDRESS of each place
		err   string
		hint  string
	}{
		"alone, from the host":           {sceneOf("redis", nil, lone), "redis@172.17.0.2", "", ""},
		"alone, from the same network":   {sceneOf("redis", inBridge, lone), "redis@172.17.0.2", "", ""},
		"we share the host's network":    {sceneOf("redis", onHost, lone), "redis@172.17.0.2", "", ""},
		"a scaled service is united":     {sceneOf("redis", inA, a1, a2), "a-redis-1@10.0.1.2 a-redis-2@10.0.1.3", "", ""},
		"our own project first":          {sceneOf("redis", inA, a1, b, lone), "a-redis-1@10.0.1.2", "", ""},
		"ours is stopped: not another":   {sceneOf("redis", inA, stopped(a1), b), "", "", ""},
		"the only one, of another":       {sceneOf("redis", inA, b), "b-redis-1@10.0.9.2", "", ""},
		"named project":                  {sceneOf("b/redis", inA, a1, b), "b-redis-1@10.0.9.2", "", ""},
		"two projects":                   {sceneOf("redis", nil, a1, b), "", "docker:redis may mean docker:a/redis, docker:b/redis", "name the project"},
		"two projects, one stopped":      {sceneOf("redis", nil, stopped(a1), b), "", "docker:a/redis, docker:b/redis", "name the project"},
		"a project and one outside":      {sceneOf("redis", nil, a1, lone), "", "container redis outside any project, docker:a/redis", "rename"},
		"nobody":                         {sceneOf("postgres", nil, lone), "", `no container, Compose service or legate.service label is named "postgres"`, "docker ps"},
		"nobody, but nearly":             {sceneOf("rediss", nil, lone), "", `is named "rediss"`, "did you mean docker:redis?"},
		"nobody in that project":         {sceneOf("c/redis", nil, a1, b), "", `label of Compose project c is named "redis"`, "docker:a/redis or docker:b/redis"},
		"ourselves are nobody":           {sceneOf("legate", inBridge), "", `is named "legate"`, ""},
		"a label":                        {sceneOf("store", nil, with(box("x1", "", "", "bridge=172.17.0.3"), label("store")), with(box("x2", "", "", "bridge=172.17.0.4"), label("store"))), "x1@172.17.0.3 x2@172.17.0.4", "", ""},
		"a name before a label":          {sceneOf("redis", nil, lone, with(box("x1", "", "", "bridge=172.17.0.3"), label("redis"))), "redis@172.17.0.2", "", ""},
		"a service before a name":        {sceneOf("redis", nil, a1, with(box("redis", "a", "db", "a_default=10.0.1.7"), label())), "a-redis-1@10.0.1.2", "", ""},
		"no shared network":              {sceneOf("redis", inBridge, b), "", "container b-redis-1 shares no network with this one (legate): it is in b_default, shared", "docker network connect b_default legate"},
		"some share one":                 {sceneOf("redis", inA, a1, box("a-redis-2", "a", "redis", "back=10.0.3.3")), "a-redis-1@10.0.1.2", "", ""},
		"the first shared one by name":   {sceneOf("cache", box("legate", "", "", "m=10.0.1.9", "z=10.0.2.9"), box("cache", "", "", "a=10.0.0.2", "m=10.0.1.2", "z=10.0.2.2")), "cache@10.0.1.2", "", ""},
		"the first by name, from host":   {sceneOf("cache", nil, box("cache", "", "", "ingress=10.255.0.2", "m=10.0.1.2", "z=10.0.2.2")), "cache@10.0.1.2", "", ""},
		"no address in the first":        {sceneOf("cache", nil, box("cache", "", "", "a=", "m=10.0.1.2")), "cache@10.0.1.2", "", ""},
		"IPv6 only":                      {sceneOf("cache", nil, box("cache", "", "", "six=fd00::2")), "cache@fd00::2", "", ""},
		"on the host, from the host":     {sceneOf("cache", nil, with(box("cache", "", ""), mode("host"))), "cache@127.0.0.1", "", ""},
		"on the host, both":              {sceneOf("cache", onHost, with(box("cache", "", ""), mode("host"))), "cache@127.0.0.1", "", ""},
		"on the host, from a network":    {sceneOf("cache", inBridge, with(box("cache", "", ""), mode("host"))), "", "container cache is in the host's network, and Legate is not", "--network host"},
		"without a network":              {sceneOf("cache", nil, with(box("cache", "", ""), mode("none"))), "", "container cache has no network", "docker network connect NETWORK cache"},
		"in another one's network":       {sceneOf("cache", inBridge, lone, with(box("cache", "", ""), mode("container:redis"))), "cache@172.17.0.2", "", ""},
		"in that of one that is gone":    {sceneOf("cache", inBridge, with(box("cache", "", ""), mode("container:gone"))), "", "lives in the network of one that does not run", "start"},
		"in each other's network":        {sceneOf("cache", nil, with(box("cache", "", ""), mode("container:cache"))), "", "third hand", "own"},
		"in ours":                        {sceneOf("cache", inBridge, with(box("cache", "", ""), mode("container:legate"))), "cache@127.0.0.1", "", ""},
		"we are in its network":          {sceneOf("redis", with(box("legate", "", ""), mode("container:redis")), lone), "redis@127.0.0.1", "", ""},
		"without a network, from within": {entering(sceneOf("cache", nil, with(box("cache", "", ""), mode("none")))), "cache@127.0.0.1 inside", "", ""},
		"no shared network, from within": {entering(sceneOf("redis", inBridge, b)), "b-redis-1@10.0.2.2 inside", "", ""},
		"away from all, though we enter": {entering(sceneOf("cache", nil, box("cache", "", ""))), "", "container cache has no address in any network", "docker network connect NETWORK cache"},
		"no address, though we enter":    {entering(sceneOf("cache", inBridge, box("cache", "", "", "bridge="))), "", "container cache has no address in any network", "docker network connect NETWORK cache"},
		"a shared one, though we enter":  {entering(sceneOf("redis", inBridge, lone)), "redis@172.17.0.2", "", ""},
		"on the host, though we enter":   {entering(sceneOf("cache", inBridge, with(box("cache", "", ""), mode("host")))), "", "container cache is in the host's network, and Legate is not", "--network host"},
		"with a lodger, from within":     {entering(sceneOf("guest", nil, with(box("cache", "", ""), mode("none")), with(box("guest", "", ""), mode("container:cache")))), "guest@127.0.0.1 inside", "", ""},
		"both in a third one's network":  {sceneOf("cache", with(box("legate", "", ""), mode("container:redis")), lone, with(box("cache", "", ""), mode("container:redis"))), "cache@127.0.0.1", "", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := test.scene.judge()
			var got []string
			for _, p := range v.places {
				got = append(got, p.Container+"@"+p.Host)
				if p.Inside {
					got = append(got, "inside")
				}
			}
			if text := strings.Join(got, " "); text != test.want {
				t.Errorf("places %q, want %q", text, test.want)
			}
			if test.err == "" {
				if v.err != nil {
					t.Errorf("error %v", v.err)
				}
				return
			}
			var user *spec.UserError
			if !errors.As(v.err, &user) || !strings.Contains(user.What, test.err) || !strings.Contains(user.Hint, test.hint) {
				t.Errorf("error %+v, want one of %q with a hint of %q", v.err, test.err, test.hint)
			}
		})
	}
}

func TestJudge_Detail(t *testing.T) {
	c := box("redis", "", "", "backend=10.0.1.2")
	c.Ports = []docker.Port{{Protocol: spec.UDP, Number: 53}, {Protocol: spec.TCP, Number: 6379}}
	tests := map[string]struct{ scene scene }{
		"container redis on network backend, exposes 53/udp 6379/tcp": {sceneOf("redis", nil, c)},
		"container cache on loopback":                                 {sceneOf("cache", nil, with(box("cache", "", ""), mode("host")))},
		"container cache from inside its own network":                 {entering(sceneOf("cache", nil, with(box("cache", "", ""), mode("none"))))},
		"container old does not run (exited)":                         {sceneOf("old", nil, with(box("old", "", ""), state("exited")))},
	}
	for want, test := range tests {
		if got := test.scene.judge().detail; got != want {
			t.Errorf("detail %q, want %q", got, want)
		}
	}
	var six []*docker.Container
	for _, n := range []string{"1", "2", "3", "4", "5", "6"} {
		six = append(six, box("s"+n, "a", "s", "net=10.0.1."+n))
	}
	if got := sceneOf("s", nil, six...).judge().detail; !strings.HasSuffix(got, "; 2 more") {
		t.Errorf("of six: %q", got)
	}
	s := sceneOf("redis", nil, c)
	s.stranger = true
	if got := s.judge().detail; !strings.Contains(got, "does not know the container that Legate runs in") {
		t.Errorf("of a stranger: %q", got)
	}
}

func newMemory() *memory {
	return &memory{told: map[string]life{}, dead: map[string]time.Time{}}
}

// line gives results as places and the dead: "a@1 !b".
func line(results []discover.Result) string {
	var texts []string
	for _, r := range results {
		var text []string
		for _, p := range r.Places {
			text = append(text, p.Container+"@"+p.Host)
		}
		for _, id := range r.Dead {
			text = append(text, "!"+id)
		}
		if r.Err != nil {
			text = append(text, "error")
		}
		texts = append(texts, strings.Join(text, " "))
	}
	return strings.Join(texts, " | ")
}

func TestLook(t *testing.T) {
	now := time.Now()
	m := newMemory()
	own := box("legate", "a", "legate", "net=10.0.0.9")
	one := box("one", "a", "s", "net=10.0.0.1")
	two := box("two", "a", "s", "net=10.0.0.2")
	other := box("other", "b", "s", "net=10.0.0.7")
	again := with(box("one", "a", "s", "net=10.0.0.1"), func(c *docker.Container) { c.Start = 1 })
	moved := with(box("one", "a", "s", "net=10.0.0.3"), func(c *docker.Container) { c.Start = 1 })
	apart := with(box("one", "a", "s", "far=10.1.0.1"), func(c *docker.Container) { c.Start = 1 })
	steps := []struct {
		what  string
		after time.Duration
		scene scene
		want  string
	}{
		{"nobody yet", 0, sceneOf("s", own), "error"},
		{"two", 0, sceneOf("s", own, one, two), "one@10.0.0.1 two@10.0.0.2"},
		{"nothing new", 0, sceneOf("s", own, one, two), "one@10.0.0.1 two@10.0.0.2"},
		{"one was restarted, unseen, at the same address", 0, sceneOf("s", own, again, two), "two@10.0.0.2 !one | one@10.0.0.1 two@10.0.0.2"},
		{"one moved", 0, sceneOf("s", own, moved, two), "two@10.0.0.2 !one | one@10.0.0.3 two@10.0.0.2"},
		{"two stopped", 0, sceneOf("s", own, moved, with(box("two", "a", "s"), state("exited"))), "one@10.0.0.3 !two"},
		{"two was removed", 30 * time.Second, sceneOf("s", own, moved), "one@10.0.0.3 !two"},
		{"a minute later", 31 * time.Second, sceneOf("s", own, moved), "one@10.0.0.3"},
		{"one left the network", 0, sceneOf("s", own, apart), "!one | !one error"},
		{"and came back", 0, sceneOf("s", own, moved), "one@10.0.0.3"},
		{"all are gone, another project has some", 0, sceneOf("s", own, other), "!one"},
		{"still, half a minute later", 30 * time.Second, sceneOf("s", own, other), "!one"},
		{"for good", 61 * time.Second, sceneOf("s", own, other), "other@10.0.0.7"},
		{"nobody any more: that is an answer", 0, sceneOf("s", own), "!other"},
	}
	for _, step := range steps {
		now = now.Add(step.after)
		if got := line(m.look(step.scene, now)); got != step.want {
			t.Errorf("%s: told %q, want %q", step.what, got, step.want)
		}
	}
}

// What is connected to a container goes on while it has that address, whichever
// networks it joins and leaves meanwhile.
func TestLook_KeepsTheAddressThatWasTold(t *testing.T) {
	joined := func(networks ...string) scene { return sceneOf("redis", nil, box("redis", "", "", networks...)) }
	own := box("own", "", "", "annex=10.0.2.9")
	inside := func(networks ...string) scene {
		return entering(sceneOf("redis", own, box("redis", "", "", networks...)))
	}
	for name, steps := range map[string][]struct {
		scene scene
		want  string
	}{
		"from the host": {
			{joined("front=10.0.0.2"), "redis@10.0.0.2"},
			{joined("backend=10.0.1.2", "front=10.0.0.2"), "redis@10.0.0.2"},
			{joined("backend=10.0.1.2"), "!redis | redis@10.0.1.2"},
		},
		"from inside": {
			{inside("front=10.0.0.2"), "redis@10.0.0.2"},
			{inside("backend=10.0.1.2", "front=10.0.0.2"), "redis@10.0.0.2"},
			{inside("annex=10.0.2.2", "front=10.0.0.2"), "redis@10.0.2.2"},
			{inside("annex=10.0.2.2"), "redis@10.0.2.2"},
		},
	} {
		m, now := newMemory(), time.Now()
		for i, step := range steps {
			if got := line(m.look(step.scene, now)); got != step.want {
				t.Errorf("%s, step %d: told %q, want %q", name, i, got, step.want)
			}
		}
	}
}

// Another project's container of the name is found a minute after our own is
// gone, though nothing happens then.
func TestNext_EndsWhenTimeChangesTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		quiet := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		own := box("legate", "a", "legate", "net=10.0.0.9")
		other := box("other", "b", "s", "net=10.0.0.7")
		m.look(sceneOf("s", own, box("one", "a", "s", "net=10.0.0.1")), time.Now())
		time.Sleep(time.Second) //nolint:forbidigo // in a bubble
		if got := line(m.look(sceneOf("s", own, other), time.Now())); got != "!one" {
			t.Fatalf("told %q", got)
		}
		if err := m.next(t.Context(), quiet); err != nil {
			t.Fatal(err)
		}
		if got := line(m.look(sceneOf("s", own, other), time.Now())); got != "other@10.0.0.7 !one" {
			t.Errorf("told %q", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := m.next(ctx, quiet); err == nil {
			t.Error("it looks again without need")
		}
	})
}

func TestLook_FewDeadOfMany(t *testing.T) {
	m, now := newMemory(), time.Now()
	for i := range 200 {
		name := "c" + strings.Repeat("x", i)
		m.look(sceneOf("s", nil, with(box(name, "a", "s", "net=10.0.0.1"), func(*docker.Container) {})), now.Add(time.Duration(i)*time.Millisecond))
	}
	results := m.look(sceneOf("s", nil), now.Add(time.Second))
	if n := len(results[len(results)-1].Dead); n != mostDead {
		t.Errorf("%d dead, want %d", n, mostDead)
	}
}

func TestUnhealthy(t *testing.T) {
	tests := []struct{ state, health, want string }{
		{"running", "", ""}, {"running", "healthy", ""},
		{"running", "unhealthy", "Docker: health check: unhealthy"}, {"running", "starting", "Docker: health check: starting"},
		{"paused", "healthy", "Docker: container is paused"},
	}
	for _, test := range tests {
		if got := unhealthy(&docker.Container{State: test.state, Health: test.health}); got != test.want {
			t.Errorf("%s, %s: %q, want %q", test.state, test.health, got, test.want)
		}
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{{"", "", 0}, {"redis", "redis", 0}, {"redis", "rediss", 1}, {"rdeis", "redis", 2}, {"", "abc", 3}, {"postgres", "redis", 7}}
	for _, test := range tests {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("%q to %q: %d, want %d", test.a, test.b, got, test.want)
		}
		if there, back := distance(test.a, test.b), distance(test.b, test.a); there != back {
			t.Errorf("%q to %q: %d there, %d back", test.a, test.b, there, back)
		}
	}
}
