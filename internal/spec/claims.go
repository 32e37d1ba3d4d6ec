package spec

import "net/netip"

// claims are what the links of one command have taken.
type claims struct {
	byPort map[Listen][]Link // keyed without Host
	byName map[string]Link
	byEnd  map[Listen][]Link // by what they lead to, keyed without Host
}

func newClaims() claims {
	return claims{byPort: map[Listen][]Link{}, byName: map[string]Link{}, byEnd: map[Listen][]Link{}}
}

// add refuses a link that wants what another one has.
func (c claims) add(l Link) error {
	key := l.Listen
	key.Host = ""
	for _, other := range c.byPort[key] {
		if overlap(other.Listen, l.Listen) {
			return inText("link", l.Text, Errorf("give one of them another LISTEN",
				"link %q already listens on %s", other.Text, other.Listen))
		}
	}
	if other, taken := c.byName[l.Name]; taken {
		return inText("link", l.Text, Errorf("give one of them another name",
			"link %q is already called %q", other.Text, l.Name))
	}
	if err := c.checkLoops(l); err != nil {
		return err
	}
	c.byPort[key] = append(c.byPort[key], l)
	c.byName[l.Name] = l
	for _, t := range l.Targets {
		c.byEnd[t.end()] = append(c.byEnd[t.end()], l)
	}
	return nil
}

// checkLoops refuses links that lead to one another: an endpoint that is a
// listener of the same process is never connected to.
func (c claims) checkLoops(l Link) error {
	for _, t := range l.Targets {
		for _, other := range c.byPort[t.end()] {
			if loops(other.Listen, t) {
				return leadsTo(l, t, other)
			}
		}
	}
	key := l.Listen
	key.Host = ""
	for _, other := range c.byEnd[key] {
		for _, t := range other.Targets {
			if loops(l.Listen, t) {
				return leadsTo(other, t, l)
			}
		}
	}
	return nil
}

func leadsTo(from Link, t Target, to Link) error {
	return inText("link", from.Text, Errorf("write the address of the server itself",
		"would loop: target %s is where link %q listens", t, to.Text))
}

// end is the target as the key of a listener on it, which is in our namespace
// as the connections to targets are.
func (t Target) end() Listen { return Listen{Protocol: t.Protocol, Port: t.Port, Path: t.Path} }

// overlap tells whether the kernel would refuse b while a listens.
func overlap(a, b Listen) bool {
	if a.Namespace != b.Namespace || a.Protocol != b.Protocol || a.Port != b.Port || a.Path != b.Path {
		return false
	}
	return a.Protocol == Unix || covers(a.Host, b.Host) || covers(b.Host, a.Host)
}

// covers tells whether a socket on a is in the way of one on b.
func covers(a, b string) bool {
	if a == b || a == "" {
		return true
	}
	if a == "localhost" {
		return b == "127.0.0.1" || b == "::1"
	}
	any, err := netip.ParseAddr(a)
	if err != nil || !any.IsUnspecified() {
		return false
	}
	other, err := netip.ParseAddr(b)
	return err != nil || other.Is4() == any.Is4()
}
