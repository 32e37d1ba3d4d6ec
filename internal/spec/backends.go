package spec

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// OmniPort is where the ambassador of omni mode listens.
const OmniPort = legacyPort

// backendWord begins the variables by which ambassadord's clients name what
// they want at a port: BACKEND_6379=redis.service.consul.
const backendWord = "BACKEND_"

// switchedSpace begins the Namespace of links without sockets of their own.
const switchedSpace = "switched "

// SwitchedListen is how a link without a socket of its own listens: it has the
// clients of one container, in one life of it, that want a port of a listener
// which many links share.
func SwitchedListen(container string, life int, port uint16) Listen {
	return Listen{Protocol: TCP, Port: port, Namespace: switchedSpace + container + " " + strconv.Itoa(life)}
}

// Switched tells whether it is a SwitchedListen.
func (l Listen) Switched() bool { return strings.HasPrefix(l.Namespace, switchedSpace) }

// BackendName is the variable for a port.
func BackendName(port string) string { return backendWord + port }

// IsBackend tells a variable, as NAME=VALUE, that makes a link in omni mode.
// Applications have others that begin so: BACKEND_URL.
func IsBackend(variable string) bool {
	name, _, found := strings.Cut(variable, "=")
	number, backend := strings.CutPrefix(name, backendWord)
	return found && backend && isDigits(number)
}

// Image is what a container has from its image alone.
type Image struct {
	Labels    map[string]string
	Variables []string // NAME=VALUE
}

// BackendLinks makes the links of a container in omni mode, given its
// variables: those that BACKEND_PORT=TARGET[,TARGET...][;option=value...] asks
// for, with any TARGET and option that labels have, and for other ports those
// that its labels ask for. Variables that it has from its image are treated as
// labels are. The links have the Listen of SwitchedListen, and are in the order
// of ports; problems are of variables only.
func BackendLinks(c Container, life int, variables []string, image Image, o LabelConfig) (links []Link, problems []LinkProblem) {
	labels, _ := ContainerLinks(c, image.Labels, o)
	own := c.Own(image.Labels, o.TrustImageLabels)
	o.Options.Check.Password, o.Options.Check.PasswordFile = "", ""
	b := backends{c: own, life: life, o: o}
	for _, v := range backendVariables(variables, image.Variables, o.TrustImageLabels) {
		b.add(v)
	}
	for _, l := range labels {
		if l.Listen.Protocol == TCP && !b.has(l.Listen.Port) {
			l.Name = b.name(l.Listen.Port)
			b.take(l, l.Listen.Port)
		}
	}
	slices.SortFunc(b.links, func(x, y Link) int { return compareListens(x.Listen, y.Listen) })
	return b.links, b.problems
}

// backendVariables are the container's own ones, in the order of what they
// are named. Of two with one name the first is what getenv finds.
func backendVariables(all, image []string, trust bool) []string {
	var own []string
	for _, v := range all {
		if IsBackend(v) && (trust || !slices.Contains(image, v)) {
			own = append(own, v)
		}
	}
	name := func(v string) string { n, _, _ := strings.Cut(v, "="); return n }
	slices.SortStableFunc(own, func(x, y string) int { return cmp.Compare(name(x), name(y)) })
	return slices.CompactFunc(own, func(x, y string) bool { return name(x) == name(y) })
}

type backends struct {
	c        Container
	life     int
	o        LabelConfig
	links    []Link
	problems []LinkProblem
}

func (b *backends) has(port uint16) bool {
	return slices.ContainsFunc(b.links, func(l Link) bool { return l.Listen.Port == port })
}

func (b *backends) add(variable string) {
	name, value, _ := strings.Cut(variable, "=")
	v := label{key: name, value: value, variable: true}
	port, err := parsePort(strings.TrimPrefix(name, backendWord))
	switch {
	case err != nil:
		err = v.in(err)
	case len(variable) > labelLimit:
		err = v.in(Errorf("write less", "it has %d bytes, and a link takes %d", len(variable), labelLimit))
	case len(b.links) == linksLimit:
		err = v.in(Errorf("use fewer", "the container has more than %d links", linksLimit))
	}
	var l Link
	if err == nil {
		p := linkLabels{target: v, wish: &wish{targets: []label{v}}, c: b.c, o: b.o, force: true} // it serves that port elsewhere
		l, err = p.link(Listen{Protocol: TCP, Port: uint16(port), Namespace: switchedSpace})
	}
	if err != nil {
		b.fail(v, err)
		return
	}
	if l.Name == b.c.String()+"/"+listenText(l.Listen) {
		l.Name = b.name(uint16(port))
	}
	l.Origin, l.Text = OriginBackends, printable(v.written())
	b.take(l, uint16(port))
}

// name is not that of the link at the container's own localhost.
func (b *backends) name(port uint16) string {
	return b.c.String() + "/" + BackendName(strconv.Itoa(int(port)))
}

func (b *backends) take(l Link, port uint16) {
	l.Listen = SwitchedListen(b.c.ID, b.life, port)
	if len(b.links) < linksLimit {
		b.links = append(b.links, l)
	}
}

func (b *backends) fail(v label, err error) {
	if len(b.problems) < problemsLimit {
		b.problems = append(b.problems, LinkProblem{Name: b.c.String() + "/" + short(v.key), Text: short(v.written()), Err: err})
	}
}
