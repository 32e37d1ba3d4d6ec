package docker

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/api/types/network"

	"legate/internal/spec"
)

func listed(change func(*container.Summary)) container.Summary {
	s := container.Summary{
		ID: idA, Names: []string{"/other/alias", "/shop-redis-1"}, Image: "redis:7", State: "running", Status: "Up 5 minutes",
		Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "redis", "legate.service": "store", "legate.service.6379": "cache", "legate.services": "no"},
		Ports:  []container.PortSummary{{PrivatePort: 6379, PublicPort: 6380, Type: "tcp"}, {PrivatePort: 6379, Type: "tcp"}, {PrivatePort: 53, Type: "udp"}, {PrivatePort: 7, Type: "sctp"}},
		NetworkSettings: &container.NetworkSettingsSummary{Networks: map[string]*network.EndpointSettings{
			"z": {NetworkID: "nz", EndpointID: "ez", GlobalIPv6Address: netip.MustParseAddr("fd00::2")},
			"a": {NetworkID: "na", EndpointID: "ea", IPAddress: netip.MustParseAddr("10.0.0.2")},
			"?": nil,
		}},
	}
	s.HostConfig.NetworkMode = "a"
	if change != nil {
		change(&s)
	}
	return s
}

// judged is a container whose image is known.
func judged(change func(*container.Summary), image map[string]string) *Container {
	c := containerOf(listed(change))
	c.inherit(&Image{Labels: image}, nil)
	return c
}

func TestContainerOf(t *testing.T) {
	c := judged(nil, nil)
	if c.Name != "shop-redis-1" || c.Project != "shop" || c.Service != "redis" || c.Mode != "a" || c.Health != "" || !c.Runs() {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(c.Services, []string{"cache", "store"}) {
		t.Errorf("labels name %q", c.Services)
	}
	if want := []Port{{spec.UDP, 53}, {spec.TCP, 6379}}; !slices.Equal(c.Ports, want) {
		t.Errorf("ports %v, want %v", c.Ports, want)
	}
	if len(c.Networks) != 2 || c.Networks[0].Name != "a" || c.Networks[0].V4.String() != "10.0.0.2" || c.Networks[1].V6.String() != "fd00::2" {
		t.Errorf("networks %+v", c.Networks)
	}
	if want := []string{idA[:12], idA, "cache", "redis", "shop-redis-1", "store"}; !slices.Equal(c.Keys(), want) {
		t.Errorf("keys %q, want %q", c.Keys(), want)
	}
	if c := judged(func(s *container.Summary) { s.Labels["com.docker.compose.oneoff"] = "True" }, nil); c.Service != "" {
		t.Error("a container of docker compose run serves")
	}
	if c := containerOf(listed(func(s *container.Summary) { s.State = "exited" })); c.Runs() || len(c.Networks)+len(c.Ports) != 0 {
		t.Errorf("one that exited has %+v", c)
	}
	if c := containerOf(container.Summary{}); len(c.Keys()) != 0 {
		t.Errorf("an entry with nothing has the keys %q", c.Keys())
	}
}

func TestContainerOf_Health(t *testing.T) {
	tests := map[string]string{
		"Up 5 minutes": "", "Up 2 seconds (health: starting)": "starting", "Up 1 hour (healthy)": "healthy",
		"Up About a minute (unhealthy)": "unhealthy", "Up 5 minutes (Paused)": "", "(": "", "": "",
	}
	for status, want := range tests {
		if got := containerOf(listed(func(s *container.Summary) { s.Status = status })).Health; got != want {
			t.Errorf("%q: %q, want %q", status, got, want)
		}
	}
	for status, want := range map[container.HealthStatus]string{"none": "", "healthy": "healthy", "starting": "starting"} {
		got := containerOf(listed(func(s *container.Summary) {
			s.Status, s.Health = "Up (unhealthy)", &container.HealthSummary{Status: status}
		})).Health
		if got != want {
			t.Errorf("field %q: %q, want %q", status, got, want)
		}
	}
}

// quiet is a table with a session that nothing runs.
func quiet() (*Table, *session) {
	t := NewTable(Config{})
	t.session = newSession(t)
	return t, t.session
}

// lived is a container with attachments to networks.
func lived(id, name string, endpoints ...string) *Container {
	c := &Container{ID: id, Name: name, State: StateRunning}
	for _, e := range endpoints {
		c.Networks = append(c.Networks, Network{Name: "n" + e, Endpoint: e})
	}
	return c
}

func (t *Table) putOne(c *Container) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(c)
}

func TestTable_CountsStarts(t *testing.T) {
	table, _ := quiet()
	steps := []struct {
		what string
		now  *Container
		want int
	}{
		{"first seen", lived("id", "n", "1", "2"), 0},
		{"left a network", lived("id", "n", "1"), 0},
		{"joined one", lived("id", "n", "1", "3"), 0},
		{"all attachments are new", lived("id", "n", "4", "5"), 1},
		{"stopped", &Container{ID: "id", Name: "n", State: StateExited}, 2},
		{"started", lived("id", "n", "6"), 2},
		{"paused", &Container{ID: "id", Name: "n", State: StatePaused, Networks: []Network{{Endpoint: "6"}}}, 2},
	}
	for _, step := range steps {
		table.putOne(step.now)
		if got := table.Get("id"); got != nil {
			t.Fatal("found by a short id")
		}
		if got := table.all["id"].Start; got != step.want {
			t.Errorf("%s: start %d, want %d", step.what, got, step.want)
		}
	}
}

func TestTable_TellsThoseConcerned(t *testing.T) {
	table, _ := quiet()
	subs := map[string]*Subscription{}
	for _, w := range []string{"redis", "store", "lodger", "other"} {
		subs[w] = table.Subscribe(w)
	}
	redis := func() *Container { return &Container{ID: idA, Name: "redis", State: StateRunning} }
	lodger := &Container{ID: idB, Name: "lodger", State: StateRunning, Mode: "container:" + idA}
	steps := []struct {
		what   string
		change func()
		want   []string
	}{
		{"a container", func() { table.put(redis()) }, []string{"redis"}},
		{"the same again", func() { table.put(redis()) }, nil},
		{"who lives in its network", func() { table.put(lodger) }, []string{"lodger"}},
		{"it is renamed", func() { c := redis(); c.Name = "store"; table.put(c) }, []string{"lodger", "redis", "store"}},
		{"it goes", func() { table.remove(idA) }, []string{"lodger", "store"}},
		{"it is gone", func() { table.remove(idA) }, nil},
	}
	for _, step := range steps {
		table.mu.Lock()
		step.change()
		table.mu.Unlock()
		var woken []string
		for w, s := range subs {
			select {
			case <-s.wake:
				woken = append(woken, w)
			default:
			}
		}
		if slices.Sort(woken); !slices.Equal(woken, step.want) {
			t.Errorf("%s: woke %q, want %q", step.what, woken, step.want)
		}
	}
	if len(table.keys) != len(lodger.indexed()) {
		t.Errorf("keys that are left: %q", slices.Collect(maps.Keys(table.keys)))
	}
	if got := table.Get(idB[:12]); got != lodger || table.Get(idA) != nil {
		t.Error("found by id what is not there, or not what is")
	}
}

// What the list does not say is not forgotten with each answer, but with the
// container.
// What was asked of the engine before it was lost may be answered after.
func TestTable_TakesPortsWhileTheEngineIsLost(t *testing.T) {
	table, _ := quiet()
	table.putOne(&Container{ID: idA, Name: "web", ImageID: "image", State: StateCreated, Labels: map[string]string{"a": "b"}})
	table.session = nil
	table.Expose(idA, []Port{{spec.TCP, 6379}})
	if got := table.Get(idA).Exposed; len(got) != 1 {
		t.Errorf("it exposes %v", got)
	}
}

func TestTable_KeepsWhatAContainerExposes(t *testing.T) {
	table, _ := quiet()
	s := table.Subscribe(idA)
	c := func(state string) *Container { return &Container{ID: idA, Name: "web", State: state} }
	table.putOne(c(StateCreated))
	<-s.wake
	for _, ports := range [][]Port{{}, {{spec.TCP, 6379}}} {
		table.Expose(idA, ports)
		if news := len(s.wake) > 0; news != (len(ports) > 0) {
			t.Errorf("that it exposes %v is news: %t", ports, news)
		} else if news {
			<-s.wake
		}
		table.putOne(c(StateRunning))
		table.putOne(c(StateExited))
		if got := table.Get(idA).Exposed; got == nil || !slices.Equal(got, ports) {
			t.Errorf("after a start and an end it exposes %#v, want %#v", got, ports)
		}
		<-s.wake
	}
	table.mu.Lock()
	table.remove(idA)
	table.mu.Unlock()
	table.Expose(idA, []Port{{spec.TCP, 6379}})
	if all := table.All(); len(all) != 0 {
		t.Errorf("one that is gone came back: %+v", all)
	}
}

func TestSession_BelievesDeath(t *testing.T) {
	table, s := quiet()
	now := time.Now()
	event := func(action events.Action) events.Message {
		return events.Message{Type: events.ContainerEventType, Action: action, Actor: events.Actor{ID: "id"}}
	}
	runs := func() bool { c := table.Named("n"); return len(c) == 1 && c[0].Runs() }
	hear := func(at time.Time) { s.learn(table, "id", lived("id", "n", "1"), at) }
	hear(now)
	s.note(event(events.ActionDie), now)
	if runs() {
		t.Fatal("a death is not believed at once")
	}
	if hear(now.Add(deadFor - 1)); runs() {
		t.Error("a list that is behind its event is believed")
	}
	if _, scheduled := s.due["id"]; !scheduled {
		t.Error("one that may have been started unseen is not looked at again")
	}
	if hear(now.Add(deadFor)); !runs() {
		t.Error("a list is never believed again")
	}
	s.note(event(events.ActionDie), now)
	s.note(event(events.ActionStart), now)
	if hear(now); !runs() {
		t.Error("one that was started is not believed to run")
	}
	s.note(event(events.ActionDestroy), now)
	if len(table.All()) != 0 || len(s.due)+len(s.died) != 0 {
		t.Errorf("left of one that was removed: %v %v %v", table.All(), s.due, s.died)
	}
	s.note(events.Message{Type: events.NetworkEventType, Action: events.ActionConnect, Actor: events.Actor{ID: "net", Attributes: map[string]string{"container": "c"}}}, now)
	s.note(events.Message{Type: events.NetworkEventType, Action: events.ActionConnect, Actor: events.Actor{ID: "net"}}, now)
	if len(s.due["c"]) != len(again) || len(s.due) != 1 {
		t.Errorf("to be read after a connect: %v", s.due)
	}
	if got := s.untilDue(now.Add(-time.Second)); got != time.Second {
		t.Errorf("%v until the next, want 1s", got)
	}
}

// While an answer is under way, events go on.
func TestSession_AnswersAreOfWhenItWasAsked(t *testing.T) {
	table, s := quiet()
	table.putOne(lived("old", "old", "1"))
	table.putOne(lived("gone", "gone", "2"))
	now := time.Now()
	whole := answer{at: now, known: []string{"old", "gone"}, found: map[string]*Container{"gone": lived("gone", "gone", "2"), "new": lived("new", "new", "3")}}
	s.asked = true
	if got := s.untilDue(now); got != resync {
		t.Errorf("while it asks, the next question is in %v", got)
	}
	s.note(events.Message{Type: events.ContainerEventType, Action: events.ActionDestroy, Actor: events.Actor{ID: "gone"}}, now)
	table.putOne(lived("read", "read", "4")) // by somebody else
	if err := s.hear(whole); err != nil || s.asked {
		t.Fatalf("%v, asks: %v", err, s.asked)
	}
	for name, want := range map[string]int{"old": 0, "gone": 0, "new": 1, "read": 1} {
		if got := len(table.Named(name)); got != want {
			t.Errorf("%d containers %q, want %d", got, name, want)
		}
	}
	if err := s.hear(answer{err: errForeign}); err == nil {
		t.Error("that the engine does not answer is not told")
	}
}

func TestSession_AsksForAllThatAreDue(t *testing.T) {
	_, s := quiet()
	now := time.Now()
	for i := range together + 1 {
		s.due[fmt.Sprint(i)] = []time.Time{now, now.Add(time.Second)}
	}
	s.due["later"] = []time.Time{now.Add(time.Second)}
	if first, second, none := s.takeDue(now), s.takeDue(now), s.takeDue(now); len(first) != together || len(second) != 1 || none != nil {
		t.Errorf("asks for %d, %d and %d", len(first), len(second), len(none))
	}
	if again := s.takeDue(now.Add(time.Second)); len(again) != together || len(s.due) != 2 {
		t.Errorf("asks again for %d, and %d are left", len(again), len(s.due))
	}
}
