// Package daemon puts the parts of one running Legate together and is the only
// owner of what it shall do: it unites the links of its origins, lays the
// overrides of operators over them, and sets the result in the parts below.
//
// Nothing in it is global: two daemons in one process do not know each other.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"legate/internal/agent"
	"legate/internal/check"
	"legate/internal/control"
	"legate/internal/discover"
	"legate/internal/docker"
	"legate/internal/endpoints"
	"legate/internal/forward"
	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/systemd"
)

// Config of a Daemon.
type Config struct {
	// Links of the command line: all of them can be opened, or nothing starts.
	Links []spec.Link
	// Origins of further links, of which each is on its own.
	Origins []Origin
	// Warnings that status shall show for as long as the process runs.
	Warnings []string
	// Control is where the control socket goes: a path, a name, "" for the
	// default name, control.Off for none.
	Control string
	// Places of control sockets that are given by name.
	Places control.Places
	// Agent has links made of the labels of this host's containers; nil: not.
	Agent *AgentConfig
	// Sources says how sources are reached.
	Sources SourceConfig
	// StateDir keeps overrides over restarts; "": they end with the process.
	StateDir string
	// Manager keeps listening sockets over restarts; nil: they end with the
	// process.
	Manager *systemd.Manager
	// Drain is how long live connections may take to end when ctx ends; 0:
	// they are cut at once.
	Drain          time.Duration
	LogConnections bool
	Engine         EngineName // "": EngineEpoll
	Loops          int        // of the engine on epoll; 0: one per usable core
	Version        string
	Log            *slog.Logger // nil: none
	// Ready is called once, when the links of the command line and the control
	// socket are open, with the socket's address ("" without one). nil: nobody
	// needs to know.
	Ready func(address string)
}

// EngineName names a way of moving bytes.
type EngineName = pump.EngineName

// The engines.
const (
	EngineEpoll = pump.EngineEpoll
	EngineNet   = pump.EngineNet
)

// Daemon is one running Legate.
type Daemon struct {
	cfg     Config
	started time.Time
	name    string // of the instance; set before anything can ask
	cut     context.CancelFunc
	cutting context.Context // ends when draining shall end

	sockets    *sockets
	containers *docker.Table // of this host's engine
	agent      *agent.Agent  // nil: none
	engine     pump.Engine
	pool       *endpoints.Pool
	discovery  *discover.Discovery
	forwarder  *forward.Forwarder
	answers    *answers

	applying sync.Mutex // guards the following, and is held while it is set below
	state    *state
	edited   chan struct{}            // closed and replaced when overrides were edited
	trials   map[*trial][]spec.Target // targets that swaps ask before a link goes there
	origins  [][]spec.Link            // of the command line, then of each origin
	warnings [][]string               // in the same order
	problems [][]spec.LinkProblem     // likewise
	failed   map[string]error         // by link: what Apply said of it
	opened   bool                     // the links of the command line are open

	mu       sync.Mutex // guards the following, which status reads while a swap waits
	plan     plan       // written with both locks held
	stopping bool
}

// New returns a daemon that does nothing before Run.
func New(cfg Config) *Daemon {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	containers := docker.NewTable(cfg.Sources.engine())
	sockets := newSockets(cfg.Manager)
	links := newAgent(cfg, containers, sockets)
	if links != nil {
		cfg.Origins = append(slices.Clip(cfg.Origins), links)
	}
	d := &Daemon{
		cfg:        cfg,
		sockets:    sockets,
		containers: containers,
		agent:      links,
		answers:    newAnswers(),
		edited:     make(chan struct{}),
		trials:     map[*trial][]spec.Target{},
		origins:    make([][]spec.Link, 1+len(cfg.Origins)),
		warnings:   make([][]string, 1+len(cfg.Origins)),
		problems:   make([][]spec.LinkProblem, 1+len(cfg.Origins)),
	}
	d.origins[0], d.warnings[0] = cfg.Links, slices.Clip(cfg.Warnings)
	for i, o := range cfg.Origins {
		if s, ok := o.(Static); ok {
			d.origins[i+1] = s.Links // known already, so they are open when Ready is called
		}
	}
	d.cutting, d.cut = context.WithCancel(context.Background())
	return d
}

// Cut ends draining, or the draining to come: the end of Run is then at once.
func (d *Daemon) Cut() { d.cut() }

// Run serves until ctx ends. Then it accepts the clients that are queued,
// stops listening, and returns when live connections ended or were cut.
func (d *Daemon) Run(ctx context.Context) (err error) {
	d.started = time.Now()
	if d.state, err = openState(d.cfg.StateDir); err != nil {
		return err
	}
	defer d.state.close()
	if d.state.damaged != nil {
		d.warnings[0] = append(d.warnings[0], d.state.damaged.Error())
		d.cfg.Log.Warn(d.state.damaged.Error())
	}
	if err := d.build(); err != nil {
		return err
	}
	defer d.dismantle()
	socket, err := d.listenControl()
	if err != nil {
		return err
	}
	if err := d.open(); err != nil {
		if socket != nil {
			socket.Close()
		}
		return err
	}
	return d.serve(ctx, socket)
}

// build makes the parts. They call each other through the daemon's fields,
// which are all set before the first of them has anything to do.
func (d *Daemon) build() (err error) {
	d.engine, err = pump.New(d.cfg.Engine, pump.Config{Log: d.cfg.Log, Loops: d.cfg.Loops})
	switch {
	case errors.Is(err, pump.ErrDescriptors):
		return spec.Errorf(hintDescriptors, "start engine: %v", err)
	case err != nil:
		return fmt.Errorf("start engine: %w", err)
	}
	connect := func(ctx context.Context, e spec.Endpoint) (net.Conn, error) { return d.forwarder.Connect(ctx, e) }
	runner := check.Runner{Dial: connect}
	d.pool = endpoints.New(endpoints.Config{
		Dial: func(ctx context.Context, e spec.Endpoint, within time.Duration) error {
			return d.forwarder.Dial(ctx, e, within)
		},
		Connect: connect,
		Check: func(ctx context.Context, e spec.Endpoint, c spec.Check) error {
			return runner.Run(ctx, c, e)
		},
		Ours:    pump.IsShortage,
		Changed: func(t spec.Target) { d.forwarder.Changed(t) },
		Suspect: func(t spec.Target) { d.discovery.Suspect(t) },
		Room:    func(t spec.Target) { d.forwarder.Room(t) },
		Local:   func(a netip.Addr) bool { return d.forwarder.Local(a) },
		Log:     d.cfg.Log,
	})
	forwarding := forward.Config{
		Engine:         d.engine,
		Pool:           d.pool,
		Log:            d.cfg.Log,
		LogConnections: d.cfg.LogConnections,
	}
	open := d.sockets.bind
	if d.agent != nil {
		open, forwarding.Admit, forwarding.Way, forwarding.Ended = d.agent.Open, d.agent.Admit, d.agent.Way, d.agent.Ended
	}
	forwarding.Open = func(l spec.Link) ([]pump.Listener, error) { return d.sockets.open(l, open) }
	d.forwarder = forward.New(forwarding)
	d.discovery = discover.New(discover.Config{Set: d.learn, Sources: d.cfg.Sources.open(d.cfg.containers(d.agent, d.containers)), Log: d.cfg.Log})
	return nil
}

// learn passes on what a source said.
func (d *Daemon) learn(t spec.Target, a spec.Answer) {
	d.pool.Set(t, a)
	d.answers.add(t)
}

func (d *Daemon) listenControl() (*control.Socket, error) {
	if d.cfg.Control == control.Off {
		d.name = fmt.Sprintf("%s-%d", control.DefaultName, os.Getpid())
		return nil, nil
	}
	s, err := control.Listen(d.cfg.Control, d.cfg.Places)
	if err == nil {
		d.name = s.Name
	}
	return s, err
}

const hintDescriptors = "raise it: ulimit -n 65536 (docker run --ulimit nofile=65536)"

// where is what commands must name to reach this instance; "": nothing.
func (d *Daemon) where() string {
	switch {
	case d.cfg.Control == control.Off, d.name == control.DefaultName && d.cfg.Control == "":
		return ""
	case d.cfg.Control == "":
		return d.name
	}
	return d.cfg.Control
}

// open starts the links of the command line, all or none.
func (d *Daemon) open() error {
	d.applying.Lock()
	defer d.applying.Unlock()
	d.apply()
	for _, l := range d.cfg.Links {
		if first := d.plan.configured[l.Name]; first.Listen != l.Listen || first.Text != l.Text {
			return spec.Errorf("give one of them another address or name", "open link %s: link %s has its address or name", l.Text, first.Text)
		}
		if err := d.failed[l.Name]; err != nil {
			return openError(l, err)
		}
	}
	d.opened = true
	return d.openOmni()
}

// serve runs until ctx ends, and then drains.
func (d *Daemon) serve(ctx context.Context, socket *control.Socket) error {
	address := ""
	if socket != nil {
		address = socket.Address
		server := control.Serve(socket, d, d.cfg.Log)
		defer server.Close()
	}
	if d.cfg.Ready != nil {
		d.cfg.Ready(address)
	}
	var watching sync.WaitGroup
	for i, o := range d.cfg.Origins {
		watching.Go(func() { d.watch(ctx, i+1, o) })
	}
	watching.Go(func() { d.sockets.settle(ctx, slices.ContainsFunc(d.cfg.Origins, isLate)) })
	<-ctx.Done()
	watching.Wait()
	d.finish()
	return nil
}

// isLate tells whether an origin names links after the start.
func isLate(o Origin) bool { _, known := o.(Static); return !known }

// watch sets the links of one origin, which is known by its place.
func (d *Daemon) watch(ctx context.Context, i int, o Origin) {
	set := func(w spec.Wish) {
		d.applying.Lock()
		defer d.applying.Unlock()
		if ctx.Err() != nil {
			return // its links must not be opened again while we drain
		}
		for _, text := range w.Warnings {
			if !slices.Contains(d.warnings[i], text) {
				d.cfg.Log.Warn(text)
			}
		}
		d.origins[i], d.warnings[i], d.problems[i] = w.Links, w.Warnings, w.Problems
		d.apply()
	}
	if err := o.Watch(ctx, set); err != nil && ctx.Err() == nil {
		d.applying.Lock()
		defer d.applying.Unlock()
		d.warnings[i] = append(slices.Clip(d.warnings[i]), err.Error())
		d.apply()
		d.cfg.Log.Error("no more news of links", "error", err)
	}
}

// apply sets the desired state in the parts below. Targets are watched before
// a link goes there, and forgotten after it left. The caller holds applying.
func (d *Daemon) apply() {
	before, next := d.plan, makePlan(d.origins, d.state.overrides, d.parse)
	for _, w := range next.warnings {
		if !slices.Contains(before.warnings, w) {
			d.cfg.Log.Warn(control.Addressed(d.where(), w))
		}
	}
	for _, w := range d.warnings {
		next.warnings = append(next.warnings, w...)
	}
	next.refuseAll(slices.Concat(d.problems...))
	targets := next.targets()
	d.discovery.Apply(slices.Concat(before.targets(), targets, d.tried()))
	d.mu.Lock()
	d.plan = next
	d.mu.Unlock()
	d.pool.Drain(next.drained())
	d.failed = map[string]error{}
	d.sockets.keep(next.links)
	for i, err := range d.forwarder.Apply(next.links) {
		d.failed[next.links[i].Name] = err
	}
	d.settle(before)
	d.keep()
	d.logChanges(before)
}

// settle waits for the listeners of the links whose mode is another now: a verb
// returns when what it says is true.
func (d *Daemon) settle(before plan) {
	was := map[string]spec.Mode{}
	for _, l := range before.links {
		was[l.Name] = l.Mode
	}
	for _, l := range d.plan.links {
		if l.Mode != was[l.Name] {
			d.forwarder.Settle(l.Name)
		}
	}
}

// keep forgets the targets that neither a link, nor a swap, nor who waits at a
// link that is gone needs any more. The caller holds applying.
func (d *Daemon) keep() {
	targets := slices.Concat(d.plan.targets(), d.tried(), d.forwarder.Awaited())
	d.discovery.Apply(targets)
	d.answers.keep(targets)
	d.pool.Keep(targets)
}

// finish stops listening and lets live connections end for a while. Snapshots
// are answered meanwhile.
func (d *Daemon) finish() {
	d.applying.Lock() // a verb that began before is done, later ones are refused
	d.mu.Lock()
	d.stopping = true
	d.mu.Unlock()
	d.applying.Unlock()
	d.cfg.Log.Info("stopping", "drain", d.cfg.Drain.String())
	ctx, cancel := context.WithTimeout(d.cutting, d.cfg.Drain)
	defer cancel()
	if err := d.forwarder.Close(ctx); err != nil && ctx.Err() == nil {
		d.cfg.Log.Error("stop forwarding", "error", err)
	}
}

// dismantle ends what build made, users before what they use.
func (d *Daemon) dismantle() {
	done, cancel := context.WithCancel(context.Background())
	cancel()
	err := d.forwarder.Close(done)
	if d.agent != nil {
		d.agent.Close()
	}
	d.discovery.Close()
	d.pool.Close()
	if err := errors.Join(ignoreContext(err), d.engine.Close()); err != nil {
		d.cfg.Log.Error("stop", "error", err)
	}
	d.cut()
}

func ignoreContext(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
