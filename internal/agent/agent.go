// Package agent makes links of what the containers on this host ask for by
// labels, and opens them inside the containers' own network namespaces: a
// container says connect.6379=redis, and its application uses localhost:6379.
package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"legate/internal/docker"
	"legate/internal/intercept"
	"legate/internal/pump"
	"legate/internal/spec"
)

// Config of an Agent.
type Config struct {
	// Engine is where the engine is, and Table the containers that it has.
	// Table is required.
	Engine docker.Config
	Table  *docker.Table
	// Labels says what links from labels take from outside. Its Policy knows
	// the addresses of this host from the agent.
	Labels spec.LabelConfig
	// Namespaces is the directory in which the engine keeps the network
	// namespaces; "": docker.DefaultNamespaces.
	Namespaces string
	// Bind makes the listening sockets of a link where it is called. Required.
	Bind func(spec.Link) ([]pump.Listener, error)
	// Omni also makes links of the variables BACKEND_PORT, for clients that
	// connect to this process instead of their own localhost.
	Omni bool
	Log  *slog.Logger // nil: none
}

// Agent follows the containers of one engine. Watch runs it; the other methods
// may be called at the same time.
type Agent struct {
	cfg      Config
	enters   bool           // it may open sockets in the networks of containers
	starting chan *starting // to the one who decides
	omni     *omni          // nil: not in omni mode
	host     hostAddresses

	ways atomic.Pointer[map[string]way] // by container id, as decided last

	mu      sync.Mutex // guards the following
	spaces  map[string]*space
	former  map[string][]*docker.Container // namespaces of containers that ended, with who lived there besides
	servers map[string]spec.Container
	at      map[netip.Addr]string // whose address it is, by container id
	late    error                 // why links are open only after a container has started
	held    int64                 // starts that waited for their links
}

// space is the network namespace of a container that lives.
type space struct {
	container string
	ns        *intercept.Namespace
	forget    func() // ends the watch over its first process
	// opened says when the sockets of links were made, which stay where they
	// are when a container, and so its links, get another name; guarded by the
	// agent's mu.
	opened map[spec.Listen]time.Time
}

// way is from where a container is reached: its own network.
type way struct {
	namespace string
	socket    pump.SocketFunc
}

// New returns an agent that follows nothing yet.
func New(cfg Config) *Agent {
	if cfg.Namespaces == "" {
		cfg.Namespaces = docker.DefaultNamespaces
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{cfg: cfg, enters: intercept.MayEnter(), starting: make(chan *starting), spaces: map[string]*space{}, former: map[string][]*docker.Container{}}
	a.ways.Store(&map[string]way{})
	a.cfg.Labels.Policy.IsHost = a.host.has
	if cfg.Omni {
		a.omni = newOmni()
	}
	return a
}

// Labels are those of the configuration, with the addresses of this host.
func (a *Agent) Labels() spec.LabelConfig { return a.cfg.Labels }

// Enters tells whether connections may start inside the networks of containers.
func (a *Agent) Enters() bool { return a.enters }

// opens tells whether links are to be opened in containers. ambassadord's
// command line has no right for that: labels are for the clients that come here.
func (a *Agent) opens() bool { return a.enters || a.omni == nil }

// Watch sets the links that the containers ask for, soon and after every
// change, until ctx ends. While the engine is lost they stay as they are. It is
// called once.
func (a *Agent) Watch(ctx context.Context, set func(spec.Wish)) error {
	life, err := intercept.NewLife()
	if err != nil {
		return err
	}
	w := newWatch(a, set)
	w.life = life
	// What still waits to hand something over must not hold up the end.
	inner, stop := context.WithCancel(ctx)
	w.ctx = inner
	if w.opens() {
		w.running.Go(func() { w.watchNamespaces(inner) })
	}
	w.running.Go(func() { w.watchEngine(inner) })
	w.run()
	stop()
	w.running.Wait()
	err = errors.Join(w.endRedirect(), life.Close())
	w.releaseAll()
	return err
}

// watch is one call of Watch. One goroutine runs it and owns what is decided;
// others only bring news.
type watch struct {
	*Agent
	ctx     context.Context
	set     func(spec.Wish)
	life    *intercept.Life
	running sync.WaitGroup

	found   chan intercept.Found
	ended   chan *space
	told    chan error // of the table: nil is news, an error the loss of the engine
	states  chan error // of the directory of namespaces
	learned chan variables
	// questions are those to the engine about single containers, and asides
	// those of them for whose answers nobody waits.
	questions, asides chan struct{}

	wordings map[string]wording // by container
	asked    map[string]bool    // containers whose process is being asked for
	exposing map[string]bool    // containers whose ports were asked for
	unfound  map[string]unfound // by container; guarded by the agent's mu
	waiting  []*starting        // containers that start when they have their links
	lost     error              // the engine
	heard    bool               // the engine's containers are known, or were
	decided  *spec.Wish         // what was set last; nil: nothing yet
}

func newWatch(a *Agent, set func(spec.Wish)) *watch {
	return &watch{
		Agent: a, set: set,
		found: make(chan intercept.Found, 16), ended: make(chan *space, 16), told: make(chan error, 1), states: make(chan error, 1),
		learned: make(chan variables, asksAtOnce), questions: make(chan struct{}, asksAtOnce), asides: make(chan struct{}, asksAtOnce),
		wordings: map[string]wording{},
		asked:    map[string]bool{}, exposing: map[string]bool{},
		unfound: map[string]unfound{},
	}
}

// regret is how long the engine is left alone after it was lost.
const regret = time.Second

// watchEngine brings news of containers.
func (w *watch) watchEngine(ctx context.Context) {
	for ctx.Err() == nil {
		s := w.cfg.Table.Subscribe(docker.Everyone)
		var err error
		for err == nil {
			if err = s.Next(ctx); ctx.Err() != nil {
				break
			}
			hand(ctx, w.told, err)
		}
		s.Close()
		select {
		case <-ctx.Done():
		case <-time.After(regret):
		}
	}
}

// watchNamespaces brings namespaces as the engine makes them.
func (w *watch) watchNamespaces(ctx context.Context) {
	err := intercept.Watch(ctx, intercept.WatchConfig{
		Dir:   w.cfg.Namespaces,
		State: func(err error) { hand(ctx, w.states, err) },
		Found: func(f intercept.Found) {
			if !hand(ctx, w.found, f) {
				_ = f.Namespace.Close()
			}
		},
	})
	if err != nil {
		hand(ctx, w.states, err)
	}
}

func hand[T any](ctx context.Context, to chan<- T, what T) bool {
	select {
	case to <- what:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *watch) run() {
	for {
		select {
		case <-w.ctx.Done():
			return
		case f := <-w.found:
			w.enter(f)
		case s := <-w.ended:
			w.leave(s)
		case s := <-w.starting:
			w.waiting = append(w.waiting, s)
		case v := <-w.learned:
			w.learn(v)
		case err := <-w.states:
			w.note(err)
		case err := <-w.told:
			w.hear(err)
		}
		w.admit()
		// What came together is decided together: a hundred containers that
		// start are not a hundred times all links.
		if len(w.found)+len(w.ended)+len(w.states)+len(w.told)+len(w.learned) != 0 {
			continue
		}
		switch {
		case w.lost != nil:
			w.withdraw()
		case w.heard:
			w.decide()
		}
	}
}

// hear takes in that containers changed, or that nobody can tell: links then
// stay as they are, with a word of why containers that come get none. Before
// there are any it says nothing: that they are not known yet is not that there
// are none.
func (w *watch) hear(err error) {
	if err != nil && w.lost == nil {
		w.cfg.Log.Warn("the engine is lost; links stay as they are", "error", err)
	}
	news := err != nil && (w.lost == nil || w.lost.Error() != err.Error())
	w.lost = err
	w.heard = w.heard || err == nil
	if news && w.decided != nil {
		w.setLost()
	}
}

// note says how soon links will be open, once for each change of that.
func (w *watch) note(err error) {
	w.mu.Lock()
	w.late = err
	w.mu.Unlock()
	if err == nil {
		w.cfg.Log.Info("links are open before a container's first instruction", "by", "the namespaces in "+w.cfg.Namespaces)
		return
	}
	w.cfg.Log.Warn("links are opened only after a container has started: its first connects may be refused", "error", err)
}

// enter takes over the namespace of a container, which may be another than its
// former life had.
func (w *watch) enter(f intercept.Found) {
	delete(w.asked, f.Container)
	if f.Namespace == nil {
		return
	}
	w.mu.Lock()
	before := w.spaces[f.Container]
	w.mu.Unlock()
	if f.Container == "" || before != nil && before.ns.ID() == f.Namespace.ID() {
		_ = f.Namespace.Close()
		return
	}
	if w.cfg.Table.Get(f.Container) == nil {
		w.running.Go(func() { _ = w.cfg.Table.Read(w.ctx, f.Container) }) // else the event of it will do
	}
	s := &space{container: f.Container, ns: f.Namespace, opened: map[spec.Listen]time.Time{}}
	forget, err := w.life.Watch(f.PID, f.Namespace, func() { hand(w.ctx, w.ended, s) })
	if err != nil {
		_ = f.Namespace.Close()
		w.unwatched(f.Container, err)
		return
	}
	s.forget = forget
	w.leave(before)
	w.mu.Lock()
	w.spaces[s.container] = s
	w.mu.Unlock()
}

// unwatched notes that the end of a container would not be noticed. It may have
// ended already; else each look at it would fail like this one.
func (w *watch) unwatched(id string, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	w.asked[id] = true
	w.running.Go(func() {
		w.mu.Lock()
		before := w.unfound[id]
		w.mu.Unlock()
		hand(w.ctx, w.found, w.miss(id, before, err))
	})
}

// leave lets a namespace go. Its sockets, which would keep it alive, are closed
// when the links are set without it, and connections end then, unless somebody
// lives there still.
func (w *watch) leave(s *space) {
	if s == nil {
		return
	}
	s.forget()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.unfound, s.container)
	if w.spaces[s.container] == s {
		delete(w.spaces, s.container)
	}
	if list := w.lodgers(s.container); len(list) > 0 {
		w.former[s.ns.ID()] = list
	}
	_ = s.ns.Close()
}

// releaseAll gives back what came too late.
func (w *watch) releaseAll() {
	for _, s := range w.waiting {
		s.release()
	}
	for {
		select {
		case f := <-w.found:
			if f.Namespace != nil {
				_ = f.Namespace.Close()
			}
		default:
			return
		}
	}
}

// Close lets the namespaces go. Connections go on to be made from inside them
// after Watch has ended, until those that clients began are served.
func (a *Agent) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, s := range a.spaces {
		_ = s.ns.Close()
		delete(a.spaces, id)
	}
}
