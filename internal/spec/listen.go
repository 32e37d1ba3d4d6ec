package spec

import (
	"net/netip"
	"strconv"
	"strings"
)

// rangeLimit is how many ports one link may have. Each costs a listening
// socket; more is rather a slip of the hand than a wish.
const rangeLimit = 16384

// listening is a LISTEN as written, before ranges and tcp+udp are expanded.
type listening struct {
	text      string
	named     bool   // it names an address, host; else the default applies
	hostText  string // as written, with its brackets
	host      string
	path      string
	low, high int // both 0 on unix
	protocols []Protocol
	namespace string // as Listen has it: no text names it
}

// several tells whether more than one link comes of it.
func (on *listening) several() bool { return on.high > on.low || len(on.protocols) > 1 }

// linkName is the name of the link that listens on l. Links that come of one
// text share its option name, and are told apart as CONTAINER/LISTEN are.
func (on *listening) linkName(option string, l Listen) string {
	if !on.several() {
		if option != "" {
			return option
		}
		return on.text
	}
	port := strconv.Itoa(int(l.Port))
	if l.Protocol == UDP {
		port += "/udp"
	}
	switch {
	case option != "":
		return option + "/" + port
	case on.named:
		return on.hostText + ":" + port
	}
	return port
}

// ParseBind reads the default address of a LISTEN that names none. It gives
// the form of Listen.Host. The error is a *UserError.
func ParseBind(text string) (string, error) {
	host, err := listenHost(unbracket(text))
	if err != nil {
		return "", Errorf("write an address of this host, localhost or *", "bind: %q is not an address to listen on", text)
	}
	return host, nil
}

// unbracket takes the brackets off an IPv6 address.
func unbracket(text string) string {
	inner, open := strings.CutPrefix(text, "[")
	if inner, shut := strings.CutSuffix(inner, "]"); open && shut && strings.Contains(inner, ":") {
		return inner
	}
	return text
}

// listenHost gives the canonical form of an address to listen on.
func listenHost(text string) (string, error) {
	switch text {
	case "", "*":
		return "", nil
	case "localhost":
		return text, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return "", Errorf("write an address of this host, localhost, *, or only the port",
			"%q is not an address to listen on", text)
	}
	if a.Zone() != "" {
		return "", noZone(text)
	}
	return a.Unmap().String(), nil
}

// parseListening reads a LISTEN.
func parseListening(text string) (*listening, error) {
	if text == "" {
		return nil, Errorf("write LISTEN=TARGET, for example 6379=redis:6379", "nothing stands before the =")
	}
	if rest, ok := strings.CutPrefix(text, "unix:"); ok {
		path, err := parsePath(rest)
		if err != nil {
			return nil, err
		}
		return &listening{text: text, path: path, protocols: []Protocol{Unix}}, nil
	}
	if scheme, rest, ok := strings.Cut(text, "://"); ok {
		if scheme == "udp" {
			rest += "/udp"
		}
		return nil, Errorf("write "+rest, "LISTEN %q has a scheme", text)
	}
	on := &listening{text: text}
	address, protocol, found := strings.Cut(text, "/")
	var err error
	if on.protocols, err = listenProtocols(protocol, found); err != nil {
		return nil, err
	}
	ports, err := on.cutHost(address)
	if err != nil {
		return nil, err
	}
	if !on.named && (ports == "" || !isDigits(ports[:1])) {
		return nil, Errorf("LISTEN is a port, ADDRESS:PORT or unix:/PATH", "%q is not a LISTEN", text)
	}
	on.low, on.high, err = parsePorts(ports)
	return on, err
}

func listenProtocols(text string, found bool) ([]Protocol, error) {
	switch {
	case !found, text == "tcp":
		return []Protocol{TCP}, nil
	case text == "udp":
		return []Protocol{UDP}, nil
	case text == "tcp+udp":
		return []Protocol{TCP, UDP}, nil
	}
	return nil, Errorf("write /tcp, /udp or /tcp+udp", "%q is not a protocol to listen with", text)
}

// cutHost takes the address off HOST:PORTS and returns the ports.
func (on *listening) cutHost(text string) (ports string, err error) {
	i := strings.LastIndexByte(text, ':')
	if i < 0 {
		if a, err := netip.ParseAddr(text); err == nil {
			return "", Errorf("write "+joinHostPort(a.String(), 6379)+" with the port to listen on", "LISTEN %q has no port", text)
		}
		return text, nil
	}
	on.named, on.hostText = true, text[:i]
	inner, bracketed := strings.CutPrefix(on.hostText, "[")
	if bracketed {
		if inner, bracketed = strings.CutSuffix(inner, "]"); !bracketed {
			return "", Errorf("write [ADDRESS]:PORT", "LISTEN %q has brackets that do not match", text)
		}
	}
	if strings.Contains(inner, ":") != bracketed {
		if bracketed {
			return "", Errorf("write "+inner+text[i:], "LISTEN %q has brackets around what is not an IPv6 address", text)
		}
		if looksLikeIPv6(text) {
			return "", unbracketed(text)
		}
	}
	if inner == "" {
		return "", Errorf("write *"+text[i:]+" or only the port", "LISTEN %q has no address before the colon", text)
	}
	if i+1 == len(text) {
		return "", Errorf("write a port after it", "LISTEN %q has no port after the colon", text)
	}
	on.host, err = listenHost(inner)
	return text[i+1:], err
}
