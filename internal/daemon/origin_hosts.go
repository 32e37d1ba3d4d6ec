package daemon

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"legate/internal/docker"
	"legate/internal/spec"
)

const (
	// hostsPause is how often the hosts file is read for containers that came
	// or got another address.
	hostsPause = time.Second
	// A container that serves nothing yet is probed again after a pause that
	// doubles from the first to the second: each round may leave 65,535
	// entries in the host's connection tracking for ten seconds.
	probePause = time.Second
	probeLimit = 30 * time.Second
	// together is how long links wait for the first round of all containers,
	// so that of two that serve one port the first in the file has it, and
	// not the one that was probed faster.
	together = 5 * time.Second
)

// afterwards are the pauses before a container that serves something is
// probed again: servers with several ports do not open them at one instant.
var afterwards = []time.Duration{2 * time.Second, 10 * time.Second}

// hostsOrigin makes links of the entries that --link writes into the hosts
// file. The entries have no ports, so those that the linked containers serve
// are found by connecting to all of them. What is found stays: a server that
// is restarted is waited for under the same port.
type hostsOrigin struct {
	parse spec.ParseConfig
	read  func() []spec.HostEntry
	also  []string // warnings from before it was chosen
	scan  func(context.Context, netip.Addr, func(port uint16)) bool

	finds    chan find
	running  sync.WaitGroup
	watched  map[probing]context.CancelFunc
	probed   map[probing]bool   // one whole round or more
	servers  map[string]*server // by alias
	order    []string           // aliases, as first seen
	taken    map[uint16]*server
	links    []spec.Link
	refusals []string
}

// server is a linked container, under the first of its aliases.
type server struct {
	name, alias string
	present     bool // in the hosts file
	probed      bool // a whole round
	serves      bool
	ports       []uint16 // found, not yet made links
}

// probing is one address of one container. An address alone would not do:
// another container may get it.
type probing struct {
	*server
	addr netip.Addr
}

// find is news of a round: a port that accepts connections, or the round's end.
type find struct {
	probing
	port uint16 // 0 at the end
}

func newHostsOrigin(c OriginConfig, warnings []string) *hostsOrigin {
	c.Parse.Origin = spec.OriginHosts
	return &hostsOrigin{
		parse:   c.Parse,
		read:    func() []spec.HostEntry { return others(hostEntries(c.Hosts)) },
		also:    warnings,
		scan:    newScanner().scan,
		finds:   make(chan find),
		watched: map[probing]context.CancelFunc{},
		probed:  map[probing]bool{},
		servers: map[string]*server{},
		taken:   map[uint16]*server{},
	}
}

// others leaves out the entries that lead to this container or, on the host's
// network, to this host: probing them would find our own listeners.
func others(entries []spec.HostEntry) []spec.HostEntry {
	own := map[netip.Addr]bool{}
	for _, e := range entries {
		if e.Own {
			own[e.Addr] = true
		}
	}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				own[p.Addr().Unmap()] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(entries), func(e spec.HostEntry) bool { return own[e.Addr] })
}

// Watch implements Origin.
func (o *hostsOrigin) Watch(ctx context.Context, set func(spec.Wish)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer o.running.Wait()
	defer cancel()
	tick := time.NewTicker(hostsPause)
	defer tick.Stop()
	start := time.Now()
	said, settled := "", false
	o.follow(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			o.follow(ctx)
		case f := <-o.finds:
			o.learn(f)
		}
		if settled = settled || o.allProbed() || time.Since(start) >= together; !settled {
			continue
		}
		o.makeLinks()
		warnings := o.warnings()
		if now := texts(o.links, warnings); now != said {
			set(spec.Wish{Links: slices.Clone(o.links), Warnings: warnings})
			said = now
		}
	}
}

// follow begins to probe the addresses that are new in the hosts file, and
// leaves those that are gone.
func (o *hostsOrigin) follow(ctx context.Context) {
	for _, s := range o.servers {
		s.present = false
	}
	first := map[string]string{} // alias by id: one container may have several
	present := map[probing]bool{}
	for _, e := range o.read() {
		if first[e.ID] == "" {
			first[e.ID] = e.Alias
		}
		p := probing{o.server(first[e.ID], e.Name), e.Addr}
		present[p] = true
		if o.watched[p] == nil {
			ctx, cancel := context.WithCancel(ctx)
			o.watched[p] = cancel
			o.running.Go(func() { o.probe(ctx, p) })
		}
	}
	for p, cancel := range o.watched {
		if !present[p] {
			cancel()
			delete(o.watched, p)
			delete(o.probed, p)
		}
	}
}

func (o *hostsOrigin) server(alias, name string) *server {
	s := o.servers[alias]
	if s == nil {
		s = &server{name: name, alias: alias}
		o.servers[alias] = s
		o.order = append(o.order, alias)
	}
	s.present = true
	return s
}

// probe looks for open ports until there is one, and a few times more.
func (o *hostsOrigin) probe(ctx context.Context, p probing) {
	pause, again := probePause, afterwards
	for {
		found := false
		whole := o.scan(ctx, p.addr, func(port uint16) {
			found = true
			o.tell(ctx, find{p, port})
		})
		o.tell(ctx, find{p, 0})
		wait := pause
		if found && whole {
			if len(again) == 0 {
				return
			}
			wait, again = again[0], again[1:]
		} else {
			pause = min(2*pause, probeLimit)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (o *hostsOrigin) tell(ctx context.Context, f find) {
	select {
	case o.finds <- f:
	case <-ctx.Done():
	}
}

func (o *hostsOrigin) learn(f find) {
	if f.port == 0 {
		o.probed[f.probing] = true
		f.server.probed = true
		return
	}
	f.server.serves = true
	f.server.ports = append(f.server.ports, f.port)
}

// allProbed tells whether every address had its first round. A single container
// can be in nobody's way.
func (o *hostsOrigin) allProbed() bool {
	if len(o.servers) == 1 {
		return true
	}
	for p := range o.watched {
		if !o.probed[p] {
			return false
		}
	}
	return true
}

// makeLinks opens what was found: in the order of the file, but a port that is
// open for one container stays so.
func (o *hostsOrigin) makeLinks() {
	for _, alias := range o.order {
		s := o.servers[alias]
		slices.Sort(s.ports)
		for _, port := range s.ports {
			o.open(port, s)
		}
		s.ports = nil
	}
}

func (o *hostsOrigin) open(number uint16, s *server) {
	port := docker.Port{Protocol: spec.TCP, Number: number}
	if first := o.taken[number]; first != nil {
		if first != s {
			o.refuse(conflict(port, first.name, s.name, s.alias))
		}
		return
	}
	l, err := aliasLink(port, s.alias, o.parse)
	if err != nil {
		o.refuse(spec.WithHint(err))
		return
	}
	o.taken[number] = s
	o.links = append(o.links, l...)
}

func (o *hostsOrigin) refuse(warning string) {
	if !slices.Contains(o.refusals, warning) {
		o.refusals = append(o.refusals, warning)
	}
}

func (o *hostsOrigin) warnings() []string {
	list := append(slices.Clip(o.also), o.refusals...)
	for _, alias := range o.order {
		if s := o.servers[alias]; s.present && s.probed && !s.serves {
			list = append(list, fmt.Sprintf("the linked container %s serves no TCP port yet; it is probed again (or give a link: PORT=%s:PORT)", s.name, s.alias))
		}
	}
	return append(list, spec.WarnUnused(o.links, o.parse.Options)...)
}
