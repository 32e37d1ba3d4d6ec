package discover

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"legate/internal/spec"
)

const (
	// period is the time between two questions for one name. The standard
	// resolver does not tell an answer's TTL; five seconds is the usual TTL of
	// names that are meant to move (orchestrators, load balancers), and one
	// small question every five seconds is nothing to a name server. Whoever
	// cannot wait that long is served by Suspect.
	period = 5 * time.Second
	// patience is the limit for one lookup. Go's resolver gives each of up to
	// three servers in resolv.conf five seconds: with less, a name server
	// that is down at the top of the list would hide the good one below it.
	patience = 16 * time.Second
	// dockerServer is the name server in containers on user-defined networks.
	// It states a TTL of 600 s for names of containers, which change with
	// every restart, and it is on this machine: it is asked every second.
	dockerServer = "127.0.0.11"
)

// dns is the source of targets that are names with A and AAAA records.
type dns struct {
	lookup     func(context.Context, string) ([]netip.Addr, error)
	hosts      string
	resolvConf string

	mu    sync.Mutex // guards names and the users in them
	names map[string]*name
}

// name is what the targets with one name share, so that a range of a hundred
// ports asks one question and not a hundred.
type name struct {
	users int
	turn  chan struct{} // capacity one; held by who uses latest
	latest
}

// latest is the newest answer for a name.
type latest struct {
	asked, ended time.Time
	addrs        []netip.Addr
	again        time.Duration // after asked
	err          error
}

func newDNS(c Config) *dns {
	s := &dns{
		lookup:     c.Lookup,
		hosts:      cmp.Or(c.Hosts, "/etc/hosts"),
		resolvConf: cmp.Or(c.ResolvConf, "/etc/resolv.conf"),
		names:      map[string]*name{},
	}
	if s.lookup == nil {
		s.lookup = systemLookup
	}
	return s
}

// systemLookup asks with Go's own resolver: the C library's is neither in a
// static binary nor in an empty image.
func systemLookup(ctx context.Context, name string) ([]netip.Addr, error) {
	r := net.Resolver{PreferGo: true}
	return r.LookupNetIP(ctx, "ip", name)
}

func (s *dns) Watch(ctx context.Context, q Query, set func(Result)) error {
	host := q.Target.Host
	n := s.enter(host)
	defer s.leave(host, n)
	var doubt time.Time
	for {
		now, err := s.ask(ctx, n, question{name: host, after: doubt})
		if err != nil {
			return err
		}
		switch {
		case now.err == nil:
			set(Result{Endpoints: endpoints(q.Target, now.addrs)})
		case notFound(now.err):
			set(Result{Err: explain(host, now.err), Weak: true})
		default:
			return explain(host, now.err)
		}
		if doubt, err = q.Wait(ctx, now.asked, jitter(now.again)); err != nil {
			return err
		}
	}
}

func (s *dns) enter(host string) *name {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.names[host]
	if n == nil {
		n = &name{turn: make(chan struct{}, 1)}
		s.names[host] = n
	}
	n.users++
	return n
}

func (s *dns) leave(host string, n *name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.users--; n.users == 0 {
		delete(s.names, host)
	}
}

// question is one that a target has: an answer that was asked for by another
// target will do when it is fresh and was asked after the given time.
type question struct {
	name  string
	after time.Time
}

// ask returns the latest answer for a name, after a lookup where it is too
// old. It returns an error only when ctx ends.
func (s *dns) ask(ctx context.Context, n *name, q question) (latest, error) {
	select {
	case n.turn <- struct{}{}:
	case <-ctx.Done():
		return latest{}, ctx.Err()
	}
	defer func() { <-n.turn }()
	// The shortest pause of a watch is a little below floor, by its jitter.
	if n.asked.After(q.after) && time.Since(n.ended) < floor*9/10 {
		return n.latest, nil
	}
	if _, err := (Query{}).Wait(ctx, n.asked, floor*9/10); err != nil {
		return latest{}, err
	}
	now := latest{asked: time.Now()}
	now.addrs, now.again, now.err = s.find(ctx, q.name)
	if ctx.Err() != nil { // ours, not the name server's: no answer for the others
		return latest{}, ctx.Err()
	}
	now.ended = time.Now()
	n.latest = now
	return now, nil
}

// find returns the addresses of a name and when to ask again.
func (s *dns) find(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	if isLocalhost(name) {
		return loopback(), ceiling, nil
	}
	// The hosts file is read here and not by Go's resolver, which remembers
	// it for five seconds: too long after a failed connect, when the engine
	// has just written the new address of a linked container.
	if addrs := hostsAddrs(s.hosts, name); len(addrs) > 0 {
		return addrs, floor, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	addrs, err := s.lookup(ctx, name)
	again := period
	if usesDockerServer(s.resolvConf) {
		again = floor
	}
	return addrs, again, err
}

// isLocalhost: such names never reach a name server and are always loopback
// (RFC 6761 section 6.3), so nobody can point them elsewhere.
func isLocalhost(name string) bool {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	return name == "localhost" || strings.HasSuffix(name, ".localhost")
}

// loopback returns the loopback addresses of this machine. In many containers
// IPv6 is off, and connecting to ::1 there fails like a shortage of ports
// (EADDRNOTAVAIL).
func loopback() []netip.Addr {
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return addrs
	}
	for _, a := range own {
		if p, ok := a.(*net.IPNet); ok && p.IP.Equal(net.IPv6loopback) {
			return append(addrs, netip.IPv6Loopback())
		}
	}
	return addrs
}

// hostsAddrs returns the addresses of a name in a hosts file; none when the
// file cannot be read (an empty image has none).
func hostsAddrs(path, name string) []netip.Addr {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var addrs []netip.Addr
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 || !slices.ContainsFunc(fields[1:], func(s string) bool { return sameName(s, name) }) {
			continue
		}
		if addr, err := netip.ParseAddr(fields[0]); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

func sameName(a, b string) bool {
	return strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}

// usesDockerServer tells whether the first name server, which gets every
// question, is Docker's.
func usesDockerServer(resolvConf string) bool {
	text, err := os.ReadFile(resolvConf)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" {
			return f[1] == dockerServer
		}
	}
	return false
}

func notFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}

// explain words a failed question so that the same failure has the same text
// each time: Go's own text holds the port that the question was sent from, and
// every repetition would look like news.
func explain(name string, err error) error {
	var e *net.DNSError
	if !errors.As(err, &e) {
		return fmt.Errorf("look up %s: %w", name, err)
	}
	server := ""
	if e.Server != "" {
		server = "name server " + e.Server + ": "
	}
	switch {
	case e.IsNotFound:
		return fmt.Errorf("look up %s: %sno such name", name, server)
	case e.IsTimeout:
		return fmt.Errorf("look up %s: %sno answer in time", name, server)
	}
	reason := e.Err
	if strings.Contains(reason, "->") {
		reason = reason[strings.LastIndex(reason, ": ")+len(": "):]
	}
	return fmt.Errorf("look up %s: %s%s", name, server, reason)
}

// endpoints makes endpoints of addresses, each once and in an order that does
// not depend on the answer's: name servers rotate it, which would look like a
// change each time. The families alternate, so that a family without a route
// never holds all the first places.
func endpoints(t spec.Target, addrs []netip.Addr) []spec.Member {
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	v4, v6 = distinct(v4), distinct(v6)
	list := make([]spec.Member, 0, len(v4)+len(v6))
	for i := range max(len(v4), len(v6)) {
		for _, family := range [][]netip.Addr{v4, v6} {
			if i < len(family) {
				e := spec.Endpoint{Protocol: t.Protocol, Addr: netip.AddrPortFrom(family[i], t.Port)}
				list = append(list, e.Plain())
			}
		}
	}
	return list
}

func distinct(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}
