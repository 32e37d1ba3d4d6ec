package spec

import "strings"

// String writes the link so that ParseLink makes the same link of it, but for
// its Text and Origin, when no default address is given. A password is written as
// ***, which ParseLink refuses rather than takes for the password.
func (l Link) String() string {
	var b strings.Builder
	listen := l.Listen.String()
	named, err := parseListening(l.Name)
	if err == nil && !named.several() && (Listen{Protocol: named.protocols[0], Host: named.host, Port: uint16(named.low), Path: named.path}) == l.Listen {
		listen = l.Name
	}
	b.WriteString(listen + "=" + FormatTargets(l.Targets))
	for _, opt := range optionTable() {
		if value := opt.shown(l.Options); value != opt.get(DefaultOptions()) {
			b.WriteString(";" + opt.Name + "=" + value)
		}
	}
	if l.Name != listen && checkOptionName(l.Name) == nil {
		b.WriteString(";" + optionName + "=" + l.Name)
	}
	return b.String()
}

// FormatTargets writes targets as they stand in a link, with commas.
func FormatTargets(targets []Target) string {
	list := make([]string, len(targets))
	for i, t := range targets {
		list[i] = t.String()
	}
	return strings.Join(list, ",")
}
