package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"legate/internal/spec"
)

// settings say whom to ask, and for which names (resolv.conf(5)).
type settings struct {
	servers  []string // as ADDR:PORT, in order
	assumed  bool     // the file names no server, so it is one on this machine
	search   []string // suffixes
	ndots    int      // a name with as many dots is asked for as it is first
	timeout  time.Duration
	attempts int
	rotate   bool // the servers take turns
}

// The limits of the C library, which files rely on: without them a typing
// error would hold a question up for its whole time.
const (
	maxTimeout  = 30 * time.Second
	maxAttempts = 5
)

// parseResolvConf reads resolv.conf. port is that of its servers, which the
// file cannot name.
func parseResolvConf(text, port string) settings {
	c, err := dns.ClientConfigFromReader(strings.NewReader(text))
	if err != nil { // a line longer than any honest one: as an empty file
		c = &dns.ClientConfig{Ndots: 1, Timeout: 5, Attempts: 2}
	}
	s := settings{
		ndots:    c.Ndots,
		timeout:  min(time.Duration(min(c.Timeout, 3600))*time.Second, maxTimeout),
		attempts: min(c.Attempts, maxAttempts),
		rotate:   rotates(text),
	}
	for _, server := range c.Servers {
		// A name would have to be looked up in turn.
		if _, err := netip.ParseAddr(server); err == nil {
			s.servers = append(s.servers, net.JoinHostPort(server, port))
		}
	}
	if s.assumed = len(s.servers) == 0; s.assumed {
		s.servers = []string{net.JoinHostPort("127.0.0.1", port), net.JoinHostPort("::1", port)}
	}
	if !hasSearch(text) {
		c.Search = ownDomain()
	}
	// "search ." is how a file says that there are none.
	s.search = slices.DeleteFunc(c.Search, func(suffix string) bool { return strings.Trim(suffix, ".") == "" })
	return s
}

func hasSearch(text string) bool {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 && (f[0] == "search" || f[0] == "domain") {
			return true
		}
	}
	return false
}

func rotates(text string) bool {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == "options" && slices.Contains(f, "rotate") {
			return true
		}
	}
	return false
}

// ownDomain is the search list of a file that has none: the domain of this
// host, if its name has one.
func ownDomain() []string {
	name, err := os.Hostname()
	if err != nil {
		return nil
	}
	_, domain, found := strings.Cut(name, ".")
	if !found {
		return nil
	}
	return []string{domain}
}

// names returns the absolute names that a name may stand for, in the order in
// which they are asked for. It returns none where no name server could know
// any of them.
func (s settings) names(name string) []string {
	c := dns.ClientConfig{Search: s.search, Ndots: s.ndots}
	var names []string
	for _, n := range c.NameList(name) {
		if n, ok := canonical(n); ok && !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	return names
}

// canonical returns the form of an absolute name that names in answers have:
// lower case, with escapes where bytes are no letters. It is false where no
// message can carry the name, as with an empty label or one above 63 bytes.
func canonical(name string) (string, bool) {
	var wire [255]byte
	n, err := dns.PackDomainName(dns.Fqdn(name), wire[:], 0, nil, false)
	if err != nil || strings.Trim(name, ".") == "" {
		return "", false
	}
	name, _, err = dns.UnpackDomainName(wire[:n], 0)
	return dns.CanonicalName(name), err == nil
}

// ParseServer reads the address of a name server, ADDR[:PORT]; the port is 53
// if there is none. The error is for the person who typed it.
func ParseServer(text string) (netip.AddrPort, error) {
	addr := text
	if at, err := netip.ParseAddrPort(text); err == nil && at.Port() != 0 {
		return at, nil
	}
	if bare, closed := strings.CutSuffix(text, "]"); closed {
		addr, _ = strings.CutPrefix(bare, "[")
	}
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return netip.AddrPort{}, wrongServer(text)
	}
	return netip.AddrPortFrom(a, 53), nil
}

func wrongServer(text string) error {
	hint := "give an address, with a port if it is not 53, such as 192.0.2.53 or 127.0.0.1:8600"
	if host, port, err := net.SplitHostPort(text); err == nil {
		if _, err := strconv.ParseUint(port, 10, 16); err == nil && host != "" {
			hint = fmt.Sprintf("give the address of %s: a name would need a name server itself", host)
		}
	}
	return spec.Errorf(hint, "read name server %q: this is no address", text)
}
