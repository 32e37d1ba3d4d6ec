// Command bench compares what a proxy costs: CPU seconds of Legate and of
// HAProxy for the same load, in rounds that alternate between them, and what a
// direct connection would have taken.
//
// It starts everything itself, on loopback: per measurement a fresh server, a
// fresh proxy and a load process, the first and the last being this program
// again. Server and load are our own, and not redis-server with
// redis-benchmark, because transfers and short connections are to be measured
// by the same two peers, and because they can check what arrived: a proxy that
// loses bytes or half-closes is not compared at all.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// limit bounds a whole run, whatever hangs.
const limit = 15 * time.Minute

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// run is the program in its three roles.
func run(args []string) error {
	switch {
	case len(args) == 0:
		return compare(os.Stdout)
	case args[0] == roleServe:
		return serveMain(os.Stdin)
	case args[0] == roleLoad:
		return loadMain(args[1:], os.Stdout)
	}
	return fmt.Errorf("unknown argument %q: it takes none; ROUNDS=9, QUICK=1 and ONLY=legate,haproxy are variables", args[0])
}

// The roles that this program starts itself in.
const (
	roleServe = "serve"
	roleLoad  = "load"
)

func compare(out io.Writer) error {
	// The first signal ends it in order: every process that it started is gone
	// when it returns.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	o, err := optionsFrom(os.Getenv)
	if err != nil {
		return err
	}
	b, err := newBench(o, out)
	if err != nil {
		return err
	}
	defer b.close()
	r, err := b.run(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(r.print(out), r.save("bin")); err != nil {
		return err
	}
	return r.verdict()
}
