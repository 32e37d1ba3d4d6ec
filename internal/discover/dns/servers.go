package dns

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// firstTry is how long each server has in the first round. A question that
	// is lost, or a dead server at the top of the list, costs no more.
	firstTry = 2 * time.Second
	// preferred is for how long a server that answered after others were
	// silent is asked first. Short, and shorter than the time that weak
	// evidence takes to be believed: the others may know names that this one
	// does not.
	preferred = 10 * time.Second
	// atOnce bounds how many questions are under way. Each has a socket, and
	// thousands of names that become known together would take the descriptors
	// that connections need.
	atOnce = 256
)

// failure is that no server said whether there are such records.
type failure struct {
	server string
	why    error
	// silent: it said nothing at all, so other names are not worth a question.
	silent bool
}

func (e *failure) Error() string { return fmt.Sprintf("name server %s: %v", e.server, e.why) }
func (e *failure) Unwrap() error { return e.why }

// servers knows whom to ask first.
type servers struct {
	turns chan struct{} // capacity atOnce; a question holds one element

	mu     sync.Mutex // guards the following
	turn   int        // of "rotate"
	chosen string
	until  time.Time
}

// order returns the servers in the order in which to ask them.
func (s *servers) order(c settings) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := slices.Clone(c.servers)
	if c.rotate {
		s.turn++
		at := s.turn % len(list)
		list = slices.Concat(list[at:], list[:at])
	}
	if i := slices.Index(list, s.chosen); i > 0 && time.Now().Before(s.until) {
		list = slices.Concat(list[i:i+1], list[:i], list[i+1:])
	}
	return list
}

func (s *servers) prefer(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chosen, s.until = server, time.Now().Add(preferred)
}

// ask asks the servers one after the other until one says what there is, or
// that there is nothing. Those that were silent are asked once more.
func (s *servers) ask(ctx context.Context, c settings, q dns.Question) (*dns.Msg, string, error) {
	list, failed := s.order(c), map[string]*failure{}
	silent := false
	for round := range c.attempts {
		for _, server := range list {
			if f := failed[server]; f != nil && !f.silent {
				continue
			}
			m, f := s.try(ctx, server, q, c, round)
			if f == nil {
				if silent {
					s.prefer(server)
				}
				return m, server, nil
			}
			silent = silent || f.silent
			// When time is up nothing was learned about this one.
			if failed[server] == nil || ctx.Err() == nil {
				failed[server] = f
			}
			if ctx.Err() != nil {
				return nil, "", worst(c, failed)
			}
		}
	}
	return nil, "", worst(c, failed)
}

// try asks one server. The last round is without EDNS: there are firewalls
// that drop what they do not know.
func (s *servers) try(ctx context.Context, server string, q dns.Question, c settings, round int) (*dns.Msg, *failure) {
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	case <-ctx.Done():
		return nil, &failure{server: server, why: errTimeout, silent: true}
	}
	patience := c.timeout
	if round == 0 {
		patience = min(patience, firstTry)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	m, err := exchange(ctx, server, q, round == 0 || round < c.attempts-1)
	if err != nil {
		return nil, &failure{server: server, why: err, silent: !errors.Is(err, errGarbled)}
	}
	if err := verdict(m); err != nil {
		return nil, &failure{server: server, why: err}
	}
	return m, nil
}

// verdict is nil where a message says what there is, or that there is nothing.
func verdict(m *dns.Msg) error {
	switch m.Rcode {
	case dns.RcodeNameError:
		return nil
	case dns.RcodeSuccess:
		if refers(m) {
			return errors.New("it knows other servers for the name, and does not ask them")
		}
		return nil
	case dns.RcodeServerFailure:
		return errors.New("server failure")
	case dns.RcodeRefused:
		return errors.New("refused")
	case dns.RcodeNotImplemented:
		return errors.New("it does not answer such questions")
	case dns.RcodeFormatError:
		return errors.New("it cannot read the question")
	}
	if name, known := dns.RcodeToString[m.Rcode]; known {
		return errors.New("it answers " + strings.ToUpper(name))
	}
	return fmt.Errorf("it answers with code %d", m.Rcode)
}

// refers: an answer that only names other servers says nothing about whether
// the name has records.
func refers(m *dns.Msg) bool {
	if m.Authoritative || m.RecursionAvailable || len(m.Answer) > 0 {
		return false
	}
	isNS := func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeNS }
	isSOA := func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeSOA }
	return slices.ContainsFunc(m.Ns, isNS) && !slices.ContainsFunc(m.Ns, isSOA)
}

// worst returns the failure to report: that of a server which said something,
// and of the first in the file, whomever was asked first. So the same failure
// has the same text.
func worst(c settings, failed map[string]*failure) *failure {
	var chosen *failure
	for _, server := range c.servers {
		f := failed[server]
		if f != nil && (chosen == nil || chosen.silent && !f.silent) {
			chosen = f
		}
	}
	return chosen
}
