package agent

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"legate/internal/docker"
	"legate/internal/intercept"
	"legate/internal/pump"
	"legate/internal/spec"
)

// decision is what is made of all containers at one moment.
type decision struct {
	wish    spec.Wish
	servers map[string]spec.Container // by id
	ways    map[string]way            // by id
	unread  map[string][]string       // containers by why it is not known which labels are their own
}

func (d *decision) warn(format string, args ...any) {
	d.wish.Warnings = append(d.wish.Warnings, fmt.Sprintf(format, args...))
}

// decide sets the links of all containers that have a namespace now.
func (w *watch) decide() {
	d := &decision{servers: map[string]spec.Container{}, ways: map[string]way{}, unread: map[string][]string{}}
	if err := w.host.read(); err != nil {
		d.warn("the addresses of this host are those of before, which containers may not name: %v", err)
	}
	all := w.cfg.Table.All()
	w.forgetFormer()
	maps.DeleteFunc(w.wordings, func(id string, _ wording) bool { return w.cfg.Table.Get(id) == nil })
	maps.DeleteFunc(w.exposing, func(id string, _ bool) bool { return w.cfg.Table.Get(id) == nil })
	for _, c := range all {
		w.judge(c, d)
	}
	d.warnUnread()
	w.decideOmni(all, &d.wish)
	if w.late != nil {
		d.warn("links are opened only after a container has started: %v", w.late)
	}
	w.mu.Lock()
	w.servers, w.at = d.servers, owners(all)
	w.mu.Unlock()
	w.ways.Store(&d.ways)
	w.decided = &d.wish
	w.set(d.wish)
	w.answer(all)
}

// judge decides what a container serves and asks for.
func (w *watch) judge(c *docker.Container, d *decision) {
	w.learnExposed(c)
	who, of := w.describe(c), w.tenantOf(c)
	switch server, err := w.server(c); {
	case err == nil:
		d.servers[c.ID] = server
		if err := spec.CheckAllow(server); err != nil {
			d.warn("%v", err)
		}
	case !c.Pending():
		why := spec.WithHint(c.Doubt)
		d.unread[why] = append(d.unread[why], c.Name)
	}
	if !c.Runs() {
		w.forgetUnfound(c.ID) // its next life is looked for anew
	}
	if !w.opens() {
		return
	}
	where, asks := w.home(c), spec.AsksForLinks(c.Labels)
	if where == nil && !who.OnHost {
		w.seek(c, of, asks, d)
	}
	if where != nil && w.enters {
		d.ways[c.ID] = way{where.ns.ID(), where.ns.Socket}
	}
	if asks && c.Judged() {
		w.decideFor(c, where, who, &d.wish)
	}
}

// warnUnread tells of the containers whose labels do not count, those together
// that have one reason: what refuses to tell of an image refuses all.
func (d *decision) warnUnread() {
	const most = 3
	for _, why := range slices.Sorted(maps.Keys(d.unread)) {
		names := d.unread[why]
		what := "container " + names[0] + " has no links and serves none: its labels cannot be told from those of its image"
		if more := len(names) - most; more > 0 {
			names = append(names[:most:most], fmt.Sprintf("%d more", more))
		}
		if len(names) > 1 {
			what = "containers " + strings.Join(names, ", ") + " have no links and serve none: their labels cannot be told from those of their images"
		}
		d.warn("%s: %s", what, why)
	}
}

// server is a container as others may go there. The error is of one whose own
// labels are not known: one that it has from its image might allow more than
// its owner does.
func (a *Agent) server(c *docker.Container) (spec.Container, error) {
	switch {
	case c.Judged():
		return a.describe(c).Own(imageOf(c).Labels, a.cfg.Labels.TrustImageLabels), nil
	case c.Pending():
		return spec.Container{}, fmt.Errorf("what container %s accepts is %w", c.Name, spec.ErrUndecided)
	}
	return spec.Container{}, spec.Errorf(spec.HintOf(c.Doubt), "what container %s accepts is not known: %v", c.Name, c.Doubt)
}

// imageOf is what a container has from its image, as far as it is known.
func imageOf(c *docker.Container) docker.Image {
	if c.From == nil {
		return docker.Image{}
	}
	return *c.From
}

// seek asks for the namespace that a container lives in, which is that of
// another or its own. asks tells whether it wants links there.
func (w *watch) seek(c, of *docker.Container, asks bool, d *decision) {
	switch {
	case !of.Runs():
		if asks && c.Runs() {
			d.warn("container %s has no links: the one whose network it lives in does not run; start that, then it", c.Name)
		}
	case asks || w.enters:
		w.ask(of, c.Name, asks, &d.wish)
	}
}

// owners tells whose address it is, by container id.
func owners(all []*docker.Container) map[netip.Addr]string {
	at := map[netip.Addr]string{}
	for _, c := range all {
		for _, a := range addresses(c) {
			at[a] = c.ID
		}
	}
	return at
}

// addresses are a container's own, none while it does not run.
func addresses(c *docker.Container) (list []netip.Addr) {
	for _, n := range c.Networks {
		for _, a := range []netip.Addr{n.V4, n.V6} {
			if a.IsValid() {
				list = append(list, a)
			}
		}
	}
	return list
}

// decideFor adds the links of one container, which lives there.
func (w *watch) decideFor(c *docker.Container, where *space, who spec.Container, wish *spec.Wish) {
	if where == nil && !who.OnHost {
		return // it does not run yet, or no more
	}
	links, problems := w.read(c, who)
	if who.OnHost {
		for _, l := range links {
			problems = append(problems, spec.LinkProblem{Name: l.Name, Listen: l.Listen, Text: l.Text, Err: spec.Errorf(
				"give the container a network of its own", "container %s is in the host's network, where everybody could use its link", who.Name)})
		}
		links = nil
	}
	own := who.Own(imageOf(c).Labels, w.cfg.Labels.TrustImageLabels)
	for i := range links {
		links[i].Listen.Namespace = where.ns.ID()
		links[i].For = &own
	}
	wish.Links = append(wish.Links, links...)
	wish.Problems = append(wish.Problems, problems...)
}

// wording is what a container's labels were read as.
type wording struct {
	of, landlord *docker.Container // as the table had them then
	links        []spec.Link
	problems     []spec.LinkProblem
}

// read reads the labels of a container, once: with a thousand labels on a host
// that would take longer than a container does to start, and each start and end
// of one is decided with all others. The result is the caller's.
func (w *watch) read(c *docker.Container, who spec.Container) ([]spec.Link, []spec.LinkProblem) {
	r, known := w.wordings[c.ID]
	if landlord := w.cfg.Table.Get(c.Landlord()); !known || r.of != c || r.landlord != landlord {
		r = wording{of: c, landlord: landlord}
		r.links, r.problems = spec.ContainerLinks(who, imageOf(c).Labels, w.cfg.Labels)
		w.wordings[c.ID] = r
	}
	return slices.Clone(r.links), slices.Clone(r.problems)
}

// home is the namespace that a container lives in; nil: it is not known.
func (w *watch) home(c *docker.Container) *space {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.spaces[w.tenantOf(c).ID]
}

// tenantOf is the container whose network a container lives in: itself, or the
// one that it lodges with. Of one that is gone nothing but its id is known.
func (a *Agent) tenantOf(c *docker.Container) *docker.Container {
	landlord := c.Landlord()
	if landlord == "" {
		return c
	}
	if of := a.cfg.Table.Get(landlord); of != nil {
		return of
	}
	return &docker.Container{ID: landlord}
}

// joined are the networks by which a container may reach another.
func joined(c *docker.Container) []string {
	return slices.DeleteFunc(slices.Clone(c.Joined), func(n string) bool { return n == "none" || n == "host" || n == "ingress" })
}

// describe is a container as policy knows it, with all its labels. It reaches
// what the one reaches whose network it lives in.
func (a *Agent) describe(c *docker.Container) spec.Container {
	of := a.tenantOf(c)
	d := spec.Container{
		ID: c.ID, Name: c.Name, Image: c.Image, Labels: c.Labels,
		Lodges: c.Landlord(), OnHost: of.Mode == "host", Networks: joined(of),
	}
	for _, p := range slices.Concat(imageOf(c).Ports, c.Ports, c.Exposed) {
		d.Exposed = append(d.Exposed, spec.Port(p))
	}
	return d
}

// Open makes the listening sockets of a link in the namespace of the container
// that it is for, and those of others where we are.
func (a *Agent) Open(l spec.Link) ([]pump.Listener, error) {
	if l.Listen.Namespace == "" {
		return a.cfg.Bind(l)
	}
	a.mu.Lock()
	defer a.mu.Unlock() // or it could be closed meanwhile
	s := a.spaceOf(l.Listen.Namespace)
	if s == nil {
		return nil, errors.New("the container has ended")
	}
	ls, err := intercept.Bind(s.ns, l, a.cfg.Bind)
	if err == nil {
		s.opened[l.Listen] = time.Now()
	}
	return ls, err
}

// Way leads to a container from inside its own network, where that is known:
// no other has to lead there, no packet filter of the engine is in between, and
// an address that is another container's by now is not taken for its own.
func (a *Agent) Way(e *spec.Endpoint) (namespace string, socket pump.SocketFunc, err error) {
	w, known := (*a.ways.Load())[e.Container]
	if !known && e.Inside {
		return "", nil, errNotHere
	}
	return w.namespace, w.socket, nil
}

// errNotHere is of an endpoint that is about to be known, is no more, or never
// will be for want of rights.
var errNotHere = errors.New("the network of its container is not known (legate doctor tells what the agent lacks)")

// Admit says why the container that a link is for may not go to an endpoint;
// nil: it may.
func (a *Agent) Admit(l spec.Link, m *spec.Member) error {
	if l.For == nil {
		return nil
	}
	// Also of a container, which may be in the host's network: what listens on
	// loopback there counts on not being reached from outside.
	// Unless it is the container's own loopback.
	if !m.Inside {
		if err := a.cfg.Labels.Policy.MayReach(*l.For, m.Endpoint, m.Container != "" || a.byOperator(l)); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	id := m.Container
	if id == "" { // an address does not get around what the container behind it allows
		id = a.at[m.Addr.Addr().Unmap()]
	}
	if id == "" {
		return nil
	}
	server, err := a.serverOf(id)
	if err != nil {
		return err
	}
	return spec.Allows(server, *l.For)
}

// serverOf is the container with an id as others may go there. Of one that is
// new a source may have told before it was decided about. mu is held.
func (a *Agent) serverOf(id string) (spec.Container, error) {
	if server, known := a.servers[id]; known {
		return server, nil
	}
	if c := a.cfg.Table.Get(id); c != nil {
		return a.server(c)
	}
	return spec.Container{}, fmt.Errorf("container %.12s is not known to the engine", id)
}

// byOperator tells whether all that a link leads to is from sources that the
// operator chose, which may name addresses of this host.
func (a *Agent) byOperator(l spec.Link) bool {
	return !slices.ContainsFunc(l.Targets, func(t spec.Target) bool { return !a.cfg.Labels.Chosen(t) })
}
