package docker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"legate/internal/discover"
	"legate/internal/docker"
	"legate/internal/spec"
)

// scene is what one question is judged by.
type scene struct {
	target spec.Target
	named  []*docker.Container // those that answer to the name, sorted by name
	// unnamed are those that would if the labels of their images counted.
	unnamed []*docker.Container
	own     *docker.Container // ours; nil: we run in none that the engine knows
	get     func(id string) *docker.Container
	all     func() []*docker.Container
	// stranger: we run in a container, but in none of this engine's.
	stranger bool
	// ours: the name was found in our own project a moment ago.
	ours bool
	// enters: we may connect from inside any container's network.
	enters bool
	// told are the lives that were told before, by container id. Of several
	// addresses a container keeps the one that it has connections to.
	told map[string]life
	// pending: it will be known in a moment which labels are a container's own.
	pending bool
}

// add adds one that has the name, or would have it by labels of its image.
func (s *scene) add(c *docker.Container) {
	s.pending = s.pending || c.Pending()
	if slices.Contains(c.Keys(), s.target.Host) {
		s.named = append(s.named, c)
	} else {
		s.unnamed = append(s.unnamed, c)
	}
}

// verdict is what becomes of it.
type verdict struct {
	places  []discover.Place
	lives   map[string]life // of places, by container id
	detail  string
	err     error // why there are no places
	missing bool  // with err: nobody has the name
	ours    bool  // it was found in our own project
}

// judge finds the containers and their addresses.
func (s scene) judge() verdict {
	v := verdict{lives: map[string]life{}}
	found, ours, err := s.pick()
	v.ours = ours && len(found) > 0
	if err != nil {
		v.err, v.missing = err, len(s.candidates()) == 0
		return v
	}
	var details []string
	var failed error
	for _, c := range found {
		if !c.Runs() {
			details = append(details, fmt.Sprintf("container %s does not run (%s)", c.Name, c.State))
			continue
		}
		at, err := s.locate(c)
		if err != nil {
			failed = err
			details = append(details, err.Error())
			continue
		}
		v.lives[c.ID] = at.life
		v.places = append(v.places, discover.Place{Host: at.addr.String(), Inside: at.inside, Weight: 1, Container: c.ID, Unhealthy: unhealthy(c)})
		details = append(details, at.describe(c))
	}
	if len(v.places) == 0 {
		v.err = failed
	}
	if len(found) == 0 {
		details = append(details, fmt.Sprintf("Compose project %s has no %s at the moment", s.project(), s.target.Host))
	}
	v.detail = s.summary(details)
	return v
}

// summary is short however large a service is.
func (s scene) summary(details []string) string {
	const most = 4
	if more := len(details) - most; more > 0 {
		details = append(details[:most:most], fmt.Sprintf("%d more", more))
	}
	if text := s.believed(); text != "" {
		details = append(details, text)
	}
	if s.stranger {
		details = append(details, "the engine does not know the container that Legate runs in, so these addresses may be out of reach")
	}
	return strings.Join(details, "; ")
}

// believed says whose labels are taken for its own without knowing.
func (s scene) believed() string {
	for _, c := range s.candidates() {
		if !c.Judged() && (c.Project != "" || len(c.Services) > 0) {
			return "labels of container " + c.Name + " are believed that may be its image's: " + spec.WithHint(c.Doubt)
		}
	}
	return ""
}

// unhealthy is why the engine finds a running container unwell; "": it does
// not.
func unhealthy(c *docker.Container) string {
	switch {
	case c.State == docker.StatePaused:
		return "Docker: container is paused"
	case c.Health == "unhealthy" || c.Health == "starting":
		return "Docker: health check: " + c.Health
	}
	return ""
}

// project is the Compose project whose containers come first: that of who asks,
// or else our own; "": none.
func (s scene) project() string {
	if s.target.Home != "" {
		return s.target.Home
	}
	if s.own == nil {
		return ""
	}
	return s.own.Project
}

// candidates are who answers to the name, wherever: ourselves never, which
// would be a loop.
func (s scene) candidates() []*docker.Container {
	return slices.DeleteFunc(slices.Clone(s.named), func(c *docker.Container) bool {
		return s.own != nil && c.ID == s.own.ID || s.target.Project != "" && c.Project != s.target.Project
	})
}

// pick returns those of one project. Stopped ones count: traffic must not go
// to another project's container of the same name while ours is restarted.
func (s scene) pick() (found []*docker.Container, ours bool, err error) {
	all := s.candidates()
	if s.target.Project == "" && s.project() != "" {
		if own := s.of(all, s.project()); len(own) > 0 || s.ours {
			return own, true, nil
		}
	}
	var projects []string
	for _, c := range all {
		if !slices.Contains(projects, c.Project) {
			projects = append(projects, c.Project)
		}
	}
	switch len(projects) {
	case 0:
		return nil, false, s.notFound()
	case 1:
		return s.of(all, projects[0]), false, nil
	}
	return nil, false, s.ambiguous(all, projects)
}

// of returns a project's containers that have the name in the strongest way:
// a service before the name of a container, that before a label, and an id
// last.
func (s scene) of(all []*docker.Container, project string) (found []*docker.Container) {
	best := 0
	for _, c := range all {
		if c.Project != project {
			continue
		}
		r := rank(c, s.target.Host)
		if r < best || len(found) == 0 {
			found, best = nil, r
		}
		if r == best {
			found = append(found, c)
		}
	}
	return found
}

func rank(c *docker.Container, name string) int {
	switch {
	case c.Service == name:
		return 0
	case c.Name == name:
		return 1
	case slices.Contains(c.Services, name):
		return 2
	}
	return 3
}

func (s scene) ambiguous(all []*docker.Container, projects []string) error {
	name := s.target.Host
	slices.Sort(projects)
	var texts []string
	hint := "name the project"
	for _, p := range projects {
		if p != "" {
			texts = append(texts, "docker:"+p+"/"+name)
			continue
		}
		texts = append(texts, "container "+s.of(all, "")[0].Name+" outside any project")
		hint += ", or give the one outside any project another name with docker rename or a label legate.service"
	}
	return spec.Errorf(hint, "docker:%s may mean %s", name, strings.Join(texts, ", "))
}

func (s scene) notFound() error {
	hint := "see docker ps -a"
	if near := near(s.target, s.all()); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	of := ""
	if s.target.Project != "" {
		of = " of Compose project " + s.target.Project
	}
	but := ""
	if c := s.notBelieved(); c != nil && c.Doubt != nil {
		but, hint = fmt.Sprintf("; container %s may be, which is not known: %v", c.Name, c.Doubt), spec.HintOf(c.Doubt)
	} else if c != nil {
		but, hint = "; container "+c.Name+" has that from its image alone", "set the label on the container itself"
	}
	return spec.Errorf(hint, "no container, Compose service or legate.service label%s is named %q%s", of, s.target.Host, but)
}

// notBelieved is a container that would have the name if labels of its image
// counted; nil: there is none.
func (s scene) notBelieved() *docker.Container {
	for _, c := range s.unnamed {
		if !c.Pending() && (s.target.Project == "" || c.Labels["com.docker.compose.project"] == s.target.Project) {
			return c
		}
	}
	return nil
}

// place is where a container can be reached.
type place struct {
	life
	network string // "": on the loopback address
	inside  bool   // only from inside its own network
}

func (p place) describe(c *docker.Container) string {
	text := "container " + c.Name + " on network " + p.network
	if p.network == "" {
		text = "container " + c.Name + " on loopback"
	}
	if p.inside {
		text = "container " + c.Name + " from inside its own network"
	}
	if len(c.Ports) == 0 {
		return text
	}
	var ports []string
	for _, port := range c.Ports {
		ports = append(ports, fmt.Sprintf("%d/%s", port.Number, port.Protocol))
	}
	return text + ", exposes " + strings.Join(ports, " ")
}

// goesOn tells whether what was connected to a container still may be: it lives
// as it did, and can be reached, at another address only if it lost that one.
func (s scene) goesOn(id string, told life) bool {
	c := s.get(id)
	if c == nil || !c.Runs() {
		return false
	}
	at, err := s.locate(c)
	if err != nil || at.start != told.start || at.behind != told.behind {
		return false
	}
	if at.addr == told.addr {
		return true
	}
	of, err := s.landlord(c)
	return err == nil && slices.ContainsFunc(of.Networks, func(n docker.Network) bool { return address(n) == told.addr })
}

// landlord is the container whose network another one lives in: itself mostly.
func (s scene) landlord(c *docker.Container) (*docker.Container, error) {
	const deepest = 4
	of := c
	for range deepest {
		id := of.Landlord()
		if id == "" {
			return of, nil
		}
		next := s.get(id)
		if next == nil || !next.Runs() {
			return nil, spec.Errorf("start the container that it was started with --network container: of, then it", "container %s lives in the network of one that does not run (%.12s)", c.Name, id)
		}
		of = next
	}
	return nil, spec.Errorf("give it a network of its own", "container %s lives in a network at third hand", c.Name)
}

// outlook is the container whose network we live in; nil: the host's.
func (s scene) outlook() *docker.Container {
	if s.own == nil {
		return nil
	}
	of, err := s.landlord(s.own)
	if err != nil {
		return s.own
	}
	if of.Mode == "host" {
		return nil
	}
	return of
}

// locate finds the address at which we reach a container that runs.
func (s scene) locate(c *docker.Container) (place, error) {
	of, err := s.landlord(c)
	if err != nil {
		return place{}, err
	}
	we := s.outlook()
	p := place{life: life{start: c.Start, behind: of.Start}}
	switch {
	case we != nil && we.ID == of.ID, we == nil && of.Mode == "host":
		p.addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		return p, nil
	case of.Mode == "host":
		return p, spec.Errorf("run Legate with --network host, or name an address of the host instead of the container",
			"container %s is in the host's network, and Legate is not", c.Name)
	}
	told := s.told[c.ID]
	if told.start != p.start || told.behind != p.behind {
		told.addr = netip.Addr{}
	}
	n, err := s.network(c, of, we, told.addr)
	switch {
	case err == nil:
		p.network, p.addr = n.Name, address(n)
	case s.enters:
		p.inside, p.addr = true, ownAddress(of, told.addr)
	}
	if !p.addr.IsValid() {
		return p, err
	}
	return p, nil
}

// ownAddress is the one at which a container reaches itself as others would.
// What listens on loopback is for nobody else, and only what was started with
// no network at all listens there for want of another place.
func ownAddress(c *docker.Container, best netip.Addr) netip.Addr {
	for _, n := range bestFirst(c.Networks, best) {
		if a := address(n); a.IsValid() {
			return a
		}
	}
	if c.Mode == "none" {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.Addr{}
}

func address(n docker.Network) netip.Addr {
	if n.V4.IsValid() {
		return n.V4
	}
	return n.V6
}

// bestFirst has the network with that address, if there is one, come first.
func bestFirst(list []docker.Network, best netip.Addr) []docker.Network {
	i := slices.IndexFunc(list, func(n docker.Network) bool { return best.IsValid() && address(n) == best })
	if i <= 0 {
		return list
	}
	return append([]docker.Network{list[i]}, slices.Delete(slices.Clone(list), i, i+1)...)
}

// network is the one with the best address, else the first by name, in which
// both are; from the host, that the container is in.
func (s scene) network(c, of, we *docker.Container, best netip.Addr) (docker.Network, error) {
	var names []string
	for _, n := range bestFirst(of.Networks, best) {
		if !address(n).IsValid() || we == nil && n.Name == "ingress" {
			continue
		}
		if we == nil || slices.ContainsFunc(we.Networks, n.Same) {
			return n, nil
		}
		names = append(names, n.Name)
	}
	switch {
	case of.Mode == "none" && len(of.Networks) == 0:
		return docker.Network{}, spec.Errorf("docker network connect NETWORK "+of.Name, "container %s has no network", c.Name)
	case len(names) == 0:
		return docker.Network{}, spec.Errorf("docker network connect NETWORK "+of.Name, "container %s has no address in any network", c.Name)
	}
	return docker.Network{}, spec.Errorf("docker network connect "+names[0]+" "+we.Name,
		"container %s shares no network with this one (%s): it is in %s", c.Name, we.Name, strings.Join(names, ", "))
}
