package spec

import (
	"slices"
	"strings"
)

// The labels that say which Compose service a container is of.
const (
	labelProject = "com.docker.compose.project"
	labelService = "com.docker.compose.service"
	labelNumber  = "com.docker.compose.container-number"
	labelOneOff  = "com.docker.compose.oneoff"
)

// labelServes is what a server names its services by; also with .PORT behind it.
const labelServes = "legate.service"

// Container is who a container is: what a caller or a server is known by when
// it is decided what it may do. Make it with the labels as the engine lists
// them, and then call Own. Its maps and slices are never changed.
type Container struct {
	ID    string // 64 hexadecimal digits
	Name  string // without a slash; "": not known
	Image string // as the engine names it
	// Project and Service are of Compose, as Own finds them; "": none.
	Project, Service string
	Labels           map[string]string
	// Networks are the ids of the networks that it is in. Leave out those that
	// connect nobody: none, and the ingress of a swarm.
	Networks []string
	// Exposed are the ports that its image or its owner says it serves.
	Exposed []Port
	// Lodges is the id of the container whose network namespace it lives in
	// (--network container:ID); "": it has its own, or the host's.
	Lodges string
	// OnHost says that it lives in the host's network namespace.
	OnHost bool
}

// Port is a port of a container.
type Port struct {
	Protocol Protocol // TCP or UDP
	Number   uint16
}

// String is the name of the container, or the beginning of its id as docker ps
// prints it.
func (c Container) String() string {
	if c.Name != "" {
		return c.Name
	}
	return c.ID[:min(12, len(c.ID))]
}

// Namespace is where its links listen, as Listen has it.
func (c Container) Namespace() string {
	switch {
	case c.OnHost:
		return ""
	case c.Lodges != "":
		return c.Lodges
	}
	return c.ID
}

// Own gives the container as its owner wants it: without the labels that it
// has from its image, given the image's, unless they are trusted. Who publishes
// an image does not decide what a container of it may reach, or who it is.
//
// Project and Service are never taken from the image alone: Compose writes both
// on the images that it builds, and so every container of such an image has
// them, also one that somebody else starts. What Compose starts itself has a
// number, and no image that it builds does.
func (c Container) Own(image map[string]string, trust bool) Container {
	isOwn := func(label string) bool {
		value, has := c.Labels[label]
		inherited, inImage := image[label]
		return has && (!inImage || inherited != value)
	}
	byCompose := isOwn(labelNumber)
	labels := map[string]string{}
	for label, value := range c.Labels {
		if trust || isOwn(label) || byCompose && (label == labelProject || label == labelService) {
			labels[label] = value
		}
	}
	c.Project, c.Service = "", ""
	if byCompose || isOwn(labelProject) {
		c.Project = c.Labels[labelProject]
	}
	once := strings.EqualFold(c.Labels[labelOneOff], "true") // of docker compose run, which serves nobody
	if c.Project != "" && !once && (byCompose || isOwn(labelService)) {
		c.Service = c.Labels[labelService]
	}
	c.Labels = labels
	return c
}

// describe says who it is in an error.
func (c Container) describe() string {
	switch {
	case c.Project == "":
		return "container " + c.String() + " of no Compose project"
	case c.Service == "":
		return "container " + c.String() + " of Compose project " + short(c.Project)
	}
	return "container " + c.String() + " (" + short(c.Project) + "/" + short(c.Service) + ")"
}

// serves tells whether a label of the container claims the service.
func (c Container) serves(service string) bool {
	for label, value := range c.Labels {
		if value == service && (label == labelServes || strings.HasPrefix(label, labelServes+".")) {
			return true
		}
	}
	return false
}

// Holders tells who may serve under a name that labels legate.service claim.
// The servers are in the order in which they were created: the first that
// claims the name holds it for its Compose project, or for those of none, and
// those of others are refused. Both keep that order.
func Holders(service string, servers []Container) (holders, refused []Container) {
	for _, c := range servers {
		switch {
		case service == "" || !c.serves(service):
		case len(holders) == 0 || holders[0].Project == c.Project:
			holders = append(holders, c)
		default:
			refused = append(refused, c)
		}
	}
	return holders, refused
}

// NotHolder is the error of a container that Holders refused.
func NotHolder(service string, c, holder Container) error {
	return Errorf("give it another name, or name it with its project: docker:"+short(orElse(c.Project, "PROJECT"))+"/"+short(orElse(c.Service, "NAME")),
		"service %s of %s is held by %s", short(service), c.describe(), holder.describe())
}

// sharesNetwork tells whether two containers are in one network.
func (c Container) sharesNetwork(other Container) bool {
	return slices.ContainsFunc(c.Networks, func(n string) bool { return n != "" && slices.Contains(other.Networks, n) })
}
