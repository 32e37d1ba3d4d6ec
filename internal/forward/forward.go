// Package forward serves links: it admits connections, chooses and tries
// endpoints, holds what cannot be served yet, and ends what must end. It is a
// handler on the pump and moves no byte itself.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// Config of a Forwarder. Engine and Pool are required.
type Config struct {
	Engine pump.Engine
	Pool   *endpoints.Pool
	// Open makes the listening sockets of a link; nil means Bind.
	Open func(spec.Link) ([]pump.Listener, error)
	// Admit says why the callers of a link may not go to an endpoint; nil: they
	// may go to all. It is asked again for live connections at every Apply, and
	// must not call the Forwarder.
	Admit func(spec.Link, *spec.Member) error
	// Way says from where an endpoint that is a container's is reached, or why
	// it is not: a network namespace as in spec.Listen, and what makes a socket
	// there, which are zero for here. nil: all are reached from here. It is
	// asked at each attempt.
	Way func(*spec.Endpoint) (namespace string, socket pump.SocketFunc, err error)
	// Ended tells whether nobody lives any more in a network namespace, as in
	// spec.Listen; nil: they do in all. What goes on of links that were there is
	// cut, or it would keep the namespace alive. It is asked at every Apply, and
	// must not call the Forwarder.
	Ended func(namespace string) bool
	Log   *slog.Logger // nil discards
	// LogConnections logs one line per connection, at its end.
	LogConnections bool
}

// Forwarder serves the links that were applied. Its methods may be called from
// any goroutine.
type Forwarder struct {
	cfg   Config
	loops *loops
	start time.Time

	reconsidered atomic.Int64

	apply sync.Mutex // one Apply or Close at a time

	mu      sync.Mutex              // guards the following
	links   []*link                 // served, in the order of Apply
	applied []applied               // all, in the same order
	retired map[*link]struct{}      // no longer named, with flows that go on
	users   map[spec.Target][]*link // of links, by where they lead

	switches []*switchboard
}

// applied is what became of one link of the last Apply.
type applied struct {
	link *link // nil where it is not served
	spec spec.Link
	err  error
}

// New returns a Forwarder without links.
func New(cfg Config) *Forwarder {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Open == nil {
		cfg.Open = Bind
	}
	return &Forwarder{cfg: cfg, loops: newLoops(), start: time.Now(), retired: map[*link]struct{}{}}
}

// Apply makes exactly these links be served and returns one error per link,
// nil where it is. What is unchanged is not disturbed: a link with new targets
// keeps its listener and its live connections, and one that is no longer named
// stops listening while its connections go on, unless its clients have ended.
func (fw *Forwarder) Apply(links []spec.Link) []error {
	fw.apply.Lock()
	defer fw.apply.Unlock()
	fw.interrupt()
	defer fw.resume()
	wanted := firstByListen(links)
	serving := fw.closeUnnamed(wanted)
	fw.cutEnded(wanted)
	fw.loops.set(fw.listens(links)) // also of those that are about to open
	errs := make([]error, len(links))
	next := make([]*link, 0, len(links))
	all := make([]applied, len(links))
	for i, s := range links {
		l := serving[s.Listen]
		delete(serving, s.Listen) // a second link that wants it is refused
		if l == nil {
			l, errs[i] = fw.open(s, next)
		}
		all[i] = applied{l, s, errs[i]}
		if l != nil {
			next = append(next, l)
		}
	}
	fw.mu.Lock()
	fw.links, fw.applied, fw.users = next, all, usersOf(all)
	fw.mu.Unlock()
	fw.loops.set(fw.listens(served(all)))
	for _, a := range all {
		if a.link != nil {
			a.link.set(a.spec)
		}
	}
	fw.steerRetired(links)
	return errs
}

// steerRetired gives retired links the mode of the link that has their address
// now, or none: nobody else could resume those who wait there.
func (fw *Forwarder) steerRetired(links []spec.Link) {
	for _, l := range fw.all() {
		l.mu.Lock()
		if was := l.spec.Mode; l.closed {
			l.spec.Mode = spec.ModeServe
			if i := slices.IndexFunc(links, func(s spec.Link) bool { return s.Listen == l.listen }); i >= 0 {
				l.spec.Mode = links[i].Mode
			}
			l.modeWas(was)
		}
		l.mu.Unlock()
	}
}

func served(all []applied) (links []spec.Link) {
	for _, a := range all {
		if a.link != nil {
			links = append(links, a.spec)
		}
	}
	return links
}

// listens are the addresses of ours that connections to endpoints could come
// back to.
func (fw *Forwarder) listens(links []spec.Link) []spec.Listen {
	out := make([]spec.Listen, 0, len(links))
	for _, b := range fw.boards() {
		out = append(out, b.listen)
	}
	for _, s := range links {
		out = append(out, s.Listen)
	}
	return out
}

// SameSocket tells whether a link, which listens where it did, can keep its
// listening socket.
func SameSocket(a, b spec.Link) bool {
	x, y := a.Options, b.Options
	return x.MaxConnections == y.MaxConnections && x.SocketMode == y.SocketMode && x.SocketGroup == y.SocketGroup
}

// closeUnnamed retires the links that are not wanted as they are and returns
// the others by their address. Sockets close before new ones open, since a new
// link may want an old one's address.
func (fw *Forwarder) closeUnnamed(wanted map[spec.Listen]*spec.Link) map[spec.Listen]*link {
	fw.mu.Lock()
	old := fw.links
	fw.mu.Unlock()
	keep := make(map[spec.Listen]*link, len(old))
	for _, l := range old {
		again := wanted[l.listen]
		if again != nil && SameSocket(l.linkSpec(), *again) {
			keep[l.listen] = l
			continue
		}
		fw.retire(l)
	}
	return keep
}

// firstByListen has the first link of each address: others are refused.
func firstByListen(links []spec.Link) map[spec.Listen]*spec.Link {
	first := make(map[spec.Listen]*spec.Link, len(links))
	for i := range links {
		if s := &links[i]; first[s.Listen] == nil {
			first[s.Listen] = s
		}
	}
	return first
}

// cutEnded cuts what goes on of links that are not wanted any more and whose
// clients have ended, however long ago they were withdrawn.
func (fw *Forwarder) cutEnded(wanted map[spec.Listen]*spec.Link) {
	fw.mu.Lock()
	retired := slices.Collect(maps.Keys(fw.retired))
	fw.mu.Unlock()
	for _, l := range retired {
		if wanted[l.listen] == nil && fw.ended(l.listen) {
			l.cutAll()
		}
	}
}

// ended tells whether the clients of a link have. A link without a socket is
// for one life of a container, whose address may be another's after it.
func (fw *Forwarder) ended(at spec.Listen) bool {
	if at.Switched() {
		return true
	}
	return at.Namespace != "" && fw.cfg.Ended != nil && fw.cfg.Ended(at.Namespace)
}

func (fw *Forwarder) retire(l *link) {
	fw.mu.Lock()
	fw.retired[l] = struct{}{}
	fw.links = slices.DeleteFunc(slices.Clone(fw.links), func(o *link) bool { return o == l })
	fw.mu.Unlock()
	l.close()
	fw.sweepRetired()
}

// forget is sweepRetired for one that has just lost its last flow.
func (fw *Forwarder) forget(l *link) {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	delete(fw.retired, l)
}

// sweepRetired forgets retired links without flows.
func (fw *Forwarder) sweepRetired() {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	for l := range fw.retired {
		if l.live() == 0 {
			delete(fw.retired, l)
		}
	}
}

func (fw *Forwarder) open(s spec.Link, serving []*link) (*link, error) {
	for _, l := range serving {
		if l.listen == s.Listen {
			return nil, spec.Errorf("give one of them another address", "%s is already taken by link %q", s.Listen, l.linkSpec().Name)
		}
	}
	l := newLink(fw, s)
	if err := l.listenAndServe(); err != nil {
		return nil, explainTaken(s, serving, err)
	}
	fw.cfg.Log.Info("listening", "link", s.Name, "on", s.Listen.String(), "target", targetText(s.Targets), "origin", string(s.Origin))
	return l, nil
}

// Changed tells that the endpoints of t, or what is known of them, changed.
// Only links that lead there have work of it.
func (fw *Forwarder) Changed(t spec.Target) {
	for _, l := range fw.leadingTo(t) {
		fw.reconsidered.Add(1)
		l.reconsider()
	}
}

// Reconsidered counts how often a link had to look at its endpoints anew since
// a source, a check or an attempt changed what is known of them.
func (fw *Forwarder) Reconsidered() int64 { return fw.reconsidered.Load() }

// leadingTo returns the links that lead to t, and may have flows.
func (fw *Forwarder) leadingTo(t spec.Target) []*link {
	fw.mu.Lock()
	list := slices.Clone(fw.users[t])
	retired := slices.Collect(maps.Keys(fw.retired))
	fw.mu.Unlock()
	for _, l := range retired {
		if l.leadsTo(t) {
			list = append(list, l)
		}
	}
	return list
}

// usersOf returns the links by the targets that they lead to.
func usersOf(all []applied) map[spec.Target][]*link {
	users := map[spec.Target][]*link{}
	for _, a := range all {
		if a.link == nil {
			continue
		}
		for _, t := range a.spec.Targets {
			users[t] = append(users[t], a.link)
		}
	}
	return users
}

// all returns the links that may have flows.
func (fw *Forwarder) all() []*link {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	list := slices.Clone(fw.links)
	for l := range fw.retired {
		list = append(list, l)
	}
	return list
}

// Awaited are the targets that clients still wait for of links that are gone.
func (fw *Forwarder) Awaited() (targets []spec.Target) {
	for _, l := range fw.all() {
		l.mu.Lock()
		if l.closed && len(l.queue.waiting)+l.queue.starting > 0 {
			targets = append(targets, l.spec.Targets...)
		}
		l.mu.Unlock()
	}
	return targets
}

func (fw *Forwarder) serving() []*link {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	return fw.links
}

// named returns the link that is served under a name; nil for none.
func (fw *Forwarder) named(name string) *link {
	links := fw.serving()
	i := slices.IndexFunc(links, func(l *link) bool { return l.linkSpec().Name == name })
	if i < 0 {
		return nil
	}
	return links[i]
}

// Ended counts the connections that EndFormer was for.
type Ended struct {
	Ended int // by themselves
	Cut   int
}

// EndFormer ends the live connections of a link that go to its former
// endpoints: it waits for them, and after within cuts those that are left. It
// returns when they are gone, or with ctx's error when ctx ends first.
func (fw *Forwarder) EndFormer(ctx context.Context, name string, within time.Duration) (n Ended, err error) {
	l := fw.named(name)
	if l == nil {
		return n, fmt.Errorf("end connections: no link %q is served", name)
	}
	limit, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var left []ticket
	for _, t := range l.strays() {
		if l.awaitStray(limit, t) {
			n.Ended++
			continue
		}
		left = append(left, t)
	}
	if ctx.Err() != nil {
		return n, ctx.Err()
	}
	n.Cut = l.cutStrays(left)
	n.Ended += len(left) - n.Cut // at this very moment
	for _, t := range left {
		l.awaitStray(ctx, t)
	}
	return n, ctx.Err()
}

// Close accepts what is queued, stops accepting, waits for the flows until ctx
// ends and cuts those that are left.
func (fw *Forwarder) Close(ctx context.Context) error {
	fw.apply.Lock()
	defer fw.apply.Unlock()
	fw.closeSwitches()
	var closing sync.WaitGroup
	for _, l := range fw.serving() {
		closing.Go(func() { fw.retire(l) })
	}
	closing.Wait()
	links := fw.all() // all retired
	if awaitEmpty(ctx, links) {
		return nil
	}
	for _, l := range links {
		l.cutAll()
	}
	awaitEmpty(context.Background(), links)
	return nil
}

func awaitEmpty(ctx context.Context, links []*link) bool {
	return !slices.ContainsFunc(links, func(l *link) bool { return !l.awaitEmpty(ctx) })
}

// now is a moment that fits into a word: the time since fw began.
func (fw *Forwarder) now() time.Duration { return time.Since(fw.start) }

func (fw *Forwarder) at(moment time.Duration) time.Time { return fw.start.Add(moment) }

// Errors that end flows.
var (
	ErrCut        = errors.New("cut")
	ErrDown       = errors.New("the link is down")
	ErrNoEndpoint = errors.New("no endpoint could be reached")
	ErrHoldFull   = errors.New("too many connections wait already")
	// ErrEndpointsFull: every endpoint that may be tried has as many
	// connections as it may have.
	ErrEndpointsFull = errors.New("every endpoint is full")
	ErrDrained       = errors.New("the link is drained")
	ErrPaused        = errors.New("the link is paused")
)
