package spec

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Policy says what containers may have links to. The zero value allows what a
// container could be allowed to reach by itself, but for the addresses of this
// host, which it does not know. It is not changed once it is in use.
type Policy struct {
	// AllowTargets are what containers may have in spite of the rules below, in
	// the forms of CheckAllowTarget. Other texts match nothing.
	AllowTargets []string
	// IsHost tells whether an address, never one of IPv4 in IPv6, is one of this
	// host's own at the moment; nil: of none is that known.
	IsHost func(netip.Addr) bool
}

// CheckAllowTarget tells what keeps a text from being one of AllowTargets:
//
//	ADDRESS[:PORT], PREFIX/BITS, localhost[:PORT]
//	unix:/PATH, file:PATH, consul://SERVER/PATH, etcd://SERVER/PATH
//
// The first line is compared with addresses, written or looked up. The second
// is compared with the target as status shows it; with a * behind its last
// slash or colon it stands for all that begin so. The error is a *UserError.
func CheckAllowTarget(text string) error {
	_, err := parseAllowed(text)
	return err
}

// allowed is one of AllowTargets.
type allowed struct {
	prefixes []netip.Prefix
	port     uint16 // 0: any
	text     string // of a target that is no address, without its *
	all      bool   // that begin with text
}

func parseAllowed(text string) (allowed, error) {
	for _, kind := range []string{"unix:", "file:", "consul://", "etcd://"} {
		if strings.HasPrefix(text, kind) {
			return parseAllowedText(text)
		}
	}
	if strings.Contains(text, "/") {
		p, err := parsePrefix(text)
		if err != nil {
			return allowed{}, inText("target to allow", cutShort(text), err)
		}
		return allowed{prefixes: []netip.Prefix{p}}, nil
	}
	a, err := parseAllowedAddress(text)
	if err != nil {
		err = Errorf("write ADDRESS, ADDRESS:PORT, PREFIX/BITS, localhost, or a target that begins with unix:, file:, consul:// or etcd://",
			"%q cannot be a target to allow", cutShort(text))
	}
	return a, err
}

// parseAllowedText keeps the * behind a slash or a colon: consul://10.0.0.5*
// would be another host's as well.
func parseAllowedText(text string) (allowed, error) {
	rest, all := strings.CutSuffix(text, "*")
	if strings.Contains(rest, "*") || all && !strings.HasSuffix(rest, "/") && !strings.HasSuffix(rest, ":") {
		return allowed{}, Errorf("write it behind the last slash, such as unix:/run/app/*", "target to allow %q has a * that stands for nothing", cutShort(text))
	}
	if all {
		return allowed{text: rest, all: true}, nil
	}
	raw, err := parseTarget(text, place{alone: true})
	if err != nil {
		return allowed{}, inText("target to allow", text, err)
	}
	return allowed{text: raw.target.String()}, nil
}

func parseAllowedAddress(text string) (a allowed, err error) {
	host, ports := text, ""
	if _, err := netip.ParseAddr(text); err != nil {
		if host, ports, err = splitHostPort(text, place{alone: true}); err != nil {
			return a, err
		}
	}
	if ports != "" {
		port, err := parsePort(ports)
		if err != nil {
			return a, err
		}
		a.port = uint16(port)
	}
	if host == "localhost" {
		host = "127.0.0.1"
		a.prefixes = []netip.Prefix{netip.PrefixFrom(netip.IPv6Loopback(), 128)}
	}
	p, err := parsePrefix(host)
	a.prefixes = append(a.prefixes, p)
	return a, err
}

func (a allowed) hasAddr(at netip.AddrPort) bool {
	return (a.port == 0 || a.port == at.Port()) &&
		slices.ContainsFunc(a.prefixes, func(p netip.Prefix) bool { return p.Contains(at.Addr()) })
}

func (a allowed) hasText(text string) bool {
	return a.text != "" && (a.text == text || a.all && strings.HasPrefix(text, a.text))
}

// allows tells whether one of AllowTargets has it.
func (p Policy) allows(has func(allowed) bool) bool {
	return slices.ContainsFunc(p.AllowTargets, func(text string) bool {
		a, err := parseAllowed(text)
		return err == nil && has(a)
	})
}

// ErrUndecided is of what is denied only until it is known whether it may be.
var ErrUndecided = errors.New("not known yet")

// MayAsk tells what keeps a container from naming a target. What a name leads
// to is known only later: MayReach is asked then. The error is a *UserError.
func (p Policy) MayAsk(c Container, t Target) error {
	what := ""
	switch {
	case t.Protocol == Unix:
		what = "a socket file of this host"
	case t.Source == SourceFile:
		what = "a file of this host"
	case (t.Source == SourceConsulKV || t.Source == SourceEtcd) && t.Host != "":
		what = "a server of its own to ask"
	case (t.Source == SourceDNS || t.Source == SourceName) && isLocalhost(t.Host): // whatever a name server makes of it
		return p.mayReach(c, joinHostPort("localhost", t.Port), netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), t.Port), false)
	case t.Source == SourceFixed:
		addr, err := netip.ParseAddr(t.Host)
		if err != nil {
			return Errorf("", "target %q has no address", t.Host)
		}
		at := netip.AddrPortFrom(addr, t.Port)
		return p.mayReach(c, at.String(), at, false)
	}
	if what == "" || p.allows(func(a allowed) bool { return a.hasText(t.String()) }) {
		return nil
	}
	return mayNot(c, t.String(), what)
}

// MayReach tells what keeps a container's link from an endpoint that one of
// its targets led to. byOperator says that the source is one that the operator
// chose, which may name addresses of this host: it is where ports are published.
// The error is a *UserError.
func (p Policy) MayReach(c Container, e Endpoint, byOperator bool) error {
	if e.Protocol != Unix {
		return p.mayReach(c, netip.AddrPortFrom(e.Addr.Addr().WithZone(""), e.Addr.Port()).String(), e.Addr, byOperator)
	}
	text := Target{Source: SourceFixed, Protocol: Unix, Path: e.Path}.String()
	if p.allows(func(a allowed) bool { return a.hasText(text) }) {
		return nil
	}
	return mayNot(c, text, "a socket file of this host")
}

func (p Policy) mayReach(c Container, text string, at netip.AddrPort, byOperator bool) error {
	// Prefixes contain no address with a zone and no IPv4 address in IPv6.
	at = netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
	what := p.foreign(at.Addr(), byOperator)
	if what == "" || p.allows(func(a allowed) bool { return a.hasAddr(at) }) {
		return nil
	}
	return mayNot(c, text, what)
}

// foreign is what makes an address none that a container could be allowed to
// reach by itself; "": nothing.
func (p Policy) foreign(a netip.Addr, byOperator bool) string {
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.Is4() && a.As4()[0] == 0: // Linux takes 0.0.0.0 for loopback
		return "a loopback address of this host"
	case a.IsLinkLocalUnicast():
		return "a link-local address"
	case !a.IsValid(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "not the address of one server"
	case !byOperator && p.IsHost != nil && p.IsHost(a):
		return "an address of this host"
	}
	return ""
}

func mayNot(c Container, target, what string) error {
	return Errorf("if it should, start the agent with --allow-target="+target, "container %s may not have a link to %s: it is %s", c, short(target), what)
}

// labelAllow is the label of a server that says who may have links to it.
const labelAllow = "legate.allow"

// Allows tells what keeps a server from accepting a caller. Without the label
// legate.allow a server accepts the callers of its own Compose project and of
// the networks that it is in. With it, it accepts those that the label names
// and nobody else:
//
//	legate.allow=RULE[,RULE...]   or nothing: nobody
//
//	*                 every container
//	PROJECT           those of that Compose project
//	PROJECT/SERVICE   those of that service of it
//	KEY=VALUE         those with that label; VALUE * stands for any
//	KEY               the same as KEY=*, for a KEY with a dot before any slash
//
// What is wrong with one rule does not touch the others. Both containers are as
// Own gives them, or an image decides. The error names the rule and is a
// *UserError.
func Allows(server, caller Container) error {
	text, has := server.Labels[labelAllow]
	switch {
	case server.ID != "" && server.ID == caller.ID:
		return nil
	case !has:
		return allowsByDefault(server, caller)
	}
	rules, err := parseAllow(text)
	if slices.ContainsFunc(rules, func(r allowRule) bool { return r.has(caller) }) {
		return nil
	}
	if err != nil {
		return allowLabel(server, err)
	}
	hint := "add a rule for it to the label " + labelAllow + " of " + server.String()
	if caller.Project != "" {
		hint += ", such as " + short(caller.Project)
	}
	return Errorf(hint, "%s does not accept %s: its label %s=%s does not name it", server.describe(), caller.describe(), labelAllow, short(text))
}

func allowsByDefault(server, caller Container) error {
	if server.Project != "" && server.Project == caller.Project || server.sharesNetwork(caller) {
		return nil
	}
	rule := orElse(caller.Project, "*")
	return Errorf("set the label "+labelAllow+"="+short(rule)+" on "+server.String()+", or put both in one network",
		"%s does not accept %s: without a label %s it accepts its own Compose project and its networks", server.describe(), caller.describe(), labelAllow)
}

// CheckAllow tells what is wrong with the label legate.allow of a server. The
// error is a *UserError.
func CheckAllow(server Container) error {
	if _, err := parseAllow(server.Labels[labelAllow]); err != nil {
		return allowLabel(server, err)
	}
	return nil
}

func allowLabel(server Container, err error) error {
	return about("container "+server.String()+": label "+strconv.Quote(cutShort(labelAllow+"="+server.Labels[labelAllow])), err)
}

// allowRule is one rule of legate.allow.
type allowRule struct {
	all              bool
	project, service string // service "": all of the project
	key, value       string // of a label, key "": none
}

// parseAllow gives the rules that are good, and what is wrong with the first
// of the others.
func parseAllow(text string) (rules []allowRule, err error) {
	if strings.Trim(text, " ") == "" {
		return nil, nil
	}
	if len(text) > labelLimit {
		return nil, Errorf("write less", "it has %d bytes, and a label takes %d", len(text), labelLimit)
	}
	for _, one := range strings.Split(text, ",") {
		r, bad := parseAllowRule(strings.Trim(one, " "))
		switch {
		case bad == nil:
			rules = append(rules, r)
		case err == nil:
			err = bad
		}
	}
	return rules, err
}

func parseAllowRule(text string) (allowRule, error) {
	if text == "*" {
		return allowRule{all: true}, nil
	}
	key, value, isLabel := strings.Cut(text, "=")
	project, service, slash := strings.Cut(text, "/")
	switch {
	case strings.ContainsFunc(text, notInText) || text == "" || isLabel && key == "":
	case isLabel:
		return allowRule{key: key, value: value}, nil
	case strings.Contains(project, "."):
		return allowRule{key: text, value: "*"}, nil
	case project != "" && !strings.ContainsFunc(project, notInName) && slash == (service != "") &&
		!strings.ContainsFunc(service, func(r rune) bool { return notInName(r) && r != '.' }):
		return allowRule{project: project, service: service}, nil
	}
	return allowRule{}, Errorf("write PROJECT, PROJECT/SERVICE, KEY=VALUE or *", "%q is not a rule", cutShort(text))
}

func (r allowRule) has(c Container) bool {
	switch {
	case r.all:
		return true
	case r.key != "":
		value, has := c.Labels[r.key]
		return has && (r.value == "*" || r.value == value)
	}
	return r.project == c.Project && (r.service == "" || r.service == c.Service)
}
