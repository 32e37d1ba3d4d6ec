package spec

import (
	"slices"
	"strings"
)

// optionForce is the option that only labels have.
const optionForce = "force"

// optionPasswordFile is the one option that reads a file of ours.
const optionPasswordFile = "check-password-file"

// linkLabels is the labels of one link.
type linkLabels struct {
	target label // that names it
	wish   *wish
	c      Container
	o      LabelConfig
	force  bool
}

// link makes the link that listens on an address. Its errors name the label
// that is wrong.
func (p *linkLabels) link(at Listen) (Link, error) {
	head, settings, _ := strings.Cut(p.target.value, ";")
	on := &listening{
		text: listenText(at), named: true, host: at.Host, low: int(at.Port), high: int(at.Port),
		protocols: []Protocol{at.Protocol}, namespace: at.Namespace,
	}
	raw, err := p.parseTargets(head)
	if err != nil {
		return Link{}, p.target.in(err)
	}
	name, options, set, err := p.settings(settings, on)
	if err != nil {
		return Link{}, err
	}
	base := Link{Name: name, Options: fitCheck(options, set), Origin: OriginLabels}
	links, err := expand(on, raw, base, "")
	if err == nil {
		err = p.check(links[0])
	}
	if err != nil {
		return Link{}, p.target.in(err)
	}
	links[0].Name = p.c.String() + "/" + links[0].Name
	return links[0], nil
}

// parseTargets reads the targets of a label and looks bare words up where the
// operator wishes.
func (p *linkLabels) parseTargets(text string) ([]rawTarget, error) {
	before := p.target.prefix()
	if text == "" {
		return nil, Errorf("write "+before+"TARGET, or remove it", "it has no target")
	}
	if err := checkText(text); err != nil {
		return nil, err
	}
	raw, err := parseTargetList(text, place{before: before})
	if err != nil {
		return nil, err
	}
	return p.o.fromSources(raw, p.c), nil
}

// fromSources replaces bare words by targets of the sources, and tells Docker
// who asks.
func (o LabelConfig) fromSources(raw []rawTarget, c Container) []rawTarget {
	sources := o.Sources
	if len(sources) == 0 {
		sources = []string{SourceDocker}
	}
	var all []rawTarget
	for _, t := range raw {
		if !t.bare() {
			all = append(all, t)
			continue
		}
		for rank, source := range sources {
			one := t
			one.target = wordIn(source, t.target.Host)
			one.target.Rank = uint8(rank)
			all = append(all, one)
		}
	}
	for i, t := range all {
		if t.target.Source == SourceDocker && t.target.Project == "" {
			all[i].target.Home = c.Project
		}
	}
	return all
}

// bare tells a target that does not say which source it is of. localhost is
// no name in any.
func (t rawTarget) bare() bool {
	return t.target.Source == SourceDNS && t.low == 0 && isWord(t.text) && !isLocalhost(t.target.Host)
}

// ContainerTargets reads the TARGET of a swap of a link of the container, as
// ContainerLinks would in a label, and does not ask the policy. The error is a
// *UserError.
func ContainerTargets(text string, c Container, l Link, o LabelConfig) ([]Target, error) {
	targets, err := parseTargets(text, l, func(raw []rawTarget) []rawTarget { return o.fromSources(raw, c) })
	if err != nil {
		return nil, inText("target", text, err)
	}
	return targets, nil
}

// settings reads the options: those behind semicolons in the value, and those
// that have labels of their own.
func (p *linkLabels) settings(text string, on *listening) (name string, o Options, set map[string]bool, err error) {
	base := p.o.Options
	if check, found := p.wish.options["check"]; found {
		base = withoutForeignCheck(base, "check="+check.value)
	}
	if text, err = p.cutForce(text); err == nil {
		name, o, set, err = linkOptions(text, base, on)
	}
	if err == nil && set[optionPasswordFile] {
		err = foreignFile()
	}
	if err != nil {
		return "", o, nil, p.target.in(err)
	}
	for _, option := range p.wish.ordered() {
		own := p.wish.options[option]
		if set[option] {
			err = Errorf("remove one of them", "option %s is in label %q as well", option, cutShort(p.target.written()))
		} else {
			err = p.option(option, own.value, &o, &name, on)
		}
		if err != nil {
			return "", o, nil, own.in(err)
		}
		set[option] = true
	}
	if err = checkNeeded(o, set); err != nil {
		err = p.target.in(err)
	}
	return name, o, set, err
}

func (p *linkLabels) option(key, value string, o *Options, name *string, on *listening) (err error) {
	switch key {
	case optionForce:
		p.force, err = ParseSwitch(value)
	case optionName:
		*name, err = value, checkOptionName(value)
	case optionPasswordFile:
		err = foreignFile()
	default:
		if err = SetOption(o, key, value); err == nil {
			err = checkUse(key, *o, on)
		}
	}
	return err
}

// foreignFile keeps a container from having a file of the host sent to a
// server that it names, as a password.
func foreignFile() error {
	return Errorf("use check-password", "option %s is not for labels: the file would be one of the host", optionPasswordFile)
}

// cutForce takes the option that no other links have out of the others.
func (p *linkLabels) cutForce(settings string) (string, error) {
	_, seen := p.wish.options[optionForce]
	var rest []string
	for _, setting := range strings.Split(settings, ";") {
		value, found := strings.CutPrefix(setting, optionForce+"=")
		if !found {
			rest = append(rest, setting)
			continue
		}
		if seen {
			return "", Errorf("write it once", "option %s is set twice", optionForce)
		}
		var err error
		if p.force, err = ParseSwitch(value); err != nil {
			return "", InOption(optionForce, err)
		}
		seen = true
	}
	return strings.Join(rest, ";"), nil
}

// check holds what is asked of links from labels beyond the rules for all.
func (p *linkLabels) check(l Link) error {
	for _, t := range l.Targets {
		if err := p.o.Policy.MayAsk(p.c, t); err != nil {
			return err
		}
	}
	served := Port{Protocol: l.Listen.Protocol, Number: l.Listen.Port}
	if p.force || !slices.Contains(p.c.Exposed, served) {
		return nil
	}
	listen := listenText(l.Listen)
	return Errorf("listen on another port, or, if it does not serve there, add the label "+labelStrong+"."+listen+"."+optionForce+"=true",
		"container %s exposes port %s: the application itself serves there, and could not listen any more", p.c, listen)
}

// isLocalhost tells the names that RFC 6761, section 6.3, keeps for loopback
// addresses.
func isLocalhost(host string) bool {
	host = strings.ToLower(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
