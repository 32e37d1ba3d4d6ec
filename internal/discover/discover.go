// Package discover keeps the endpoints of targets known: it asks the source of
// each target, again while it runs and at once when a connect failed, and says
// what changed.
//
// What it knows outlives a source that fails: the last good endpoints stay
// until the source says something else.
package discover

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"sync"

	"legate/internal/spec"
)

// Config of a Discovery.
type Config struct {
	// Set is told what is known of a target: soon after Apply first named it
	// and whenever the endpoints or the error changed. Calls for one target
	// come one at a time, those for different targets at the same time, and
	// none after the Apply that dropped the target returned. Set must not call
	// Apply or Close. Required.
	Set func(spec.Target, spec.Answer)
	// Log receives changes at info; nil: none.
	Log *slog.Logger
	// Lookup returns the addresses of a name from DNS, or an error for which
	// net.DNSError.IsNotFound holds when it has none. It must return when ctx
	// ends. nil: Go's own resolver with the machine's settings.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Hosts is the path of the hosts file, which is read before DNS is asked;
	// "": /etc/hosts.
	Hosts string
	// ResolvConf is the file that names the name servers; "":
	// /etc/resolv.conf.
	ResolvConf string
}

// Discovery watches the endpoints of targets. Its methods may be called at the
// same time.
type Discovery struct {
	config  Config
	sources map[string]Source
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	// applying is held for the whole of an Apply, so that the end of an old
	// watch and the start of a new one for the same target keep their order.
	applying sync.Mutex

	mu      sync.Mutex // guards watches
	watches map[spec.Target]*watch
}

// New returns a Discovery that watches nothing yet. The caller ends it with
// Close.
func New(config Config) *Discovery {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Discovery{
		config: config,
		sources: map[string]Source{
			spec.SourceFixed: fixed{},
			spec.SourceDNS:   newDNS(config),
		},
		ctx:     ctx,
		cancel:  cancel,
		watches: map[spec.Target]*watch{},
	}
}

// Apply watches exactly the given targets. Equal targets share one watch, and
// those that were watched before go on undisturbed. It waits for no source.
func (d *Discovery) Apply(targets []spec.Target) {
	d.applying.Lock()
	defer d.applying.Unlock()
	for _, w := range d.replace(targets) {
		w.stop()
	}
}

// replace starts the watches that are missing and returns those that are no
// longer wanted. They are stopped after the lock is free: stopping waits for
// a Set that is under way, and that Set may call Suspect.
func (d *Discovery) replace(targets []spec.Target) []*watch {
	d.mu.Lock()
	defer d.mu.Unlock()
	gone := maps.Clone(d.watches)
	for _, t := range targets {
		delete(gone, t)
		if d.watches[t] == nil && d.ctx.Err() == nil {
			d.watches[t] = d.start(t)
		}
	}
	var stop []*watch
	for t, w := range gone {
		delete(d.watches, t)
		stop = append(stop, w)
	}
	return stop
}

func (d *Discovery) start(t spec.Target) *watch {
	w := &watch{
		target:  t,
		source:  d.sources[t.Source],
		set:     d.config.Set,
		log:     d.config.Log.With("target", t.String()),
		suspect: make(chan struct{}, 1),
		results: make(chan Result),
	}
	w.ctx, w.cancel = context.WithCancel(d.ctx)
	d.running.Go(w.ask)
	d.running.Go(w.keep)
	return w
}

// Suspect says that a connect to an endpoint of t failed, so that what is
// known of t may be out of date: its source is asked again at once, but at
// most once a second. It does nothing for a target that is not watched.
func (d *Discovery) Suspect(t spec.Target) {
	d.mu.Lock()
	w := d.watches[t]
	d.mu.Unlock()
	if w == nil {
		return
	}
	select {
	case w.suspect <- struct{}{}:
	default: // one that nobody acted on yet is enough
	}
}

// Close ends all watches and returns when nothing of the Discovery runs. A
// later Apply watches nothing.
func (d *Discovery) Close() {
	d.cancel()
	d.Apply(nil)
	d.running.Wait()
}
