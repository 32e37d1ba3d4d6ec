package spec

import (
	"net/netip"
	"strings"
	"unicode"
)

// Validate tells what keeps a link from being used, whoever made it. The
// error is a *UserError.
func Validate(l Link) error {
	if err := validateAddresses(l); err != nil {
		return err
	}
	return validateOptions(l.Options, l.Listen.Protocol)
}

// validateAddresses is everything but the options, which the links of a long
// range have in common.
func validateAddresses(l Link) error {
	if l.Name == "" || strings.ContainsFunc(l.Name, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return Errorf("names have no spaces", "%q cannot be the name of a link", l.Name)
	}
	if err := validateListen(l.Listen); err != nil {
		return err
	}
	return validateTargets(l)
}

func validateListen(l Listen) error {
	switch l.Protocol {
	case Unix:
		if l.Host != "" || l.Port != 0 || l.Namespace != "" {
			return Errorf("", "unix listener %s has a host, a port or a namespace", l)
		}
		return checkPath(l.Path)
	case TCP, UDP:
	default:
		return Errorf("", "%q is not a protocol to listen with", string(l.Protocol))
	}
	if l.Port == 0 || l.Path != "" {
		return Errorf("", "listener %s has no port", l)
	}
	host, err := listenHost(l.Host)
	if err == nil && host != l.Host {
		err = Errorf("write "+host, "address %q is not in its shortest form", l.Host)
	}
	return err
}

func validateTargets(l Link) error {
	if len(l.Targets) == 0 {
		return Errorf("", "it has no target")
	}
	seen := map[Target]bool{}
	for _, t := range l.Targets {
		if err := validateTarget(t); err != nil {
			return err
		}
		if err := matchProtocols(l.Listen, t); err != nil {
			return err
		}
		if loops(l.Listen, t) {
			return wouldLoop(t)
		}
		// Nothing is gained by it: there are no weights, so another host was meant.
		if seen[t] {
			return Errorf("write each target once", "target %s is written twice", t)
		}
		seen[t] = true
	}
	return nil
}

func validateTarget(t Target) error {
	switch {
	case t.Protocol == Unix:
		if t.Source != SourceFixed || t.Host != "" || t.Port != 0 {
			return Errorf("", "unix target %s has a host or a port", t)
		}
		return checkPath(t.Path)
	case t.Protocol != TCP && t.Protocol != UDP:
		return Errorf("", "%q is not a protocol of targets", string(t.Protocol))
	case t.Source != SourceFixed && t.Source != SourceDNS && t.Source != SourceName:
		return validateSource(t)
	case t.Port == 0 || t.Path != "":
		return Errorf("", "target %s has no port", t)
	}
	host, source, err := parseHost(t.Host)
	if t.Source == SourceName && source == SourceDNS && strings.Contains(host, ".") {
		source = SourceName
	}
	if err == nil && (host != t.Host || source != t.Source) {
		err = Errorf("", "target %s is not a %s one in its shortest form", t, t.Source)
	}
	return err
}

// matchProtocols keeps streams with streams and datagrams with datagrams.
func matchProtocols(l Listen, t Target) error {
	if (l.Protocol == UDP) == (t.Protocol == UDP) {
		return nil
	}
	plain := strings.TrimSuffix(t.String(), "/udp")
	switch {
	case l.Protocol == Unix:
		return Errorf("listen on a UDP port: PORT/udp="+plain, "a unix socket carries a stream, and target %s speaks UDP", t)
	case t.Protocol == Unix:
		return Errorf("listen with TCP: "+strings.TrimSuffix(l.String(), "/udp")+"="+plain,
			"LISTEN %s speaks UDP, and a unix socket carries a stream", l)
	case t.Protocol == UDP:
		return Errorf("write "+l.String()+"/udp="+plain, "LISTEN %s speaks TCP, and target %s speaks UDP", l, t)
	}
	return Errorf("write "+l.String()+"="+plain, "LISTEN %s speaks UDP, and target tcp://%s speaks TCP", l, t)
}

func wouldLoop(t Target) error {
	hint := "write the address of the server; inside a container 127.0.0.1 and localhost are the container itself"
	if t.Protocol == Unix {
		hint = "write the path of the server's socket"
	}
	return Errorf(hint, "would loop: target %s is the link's own listener", t)
}

// loops tells a target that leads straight back to the listener. What a name
// leads to is known only later. We connect from our own namespace, so nothing
// leads to a listener in another.
func loops(l Listen, t Target) bool {
	if l.Namespace != "" || l.Protocol != t.Protocol || l.Port != t.Port || l.Path != t.Path {
		return false
	}
	if l.Protocol == Unix {
		return t.Source == SourceFixed
	}
	if t.Source != SourceFixed && t.Source != SourceDNS {
		return false
	}
	if t.Host == "localhost" {
		return l.Host == "" || l.Host == "localhost"
	}
	a, err := netip.ParseAddr(t.Host)
	if err != nil {
		return false
	}
	if l.Host == "" || l.Host == "0.0.0.0" || l.Host == "::" {
		return a.IsLoopback() && covers(l.Host, t.Host)
	}
	return covers(l.Host, t.Host)
}

func validateOptions(o Options, p Protocol) error {
	var copied Options
	for _, opt := range optionTable() {
		if err := opt.set(&copied, opt.get(o)); err != nil {
			return InOption(opt.Name, err)
		}
	}
	if copied != o {
		return Errorf("", "options %+v have a value that cannot be written", o)
	}
	if err := checkNeeded(o, changed(o)); err != nil {
		return err
	}
	return validateTogether(o, p)
}
