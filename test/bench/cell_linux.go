package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"legate/test/bench/load"
	"legate/test/bench/machine"
	"legate/test/bench/peers"
)

// lossyTries bounds how often a peer that lost datagrams may try again: at a
// rate that it can do that is a hiccup of the machine, and only runs without
// losses count. Who needs it often loses by itself, so that the tries are told.
const lossyTries = 3

// cell puts one row's load on one peer.
func (r *round) cell(c *contestant, w row) (s sample, err error) {
	if r.What == calibrate {
		result, err := r.most(c, w)
		return sample{Result: result}, err
	}
	for tries := 1; ; tries++ {
		s, err = r.try(c, w)
		s.Tries = tries
		if err != nil || s.Lost == 0 || tries == lossyTries {
			return s, err
		}
	}
}

func (r *round) try(c *contestant, w row) (sample, error) {
	clients, err := load.Open(c.addr, w.Shape, r.server)
	if err != nil {
		return sample{}, err
	}
	defer clients.Close()
	before, err := c.clocks()
	if err != nil {
		return sample{}, err
	}
	result, err := clients.Run()
	if err != nil {
		return sample{}, err
	}
	after, err := c.clocks()
	if err != nil {
		return sample{}, err
	}
	busy, _ := after.busy.Since(before.busy)
	foreign := after.busy.Foreign(before.busy, after.all-before.all)
	return sample{CPU: after.cpu - before.cpu, Busy: busy, Foreign: foreign, Result: result}, nil
}

// clocks are those of the proxy and of the machine.
type clocks struct {
	cpu  time.Duration
	all  time.Duration // of this process and all proxies
	busy machine.Busy
}

// clocks reads them when the proxy is done with what came before.
func (c *contestant) clocks() (now clocks, err error) {
	if c.process != nil {
		if now.cpu, err = peers.SettledCPU(c.process.PID()); err != nil {
			return now, err
		}
	}
	if now.all, err = machine.CPUTime(os.Getpid()); err != nil {
		return now, err
	}
	now.busy, err = machine.ReadBusy()
	return now, err
}

// How long each attempt to find a maximum takes.
const (
	mostTime  = 200 * time.Millisecond
	rampTime  = 100 * time.Millisecond
	rampFirst = 500.0 // bursts per second
	rampSteps = 12
)

// most finds the most that a peer does, of two attempts.
func (r *round) most(c *contestant, w row) (load.Result, error) {
	if w.Kind == kindUDP {
		return r.mostDatagrams(c, w)
	}
	shape := w.Shape
	shape.Rate, shape.Time = 0, min(mostTime, shape.Time)
	best, err := r.once(c, shape)
	if err != nil {
		return best, err
	}
	again, err := r.once(c, shape)
	if err == nil && again.Units/again.Wall.Seconds() > best.Units/best.Wall.Seconds() {
		best = again
	}
	return best, err
}

// mostDatagrams doubles the rate until datagrams are lost, and then halves the
// step: datagrams are not acknowledged, so that nothing else tells what is too
// fast.
func (r *round) mostDatagrams(c *contestant, w row) (best load.Result, err error) {
	shape := w.Shape
	shape.Time = min(rampTime, shape.Time)
	rate, step, lost := rampFirst, 2.0, false
	for range rampSteps {
		shape.Rate = rate
		result, err := r.once(c, shape)
		if err != nil {
			return best, err
		}
		if result.Lost > 0 || result.Wall > shape.Time*5/4 {
			lost = true
			step = 1 + (step-1)/2
			rate /= step
			continue
		}
		best = result
		if lost {
			step = 1 + (step-1)/2
		}
		rate *= step
	}
	if best.Units == 0 {
		return best, fmt.Errorf("loses datagrams at %.0f per second", rampFirst*load.Burst)
	}
	return best, nil
}

func (r *round) once(c *contestant, s load.Shape) (load.Result, error) {
	clients, err := load.Open(c.addr, s, r.server)
	if err != nil {
		return load.Result{}, err
	}
	defer clients.Close()
	return clients.Run()
}

const (
	memoryWarm   = 20 // connections before anything is held
	memorySettle = 100 * time.Millisecond
	stallSettle  = 500 * time.Millisecond // until every buffer on the way is full
	socatConns   = 200                    // each is a process
)

// memory measures what connections hold in a process that had none before: what
// a proxy keeps for the next ones would hide it.
func (r *round) memory(ctx context.Context, c *contestant, w row) (sample, error) {
	if _, err := r.start(ctx, c, false); err != nil {
		return sample{}, err
	}
	defer c.stop()
	shape := w.Shape
	if c.Name == peers.Socat {
		shape.Conns = min(shape.Conns, socatConns)
	}
	if _, err := r.once(c, load.Shape{Conns: memoryWarm, Request: 64, Response: 64, Depth: 1, Rate: 1000, Time: memorySettle, Mode: load.Stream}); err != nil {
		return sample{}, err
	}
	before, err := r.memoryOf(ctx, c, memorySettle)
	if err != nil {
		return sample{}, err
	}
	after, err := r.holding(ctx, c, shape)
	if err != nil {
		return sample{}, err
	}
	each := func(after, before int64) float64 { return float64(after-before) / float64(shape.Conns) }
	return sample{
		User:   each(after.User, before.User),
		Kernel: each(after.Kernel, before.Kernel),
		Pipes:  each(int64(after.Pipes), int64(before.Pipes)),
	}, nil
}

// holding reads the memory while connections are held as the shape says.
func (r *round) holding(ctx context.Context, c *contestant, shape load.Shape) (m machine.Memory, err error) {
	if shape.Depth == 0 {
		stop, err := load.Stall(c.addr, shape)
		if err != nil {
			return m, err
		}
		defer stop()
		return r.memoryOf(ctx, c, stallSettle)
	}
	clients, err := load.Open(c.addr, shape, r.server)
	if err != nil {
		return m, err
	}
	defer clients.Close()
	if shape.Rate == 0 {
		return r.memoryOf(ctx, c, memorySettle)
	}
	done := make(chan error, 1)
	go func() {
		_, err := clients.Run()
		done <- err
	}()
	m, err = r.memoryOf(ctx, c, memorySettle) // in the midst of it
	if ran := <-done; ran != nil {
		return m, ran
	}
	return m, err
}

// memoryOf waits until what was begun is held; where no number counts, not so
// long.
func (r *round) memoryOf(ctx context.Context, c *contestant, settle time.Duration) (machine.Memory, error) {
	if r.Noise == nil {
		settle /= 4
	}
	wait := time.NewTimer(settle)
	select {
	case <-wait.C:
	case <-ctx.Done():
		return machine.Memory{}, fmt.Errorf("stopped: %w", ctx.Err())
	}
	if c.process == nil {
		return machine.ReadMemory(0)
	}
	return machine.ReadMemory(c.process.PID())
}
