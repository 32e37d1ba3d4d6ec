package cli

import (
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
	"syscall"
	"time"

	"legate/internal/check"
	"legate/internal/daemon"
	"legate/internal/spec"
)

const (
	// reachPatience is the limit for all names and servers together.
	reachPatience = 15 * time.Second
	reachAtOnce   = 32
	// manyEndpoints of one target are tried; more of them would tell no more.
	manyEndpoints = 16
)

// reached is what became of one target of one link.
type reached struct {
	link      spec.Link
	target    spec.Target
	lookup    error // why its name was not found
	endpoints []answer
	more      int   // endpoints that were not tried
	secret    error // why the file with the check's password cannot be read
}

// answer is what one endpoint had to say.
type answer struct {
	endpoint spec.Endpoint
	loop     string // the link that listens there; "": none
	err      error
	untried  bool // of UDP nobody can tell
	late     bool // others took all the time that there was
}

// reach asks every source and tries every endpoint as the link would.
func reach(ctx context.Context, links []spec.Link, sources daemon.SourceConfig) []reached {
	ctx, cancel := context.WithTimeout(ctx, reachPatience)
	defer cancel()
	var all []reached
	var targets []spec.Target
	for _, l := range links {
		for _, t := range l.Targets {
			all = append(all, reached{link: l, target: t})
			targets = append(targets, t)
		}
	}
	asking, enough := context.WithTimeout(ctx, reachPatience*2/3)
	defer enough()
	at := surroundings{links: links, own: ownAddresses(), found: daemon.Resolve(asking, sources, targets), turns: make(chan struct{}, reachAtOnce)}
	var trying sync.WaitGroup
	for i := range all {
		r := &all[i]
		r.secret = readable(r.link.Options.EffectiveCheck().PasswordFile)
		trying.Go(func() { r.try(ctx, at) })
	}
	trying.Wait()
	return all
}

// surroundings are what all attempts have in common.
type surroundings struct {
	links []spec.Link
	own   []netip.Addr
	found map[spec.Target]daemon.Resolved
	turns chan struct{} // to try an endpoint
}

func (s surroundings) takeTurn() (done func()) {
	s.turns <- struct{}{}
	return func() { <-s.turns }
}

// readable tells why a file cannot be read; "" can.
func readable(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}

func (r *reached) try(ctx context.Context, at surroundings) {
	all := at.found[r.target].Answer.Endpoints
	if len(all) == 0 {
		r.lookup = at.found[r.target].Answer.Err
	}
	if r.secret != nil {
		return // no check can be made, and why is told once for the link
	}
	if len(all) > manyEndpoints {
		r.more = len(all) - manyEndpoints
		all = all[:manyEndpoints]
	}
	r.endpoints = make([]answer, len(all))
	var trying sync.WaitGroup
	for i, m := range all {
		trying.Go(func() { r.endpoints[i] = r.ask(ctx, m.Endpoint, at) })
	}
	trying.Wait()
}

func (r *reached) ask(ctx context.Context, e spec.Endpoint, at surroundings) answer {
	defer at.takeTurn()()
	a := answer{endpoint: e, loop: loopOf(e, at.links, at.own), untried: e.Protocol == spec.UDP}
	switch {
	case a.loop != "" || a.untried:
	case ctx.Err() != nil:
		a.late = true
	default:
		a.err = tryEndpoint(ctx, r.link.Options, e)
	}
	return a
}

// loopOf names the link that listens at an endpoint.
func loopOf(e spec.Endpoint, links []spec.Link, own []netip.Addr) string {
	for _, l := range links {
		on := l.Listen
		if on.Protocol != e.Protocol || on.Path != e.Path || on.Port != e.Addr.Port() {
			continue
		}
		at := e.Addr.Addr()
		here := at.IsLoopback() || at.IsUnspecified() || slices.Contains(own, at)
		if on.Protocol == spec.Unix || on.Host == at.String() || on.Host == "" && here || on.Host == "localhost" && at.IsLoopback() {
			return l.Name
		}
	}
	return ""
}

// judgeTargets says of each link what of it answers: one that is left without
// any endpoint does not work.
func judgeTargets(h host, all []reached) (found []finding) {
	works := map[string]bool{}
	for _, r := range all {
		for _, a := range r.endpoints {
			if a.err == nil && a.loop == "" && !a.late {
				works[r.link.Name] = true
			}
		}
	}
	secrets := map[string]bool{}
	for _, r := range all {
		if r.secret != nil && !secrets[r.link.Name] {
			secrets[r.link.Name] = true
			found = append(found, judgeSecret(h, r))
		}
		found = append(found, judgeTarget(h, r, works[r.link.Name])...)
	}
	return found
}

func judgeSecret(h host, r reached) finding {
	path := r.link.Options.EffectiveCheck().PasswordFile
	gone := errors.Is(r.secret, os.ErrNotExist)
	mend := h.sudo("chown $(id -un) "+path) + "; chmod 400 " + path
	switch {
	case h.container && gone:
		mend = h.start(fmt.Sprintf("-v %[1]s:%[1]s:ro", path))
	case h.container:
		mend = h.start("--user $(stat -c %u FILE)") + ", where FILE is what stands there on the host"
	case gone:
		mend = "type the password, then Ctrl-D: install -m 400 /dev/stdin " + path
	}
	return missing("link "+r.link.Name, mend, "check-password-file: %v", r.secret)
}

func judgeTarget(h host, r reached, others bool) (found []finding) {
	about := "link " + r.link.Name
	bad := missing
	if others {
		bad = weak // the others serve
	}
	if r.lookup != nil {
		return []finding{bad(about, cmp.Or(spec.HintOf(r.lookup), h.mendLookup(r.target)), "target %s: %v", r.target, r.lookup)}
	}
	for _, a := range r.endpoints {
		what := a.endpoint.String()
		if what != r.target.String() {
			what = fmt.Sprintf("%s (%s)", r.target, what)
		}
		switch {
		case a.loop != "":
			found = append(found, bad(about, "name the server itself, or listen on another port", "target %s would loop: link %s listens there", what, a.loop))
		case a.untried:
			found = append(found, fine(about, "target %s is UDP: nobody can tell whether it answers", what))
		case a.late:
			found = append(found, weak(about, "ask for that link alone: legate doctor LINK", "target %s was not tried: others took too long", what))
		case others && otherRole(a.err):
			found = append(found, fine(about, "target %s: %v; another one has it", what, a.err))
		case a.err != nil:
			found = append(found, bad(about, h.mendTarget(r.link, a), "target %s: %v", what, a.err))
		default:
			found = append(found, fine(about, "target %s answers", what))
		}
	}
	if r.more > 0 {
		found = append(found, fine(about, "target %s has %d more endpoints, which were not tried", r.target, r.more))
	}
	return found
}

// otherRole tells whether an endpoint is well and waits for its turn.
func otherRole(err error) bool {
	_, other := errors.AsType[*spec.RoleError](err)
	return other
}

// mendLookup says where to look when a source has no answer, and no better
// advice.
func (h host) mendLookup(t spec.Target) string {
	switch t.Source {
	case spec.SourceDNS, spec.SourceName:
		return h.lookup(t.Host)
	case spec.SourceSRV:
		return "dig SRV " + t.Host + " must show records; or write what they would: HOST:PORT"
	case spec.SourceEtcd:
		return "etcdctl endpoint health must succeed; set ETCDCTL_ENDPOINTS to its address, or write it: etcd://HOST:PORT/" + t.Path
	}
	return ""
}

func (h host) lookup(name string) string {
	if !h.container {
		return "getent ahosts " + name + " must show addresses: see /etc/resolv.conf, or write the address itself"
	}
	if strings.Contains(name, ".") {
		return "see whether the host finds it: getent ahosts " + name + "; or " + h.start("--add-host "+name+":ADDRESS")
	}
	return "names of containers are found on a network of both: docker network connect NETWORK CONTAINER"
}

// mendTarget says where to look, by the way in which an endpoint failed.
func (h host) mendTarget(l spec.Link, a answer) string {
	e := a.endpoint
	if e.Protocol == spec.Unix {
		return h.mendPath(e.Path, a.err)
	}
	at, port := e.Addr.Addr(), e.Addr.Port()
	switch {
	case at.IsLoopback() && h.ownNetwork && errors.Is(a.err, syscall.ECONNREFUSED):
		return fmt.Sprintf("%s is this container itself; for a server on its host: %s and the target host.docker.internal:%d",
			at, h.start("--add-host host.docker.internal:host-gateway"), port)
	case errors.Is(a.err, syscall.ECONNREFUSED) && at.IsLoopback():
		return fmt.Sprintf("start the server; this shows who listens: %s", h.sudo(fmt.Sprintf("ss -lntp 'sport = :%d'", port)))
	case errors.Is(a.err, syscall.ECONNREFUSED):
		return fmt.Sprintf("start the server, on that address or all; on its host: ss -lntp 'sport = :%d' (a container: docker run -p %d:%d)", port, port, port)
	case errors.Is(a.err, check.ErrMute):
		kind := l.Options.EffectiveCheck().Kind
		return fmt.Sprintf("see whether it is a server that speaks %s: nc -v %s %d; if it is only slow: check-timeout=5s", kind, at, port)
	case errors.Is(a.err, os.ErrDeadlineExceeded), errors.Is(a.err, context.DeadlineExceeded), errors.Is(a.err, syscall.ETIMEDOUT):
		return fmt.Sprintf("see whether its host is up and no firewall drops port %d: ping %s; on its host: sudo nft list ruleset", port, at)
	case errors.Is(a.err, syscall.ENETUNREACH), errors.Is(a.err, syscall.EHOSTUNREACH):
		return fmt.Sprintf("ip route get %s must show a way", at)
	}
	if c := l.Options.EffectiveCheck(); c.Meaningful() {
		return fmt.Sprintf("see the server's own log, or ask it for something else: check=tcp instead of check=%s", c.Kind)
	}
	return fmt.Sprintf("see the server's own log; for what its clients get: nc -v %s %d </dev/null", at, port)
}

func (h host) mendPath(path string, err error) string {
	switch {
	case errors.Is(err, os.ErrPermission):
		return "ls -l " + path + " shows who may use it; run legate as that user or group"
	case h.container && errors.Is(err, os.ErrNotExist):
		if dir := parentOf(path); !isShared(dir) {
			return h.start("-v " + dir + ":" + dir)
		}
		return "when its server has made it, " + h.start("-v "+path+":"+path) + "; better have it made in a directory of its own, and mount that"
	}
	return "start the server that makes it; this shows whether one listens: " + h.sudo("ss -xlp src "+path)
}

// isShared tells a directory that is full of what is not for a container: /,
// /run and its like.
func isShared(dir string) bool { return strings.Count(dir, "/") == 1 || dir == "/var/run" }

// glance is how long a connection is looked at that was accepted: docker-proxy
// accepts for servers that are not up, and closes then.
const glance = 250 * time.Millisecond

var errClosesAtOnce = errors.New("it accepts, and closes at once")

// tryEndpoint asks as the link's own check does, or else connects as one of
// its connections would.
func tryEndpoint(ctx context.Context, o spec.Options, e spec.Endpoint) error {
	if c := o.EffectiveCheck(); c.Active() {
		return check.Runner{}.Run(ctx, c, e)
	}
	network, address := "tcp", e.String()
	if e.Protocol == spec.Unix {
		network, address = "unix", e.Path
	}
	dialer := net.Dialer{Timeout: o.ConnectTimeout}
	c, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return withoutAddress(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(glance))
	if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return errClosesAtOnce
	}
	return nil
}

// withoutAddress leaves out what the line says already.
func withoutAddress(err error) error {
	if o, ok := errors.AsType[*net.OpError](err); ok {
		err = o.Err
	}
	if s, ok := errors.AsType[*os.SyscallError](err); ok {
		err = s.Err
	}
	if n, ok := errors.AsType[net.Error](err); ok && n.Timeout() {
		return os.ErrDeadlineExceeded
	}
	return err
}
