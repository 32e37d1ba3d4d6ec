package docker

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"legate/internal/spec"
)

// The states of a container that somebody may ask for; there are more.
const (
	StateRunning = string(container.StateRunning)
	StatePaused  = string(container.StatePaused)
	StateExited  = string(container.StateExited)
	StateCreated = string(container.StateCreated)
)

// labelNamed says what a container serves; also with .PORT behind it.
const labelNamed = "legate.service"

// Container is what the engine says of one container. It is never changed: a
// change makes another one.
type Container struct {
	ID      string // 64 digits
	Name    string // without a slash
	Image   string // as it was named at the start
	ImageID string // sha256: and 64 digits
	// Labels are as the engine lists them: with those of the image.
	Labels map[string]string
	// From is what it has from its image; nil: that is not known. Doubt is why
	// then; nil: the engine is being asked.
	From  *Image
	Doubt error
	// Project, Service and Services are what the container itself says, without
	// its image: nothing before it is Judged. Trusting has the others.
	Project string // of Compose; "": none
	// Service of Compose; "" for containers of `docker compose run`, too,
	// which serve nobody.
	Service  string
	Services []string // the values of the labels legate.service, sorted
	words    []string // what it would answer to if its image were trusted
	State    string   // running, paused, exited, ...
	Health   string   // healthy, unhealthy, starting; "": it has no check, or does not run
	// Mode is its network mode as it was started with: a network's name, host,
	// none, or container:ID.
	Mode     string
	Networks []Network // sorted by name; none while it does not run
	Joined   []string  // the names of its networks, sorted; also before it runs
	Ports    []Port    // the exposed and the published ones, sorted; none while it does not run
	// Exposed are the ports that its configuration exposes, sorted; nil: nobody
	// told the table, which the list does not.
	Exposed []Port
	// Start counts its starts as far as they were seen: where it differs, the
	// processes are others, whatever the addresses are.
	Start int
}

// Network is a container's place in a network.
type Network struct {
	Name, ID string
	Endpoint string     // the id of the attachment, another one for each
	V4, V6   netip.Addr // invalid where it has none
}

// Runs tells whether the container has its addresses.
func (c *Container) Runs() bool { return c.State == StateRunning || c.State == StatePaused }

// Judged tells whether it is known which labels are its own. Who has none has
// none from its image either.
func (c *Container) Judged() bool { return c.From != nil || len(c.Labels) == 0 }

// Pending tells whether that will be known in a moment.
func (c *Container) Pending() bool { return !c.Judged() && c.Doubt == nil }

// Trusting is the container with what its image says of it, too.
func (c *Container) Trusting() *Container {
	trusting := *c
	var image map[string]string
	if c.From != nil {
		image = c.From.Labels
	}
	trusting.say(image, true)
	return &trusting
}

// say sets what the labels say, given those of the image.
func (c *Container) say(image map[string]string, trust bool) {
	own := spec.Container{Labels: c.Labels}.Own(image, trust)
	c.Project, c.Service, c.Services = own.Project, own.Service, nil
	for label, value := range own.Labels {
		if value != "" && (label == labelNamed || strings.HasPrefix(label, labelNamed+".")) {
			c.Services = append(c.Services, value)
		}
	}
	slices.Sort(c.Services)
	c.Services = slices.Compact(c.Services)
}

// inherit sets what its image says, or why that is not known.
func (c *Container) inherit(from *Image, doubt error) {
	c.From, c.Doubt = from, doubt
	c.Project, c.Service, c.Services = "", "", nil
	switch {
	case from != nil:
		c.say(from.Labels, false)
	case c.Judged():
		c.say(nil, false)
	}
}

// Keys are the words that the container answers to: its names, and its id in
// full and as docker ps prints it.
func (c *Container) Keys() []string {
	keys := append([]string{c.ID, c.ID[:min(12, len(c.ID))], c.Name, c.Service}, c.Services...)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if keys[0] == "" {
		keys = keys[1:]
	}
	return keys
}

// lodgersOf is what the mode of a container in another one's network begins
// with.
const lodgersOf = "container:"

// Landlord is the id of the container whose network this one lives in; "": it
// does in none.
func (c *Container) Landlord() string {
	id, lodges := strings.CutPrefix(c.Mode, lodgersOf)
	if !lodges {
		return ""
	}
	return id
}

// indexed is what the table finds it by. That does not depend on what is known
// of its image: who looks for a word is told when that is.
func (c *Container) indexed() []string {
	keys := append(c.Keys(), c.words...)
	if c.Landlord() != "" {
		keys = append(keys, c.Mode)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// containerOf reads an entry of the engine's list.
func containerOf(s container.Summary) *Container {
	c := &Container{ID: s.ID, Image: s.Image, ImageID: s.ImageID, Labels: s.Labels, State: string(s.State), Mode: s.HostConfig.NetworkMode}
	c.Name = ownName(s.Names)
	c.words = c.Trusting().Keys()
	if s.NetworkSettings != nil {
		c.Joined = slices.Sorted(maps.Keys(s.NetworkSettings.Networks))
	}
	if !c.Runs() {
		return c
	}
	c.Health = health(s)
	if s.NetworkSettings != nil {
		c.Networks = networks(s.NetworkSettings.Networks)
	}
	for _, p := range s.Ports {
		switch p.Type {
		case "tcp":
			c.Ports = append(c.Ports, Port{spec.TCP, p.PrivatePort})
		case "udp":
			c.Ports = append(c.Ports, Port{spec.UDP, p.PrivatePort})
		}
	}
	slices.SortFunc(c.Ports, Port.Compare)
	c.Ports = slices.Compact(c.Ports)
	return c
}

// ownName is the container's name. Older engines also list the names that
// others link to it by, /other/alias.
func ownName(names []string) string {
	for _, name := range names {
		if name = strings.TrimPrefix(name, "/"); !strings.Contains(name, "/") {
			return name
		}
	}
	return ""
}

// health reads it out of the status text, where engines before 29 have it:
// "Up 5 minutes (unhealthy)", "(health: starting)".
func health(s container.Summary) string {
	if s.Health != nil {
		if s.Health.Status == container.NoHealthcheck {
			return ""
		}
		return string(s.Health.Status)
	}
	_, text, _ := strings.Cut(s.Status, "(")
	text = strings.TrimPrefix(strings.TrimSuffix(text, ")"), "health: ")
	switch h := container.HealthStatus(text); h {
	case container.Healthy, container.Unhealthy, container.Starting:
		return text
	}
	return ""
}

func networks(settings map[string]*network.EndpointSettings) []Network {
	var all []Network
	for name, s := range settings {
		if s != nil {
			all = append(all, Network{Name: name, ID: s.NetworkID, Endpoint: s.EndpointID, V4: s.IPAddress, V6: s.GlobalIPv6Address})
		}
	}
	slices.SortFunc(all, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// same tells whether nothing changed.
func (c *Container) same(other *Container) bool {
	return c.Name == other.Name && c.Image == other.Image && c.State == other.State && c.Health == other.Health &&
		c.Mode == other.Mode && c.Start == other.Start && c.From == other.From && sameError(c.Doubt, other.Doubt) && maps.Equal(c.Labels, other.Labels) &&
		slices.Equal(c.Networks, other.Networks) && slices.Equal(c.Joined, other.Joined) && slices.Equal(c.Ports, other.Ports) &&
		(c.Exposed == nil) == (other.Exposed == nil) && slices.Equal(c.Exposed, other.Exposed)
}

// exposes tells whether it is known already that the container exposes these.
func (c *Container) exposes(ports []Port) bool {
	known := slices.Concat(c.Ports, c.Exposed)
	if c.From != nil {
		known = append(known, c.From.Ports...)
	}
	return !slices.ContainsFunc(ports, func(p Port) bool { return !slices.Contains(known, p) })
}

func sameError(a, b error) bool {
	return (a == nil) == (b == nil) && (a == nil || spec.WithHint(a) == spec.WithHint(b))
}

// restarted tells whether the container, which runs in both records, was
// started anew between them: every attachment to a network is another one
// then. One that has none, as in the host's network, does not tell.
func restarted(before, now *Container) bool {
	if len(before.Networks) == 0 || len(now.Networks) == 0 {
		return false
	}
	for _, n := range now.Networks {
		if slices.ContainsFunc(before.Networks, func(o Network) bool { return o.Endpoint == n.Endpoint }) {
			return false
		}
	}
	return true
}

// Same tells whether two attachments are to the same network.
func (n Network) Same(other Network) bool {
	if n.ID == "" || other.ID == "" {
		return n.Name == other.Name
	}
	return n.ID == other.ID
}
