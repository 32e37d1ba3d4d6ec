package soak

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// registry is a real server that says which backends there are.
type registry interface {
	// links leads to what it says, from the flags on.
	link() []string
	set(t testing.TB, backends ...int) // exactly these are registered
	kill()
	// restart starts it again without its data.
	restart(t testing.TB)
	freeze()
	thaw()
}

// registries start one each, of their kind.
func registries() map[string]func(t testing.TB) registry {
	return map[string]func(t testing.TB) registry{"consul": startConsul, "etcd": startEtcd, "dns": startDNS}
}

type consulRegistry struct {
	*testnet.Consul
	there []int
}

func startConsul(t testing.TB) registry {
	c := testnet.StartConsul(t, testnet.ConsulConfig{})
	t.Setenv("CONSUL_HTTP_ADDR", c.Addr.String())
	return &consulRegistry{Consul: c}
}

func (c *consulRegistry) link() []string { return []string{fmt.Sprintf("%d=consul:named", inFront)} }

func (c *consulRegistry) set(t testing.TB, backends ...int) {
	for _, n := range backends {
		if !slices.Contains(c.there, n) {
			c.Register(t, testnet.ConsulService{ID: fmt.Sprint(n), Name: "named", Address: fmt.Sprintf("127.0.1.%d", n), Port: 1000})
		}
	}
	for _, n := range c.there {
		if !slices.Contains(backends, n) {
			c.Deregister(t, fmt.Sprint(n))
		}
	}
	c.there = slices.Clone(backends)
}

func (c *consulRegistry) kill()                { c.Kill() }
func (c *consulRegistry) freeze()              { c.Freeze() }
func (c *consulRegistry) thaw()                { c.Thaw() }
func (c *consulRegistry) restart(t testing.TB) { c.there = nil; c.Restart(t) }

type etcdRegistry struct {
	*testnet.Etcd
	there []int
}

func startEtcd(t testing.TB) registry {
	return &etcdRegistry{Etcd: testnet.StartEtcd(t, testnet.EtcdConfig{})}
}

func (e *etcdRegistry) link() []string {
	return []string{fmt.Sprintf("%d=etcd://%s/services/named", inFront, e.Addr)}
}

func (e *etcdRegistry) set(t testing.TB, backends ...int) {
	for _, n := range backends {
		if !slices.Contains(e.there, n) {
			e.Put(t, fmt.Sprintf("/services/named/%d", n), backend(n))
		}
	}
	for _, n := range e.there {
		if !slices.Contains(backends, n) {
			e.Delete(t, fmt.Sprintf("/services/named/%d", n))
		}
	}
	e.there = slices.Clone(backends)
}

func (e *etcdRegistry) kill()   { e.Kill() }
func (e *etcdRegistry) freeze() { e.Freeze() }
func (e *etcdRegistry) thaw()   { e.Thaw() }

func (e *etcdRegistry) restart(t testing.TB) {
	e.there = nil
	e.Lose(t)
	e.Restart(t)
}

type dnsRegistry struct{ *testnet.DNSMasq }

func startDNS(t testing.TB) registry {
	return dnsRegistry{testnet.StartDNSMasq(t, testnet.DNSMasqConfig{})}
}

func (d dnsRegistry) link() []string {
	return []string{"--dns=" + d.Addr.String(), fmt.Sprintf("%d=named.test:1000", inFront)}
}

func (d dnsRegistry) set(t testing.TB, backends ...int) {
	var hosts strings.Builder
	for _, n := range backends {
		fmt.Fprintf(&hosts, "127.0.1.%d named.test\n", n)
	}
	d.SetHosts(t, hosts.String())
}

func (d dnsRegistry) kill()   { d.Kill() }
func (d dnsRegistry) freeze() { d.Freeze() }
func (d dnsRegistry) thaw()   { d.Thaw() }

func (d dnsRegistry) restart(t testing.TB) {
	d.set(t)
	d.Restart(t)
}

// eachRegistry runs a case with every kind.
func eachRegistry(t *testing.T, test func(t *testing.T, r registry)) {
	for _, name := range []string{"consul", "etcd", "dns"} {
		t.Run(name, func(t *testing.T) {
			arrange(t)
			test(t, registries()[name](t))
		})
	}
}

// lead starts Legate with a link to what the registry says.
func lead(t testing.TB, r registry) *legate {
	t.Helper()
	link := r.link()
	return setup{binary: product(), files: descriptors, flags: link[:len(link)-1], links: link[len(link)-1:]}.start(t)
}

// awaitEndpoints waits until the link has exactly these backends, in no doubt.
func (l *legate) awaitEndpoints(backends ...int) {
	l.t.Helper()
	var want, got []string
	for _, n := range backends {
		want = append(want, backend(n))
	}
	testnet.Await(l.t, fmt.Sprintf("endpoints %v", want), func() bool {
		got = got[:0]
		for _, e := range l.status(0).Endpoints {
			if e.Health != spec.HealthFormer && e.Health != spec.HealthWeak {
				got = append(got, e.Address)
			}
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

func (l *legate) awaitSource(what string, is func(spec.SourceStatus) bool) {
	l.t.Helper()
	testnet.Await(l.t, what, func() bool {
		s := l.status(0).Sources
		return len(s) == 1 && is(s[0])
	})
}

// All backends are replaced one after the other, each registered before the one that it replaces goes.
func TestRegistry_RollingReplacement(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r registry) {
		old, _ := backends(t, 3)
		r.set(t, 1, 2, 3)
		l := lead(t, r)
		l.awaitEndpoints(1, 2, 3)
		shiftOf(t).operate(t, "replacement of three", func() {
			there := []int{1, 2, 3}
			for i, p := range old {
				serveName(t, i+4)
				there = append(there, i+4)
				r.set(t, there...)
				l.awaitEndpoints(there...)
				there = there[1:]
				r.set(t, there...)
				l.awaitEndpoints(there...)
				p.leave()
			}
		}).mustServeAll(t)
	})
}

// anew is how long the registry is gone, and how long its services take to be registered anew.
const anew = 20 * time.Second

// The registry is killed, comes back with nothing in it, and is filled again one by one. The backends were
// there all the time, and nobody notices.
func TestRegistry_KilledAndRegisteredAnew(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r registry) {
		_, long := asked(t)
		backends(t, 3)
		r.set(t, 1, 2, 3)
		l := lead(t, r)
		l.awaitEndpoints(1, 2, 3)
		s := shiftOf(t)
		rate := s.operate(t, "registry killed and empty", func() {
			r.kill()
			l.awaitSource("that the registry is missed", func(s spec.SourceStatus) bool { return s.Error != "" && s.Held && s.Endpoints == 3 })
			r.restart(t)
			l.awaitSource("that it is empty", func(s spec.SourceStatus) bool { return s.Weak == 3 && s.Endpoints == 3 && s.Until != nil })
			for i, there := range [][]int{{2}, {2, 3}, {1, 2, 3}} {
				if long {
					<-time.After(anew / 4)
				}
				r.set(t, there...)
				l.awaitSource(fmt.Sprintf("that %d are back", i+1), func(s spec.SourceStatus) bool { return s.Endpoints == 3 && s.Weak == 2-i })
			}
			l.awaitEndpoints(1, 2, 3)
		})
		rate.mustServeAll(t)
		if len(rate.Servers) != 3 {
			t.Errorf("served by %d of three backends", len(rate.Servers))
		}
	})
}

// A registry that is stopped in mid-sentence says nothing, which is no news.
func TestRegistry_Paused(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r registry) {
		pause := 3 * time.Second
		if _, long := asked(t); long {
			pause = time.Minute
		}
		backends(t, 3)
		r.set(t, 1, 2)
		l := lead(t, r)
		l.awaitEndpoints(1, 2)
		shiftOf(t).operate(t, "registry paused", func() {
			r.freeze()
			<-time.After(pause)
			if s := l.status(0); len(s.Endpoints) != 2 || s.State != spec.StateUp {
				t.Errorf("%d endpoints, and the link is %s, while the registry is paused", len(s.Endpoints), s.State)
			}
			r.thaw()
			r.set(t, 1, 2, 3)
			l.awaitEndpoints(1, 2, 3)
		}).mustServeAll(t)
	})
}

// A registry that is down for the whole run changes nothing for who is served; a Legate that is started
// meanwhile starts, holds, and says why.
func TestRegistry_DownForTheWholeRun(t *testing.T) {
	eachRegistry(t, func(t *testing.T, r registry) {
		backends(t, 2)
		r.set(t, 1, 2)
		l := lead(t, r)
		l.awaitEndpoints(1, 2)
		r.kill()
		shiftOf(t).operate(t, "registry down", func() {
			l.awaitSource("that the registry is missed", func(s spec.SourceStatus) bool { return s.Error != "" && s.Held && s.Endpoints == 2 })
		}).mustServeAll(t)

		l.finish()
		again := lead(t, r)
		waiting := askLater(entrances(inFront)[0])
		testnet.Await(t, "the connection that is held", func() bool { return again.status(0).Counters.Held == 1 })
		if s := again.status(0); len(s.Sources) != 1 || s.Sources[0].Error == "" || s.Error == "" {
			t.Errorf("the status does not say why it holds: %+v", s)
		}
		r.restart(t)
		r.set(t, 1, 2)
		if a := <-waiting; a.err != nil {
			t.Errorf("who waited failed: %v", a.err)
		}
	})
}

type answered struct {
	server string
	err    error
}

// askLater asks for a name, and tells when it came.
func askLater(addr string) <-chan answered {
	c := make(chan answered, 1)
	go func() {
		server, err := askName(addr, 1)
		c <- answered{server, err}
	}()
	return c
}
