package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"legate/internal/discover"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// server is a name server of our own, for answers that no honest one gives.
type server struct {
	addr  string // ADDR:PORT of UDP and TCP
	asked atomic.Int64
}

type handler func(w dns.ResponseWriter, q *dns.Msg)

// serve starts a server. at is "" for a free port of 127.0.0.1.
func serve(t testing.TB, at string, h handler) *server {
	t.Helper()
	if at == "" {
		at = fmt.Sprintf("127.0.0.1:%d", testnet.FreePort(t))
	}
	s := &server{addr: at}
	p, err := net.ListenPacket("udp", at)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	count := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		s.asked.Add(1)
		h(w, q)
	})
	var ended sync.WaitGroup
	t.Cleanup(ended.Wait)
	for _, d := range []*dns.Server{{PacketConn: p, Handler: count}, {Listener: l, Handler: count}} {
		up := make(chan struct{})
		d.NotifyStartedFunc = func() { close(up) }
		ended.Go(func() { _ = d.ActivateAndServe() })
		<-up
		t.Cleanup(func() {
			if err := d.Shutdown(); err != nil {
				t.Error(err)
			}
		})
	}
	return s
}

func silent(dns.ResponseWriter, *dns.Msg) {}

// reply makes an answer. Records are in the form of zone files; those after
// "+" go to the additional, those after "-" to the authority section.
func reply(t testing.TB, q *dns.Msg, rcode int, records ...string) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, rcode)
	m.RecursionAvailable = true
	if q.IsEdns0() != nil {
		m.SetEdns0(udpSize, false)
	}
	section := &m.Answer
	for _, text := range records {
		switch text {
		case "+":
			section = &m.Extra
			continue
		case "-":
			section = &m.Ns
			continue
		}
		r, err := dns.NewRR(text)
		if err != nil {
			t.Error(err)
			continue
		}
		*section = append(*section, r)
	}
	return m
}

// zone answers with the records of the name and type that is asked for, as an
// honest server does: with the CNAME where there is one, NXDOMAIN for other
// names.
func zone(t testing.TB, records ...string) handler {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		var list []string
		rcode := dns.RcodeNameError
		for _, text := range records {
			r, err := dns.NewRR(text)
			if err != nil {
				t.Error(err)
				continue
			}
			if !sameName(r.Header().Name, q.Question[0].Name) {
				continue
			}
			rcode = dns.RcodeSuccess
			if kind := r.Header().Rrtype; kind == q.Question[0].Qtype || kind == dns.TypeCNAME {
				list = append(list, text)
			}
		}
		_ = w.WriteMsg(reply(t, q, rcode, list...))
	}
}

// always answers everything with that code.
func always(t testing.TB, rcode int) handler {
	return func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(reply(t, q, rcode)) }
}

// rewrite replaces a file's text in place, as Docker does.
func rewrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func text(t testing.TB, s string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// asking is a source that has only the given servers.
func asking(t testing.TB, servers ...string) *Source {
	t.Helper()
	return New(Config{Servers: servers, Hosts: text(t, ""), ResolvConf: text(t, "search .\n")})
}

func question(source, host string) spec.Target { return spec.Target{Source: source, Host: host} }

// once returns the first result of a watch, or its failure.
func once(t testing.TB, s *Source, q spec.Target) (discover.Result, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got *discover.Result
	err := s.Watch(ctx, discover.Query{Target: q}, func(r discover.Result) {
		if got == nil {
			got = &r
		}
		cancel()
	})
	if got != nil {
		return *got, nil
	}
	if err == nil || errors.Is(err, context.Canceled) {
		t.Fatalf("the watch ended with %v and no result", err)
	}
	return discover.Result{}, err
}

// shown are the places of a result, sorted, with port, priority and weight
// where they are set.
func shown(r discover.Result) string {
	var list []string
	for _, p := range r.Places {
		text := p.Host
		if p.Port != 0 {
			text = fmt.Sprintf("%s:%d/%d/%d", p.Host, p.Port, p.Priority, p.Weight)
		}
		list = append(list, text)
	}
	slices.SortFunc(list, func(a, b string) int {
		x, errX := netip.ParseAddr(a)
		y, errY := netip.ParseAddr(b)
		if errX == nil && errY == nil {
			return x.Compare(y)
		}
		return strings.Compare(a, b)
	})
	return strings.Join(list, " ")
}

// watching is a watch that goes on, and is begun again after failures, without
// a pause but the shortest.
type watching struct {
	end     func() // ends the watch and waits for it
	suspect chan struct{}
	mu      sync.Mutex // guards the following
	results []discover.Result
	errs    []error
}

func follow(t testing.TB, s *Source, q spec.Target) *watching {
	t.Helper()
	w := &watching{suspect: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	w.end = func() { cancel(); <-done }
	t.Cleanup(w.end)
	query := discover.Query{Target: q, Suspect: w.suspect}
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			err := s.Watch(ctx, query, w.add)
			w.fail(err)
			_ = discover.Query{}.Wait(ctx, time.Now(), discover.Floor/4)
		}
	}()
	return w
}

func (w *watching) add(r discover.Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.results = append(w.results, r)
}

func (w *watching) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

func (w *watching) doubt() {
	select {
	case w.suspect <- struct{}{}:
	default:
	}
}

// last returns the last result, and how many there were.
func (w *watching) last() (discover.Result, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.results) == 0 {
		return discover.Result{}, 0
	}
	return w.results[len(w.results)-1], len(w.results)
}

// failed returns the last failure, nil if there was none, and how many there
// were.
func (w *watching) failed() (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errs) == 0 {
		return 0, nil
	}
	return len(w.errs), w.errs[len(w.errs)-1]
}

// sees waits for a good result with those places.
func (w *watching) sees(t testing.TB, places string) {
	t.Helper()
	testnet.Await(t, "places "+places, func() bool {
		r, n := w.last()
		return n > 0 && r.Err == nil && shown(r) == places
	})
}
