package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"legate/internal/docker"
	"legate/internal/intercept"
	"legate/internal/spec"
)

// ErrNotYet says that it may be known soon which link a client is for.
var ErrNotYet = errors.New("not known yet")

// omni is what omni mode knows: who has which address, and what it may reach
// there. A container's variables never change, so they are asked for once, and
// always beside the rest: the engine does not answer about one that it starts.
type omni struct {
	// The goroutine that decides owns these.
	variables  map[string][]string // by container id
	asking     map[string]bool
	begun      bool // the redirect was tried
	redirected bool
	warning    string // why there is none, where nothing but a restart mends it

	mu      sync.Mutex // guards the following
	tenants map[netip.Addr]tenant
}

// tenant is the container that has an address.
type tenant struct {
	id, name string
	life     int
	known    bool // its variables are, and those of the containers in its network
	lodging  bool // a container that does not run is for its network
	shared   bool // the address is of several containers, which cannot be told apart
	ports    map[uint16]bool
}

// variables are those of a container, or why they were not learned.
type variables struct {
	id   string
	list []string
	err  error
}

// asksAtOnce is how many containers the engine is asked about at a time.
const asksAtOnce = 8

func newOmni() *omni {
	return &omni{
		variables: map[string][]string{}, asking: map[string]bool{},
	}
}

// Omni tells whether the agent serves clients of omni mode by Route.
func (a *Agent) Omni() bool { return a.omni != nil }

// Route tells which link a client is for that connected to a port: the one of
// the container that has the address now. The table is asked anew, since what
// was decided may be older than that the address went to another container.
func (a *Agent) Route(client netip.Addr, port uint16) (spec.Listen, error) {
	a.omni.mu.Lock()
	t, found := a.omni.tenants[client]
	a.omni.mu.Unlock()
	if !found {
		return spec.Listen{}, ErrNotYet
	}
	c := a.cfg.Table.Get(t.id)
	switch {
	case t.shared:
		return spec.Listen{}, fmt.Errorf("address %s is of several containers", client)
	case c == nil || !c.Runs() || c.Start != t.life || !slices.Contains(addresses(c), client) || !t.known:
		return spec.Listen{}, ErrNotYet
	case !t.ports[port] && t.lodging: // that one may have been started just now
		return spec.Listen{}, ErrNotYet
	case !t.ports[port]:
		return spec.Listen{}, fmt.Errorf("container %s has neither a variable BACKEND_%d nor a label connect.%d", t.name, port, port)
	}
	return spec.SwitchedListen(t.id, t.life, port), nil
}

// decideOmni adds the links of omni mode.
func (w *watch) decideOmni(all []*docker.Container, wish *spec.Wish) {
	if w.omni == nil {
		return
	}
	if len(all) > 0 { // else nothing is known yet
		w.beginRedirect()
	}
	if w.omni.warning != "" {
		wish.Warnings = append(wish.Warnings, w.omni.warning)
	}
	lodgers, more := map[string][]*docker.Container{}, map[string]bool{}
	exist := map[string]bool{}
	for _, c := range all {
		exist[c.ID] = true
		of := w.cfg.Table.Get(c.Landlord())
		if !c.Runs() && c.State != docker.StateCreated { // which runs at any moment
			more[idOf(of)] = true
			continue
		}
		w.askVariables(c.ID)
		lodgers[idOf(of)] = append(lodgers[idOf(of)], c)
	}
	delete(lodgers, "") // they have a network of their own
	maps.DeleteFunc(w.omni.variables, func(id string, _ []string) bool { return !exist[id] })
	tenants := map[netip.Addr]tenant{}
	for _, c := range all {
		own := addresses(c)
		if len(own) == 0 {
			continue
		}
		t := w.tenant(append([]*docker.Container{c}, lodgers[c.ID]...), wish)
		t.lodging = more[c.ID]
		for _, a := range own {
			other, taken := tenants[a]
			t.shared = taken && other.id != t.id
			tenants[a] = t
		}
	}
	w.omni.mu.Lock()
	w.omni.tenants = tenants
	w.omni.mu.Unlock()
}

func idOf(c *docker.Container) string {
	if c == nil {
		return ""
	}
	return c.ID
}

// tenant makes the links of the containers that have an address: the one whose
// it is, and those that live in its network. Of two that want a port the first
// has it.
func (w *watch) tenant(who []*docker.Container, wish *spec.Wish) tenant {
	first := who[0]
	t := tenant{id: first.ID, name: first.Name, life: first.Start, known: true, ports: map[uint16]bool{}}
	for _, c := range who {
		list, known := w.omni.variables[c.ID]
		if !known || c.From == nil { // which decide tells of
			t.known = false
			continue
		}
		d, image := w.describe(c), *c.From
		from := spec.Image{Labels: image.Labels, Variables: image.Variables}
		links, problems := spec.BackendLinks(d, c.Start, list, from, w.cfg.Labels)
		own := d.Own(image.Labels, w.cfg.Labels.TrustImageLabels)
		for _, l := range links {
			if t.ports[l.Listen.Port] {
				continue
			}
			t.ports[l.Listen.Port] = true
			l.Listen, l.For = spec.SwitchedListen(t.id, t.life, l.Listen.Port), &own
			wish.Links = append(wish.Links, l)
		}
		wish.Problems = append(wish.Problems, problems...)
	}
	return t
}

// askVariables learns a container's variables, if that is not under way. What
// failed is told after a while, and asked again then.
func (w *watch) askVariables(id string) {
	o := w.omni
	if _, known := o.variables[id]; known || o.asking[id] {
		return
	}
	o.asking[id] = true
	w.running.Go(func() {
		if !hand(w.ctx, w.questions, struct{}{}) {
			return
		}
		v := variables{id: id}
		v.list, v.err = w.readVariables(w.ctx, id)
		<-w.questions
		if v.err != nil {
			select {
			case <-w.ctx.Done():
			case <-time.After(regret):
			}
		}
		hand(w.ctx, w.learned, v)
	})
}

func (w *watch) readVariables(ctx context.Context, id string) ([]string, error) {
	all, err := inspect(w, ctx, id, (*docker.Client).Variables)
	return slices.DeleteFunc(all, func(v string) bool { return !spec.IsBackend(v) }), err
}

func (w *watch) learn(v variables) {
	o := w.omni
	delete(o.asking, v.id)
	if v.err == nil {
		o.variables[v.id] = v.list
		return
	}
	if w.cfg.Table.Get(v.id) != nil { // else it is gone meanwhile
		w.cfg.Log.Warn("a container's variables were not learned", "container", v.id, "error", v.err)
	}
}

// SetUpOmni leads every TCP port of this process's network to that of omni
// mode.
func SetUpOmni() error { return intercept.Redirect{Port: spec.OmniPort}.Set() }

// CleanUpOmni takes that back, whoever did it.
func CleanUpOmni() error { return intercept.Redirect{Port: spec.OmniPort}.Remove() }

// beginRedirect leads every port here to the one of omni mode, once. In the
// host's network it would take every port of the host.
func (w *watch) beginRedirect() {
	o := w.omni
	if o.begun {
		return
	}
	id, err := docker.Own{}.ID()
	c := w.cfg.Table.Get(id)
	if err == nil && c == nil { // the table may not be complete yet
		o.warning = "omni mode redirects no port, since the engine does not know this container, and so not whether it is in the host's network"
		return
	}
	o.begun, o.warning = true, ""
	if err != nil || c.Mode == "host" {
		o.warning = fmt.Sprintf("omni mode redirects no port, since it is in the host's network: clients reach only port %d; run it in a container without --network host", spec.OmniPort)
		return
	}
	if err := SetUpOmni(); err != nil {
		w.cfg.Log.Warn(fmt.Sprintf("omni mode could not redirect the other ports to %d, unless somebody has: docker run --rm --privileged --net container:%s legate --setup-iptables", spec.OmniPort, c.Name), "error", err)
		return
	}
	o.redirected = true
	w.cfg.Log.Info("every port is redirected", "to", spec.OmniPort)
}

// endRedirect takes away what beginRedirect made.
func (w *watch) endRedirect() error {
	if w.omni == nil || !w.omni.redirected {
		return nil
	}
	return CleanUpOmni()
}
