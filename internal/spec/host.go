package spec

import (
	"net/netip"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// parseHost tells an address from a name and gives either in canonical form.
func parseHost(text string) (host, source string, err error) {
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Zone() != "" {
			return "", "", noZone(text)
		}
		if a.IsUnspecified() {
			return "", "", notATarget(text)
		}
		return a.Unmap().String(), SourceFixed, nil
	}
	if text == "*" {
		return "", "", notATarget(text)
	}
	name := strings.TrimSuffix(text, ".")
	return name, SourceDNS, checkName(name)
}

// checkName holds the rules of RFC 1123 and section 2.3.4 of RFC 1035, and
// allows the underscore, which Docker's names have.
func checkName(name string) error {
	if name == "" || len(name) > 253 {
		return Errorf("write a name of 1 to 253 characters", "host %q has %d characters", name, len(name))
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" {
			return Errorf("remove a dot", "host %q has an empty part between its dots", name)
		}
		if len(label) > 63 {
			return Errorf("names have at most 63 characters between dots", "host %q has a part of %d characters", name, len(label))
		}
		if i := strings.IndexFunc(label, notInName); i >= 0 {
			r := []rune(label[i:])[0]
			return Errorf("host names have letters, digits, - and _", "host %q has the character %q, which no host name has", name, r)
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return Errorf("remove the -", "host %q has a part that begins or ends with -", name)
		}
	}
	// Such a name can exist in no domain, so a mistyped address is meant.
	if isDigits(labels[len(labels)-1]) {
		return Errorf("write four numbers from 0 to 255, or a name", "host %q looks like an address and is none", name)
	}
	return nil
}

func notInName(r rune) bool {
	return !isLetter(r) && (r < '0' || r > '9') && r != '-' && r != '_'
}

func noZone(text string) error {
	return Errorf("write an address without a zone, or a name", "address %q has a zone (%%...), which links do not have", text)
}

func notATarget(text string) error {
	return Errorf("write the address or name of the server; 127.0.0.1 is this host", "%q is every address of a host, and no address to connect to", text)
}

// looksLikeIPv6 tells an IPv6 address, with or without a port after it.
func looksLikeIPv6(text string) bool {
	return strings.Contains(text, "::") || strings.Count(text, ":") > 6
}

func unbracketed(text string) error {
	if strings.Contains(text, "%") {
		return noZone(text)
	}
	hint := "write [ADDRESS]:PORT"
	i := strings.LastIndexByte(text, ':')
	if a, err := netip.ParseAddr(text[:i]); err == nil && isDigits(text[i+1:]) {
		hint = "write [" + a.String() + "]:" + text[i+1:]
	} else if a, err := netip.ParseAddr(text); err == nil {
		hint = "write [" + a.String() + "]:PORT"
	}
	return Errorf(hint, "IPv6 address %q has no brackets", text)
}

func parsePorts(text string) (low, high int, err error) {
	first, last, ranged := strings.Cut(text, "-")
	if ranged && (first == "" || last == "") {
		return 0, 0, Errorf("ranges are written like 8000-8010", "%q is not a port or a range of ports", text)
	}
	if low, err = parsePort(first); err != nil || !ranged {
		return low, low, err
	}
	if high, err = parsePort(last); err != nil {
		return 0, 0, err
	}
	if high < low {
		return 0, 0, Errorf("write "+last+"-"+first, "port range %q runs backwards", text)
	}
	if high-low >= rangeLimit {
		return 0, 0, Errorf("make several links of it", "port range %q has %d ports, and one link has at most %d", text, high-low+1, rangeLimit)
	}
	return low, high, nil
}

func parsePort(text string) (int, error) {
	if !isDigits(text) || text[0] == '0' && text != "0" {
		return 0, Errorf("ports are numbers from 1 to 65535", "%q is not a port", text)
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || port > 65535 {
		return 0, Errorf("ports are numbers from 1 to 65535", "port %s does not exist", text)
	}
	return port, nil
}

// pathLimit is the size of sun_path less its final NUL (unix(7)).
const pathLimit = 107

// parsePath reads the path of a unix socket, in which %XX is one byte.
func parsePath(text string) (string, error) {
	if strings.HasPrefix(text, "@") {
		return "", Errorf("write unix:/PATH", "%q is an abstract socket, and links have those with a path", text)
	}
	if !strings.HasPrefix(text, "/") || strings.HasPrefix(text, "//") && !strings.HasPrefix(text, "///") {
		return "", Errorf("write the whole path, for example unix:/"+strings.Trim(text, "/"), "unix path %q does not begin at /", text)
	}
	if i := strings.IndexByte(text, '='); i >= 0 {
		return "", Errorf("write = as %3D", "unix path %q has a = in it", text)
	}
	decoded, err := unescape(text)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(decoded, "/") || hasDots(decoded) {
		return "", Errorf("write the path of the socket file without . and ..", "unix path %q is not the path of a file", text)
	}
	return path.Clean(decoded), checkPath(path.Clean(decoded))
}

func checkPath(p string) error {
	if len(p) > pathLimit {
		return Errorf("choose a shorter directory", "unix path %q has %d bytes, and the kernel takes %d", p, len(p), pathLimit)
	}
	if strings.ContainsFunc(p, unicode.IsControl) || !utf8.ValidString(p) {
		return Errorf("choose another path", "unix path %q has a character that cannot be shown", p)
	}
	if !strings.HasPrefix(p, "/") || p == "/" || p != path.Clean(p) {
		return Errorf("write unix:/PATH", "%q is not the path of a socket file", p)
	}
	return nil
}

// hasDots finds the parts that path.Clean would take out: behind a symbolic
// link they mean another file.
func hasDots(p string) bool {
	for _, part := range strings.Split(p, "/") {
		if part == "." || part == ".." {
			return true
		}
	}
	return false
}

func unescape(text string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i+3 > len(text) {
			return "", Errorf("write % itself as %25", "unix path %q has a %% without two hexadecimal digits", text)
		}
		c, err := strconv.ParseUint(text[i+1:i+3], 16, 8)
		if err != nil {
			return "", Errorf("write % itself as %25", "unix path %q has a %% without two hexadecimal digits", text)
		}
		b.WriteByte(byte(c))
		i += 2
	}
	return b.String(), nil
}

// escape writes what would end a path inside a link as %XX.
func escape(p string) string {
	var b strings.Builder
	for _, r := range p {
		if strings.ContainsRune("=,;%", r) || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			for _, c := range []byte(string(r)) {
				b.WriteString("%" + strings.ToUpper(strconv.FormatUint(uint64(c)|0x100, 16)[1:]))
			}
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}
