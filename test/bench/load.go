package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// loadResult is what the load process saw; it travels as JSON.
type loadResult struct {
	Wall time.Duration `json:"wall"`
	// P50 and P99 of one request, or of one connection from dial to close:
	// the next one starts when it ended, so they say how long a busy machine
	// takes and not how long a client waits at a given rate.
	P50 time.Duration `json:"p50"`
	P99 time.Duration `json:"p99"`
}

// loadArgs are the arguments that loadMain takes.
func loadArgs(addr string, w workload) []string {
	return []string{roleLoad, addr, string(w.Kind), strconv.Itoa(w.Conns), strconv.FormatInt(w.Count, 10)}
}

func loadMain(args []string, out io.Writer) error {
	if len(args) != 4 || len(args[1]) != 1 {
		return fmt.Errorf("load: arguments %q, want address, kind, connections and count", args)
	}
	conns, err := strconv.Atoi(args[2])
	count, err2 := strconv.ParseInt(args[3], 10, 64)
	if err := errors.Join(err, err2); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	r, err := load(args[0], workload{Kind: kind(args[1][0]), Conns: conns, Count: count})
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	return json.NewEncoder(out).Encode(r)
}

// load puts one workload on addr.
func load(addr string, w workload) (loadResult, error) {
	start := time.Now()
	workers := make([]worker, w.Conns)
	var busy sync.WaitGroup
	for i := range workers {
		workers[i] = worker{addr: addr, share: share(w, i)}
		busy.Go(func() { workers[i].run(w.Kind) })
	}
	busy.Wait()
	r := loadResult{Wall: time.Since(start)}
	var all []time.Duration
	var errs []error
	for _, w := range workers {
		all = append(all, w.took...)
		errs = append(errs, w.err)
	}
	slices.Sort(all)
	r.P50, r.P99 = at(all, 50), at(all, 99)
	return r, errors.Join(errs...)
}

// share is the part of the count that falls to worker i.
func share(w workload, i int) int64 {
	n := w.Count / int64(w.Conns)
	if int64(i) < w.Count%int64(w.Conns) {
		n++
	}
	return n
}

func at(sorted []time.Duration, percent int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[(len(sorted)-1)*percent/100]
}

// worker is one client.
type worker struct {
	addr  string
	share int64
	took  []time.Duration
	err   error
}

func (w *worker) run(k kind) {
	switch k {
	case kindRequests:
		w.err = w.requests()
	case kindBulk:
		w.err = w.bulk()
	case kindConnections:
		w.err = w.connections()
	default:
		w.err = fmt.Errorf("unknown kind %q", k)
	}
}

// stall is how long a transfer or an answer may take before the run fails
// instead of hanging.
const stall = time.Minute

func dial(addr string) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp4", addr, stall)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(stall)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c.(*net.TCPConn), nil
}

func (w *worker) requests() error {
	c, err := dial(w.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(header(kindRequests, 0)); err != nil {
		return err
	}
	frame := make([]byte, frameSize)
	w.took = make([]time.Duration, 0, w.share)
	for range w.share {
		start := time.Now()
		if _, err := c.Write(frame); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, frame); err != nil {
			return err
		}
		w.took = append(w.took, time.Since(start))
	}
	return nil
}

func (w *worker) bulk() error {
	c, err := dial(w.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(header(kindBulk, w.share)); err != nil {
		return err
	}
	// Not io.Copy to io.Discard: its buffer is 8 KiB, and this end would cost
	// more than the proxy.
	block, got := make([]byte, blockSize), int64(0)
	for {
		n, err := c.Read(block)
		got += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if got != w.share {
		return fmt.Errorf("%d of %d bytes arrived", got, w.share)
	}
	return nil
}

func (w *worker) connections() error {
	request := append(header(kindRequests, 0), make([]byte, frameSize)...)
	frame := make([]byte, frameSize)
	w.took = make([]time.Duration, 0, w.share)
	for range w.share {
		start := time.Now()
		if err := once(w.addr, request, frame); err != nil {
			return err
		}
		w.took = append(w.took, time.Since(start))
	}
	return nil
}

func once(addr string, request, frame []byte) error {
	c, err := dial(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(request); err != nil {
		return err
	}
	_, err = io.ReadFull(c, frame)
	return err
}
