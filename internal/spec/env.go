package spec

import (
	"fmt"
	"sort"
	"strings"
)

// linkVariable is one <NAME>_PORT_<port>_TCP=tcp://h:p, as Docker set it in a
// linking container and as people set it by hand.
type linkVariable struct {
	name     string // of the variable
	alias    string // the <NAME>
	value    string
	port     string
	protocol Protocol
}

// text is the variable as it stands in the environment.
func (v linkVariable) text() string { return v.name + "=" + v.value }

// EnvLinks makes a link of each variable <NAME>_PORT_<port>_TCP=tcp://h:p and
// _UDP=udp://h:p. Where the host entries show that h is the linked container
// <NAME>, the link leads to the container's alias and so follows it to another
// address. What is wrong with one variable is a warning and does not touch the
// others; the error is only for variables of which no link is left.
func EnvLinks(environ []string, o ParseConfig) (links []Link, warnings []string, err error) {
	if o.Origin == "" {
		o.Origin = OriginEnvironment
	}
	var failed []string
	made := map[Listen]linkVariable{}
	bad := map[Listen]bool{}
	for _, v := range linkVariables(environ) {
		if !strings.Contains(v.value, "://") {
			warnings = append(warnings, fmt.Sprintf("variable %q is not a link (one has a value like tcp://10.0.0.1:6379)", v.text()))
			continue
		}
		l, err := v.link(o)
		if err != nil {
			failed = append(failed, explain(inText("variable", v.text(), err)))
			continue
		}
		first, twice := made[l.Listen]
		if !twice {
			made[l.Listen] = v
			links = append(links, l)
			continue
		}
		if first.value != v.value {
			bad[l.Listen] = true
			failed = append(failed, fmt.Sprintf("variables %q and %q have different targets for one port (remove one of them)", first.text(), v.text()))
		}
	}
	links = without(links, bad)
	warnings = append(warnings, failed...)
	if len(links) == 0 {
		err = nothingLeft(failed)
	}
	return links, append(warnings, WarnUnused(links, o.Options)...), err
}

// LinkVariables names the variables that EnvLinks would make links of.
func LinkVariables(environ []string) []string {
	var names []string
	for _, v := range linkVariables(environ) {
		if strings.Contains(v.value, "://") {
			names = append(names, v.name)
		}
	}
	return names
}

func without(links []Link, bad map[Listen]bool) []Link {
	var good []Link
	for _, l := range links {
		if !bad[l.Listen] {
			good = append(good, l)
		}
	}
	return good
}

// linkVariables finds them in the order of their names: the order of an
// environment says nothing, and messages must not change between starts.
func linkVariables(environ []string) []linkVariable {
	names := map[string]bool{}
	for _, entry := range environ {
		name, _, _ := strings.Cut(entry, "=")
		names[name] = true
	}
	var found []linkVariable
	for _, entry := range environ {
		if v, ok := parseVariable(entry); ok && !inherited(v.alias, names) {
			found = append(found, v)
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].name < found[j].name })
	return found
}

func parseVariable(entry string) (v linkVariable, ok bool) {
	v.name, v.value, _ = strings.Cut(entry, "=")
	rest, tcp := strings.CutSuffix(v.name, "_TCP")
	v.protocol = TCP
	if !tcp {
		if rest, ok = strings.CutSuffix(v.name, "_UDP"); !ok {
			return v, false
		}
		v.protocol = UDP
	}
	i := strings.LastIndex(rest, "_PORT_")
	if i < 1 {
		return v, false
	}
	v.alias, v.port = rest[:i], rest[i+len("_PORT_"):]
	return v, isDigits(v.port)
}

// inherited tells the variables <ALIAS>_ENV_<NAME>..., in which Docker repeats
// what was set in the linked container. That container's links are not ours: a
// chain of two ambassadors would see one port with two targets. Docker names
// the alias itself in <ALIAS>_NAME.
func inherited(alias string, names map[string]bool) bool {
	for rest, offset := alias, 0; ; {
		i := strings.Index(rest, "_ENV_")
		if i < 0 {
			return false
		}
		if names[alias[:offset+i]+"_NAME"] {
			return true
		}
		offset += i + 1
		rest = alias[offset:]
	}
}

func (v linkVariable) link(o ParseConfig) (Link, error) {
	if err := checkText(v.value); err != nil {
		return Link{}, err
	}
	port, err := parsePort(v.port)
	if err != nil {
		return Link{}, err
	}
	scheme, address, _ := strings.Cut(v.value, "://")
	if Protocol(scheme) != v.protocol {
		return Link{}, Errorf("write "+string(v.protocol)+"://"+address, "its value is not a %s:// address", v.protocol)
	}
	raw, err := parseTarget(v.value, place{alone: true})
	if err != nil {
		return Link{}, err
	}
	if raw.low == 0 || raw.low != raw.high {
		return Link{}, Errorf("write "+scheme+"://"+raw.target.Host+":PORT", "its value does not name one port")
	}
	raw.follow(v.alias, o.Hosts)
	on := &listening{text: v.port, low: port, high: port, protocols: []Protocol{v.protocol}}
	if v.protocol == UDP {
		on.text += "/udp"
	}
	links, err := expand(on, []rawTarget{raw}, Link{Options: fitCheck(o.Options, nil), Origin: o.Origin, Text: v.text()}, o.Bind)
	if err != nil {
		return Link{}, err
	}
	return links[0], nil
}

// follow puts the alias in the place of the address that the linked container
// had when the variable was set. Docker keeps the alias in /etc/hosts right
// when that container is restarted with another address; the variable stays.
func (t *rawTarget) follow(alias string, hosts []HostEntry) {
	for _, e := range hosts {
		if e.Own || e.Addr.String() != t.target.Host || strings.ToUpper(strings.ReplaceAll(e.Alias, "-", "_")) != alias {
			continue
		}
		if name, source, err := parseHost(e.Alias); err == nil && source == SourceDNS {
			t.target.Host, t.target.Source = name, source
			return
		}
	}
}
