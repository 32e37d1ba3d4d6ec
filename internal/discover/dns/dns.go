// Package dns is the source of targets that are names: A, AAAA and SRV records
// of name servers, and the hosts file.
//
// It asks name servers itself. Go's resolver tells neither the TTL of an
// answer nor its priorities, and remembers the hosts file for five seconds;
// the C library's is in no static binary.
package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"legate/internal/discover"
	"legate/internal/spec"
)

// patience is the limit for one question, its search list, its aliases and all
// attempts included.
const patience = 10 * time.Second

// Config says whom to ask. Its zero value is what the machine's other programs
// do.
type Config struct {
	// Servers are asked instead of those that ResolvConf names, in this order:
	// ADDR[:PORT], see [ParseServer]. None: those of ResolvConf. Its search
	// list holds in any case.
	Servers []string
	// Hosts is the path of the hosts file; "": /etc/hosts. It is read again
	// when it changes.
	Hosts string
	// ResolvConf is the path of the file that names the name servers; "":
	// /etc/resolv.conf. It is read again when it changes.
	ResolvConf string
}

// Source looks names up. It implements [discover.Source] for
// [spec.SourceDNS], [spec.SourceSRV] and [spec.SourceName]. It holds nothing
// while nobody watches, and needs no closing.
type Source struct {
	hosts   *hosts
	resolv  *file[settings]
	given   []string // of the configuration, as ADDR:PORT
	wrong   error    // with the configuration
	servers servers

	mu     sync.Mutex // guards memory
	memory map[spec.Target]memory
}

// New returns the source. What is wrong with the configuration is what its
// watches fail with.
func New(c Config) *Source { return newSource(c, "53") }

// newSource has tests use servers in resolv.conf that are on another port.
func newSource(c Config, port string) *Source {
	s := &Source{
		hosts:  newHosts(cmp.Or(c.Hosts, "/etc/hosts")),
		resolv: &file[settings]{path: cmp.Or(c.ResolvConf, "/etc/resolv.conf")},
		memory: map[spec.Target]memory{},
	}
	s.servers.turns = make(chan struct{}, atOnce)
	s.resolv.parse = func(text string) settings { return parseResolvConf(text, port) }
	for _, text := range c.Servers {
		server, err := ParseServer(text)
		if err != nil {
			s.wrong = err
			return s
		}
		s.given = append(s.given, server.String())
	}
	return s
}

// memory is what one question learned that matters after a failure, too.
type memory struct {
	name string    // that had records last, of those that the search list gives
	met  time.Time // when it had
	srv  time.Time // when it last had SRV records, or nobody could tell
	at   time.Time // when it was kept
}

// recall returns what an earlier watch of the question left, which failed.
func (s *Source) recall(question spec.Target) memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory[question]
}

// keep is for the watch that follows soon. What nobody came back for goes.
func (s *Source) keep(question spec.Target, m memory) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for q, old := range s.memory {
		if now.Sub(old.at) > 4*discover.Ceiling {
			delete(s.memory, q)
		}
	}
	if m.name != "" {
		m.at = now
		s.memory[question] = m
	}
}

// Watch reports the places of a name until ctx ends. It fails when no name
// server says whether the name has any.
func (s *Source) Watch(ctx context.Context, q discover.Query, set func(discover.Result)) error {
	if s.wrong != nil {
		return s.wrong
	}
	w := &watch{Source: s, query: q, memory: s.recall(q.Target)}
	if q.Target.Source != spec.SourceSRV {
		news, leave := s.hosts.enter()
		defer leave()
		w.news = news
	}
	err := w.run(ctx, set)
	if ctx.Err() == nil {
		s.keep(q.Target, w.memory)
	}
	return err
}

// watch is one call of Watch.
type watch struct {
	*Source
	query discover.Query
	news  <-chan struct{} // of the hosts file; nil: it does not matter
	memory

	asked time.Time
	local []netip.Addr // what the hosts file had
}

func (w *watch) run(ctx context.Context, set func(discover.Result)) error {
	for {
		result, pause, err := w.ask(ctx)
		switch {
		case ctx.Err() != nil: // ours, not the name server's
			return ctx.Err()
		case err != nil:
			return err
		}
		set(result)
		if err := w.wait(ctx, pause); err != nil {
			return err
		}
	}
}

// wait is [discover.Query.Wait] that ends as well when the hosts file has
// other addresses for the name.
func (w *watch) wait(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(time.Until(w.asked.Add(max(discover.Floor, discover.Jitter(pause)))))
	defer timer.Stop()
	suspect := w.query.Suspect
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return nil
		case <-suspect:
			suspect = nil
			timer.Reset(time.Until(w.asked.Add(discover.Floor)))
		case <-w.news:
			if !slices.Equal(w.local, w.hosts.addrs(w.query.Target.Host)) {
				return nil
			}
		}
	}
}

// ask returns what there is now, and when to ask again.
func (w *watch) ask(ctx context.Context) (discover.Result, time.Duration, error) {
	w.asked = time.Now()
	name := w.query.Target.Host
	if isLocalhost(name) {
		return w.loopback()
	}
	if w.news != nil {
		if w.local = w.hosts.addrs(name); len(w.local) > 0 {
			return discover.Result{Places: places(name, w.local), Detail: w.hosts.path}, discover.Ceiling, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c := w.resolv.get()
	if len(w.given) > 0 {
		c.servers, c.assumed = w.given, false
	}
	answer, err := w.search(ctx, finder{&w.servers, c})
	var none *absence
	switch {
	case errors.As(err, &none):
		pause := none.again
		if isDocker(none.server) {
			pause = discover.Floor
		}
		return discover.Result{Err: fmt.Errorf("look up %s: %w", name, err), Weak: true, TTL: pause}, pause, nil
	case err != nil && c.assumed:
		return discover.Result{}, 0, spec.Errorf("name one there, or with --dns ADDR", "look up %s: no name server in %s, and none on this machine: %v", name, w.resolv.path, err)
	case err != nil:
		return discover.Result{}, 0, fmt.Errorf("look up %s: %w", name, err)
	}
	return answer.result, answer.pause, nil
}

// loopback is the answer for localhost, whose SRV records nobody may be asked
// for either.
func (w *watch) loopback() (discover.Result, time.Duration, error) {
	if w.query.Target.Source == spec.SourceSRV {
		err := fmt.Errorf("look up %s: localhost has no SRV records (RFC 6761)", w.query.Target.Host)
		return discover.Result{Err: err, Weak: true}, discover.Ceiling, nil
	}
	return discover.Result{Places: places(w.query.Target.Host, loopback()), Detail: "localhost"}, discover.Ceiling, nil
}

// clamp turns a TTL into a pause.
func clamp(ttl uint32) time.Duration {
	return min(max(time.Duration(ttl)*time.Second, discover.Floor), discover.Ceiling)
}
