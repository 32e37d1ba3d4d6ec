package spec

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ParseConfig is what links take from outside their own text. The zero value
// is not useful: Options are literal, so start from DefaultOptions.
type ParseConfig struct {
	Options Options // of every link that does not set its own
	// Bind is the address of a LISTEN that names none: an IP address,
	// "localhost", or "" and "*" for every address.
	Bind   string
	Origin Origin // "": OriginArguments; EnvLinks: OriginEnvironment
	// Hosts are the link entries of /etc/hosts. Only EnvLinks reads them.
	Hosts []HostEntry
}

// CommandError says that an argument is a word that can only be a command.
type CommandError struct{ Word string }

// Error names the word.
func (e *CommandError) Error() string { return e.Unwrap().Error() }

// Unwrap gives the same as a UserError, for callers that suggest no command.
func (e *CommandError) Unwrap() error {
	return Errorf("a link is LISTEN=TARGET, for example 6379="+e.Word+":6379",
		"%q is neither a command nor a link", e.Word)
}

// ParseLinks reads the positional arguments of one command: links, or the two
// arguments HOST NUMBER that dokku/ambassador took. The error is a *UserError,
// or a *CommandError for a word that cannot be a link.
func ParseLinks(args []string, o ParseConfig) ([]Link, error) {
	if link, ok, err := parseHostNumber(args, o); ok {
		if err == nil {
			err = checkUnused(link, o.Options)
		}
		return link, err
	}
	var all []Link
	taken := newClaims()
	for _, arg := range args {
		if isWord(arg) && !isPortText(arg) {
			return nil, &CommandError{Word: arg}
		}
		links, err := ParseLink(arg, o)
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			if err := taken.add(l); err != nil {
				return nil, err
			}
			all = append(all, l)
		}
	}
	if len(all) > 0 {
		if err := checkUnused(all, o.Options); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// LinkList reads links separated by white space, the form of LEGATE_LINKS.
// What is wrong with one link is a warning and does not touch the others; the
// error is only for a list of which nothing is left.
func LinkList(text string, o ParseConfig) (links []Link, warnings []string, err error) {
	if o.Origin == "" {
		o.Origin = OriginEnvironment
	}
	taken := newClaims()
	for _, word := range strings.Fields(text) {
		parsed, err := ParseLink(word, o)
		if err != nil {
			warnings = append(warnings, "LEGATE_LINKS: "+explain(err))
			continue
		}
		for _, l := range parsed {
			if err := taken.add(l); err != nil {
				warnings = append(warnings, "LEGATE_LINKS: "+explain(err))
				continue
			}
			links = append(links, l)
		}
	}
	if len(links) == 0 {
		err = nothingLeft(warnings)
		if err == nil {
			err = Errorf("write LEGATE_LINKS=6379=redis:6379", "LEGATE_LINKS names no link")
		}
	}
	return links, append(warnings, WarnUnused(links, o.Options)...), err
}

// ParseLink reads one LINK: [LISTEN=]TARGET[,TARGET...][;option=value...]. A
// range and tcp+udp make several links. The error is a *UserError.
func ParseLink(text string, o ParseConfig) ([]Link, error) {
	links, err := parseLink(text, o)
	if err != nil {
		return nil, inText("link", text, err)
	}
	return links, nil
}

func parseLink(text string, o ParseConfig) ([]Link, error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	head, settings, _ := strings.Cut(text, ";")
	if strings.Contains(text, ";") && settings == "" {
		return nil, Errorf("write ;option=value after it or remove the semicolon", "nothing follows %q", ";")
	}
	on, targetText, err := splitLink(head)
	if err != nil {
		return nil, err
	}
	at := place{}
	if on != nil {
		at.before = on.text + "="
	}
	raw, err := parseTargetList(targetText, at)
	if err != nil {
		return nil, err
	}
	if on == nil {
		if on, err = sharedListen(head, raw); err != nil {
			return nil, err
		}
	}
	name, options, set, err := linkOptions(settings, o.Options, on)
	if err != nil {
		return nil, err
	}
	if err := checkNeeded(options, set); err != nil {
		return nil, err
	}
	base := Link{Name: name, Options: fitCheck(options, set), Origin: o.Origin, Text: redact(text)}
	return expand(on, raw, base, o.Bind)
}

// splitLink finds the LISTEN; it is nil where the link has none. An = that
// stands after something else belongs to a target.
func splitLink(head string) (on *listening, targets string, err error) {
	left, right, found := strings.Cut(head, "=")
	if !found {
		return nil, head, nil
	}
	on, err = parseListening(left)
	if err == nil {
		return on, right, nil
	}
	if kind, _ := cutSource(head); kind != "" && kind != "unix" {
		return nil, head, nil
	}
	if strings.Contains(left, ",") {
		each := strings.Split(left, ",")
		for i, one := range each {
			each[i] = one + "=" + right
		}
		return nil, "", Errorf("write one link for each: "+strings.Join(each, " "),
			"LISTEN %q has a comma, and a link listens on one address", left)
	}
	return nil, "", err
}

// sharedListen is the LISTEN of a link that has none: the port of its targets.
func sharedListen(head string, raw []rawTarget) (*listening, error) {
	first := raw[0]
	if !slices.ContainsFunc(raw, func(t rawTarget) bool { return !t.legacy() }) {
		return &listening{text: strconv.Itoa(legacyPort), low: legacyPort, high: legacyPort, protocols: []Protocol{TCP}}, nil
	}
	for _, t := range raw {
		if t.low == 0 {
			return nil, Errorf("write the port to listen on first: 6379="+head,
				"target %q has no port, so there is none to listen on", t.text)
		}
		if t.low != first.low || t.high != first.high {
			return nil, Errorf("write the port to listen on first: "+portRange(first.low, first.high)+"="+head,
				"the targets %q and %q have different ports, so which one to listen on is not clear", first.text, t.text)
		}
		if t.target.Protocol != first.target.Protocol {
			return nil, Errorf("make two links of it, for example "+first.text+" and "+t.text,
				"the targets %q and %q have different protocols", first.text, t.text)
		}
	}
	on := &listening{low: first.low, high: first.high, protocols: []Protocol{TCP}}
	on.text = portRange(on.low, on.high)
	if first.target.Protocol == UDP {
		on.protocols, on.text = []Protocol{UDP}, on.text+"/udp"
	}
	return on, nil
}

// legacy tells a target for which ambassadord chose the port to listen on.
func (t rawTarget) legacy() bool {
	switch t.target.Source {
	case SourceName, SourceConsulKV, SourceEtcd:
		return t.low == 0 && t.target.Protocol != UDP
	}
	return false
}

// expand makes the links of every protocol and port; base holds what they
// have in common, its Name empty or the option's value.
func expand(on *listening, raw []rawTarget, base Link, bind string) ([]Link, error) {
	host, err := ParseBind(bind)
	if err != nil {
		return nil, err
	}
	if on.named {
		host = on.host
	}
	if base.Origin == "" {
		base.Origin = OriginArguments
	}
	var links []Link
	for _, p := range on.protocols {
		options := fitListen(base.Options, p)
		if err := validateOptions(options, p); err != nil {
			return nil, err
		}
		for port := on.low; port <= on.high; port++ {
			l := base
			l.Options = options
			l.Listen = Listen{Protocol: p, Host: host, Port: uint16(port), Path: on.path, Namespace: on.namespace}
			if p == Unix {
				l.Listen.Host = ""
			}
			l.Name = on.linkName(base.Name, l.Listen)
			if l.Targets, err = resolve(raw, on, l.Listen); err != nil {
				return nil, err
			}
			if err := validateAddresses(l); err != nil {
				return nil, err
			}
			links = append(links, l)
		}
	}
	return links, nil
}

// resolve gives the targets of one listening address.
func resolve(raw []rawTarget, on *listening, l Listen) ([]Target, error) {
	targets := make([]Target, 0, len(raw))
	for _, r := range raw {
		t, err := r.resolve(on, l)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

// ParseTargets reads the TARGET of a swap. The link's LISTEN gives the port
// and the protocol that the text leaves out. The error is a *UserError.
func ParseTargets(text string, l Link) ([]Target, error) {
	targets, err := parseTargets(text, l, func(raw []rawTarget) []rawTarget { return raw })
	if err != nil {
		return nil, inText("target", text, err)
	}
	return targets, nil
}

// parseTargets asks lookUp for what the words without a source mean.
func parseTargets(text string, l Link, lookUp func([]rawTarget) []rawTarget) ([]Target, error) {
	if text == "" {
		return nil, Errorf("write HOST:PORT", "it is empty")
	}
	if err := checkText(text); err != nil {
		return nil, err
	}
	if strings.Contains(text, ";") {
		return nil, Errorf("write only TARGET[,TARGET...]", "a swap changes the target and no options")
	}
	on := &listening{
		text: l.Listen.String(), path: l.Listen.Path, protocols: []Protocol{l.Listen.Protocol},
		low: int(l.Listen.Port), high: int(l.Listen.Port),
	}
	raw, err := parseTargetList(text, place{alone: true})
	if err != nil {
		return nil, err
	}
	if l.Targets, err = resolve(lookUp(raw), on, l.Listen); err != nil {
		return nil, err
	}
	for _, t := range l.Targets {
		if matchProtocols(l.Listen, t) != nil {
			return nil, Errorf("a swap keeps the LISTEN: write a target that takes what it carries",
				"target %s does not speak the protocol of LISTEN %s", t, l.Listen)
		}
	}
	return l.Targets, validateTargets(l)
}

// parseHostNumber reads dokku's form; ok says whether it was that form.
func parseHostNumber(args []string, o ParseConfig) (links []Link, ok bool, err error) {
	if len(args) != 2 || !isDigits(args[1]) || isDigits(args[0]) {
		return nil, false, nil
	}
	host, source, err := parseHost(unbracket(args[0]))
	if err != nil {
		return nil, false, nil
	}
	text := args[0] + " " + args[1]
	port, err := parsePort(args[1])
	if err != nil {
		return nil, true, inText("link", text, err)
	}
	on := &listening{text: args[1], low: port, high: port, protocols: []Protocol{TCP}}
	raw := []rawTarget{{text: args[0], target: Target{Source: source, Host: host}, low: port, high: port}}
	links, err = expand(on, raw, Link{Options: fitCheck(o.Options, nil), Origin: o.Origin, Text: text}, o.Bind)
	if err != nil {
		err = inText("link", text, err)
	}
	return links, true, err
}

// checkText finds what no link has in any place, before it confuses the
// message about some other part.
func checkText(text string) error {
	if text == "" {
		return Errorf("write LISTEN=TARGET, for example 6379=redis:6379", "it is empty")
	}
	if !utf8.ValidString(text) {
		return Errorf("write it in UTF-8", "it is not text")
	}
	for _, r := range text {
		if unicode.IsSpace(r) {
			return Errorf("remove it, or give each link as an argument of its own; in a path a space is %20",
				"it has white space in it")
		}
		if !unicode.IsPrint(r) {
			return Errorf("remove it", "it has the unprintable character %q in it", r)
		}
	}
	return nil
}

func isWord(s string) bool { return s != "" && !strings.ContainsAny(s, ".:/=,") }

func isDigits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

func portRange(low, high int) string {
	if low == high {
		return strconv.Itoa(low)
	}
	return strconv.Itoa(low) + "-" + strconv.Itoa(high)
}

// inText says in which text the error is.
func inText(kind, text string, err error) error {
	return about(kind+" "+strconv.Quote(redact(text)), err)
}

// about puts what an error is about in front of it and keeps its hint.
func about(what string, err error) error {
	var u *UserError
	if !errors.As(err, &u) {
		return err
	}
	return &UserError{What: what + ": " + u.What, Hint: u.Hint}
}

// explain gives the error with its hint in one line, for a warning.
func explain(err error) string {
	var u *UserError
	if errors.As(err, &u) && u.Hint != "" {
		return u.What + " (" + u.Hint + ")"
	}
	return err.Error()
}

// nothingLeft turns the warnings of a source that gave no link into an error.
func nothingLeft(warnings []string) error {
	if len(warnings) == 0 {
		return nil
	}
	return Errorf("", "%s", strings.Join(warnings, "; "))
}
