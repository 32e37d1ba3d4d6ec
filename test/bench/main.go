//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"legate/test/bench/peers"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// roleRound is the argument that makes this program a round; peers.RoleRelay
// makes it the Go peer.
const roleRound = "round"

// run is the program in its roles.
func run(args []string) error {
	switch {
	case len(args) == 0:
		return compare(os.Stdout)
	case args[0] == roleRound && len(args) == 1:
		return roundMain(os.Stdin, os.Stdout)
	case (args[0] == partAgent || args[0] == partLinks) && len(args) == 1:
		return measureAgent(args[0], os.Stdout)
	case args[0] == roleServe && len(args) == 2:
		return serveMain(args[1])
	case args[0] == roleClients && len(args) == 1:
		return clientsMain(os.Stdin, os.Stdout)
	case args[0] == roleLodge && len(args) == 3:
		return lodgeMain(args[1], args[2], os.Stdout)
	case args[0] == peers.RoleRelay && len(args) == 3:
		l, err := net.Listen("tcp4", args[1])
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		return peers.Relay(l, args[2])
	}
	return fmt.Errorf("unknown arguments %q: it takes none; ONLY=churn,legate QUICK=1 ROUNDS=9 LIMIT=15m FULL=1 COMPARE=REF WRITE=1 are variables", args)
}

// legateBinary is where make build puts it.
const legateBinary = "bin/legate"

func compare(out io.Writer) error {
	o, err := optionsFrom(os.Getenv, knownNames)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	// The first signal ends it in order: every process that it started is gone
	// when it returns. The limit is for what hangs.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.Limit+2*time.Minute)
	defer cancel()
	config := peers.Config{Self: self, Binary: legateBinary}
	if o.Compare != "" {
		other, err := buildOther(ctx, o.Compare)
		if err != nil {
			return err
		}
		defer other.remove()
		config.Other, config.OtherName = other.binary, other.name
	}
	b, err := newCampaign(o, config, out)
	if err != nil {
		return err
	}
	defer b.close()
	r, err := b.run(ctx)
	if err != nil {
		return err
	}
	if err := errors.Join(r.print(out), r.save(out, o)); err != nil {
		return err
	}
	return r.verdict()
}

func knownNames(full bool) names {
	var n names
	n.rows = rowNames(rows(full, false))
	for _, p := range peers.List(peers.Config{}) {
		n.peers = append(n.peers, p.Name)
	}
	return n
}
