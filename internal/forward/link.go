package forward

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"legate/internal/endpoints"
	"legate/internal/pump"
	"legate/internal/spec"
)

// link serves one listening address. It is the pump's handler for all flows of
// that address.
type link struct {
	fw     *Forwarder
	listen spec.Listen

	id      uint64        // begins the ids of its connections
	preface *pump.Preface // what trusted senders begin with

	mu         sync.Mutex // guards the following
	spec       spec.Link
	view       endpoints.View // of spec
	senders    senders        // of spec
	generation uint64         // of the targets; 1 is the first
	acceptors  []pump.Acceptor
	list       *endpoints.List // the last that was asked for; nil after a change of the view
	open       int             // so many of it may be tried
	index      index           // of it
	turn       uint64          // counts passes
	flows      flows
	passes     passes
	headers    headers
	callers    callers
	arrivals   uint64
	queue      queue
	downSince  time.Time // zero: up
	upSince    time.Time // the end of the last time down
	resumed    time.Time // the end of the last pause
	closed     bool      // stopped listening for good
	stopped    bool      // and has accepted its last client
	refusing   bool      // the listeners are, or will be, suspended
	shut       bool      // it was opened drained, and nobody has resumed it since
	attention  endpoints.Attention
	stats      stats
	additions  additions
	departures []departure   // a goroutine is about them while there are any
	news       chan struct{} // closed when something becomes of a flow that is watched; nil while nobody waits

	listening sync.Mutex    // one suspend or resume at a time
	stop      chan struct{} // closed with the link
	changes   sync.WaitGroup
}

func newLink(fw *Forwarder, s spec.Link) *link {
	l := &link{fw: fw, listen: s.Listen, id: rand.Uint64(), spec: s, senders: sendersOf(&s.Options), generation: 1, stats: newStats(), shut: s.Mode == spec.ModeDrain, stop: make(chan struct{})}
	l.view = l.viewOf(s)
	l.preface = &pump.Preface{Timeout: headerTimeout, Parse: l.parseHeader}
	return l
}

// viewOf is View with what this link itself found out.
func (l *link) viewOf(s spec.Link) endpoints.View {
	v := l.fw.View(s)
	v.Own = l.ownOf
	return v
}

// View is what a link wants of its endpoints, and which of them its callers may
// go to. The link need not be served.
func (fw *Forwarder) View(s spec.Link) endpoints.View {
	o := &s.Options
	var admit func(*spec.Member) error
	if fw.cfg.Admit != nil {
		admit = func(m *spec.Member) error { return fw.cfg.Admit(s, m) }
	}
	return endpoints.View{
		Admit:        admit,
		Targets:      s.Targets,
		Check:        o.EffectiveCheck(),
		Balance:      o.Balance,
		Near:         o.Near,
		SlowStart:    o.SlowStart,
		AllUnhealthy: o.AllUnhealthy,
		Limit:        o.EndpointConnections,
	}
}

// listenAndServe makes the listening sockets and serves them.
func (l *link) listenAndServe() error {
	if l.listen.Switched() {
		return nil // a switch hands it its clients
	}
	// Flows of the first socket may find the link down before the second is
	// served, which then has to follow, too.
	l.listening.Lock()
	defer l.listening.Unlock()
	ls, err := l.fw.cfg.Open(l.spec)
	if err != nil {
		return err
	}
	var acceptors []pump.Acceptor
	for i, s := range ls {
		a, err := l.fw.cfg.Engine.Serve(s, l)
		if err != nil {
			return errors.Join(err, closeAcceptors(acceptors), closeListeners(ls[i+1:]))
		}
		acceptors = append(acceptors, a)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acceptors = acceptors
	return nil
}

func closeAcceptors(list []pump.Acceptor) error {
	var errs []error
	for _, a := range list {
		errs = append(errs, a.Close())
	}
	return errors.Join(errs...)
}

// close stops listening; the flows go on.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	name, acceptors := l.spec.Name, l.acceptors
	close(l.stop)
	l.decideFates() // they are nobody's any more
	l.mu.Unlock()
	if err := closeAcceptors(acceptors); err != nil {
		l.fw.cfg.Log.Warn("closing a listener failed", "link", name, "error", err)
	}
	l.changes.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopped = true
	if len(l.flows.live) == 0 {
		l.fw.cfg.Pool.Forget(l)
	}
}

func (l *link) linkSpec() spec.Link {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spec
}

// set gives the link its present form: new connections, and those that wait,
// follow it at once.
func (l *link) set(s spec.Link) {
	l.mu.Lock()
	was := l.spec
	if !slices.Equal(was.Targets, s.Targets) {
		l.generation++
		// What is known of the old target says nothing about the new one, nor
		// do passes that began with the old one.
		l.downSince, l.upSince = time.Time{}, time.Now()
	}
	l.spec, l.view, l.list = s, l.viewOf(s), nil
	if was.Options != s.Options {
		l.forgive()
	}
	l.shut = l.shut && s.Mode == spec.ModeDrain
	l.senders = sendersOf(&s.Options)
	l.attention = l.needs()
	l.fw.cfg.Pool.Watch(l, l.view, l.attention)
	if s.Options.CallerConnections > 0 && was.Options.CallerConnections == 0 {
		l.countCallers()
	}
	l.modeWas(was.Mode)
	l.queue.full = false
	l.attend()
	l.mu.Unlock()
	l.reconsider()
}

// modeWas has those who wait follow the link's mode, if it is another now.
func (l *link) modeWas(was spec.Mode) {
	if was == l.spec.Mode {
		return
	}
	if was == spec.ModePause {
		l.resumed = time.Now()
	}
	if !l.closed {
		l.fw.cfg.Log.Info("link is "+modeText(l.spec.Mode), "link", l.spec.Name, "waiting", len(l.queue.waiting))
	}
	l.wakeAll()
}

func modeText(m spec.Mode) string {
	if m == spec.ModeServe {
		return "resumed"
	}
	return string(m)
}

func (l *link) leadsTo(t spec.Target) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.spec.Targets, t)
}

// reconsider brings the link's state in line with what is known of its
// endpoints.
func (l *link) reconsider() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed && len(l.flows.live) == 0 {
		return // the pool has forgotten it
	}
	list := l.candidates()
	switch {
	case list.Has(endpoints.Serving):
		l.goUp()
	case list.Has(endpoints.Unknown), !l.found():
		// Nothing is known: the next connection, or a probe, finds out.
	default:
		l.goDown(time.Now())
	}
	if l.listen.Protocol == spec.UDP {
		l.moveSessions()
	} else {
		l.decideFates()
		l.rebalance(list.All)
	}
	l.forgetStats()
	l.room()
}

// found tells whether what there is to know of the endpoints is known: every
// source has said something, and every check of those that wait for one.
func (l *link) found() bool {
	list := l.candidates().All
	if slices.ContainsFunc(list, func(c endpoints.Candidate) bool {
		return c.Barred && c.State == endpoints.Unknown && c.Checked.IsZero() && c.Health == spec.HealthUnknown
	}) {
		return false
	}
	return len(list) > 0 || l.answered()
}

// serves tells whether the last attempt at some endpoint succeeded.
func (l *link) serves() bool { return l.candidates().Has(endpoints.Serving) }

// answered tells whether every source has said something.
func (l *link) answered() bool {
	return !slices.ContainsFunc(l.spec.Targets, func(t spec.Target) bool {
		a := l.fw.cfg.Pool.Answer(t)
		return a.At.IsZero() && a.Err == nil
	})
}

func (l *link) candidates() *endpoints.List {
	list := l.fw.cfg.Pool.List(&l.view, l.list)
	if list == l.list {
		return list
	}
	l.list, l.open = list, 0
	for i := range list.All {
		if !list.All[i].Barred {
			l.open++
		}
	}
	return list
}

func (l *link) goUp() {
	if l.downSince.IsZero() {
		return
	}
	l.fw.cfg.Log.Info("link is up", "link", l.spec.Name, "down", time.Since(l.downSince).Round(time.Millisecond).String())
	l.downSince = time.Time{}
	l.upSince = time.Now()
	l.attend()
}

// goDown notes that no endpoint works, since the given time.
func (l *link) goDown(since time.Time) {
	if l.listen.Protocol == spec.UDP {
		return // nothing to hold or refuse: datagrams are dropped
	}
	if since.Before(l.upSince) {
		since = l.upSince // a pass that began before it was up for a moment
	}
	if l.downSince.IsZero() {
		l.fw.cfg.Log.Info("link is down", "link", l.spec.Name, "target", targetText(l.spec.Targets))
		l.downSince = since
	}
	if since.Before(l.downSince) {
		l.downSince = since
	}
	l.attend()
}

// attend asks the pool for the attention that the link needs now, and makes
// the listener follow the link's state when the link is to refuse while down.
func (l *link) attend() {
	if a := l.needs(); a != l.attention {
		l.attention = a
		l.fw.cfg.Pool.Watch(l, l.view, a)
	}
	switch l.spec.Mode {
	case spec.ModeDrain:
		l.refuse(true)
	case spec.ModePause: // clients wait; UDP's have nowhere to
		l.refuse(l.listen.Protocol == spec.UDP)
	default:
		l.refuse(l.refusesWhenDown() && !l.downSince.IsZero())
	}
}

// needs is how much attention of the pool the link needs now.
func (l *link) needs() endpoints.Attention {
	switch {
	case l.refusesWhenDown():
		return endpoints.Check
	case l.downSince.IsZero():
		return endpoints.Idle
	case len(l.queue.waiting) > 0 && l.spec.Mode == spec.ModeServe:
		return endpoints.Urgent
	}
	return endpoints.Down
}

func (l *link) refusesWhenDown() bool {
	return l.spec.Options.WhenDown == spec.WhenDownRefuse && l.listen.Protocol != spec.UDP
}

// refuse suspends or resumes the listeners, off the caller's goroutine: it may
// be a flow's, and the listener may be waiting for that one to give its
// descriptors back.
func (l *link) refuse(want bool) {
	if l.refusing == want || l.closed {
		return
	}
	l.refusing = want
	l.changes.Go(func() {
		l.listening.Lock()
		defer l.listening.Unlock()
		l.mu.Lock()
		listen, name, acceptors := !l.refusing, l.spec.Name, l.acceptors
		l.mu.Unlock()
		for _, a := range acceptors {
			if err := setListening(a, listen); err != nil && !errors.Is(err, os.ErrClosed) {
				l.fw.cfg.Log.Error("the listener does not follow the link's state", "link", name, "error", err)
			}
		}
	})
}

func setListening(a pump.Acceptor, listen bool) error {
	if listen {
		return a.Resume()
	}
	return a.Suspend()
}

func (l *link) live() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.flows.live)
}

func targetText(ts []spec.Target) string {
	texts := make([]string, len(ts))
	for i, t := range ts {
		texts[i] = t.String()
	}
	return strings.Join(texts, ",")
}
