package spec

import (
	"net/netip"
	"strings"
)

// rawTarget is one TARGET as written, before LISTEN's port and protocol fill
// what it leaves out.
type rawTarget struct {
	text      string
	target    Target // without a port; Protocol "": LISTEN's
	low, high int    // both 0: LISTEN's
}

func isPortText(s string) bool {
	s, _, _ = strings.Cut(s, "/")
	low, high, ranged := strings.Cut(s, "-")
	return isDigits(low) && (!ranged || isDigits(high))
}

// place is where a target stands: what is hinted at depends on it.
type place struct {
	before string // LISTEN= in front of it
	alone  bool   // no LISTEN can be written, as in a swap
}

// parseTargetList reads TARGET[,TARGET...].
func parseTargetList(text string, at place) ([]rawTarget, error) {
	if text == "" {
		return nil, Errorf("write "+at.before+"HOST:PORT", "it has no target")
	}
	var list []rawTarget
	for _, one := range strings.Split(text, ",") {
		if one == "" {
			return nil, Errorf("remove the comma, or write a target on both sides of it", "one of its targets is empty")
		}
		t, err := parseTarget(one, at)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return list, nil
}

func parseTarget(text string, at place) (rawTarget, error) {
	t := rawTarget{text: text}
	if kind, rest := cutSource(text); kind != "" {
		return t, t.parseSource(kind, rest)
	}
	if left, _, found := strings.Cut(text, "="); found {
		if _, err := parseListening(left); err == nil {
			hint := "separate links with a space, not with a comma"
			if at.alone {
				hint = "write only the TARGET, without LISTEN="
			}
			return t, Errorf(hint, "target %q is a link of its own", text)
		}
		return t, Errorf("in a path write = as %3D", "target %q has a = in it", text)
	}
	address, err := t.cutProtocol()
	if err != nil {
		return t, err
	}
	host, ports, err := splitHostPort(address, at)
	if err != nil {
		return t, err
	}
	if t.target.Host, t.target.Source, err = parseHost(host); err != nil {
		return t, err
	}
	if ports != "" {
		t.low, t.high, err = parsePorts(ports)
	} else if t.target.Source == SourceDNS && strings.Contains(t.target.Host, ".") {
		// Of a name without a dot there are no SRV records: a resolver would
		// ask for it below every domain of its search list.
		t.target.Source = SourceName
	}
	return t, err
}

// cutProtocol takes tcp:// and udp:// or /tcp and /udp off.
func (t *rawTarget) cutProtocol() (address string, err error) {
	scheme, rest, found := strings.Cut(t.text, "://")
	if !found {
		address, suffix, found := strings.Cut(t.text, "/")
		if !found {
			return address, nil
		}
		t.target.Protocol = Protocol(suffix)
		return address, t.checkSuffix(address, suffix)
	}
	switch t.target.Protocol = Protocol(scheme); t.target.Protocol {
	case TCP, UDP:
	default:
		return "", noScheme(t.text, scheme, rest)
	}
	if address, path, found := strings.Cut(rest, "/"); found {
		return "", Errorf("write "+scheme+"://"+address, "target %q has %q after its address", t.text, "/"+path)
	}
	return rest, nil
}

func (t *rawTarget) checkSuffix(address, suffix string) error {
	switch suffix {
	case "tcp", "udp":
		return nil
	case "tcp+udp":
		port := address[strings.LastIndexByte(address, ':')+1:]
		if !isDigits(port) {
			port = "PORT"
		}
		return Errorf("write it after the port to listen on: "+port+"/tcp+udp="+address,
			"target %q has two protocols", t.text)
	}
	return Errorf("write /tcp or /udp after the port, or unix:/PATH for a socket file",
		"target %q has %q after its address, which is not a protocol", t.text, "/"+suffix)
}

// noScheme explains http://h and the like, where people mean the host.
func noScheme(text, scheme, rest string) error {
	host, _, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	ports := map[string]string{
		"http": "80", "ws": "80", "https": "443", "wss": "443", "redis": "6379", "rediss": "6379",
		"postgres": "5432", "postgresql": "5432", "mysql": "3306", "amqp": "5672", "mongodb": "27017",
	}
	if port := ports[scheme]; port != "" && !strings.Contains(host, ":") {
		host += ":" + port
	}
	if host == "" {
		host = "HOST:PORT"
	}
	return Errorf("write "+host+"; what it speaks passes through unchanged",
		"target %q has the scheme %s, and links carry plain tcp or udp", redact(text), scheme)
}

// splitHostPort takes HOST[:PORTS] apart.
func splitHostPort(text string, at place) (host, ports string, err error) {
	if strings.HasPrefix(text, "[") {
		return splitBrackets(text)
	}
	if text == "" {
		return "", "", Errorf("write "+at.before+"HOST:PORT", "a target has no host")
	}
	switch colons := strings.Count(text, ":"); {
	case colons == 0 && isPortText(text):
		return "", "", portOnly(text, at)
	case colons == 0:
		return text, "", nil
	case looksLikeIPv6(text):
		return "", "", unbracketed(text)
	}
	if link := dockerOrder(text); link != "" && at.before == "" {
		if at.alone {
			_, link, _ = strings.Cut(link, "=")
		}
		return "", "", Errorf("write "+link, "%q is in Docker's order", text)
	}
	host, ports, _ = strings.Cut(text, ":")
	switch {
	case strings.Contains(ports, ":"):
		return "", "", Errorf("write HOST:PORT", "target %q has too many colons", text)
	case host == "":
		return "", "", Errorf("write "+at.before+"HOST:"+ports, "target %q has no host", text)
	case ports == "":
		return "", "", Errorf("write a port after the colon, or leave it out for the listening one", "target %q has no port after the colon", text)
	}
	return host, ports, nil
}

func portOnly(text string, at place) error {
	if at.before == "" && !at.alone {
		return Errorf("write "+text+"=HOST:PORT", "it is only a port, without a target")
	}
	return Errorf("write "+at.before+"HOST:"+text, "target %q is only a port: which host is meant?", text)
}

func splitBrackets(text string) (host, ports string, err error) {
	host, rest, found := strings.Cut(text[1:], "]")
	ports, colon := strings.CutPrefix(rest, ":")
	switch a, bad := netip.ParseAddr(host); {
	case !found, rest != "" && !colon:
		return "", "", Errorf("write [ADDRESS]:PORT", "target %q has brackets that do not match", text)
	case colon && ports == "":
		return "", "", Errorf("write a port after the colon, or leave it out for the listening one", "target %q has no port after the colon", text)
	case bad != nil || !a.Is6():
		return "", "", Errorf("write "+host+rest, "target %q has brackets around what is not an IPv6 address", text)
	}
	return host, ports, nil
}

// dockerOrder turns Docker's [ADDR:]PORT:HOST[:PORT] and PORT:PORT into the
// link that was meant; it gives "" for anything else.
func dockerOrder(text string) string {
	part := strings.Split(text, ":")
	listen := 0
	if len(part) > 2 && isDigits(part[1]) {
		if _, err := listenHost(part[0]); err == nil {
			listen = 1
		}
	}
	if !isDigits(part[listen]) || len(part) < listen+2 || len(part) > listen+3 {
		return ""
	}
	target := strings.Join(part[listen+1:], ":")
	if isDigits(target) {
		target = "HOST:" + target
	}
	return strings.Join(part[:listen+1], ":") + "=" + target
}

// portless tells a target whose source tells the ports of its endpoints.
func (t Target) portless() bool {
	switch t.Source {
	case SourceSRV, SourceConsul, SourceConsulKV, SourceEtcd, SourceFile:
		return true
	}
	return t.Protocol == Unix
}

// resolve fills in what the text leaves to the LISTEN. l is one of on's.
func (r rawTarget) resolve(on *listening, l Listen) (Target, error) {
	t := r.target
	if t.Protocol == "" {
		t.Protocol = l.Protocol
		if t.Protocol == Unix {
			t.Protocol = TCP
		}
	}
	switch {
	case t.portless():
		return t, nil
	case r.low == 0 && l.Protocol == Unix && t.Source == SourceName:
		t.Source = SourceSRV // which alone can tell a port
		return t, nil
	case r.low == 0 && l.Protocol == Unix:
		return Target{}, Errorf("write a port after it", "target %q has no port, and a unix socket has none to take", r.text)
	case r.low == 0:
		t.Port = l.Port
	case r.low == r.high:
		t.Port = uint16(r.low)
	case r.high-r.low != on.high-on.low || l.Protocol == Unix:
		return Target{}, Errorf("make both ranges equally long, or write the targets with commas",
			"target %q has %d ports and LISTEN %q has %d", r.text, r.high-r.low+1, on.text, on.high-on.low+1)
	default:
		t.Port = uint16(r.low + int(l.Port) - on.low)
	}
	return t, nil
}
