package forward

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"legate/internal/pump"
	"legate/internal/spec"
)

// Route says which link a client is for that wanted a port: its Listen, which
// is Switched. ErrNotYet says that it may be known soon, another error that
// there will be none. It is called on the pump's loops and must not block.
type Route func(client netip.Addr, port uint16) (spec.Listen, error)

// Errors that end flows of a switch.
var (
	ErrNotYet   = errors.New("who it is, or what it may have, is not known yet")
	errLinkFull = errors.New("the link has as many connections as it may have")
)

// The bounds of clients that wait for their link: a container connects as soon
// as it runs, and the engine tells of it within the second.
const (
	routePatience = 2 * time.Second
	routeWaiting  = 1024
)

// switchboard hands the clients of one address to one link or another, which
// have no sockets of their own. It is the pump's handler for a flow until it
// has handed that over.
type switchboard struct {
	fw        *Forwarder
	listen    spec.Listen
	route     Route
	acceptors []pump.Acceptor

	mu      sync.Mutex            // guards the following
	links   map[spec.Listen]*link // nil while they change
	waiting map[*pump.Flow]time.Time
	told    time.Time // when it last logged who was refused
}

// Switch serves one more TCP address, whose clients go to the links that route
// names. Those are links like others, of Apply, but without a socket. Close ends
// it.
func (fw *Forwarder) Switch(at spec.Listen, route Route) error {
	fw.apply.Lock()
	defer fw.apply.Unlock()
	s := spec.Link{Name: at.String(), Listen: at}
	ls, err := Bind(s)
	if err != nil {
		return explainTaken(s, fw.serving(), err)
	}
	b := &switchboard{fw: fw, listen: at, route: route, waiting: map[*pump.Flow]time.Time{}}
	for i, l := range ls {
		a, err := fw.cfg.Engine.Serve(l, b)
		if err != nil {
			return errors.Join(err, closeAcceptors(b.acceptors), closeListeners(ls[i+1:]))
		}
		b.acceptors = append(b.acceptors, a)
	}
	fw.mu.Lock()
	fw.switches = append(slices.Clip(fw.switches), b)
	fw.mu.Unlock()
	b.set(fw.switched())
	fw.cfg.Log.Info("listening", "on", at.String(), "for", "containers, by their address")
	return nil
}

// switched are the links without sockets.
func (fw *Forwarder) switched() map[spec.Listen]*link {
	links := map[spec.Listen]*link{}
	for _, l := range fw.serving() {
		if l.listen.Switched() {
			links[l.listen] = l
		}
	}
	return links
}

// interrupt has new clients of switches wait until resume: none may come to a
// link that is about to be closed. Both need apply.
func (fw *Forwarder) interrupt() {
	for _, b := range fw.boards() {
		b.set(nil)
	}
}

func (fw *Forwarder) resume() {
	for _, b := range fw.boards() {
		b.set(fw.switched())
	}
}

func (fw *Forwarder) boards() []*switchboard {
	fw.mu.Lock()
	defer fw.mu.Unlock()
	return fw.switches
}

// closeSwitches accepts what is queued and stops listening. It needs apply.
func (fw *Forwarder) closeSwitches() {
	for _, b := range fw.boards() {
		if err := closeAcceptors(b.acceptors); err != nil {
			fw.cfg.Log.Warn("closing a listener failed", "on", b.listen.String(), "error", err)
		}
		b.mu.Lock()
		for p := range b.waiting {
			p.Cut(ErrCut)
		}
		b.mu.Unlock()
	}
	fw.mu.Lock()
	defer fw.mu.Unlock()
	fw.switches = nil
}

// set has those who wait look again, if there are links.
func (b *switchboard) set(links map[spec.Listen]*link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.links = links; links == nil {
		return
	}
	for p := range b.waiting {
		p.Wake()
	}
}

// Next implements pump.Handler. The link is found and has the flow in one
// step, so that a link which is closed afterwards knows it.
func (b *switchboard) Next(p *pump.Flow, _ pump.Attempt) pump.Step {
	wanted := p.Original()
	b.mu.Lock()
	defer b.mu.Unlock()
	l, err := b.find(p.Client.Addr().Unmap(), wanted.Port())
	if err == nil {
		err = l.turnsAway()
	}
	if errors.Is(err, ErrNotYet) {
		var step pump.Step
		if step, err = b.wait(p); err == nil {
			return step
		}
	}
	delete(b.waiting, p)
	if err != nil {
		b.tell(p, wanted, err)
		return pump.Step{End: err}
	}
	p.Hand(l)
	return l.Next(p, pump.Attempt{})
}

// find needs mu.
func (b *switchboard) find(client netip.Addr, port uint16) (*link, error) {
	at, err := b.route(client, port)
	if err != nil {
		return nil, err
	}
	l := b.links[at]
	if l == nil {
		return nil, ErrNotYet
	}
	return l, nil
}

// wait needs mu.
func (b *switchboard) wait(p *pump.Flow) (pump.Step, error) {
	until, waits := b.waiting[p]
	switch {
	case !waits && len(b.waiting) >= routeWaiting:
		return pump.Step{}, ErrHoldFull
	case !waits:
		until = time.Now().Add(routePatience)
		b.waiting[p] = until
	case !time.Now().Before(until):
		return pump.Step{}, ErrNotYet
	}
	return pump.Step{Park: until}, nil
}

// tell logs who was refused, not each time: a client may try again at once. It
// needs mu.
func (b *switchboard) tell(p *pump.Flow, wanted netip.AddrPort, err error) {
	if time.Since(b.told) < time.Second {
		return
	}
	b.told = time.Now()
	b.fw.cfg.Log.Info("a client was refused", "caller", p.Client.String(), "wanted", wanted.String(), "error", err)
}

// Connected implements pump.Handler: it is the link's then.
func (b *switchboard) Connected(*pump.Flow, int) {}

// Done implements pump.Handler, for a flow that no link had.
func (b *switchboard) Done(p *pump.Flow, _ pump.Result) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, p)
}

// turnsAway says why the link has no new client now, where another one would
// not listen.
func (l *link) turnsAway() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.spec.Options.MaxConnections
	switch {
	case l.refusing && l.spec.Mode == spec.ModeDrain:
		return ErrDrained
	case l.refusing:
		return ErrDown
	case most > 0 && len(l.flows.live) >= most:
		return errLinkFull
	}
	return nil
}
