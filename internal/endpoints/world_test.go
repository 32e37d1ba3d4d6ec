package endpoints

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"legate/internal/spec"
)

var (
	errRefused  = errors.New("connection refused")
	errShortage = errors.New("too many open files")
)

// world is a pool in a bubble of fake time, in front of endpoints that serve,
// refuse or swallow the attempt as they are told.
type world struct {
	t      *testing.T
	pool   *Pool
	start  time.Time
	rand   float64 // what random returns
	random func() float64
	log    bytes.Buffer

	mu       sync.Mutex // guards the following
	refusing map[spec.Endpoint]bool
	silent   map[spec.Endpoint]bool
	dialled  map[spec.Endpoint][]time.Duration // since start
	flying   map[spec.Endpoint]int
	most     int // attempts at one endpoint at a time
	changed  []spec.Target
	suspect  []spec.Target
	room     []spec.Target
	answer   map[spec.Endpoint]error           // to checks
	checked  map[spec.Endpoint][]time.Duration // since start
}

// inWorld runs f in a bubble; when it ends, nothing of the pool may be left.
func inWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, start: time.Now(), rand: 0.5, // no jitter
			answer: map[spec.Endpoint]error{}, checked: map[spec.Endpoint][]time.Duration{},
			refusing: map[spec.Endpoint]bool{}, silent: map[spec.Endpoint]bool{},
			dialled: map[spec.Endpoint][]time.Duration{}, flying: map[spec.Endpoint]int{},
		}
		w.random = func() float64 { return w.rand }
		w.pool = New(Config{
			Dial: w.dial, Check: w.check,
			Changed: w.told(&w.changed), Suspect: w.told(&w.suspect), Room: w.told(&w.room),
			Ours:  func(err error) bool { return errors.Is(err, errShortage) },
			Host:  "here",
			Local: func(a netip.Addr) bool { return a == tcp(77).Addr.Addr() },
			Rand:  func() float64 { return w.random() },
			Log:   slog.New(slog.NewTextHandler(&w.log, nil)),
		})
		defer w.pool.Close()
		f(w)
	})
}

func (w *world) dial(ctx context.Context, e spec.Endpoint, timeout time.Duration) error {
	w.mu.Lock()
	w.dialled[e] = append(w.dialled[e], time.Since(w.start))
	w.flying[e]++
	w.most = max(w.most, w.flying[e])
	silent := w.silent[e]
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.flying[e]--
		w.mu.Unlock()
	}()
	if silent {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		<-ctx.Done()
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refusing[e] {
		return errRefused
	}
	return nil
}

// check waits in vain when the endpoint is silent.
func (w *world) check(ctx context.Context, e spec.Endpoint, _ spec.Check) error {
	w.mu.Lock()
	w.checked[e] = append(w.checked[e], time.Since(w.start))
	silent, err := w.silent[e], w.answer[e]
	w.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

// answers is what e says to checks from now on; nil is that it serves.
func (w *world) answers(e spec.Endpoint, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer[e] = err
}

// checks returns when e was checked since the last call.
func (w *world) checks(e spec.Endpoint) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.checked[e]
	delete(w.checked, e)
	return list
}

// told records a callback, which calls the pool as its users do.
func (w *world) told(list *[]spec.Target) func(spec.Target) {
	return func(t spec.Target) {
		w.candidates([]spec.Target{t}, 0)
		w.mu.Lock()
		defer w.mu.Unlock()
		*list = append(*list, t)
	}
}

func (w *world) set(t spec.Target, es ...spec.Endpoint) {
	w.pool.Set(t, spec.Answer{Endpoints: spec.Members(es...), At: time.Now()})
}

// weaken has the source say, without proof, that t has none of es.
func (w *world) weaken(t spec.Target, es ...spec.Endpoint) {
	w.pool.Set(t, spec.Answer{Endpoints: weakly(spec.Members(es...)), Err: errors.New("no such name")})
}

func (w *world) refuse(e spec.Endpoint, yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refusing[e] = yes
}

func (w *world) swallow(e spec.Endpoint, yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.silent[e] = yes
}

// fail makes e refuse and lets a client find out.
func (w *world) fail(e spec.Endpoint) {
	w.refuse(e, true)
	w.pool.Report(e, errRefused)
}

// until lets the bubble's time run to d after the start, and then everything
// that is due.
func (w *world) until(d time.Duration) {
	time.Sleep(d - time.Since(w.start)) //nolint:forbidigo // the bubble's time is fake: nothing waits, and nothing can be too slow
	synctest.Wait()
}

// probes returns when e was probed since the last call.
func (w *world) probes(e spec.Endpoint) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := w.dialled[e]
	delete(w.dialled, e)
	return list
}

// calls returns the recorded callbacks since the last call.
func (w *world) calls(list *[]spec.Target) []spec.Target {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	out := *list
	*list = nil
	return out
}

// view is one that wants nothing but the targets.
func view(targets ...spec.Target) *View { return &View{Targets: targets} }

// turnOf returns the candidates in the order of that turn.
func turnOf(l *List, turn uint64) []Candidate {
	var out []Candidate
	for _, c := range ordered(l, Key{Turn: turn}) {
		out = append(out, *c)
	}
	return out
}

func ordered(l *List, k Key) []*Candidate {
	first, _ := l.First(k)
	if first == nil {
		return nil
	}
	return l.Rest(k, first, []*Candidate{first})
}

// candidates of a pool that was asked for the first time.
func (w *world) candidates(targets []spec.Target, turn uint64) []Candidate {
	return turnOf(w.pool.List(view(targets...), nil), turn)
}

func (w *world) candidate(t spec.Target, e spec.Endpoint) Candidate {
	w.t.Helper()
	for _, c := range w.candidates([]spec.Target{t}, 0) {
		if c.Endpoint == e {
			return c
		}
	}
	w.t.Fatalf("%v is no candidate of %v", e, t)
	return Candidate{}
}

func (w *world) state(t spec.Target, e spec.Endpoint) State {
	w.t.Helper()
	return w.candidate(t, e).State
}

func named(name string) spec.Target {
	return spec.Target{Source: spec.SourceDNS, Protocol: spec.TCP, Host: name, Port: 80}
}

func tcp(n byte) spec.Endpoint {
	return spec.Endpoint{Protocol: spec.TCP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 80)}
}

func udp(n byte) spec.Endpoint {
	return spec.Endpoint{Protocol: spec.UDP, Addr: tcp(n).Addr}
}

func ms(list ...int) []time.Duration {
	var out []time.Duration
	for _, n := range list {
		out = append(out, time.Duration(n)*time.Millisecond)
	}
	return out
}

// many are that many endpoints.
func many(n int) []spec.Endpoint {
	list := make([]spec.Endpoint, n)
	for i := range list {
		list[i] = spec.Endpoint{Protocol: spec.TCP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80)}
	}
	return list
}

// weakly are members that their source no longer names, without proof.
func weakly(list []spec.Member) []spec.Member {
	for i := range list {
		list[i].Weak = true
	}
	return list
}
