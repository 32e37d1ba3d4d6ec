package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"legate/test/bench/load"
	"legate/test/bench/machine"
	"legate/test/bench/peers"
)

// task is what a round is asked for, on its standard input.
type task struct {
	Number int            `json:"number"`
	What   errand         `json:"what"`
	Rows   []row          `json:"rows"`  // with their rates
	Peers  []string       `json:"peers"` // in order
	Config peers.Config   `json:"config"`
	Dir    string         `json:"dir"`   // for files of proxies
	Noise  *machine.Noise `json:"noise"` // nil: everything counts
}

// errand is what a round is for.
type errand string

const (
	measure   errand = "measure"
	calibrate errand = "calibrate" // find the most that each peer does
	trace     errand = "trace"     // count system calls
)

// event is a line of a round's standard output; one field is set.
type event struct {
	Sample *sample   `json:"sample,omitempty"`
	Fact   *fact     `json:"fact,omitempty"`
	Calls  *calls    `json:"calls,omitempty"`
	Block  *blockEnd `json:"block,omitempty"`
}

// sample is what one cell of the table cost in one round.
type sample struct {
	Row   string `json:"row"`
	Peer  string `json:"peer"`
	Round int    `json:"round"`
	// Void says that the machine was not the benchmark's alone.
	Void  bool   `json:"void,omitempty"`
	Error string `json:"error,omitempty"` // why there are no numbers

	CPU  time.Duration `json:"cpu"`  // of the proxy
	Busy time.Duration `json:"busy"` // of the whole machine
	// Foreign is the share of the machine that other processes used.
	Foreign float64 `json:"foreign,omitempty"`
	// Tries is how often a cell was measured until no datagram was lost; the
	// numbers are the last try's.
	Tries int `json:"tries,omitempty"`
	load.Result

	// Bytes and pipes per connection, of memory rows.
	User   float64 `json:"user,omitempty"`
	Kernel float64 `json:"kernel,omitempty"`
	Pipes  float64 `json:"pipes,omitempty"`
}

// fact is what there is to know of a peer beside its samples.
type fact struct {
	Peer    string        `json:"peer"`
	Note    string        `json:"note,omitempty"` // why it is not compared
	Command string        `json:"command,omitempty"`
	Resets  string        `json:"resets,omitempty"` // how one arrives: at the client/at the server
	Start   time.Duration `json:"start,omitempty"`
}

// blockEnd tells that a row of a round is through.
type blockEnd struct {
	Row    string  `json:"row"`
	Round  int     `json:"round"`
	Spin   float64 `json:"spin"`   // slowdown, 1 is none
	Stolen float64 `json:"stolen"` // share
	// Foreign is the largest share of a cell.
	Foreign float64 `json:"foreign"`
}

// round is the program in a namespace of its own.
type round struct {
	task
	say    func(event) error
	server *load.Server
	list   []*contestant
}

// contestant is a peer that runs.
type contestant struct {
	peers.Peer
	process *peers.Process // nil for the direct connection
	addr    string
}

const roundMemory = 2 << 30

// roundMain is the program in the role of a round.
func roundMain(in io.Reader, out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Two threads are locked, and none of the others shall wait for one; a
	// collection would be in the latencies. Not by variables: proxies would
	// inherit them.
	runtime.GOMAXPROCS(4)
	runtime.LockOSThread() // a proxy ends with the thread that started it
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(roundMemory)
	lines := json.NewEncoder(out)
	r := &round{say: func(e event) error { return lines.Encode(e) }}
	if err := json.NewDecoder(in).Decode(&r.task); err != nil {
		return fmt.Errorf("read task: %w", err)
	}
	if err := prepareNetwork(); err != nil {
		return err
	}
	var err error
	if r.server, err = load.NewServer(); err != nil {
		return err
	}
	// A load heeds no context, but it fails at once without a server; then the
	// proxies are stopped in order.
	defer context.AfterFunc(ctx, func() { _ = r.server.Close() })() // its error is told below
	err = r.run(ctx)
	return errors.Join(err, r.server.Close())
}

func (r *round) run(ctx context.Context) error {
	for _, part := range []struct {
		kind rowKind
		run  func(context.Context, []row) error
	}{{kindLoad, r.loads}, {kindUDP, r.datagrams}, {kindMemory, r.memories}} {
		var list []row
		for _, w := range r.Rows {
			if w.Kind == part.kind {
				list = append(list, w)
			}
		}
		if len(list) == 0 {
			continue
		}
		if err := part.run(ctx, list); err != nil {
			return err
		}
	}
	return nil
}

func (r *round) loads(ctx context.Context, list []row) error { return r.together(ctx, list, false) }

func (r *round) datagrams(ctx context.Context, list []row) error { return r.together(ctx, list, true) }

// together starts all peers and takes them in turn for every row.
func (r *round) together(ctx context.Context, list []row, udp bool) error {
	defer r.stopAll()
	if err := r.startAll(ctx, udp); err != nil {
		return err
	}
	if r.What == trace {
		return r.trace(ctx)
	}
	for _, w := range list {
		if err := r.block(ctx, w, r.cell); err != nil {
			return err
		}
	}
	return nil
}

func (r *round) memories(ctx context.Context, list []row) error {
	r.list = nil
	for _, p := range r.wanted(false) {
		r.list = append(r.list, &contestant{Peer: p})
	}
	for _, w := range list {
		err := r.block(ctx, w, func(c *contestant, w row) (sample, error) { return r.memory(ctx, c, w) })
		if err != nil {
			return err
		}
	}
	return nil
}

// wanted are the peers in the order that was asked for.
func (r *round) wanted(udp bool) (list []peers.Peer) {
	all := peers.List(r.Config)
	for _, name := range r.Peers {
		i := slices.IndexFunc(all, func(p peers.Peer) bool { return p.Name == name })
		if i >= 0 && (!udp || all[i].UDP || all[i].Command == nil) {
			list = append(list, all[i])
		}
	}
	return list
}

// startAll leaves out, with a note, whom it cannot start or who fails the gate.
func (r *round) startAll(ctx context.Context, udp bool) error {
	r.list = nil
	for _, p := range r.wanted(udp) {
		c := &contestant{Peer: p}
		f, err := r.start(ctx, c, udp)
		if err == nil && !udp && r.What == measure {
			f.Resets, err = r.server.Gate(c.addr)
			if err != nil {
				c.stop()
				err = fmt.Errorf("not compared, for it fails the gate: %w", err)
			}
		}
		if err != nil {
			f.Note = strings.ReplaceAll(err.Error(), "\n", "; ")
		} else {
			r.list = append(r.list, c)
		}
		if err := r.say(event{Fact: &f}); err != nil {
			return err
		}
	}
	return nil
}

// start starts a peer and waits until it listens.
func (r *round) start(ctx context.Context, c *contestant, udp bool) (f fact, err error) {
	f.Peer = c.Name
	if c.Command == nil {
		c.addr = r.server.Addr
		return f, nil
	}
	if c.addr, err = peers.FreeAddr(); err != nil {
		return f, err
	}
	cmd, err := c.Command(peers.Ask{Listen: c.addr, Server: r.server.Addr, Dir: r.Dir, UDP: udp})
	if err != nil {
		return f, err
	}
	f.Command = strings.Join(cmd.Args, " ")
	if c.process, err = peers.Start(cmd); err != nil {
		return f, err
	}
	f.Start, err = c.process.Await(ctx, c.addr, udp)
	if err != nil {
		c.stop()
	}
	return f, err
}

func (c *contestant) stop() {
	if c.process != nil {
		c.process.Stop()
		c.process = nil
	}
}

func (r *round) stopAll() {
	var all sync.WaitGroup
	for _, c := range r.list {
		all.Go(c.stop)
	}
	all.Wait()
}

// block measures one row with every peer and says whether that counts.
func (r *round) block(ctx context.Context, w row, cell func(*contestant, row) (sample, error)) error {
	watch, err := newWatch(r.Noise)
	if err != nil {
		return err
	}
	var list []sample
	for _, c := range r.list {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("stopped: %w", err)
		}
		s, err := cell(c, w)
		s.Row, s.Peer, s.Round = w.Name, c.Name, r.Number
		if err != nil {
			s.Error = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		list = append(list, s)
	}
	end := blockEnd{Row: w.Name, Round: r.Number, Spin: 1}
	for _, s := range list {
		end.Foreign = max(end.Foreign, s.Foreign)
	}
	quiet, err := watch.end(&end)
	if err != nil {
		return err
	}
	for _, s := range list {
		s.Void = !quiet
		if err := r.say(event{Sample: &s}); err != nil {
			return err
		}
	}
	return r.say(event{Block: &end})
}

// watch looks for disturbances during a block.
type watch struct {
	noise *machine.Noise
	spin  time.Duration
	busy  machine.Busy
}

func newWatch(n *machine.Noise) (w watch, err error) {
	w.noise = n
	if n != nil {
		w.spin = machine.Spin()
	}
	w.busy, err = machine.ReadBusy()
	return w, err
}

func (w watch) end(end *blockEnd) (quiet bool, err error) {
	busy, err := machine.ReadBusy()
	if err != nil || w.noise == nil {
		return true, err
	}
	_, end.Stolen = busy.Since(w.busy)
	after := machine.Spin()
	end.Spin = float64(max(w.spin, after)) / float64(w.noise.Reference)
	return w.noise.Quiet(w.spin, after, end.Stolen, end.Foreign), nil
}
