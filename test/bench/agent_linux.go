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

	"legate/test/bench/peers"
)

// What is measured on a Docker host: partAgent is ping-pong from container to
// container, and partLinks, which can be had alone.
const (
	partAgent = "agent"
	partLinks = "links"
)

// measureAgent is the program in the role of a part. Where nobody asked for just
// that, it is left out where no Docker host can be had.
func measureAgent(part string, out io.Writer) error {
	only := os.Getenv("ONLY")
	o, err := optionsFrom(func(name string) string {
		if name == "ONLY" { // its names are of the other rows
			return ""
		}
		return os.Getenv(name)
	}, knownNames)
	if err != nil {
		return err
	}
	o.Part = part
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.Limit+2*time.Minute)
	defer cancel()
	err = o.onHost(ctx, out)
	if errors.Is(err, errNoHost) && only == "" {
		_, err = fmt.Fprintf(out, "left out: containers: %v\n", err)
	}
	return err
}

func (o options) onHost(ctx context.Context, out io.Writer) (err error) {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	b, err := newBridge(ctx, self, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r, err := o.measureOn(ctx, b)
	if err != nil {
		return err
	}
	if err := errors.Join(r.print(out), r.save(out, o)); err != nil {
		return err
	}
	return r.verdict()
}

// measureOn measures what was asked for.
func (o options) measureOn(ctx context.Context, b *bridge) (*result, error) {
	c := b.campaign(o)
	if o.Part == partAgent {
		if err := b.startAll(ctx, c.peers, func(f fact) { c.note(0, event{Fact: &f}) }); err != nil {
			return nil, err
		}
		if _, err := c.run(ctx); err != nil {
			return nil, err
		}
		b.client.end()
	}
	links, err := b.links(ctx, planLinks(o.Quick))
	c.result.Links = links
	return c.result, err
}

// campaign is one whose rounds are on the bridge.
func (b *bridge) campaign(o options) *campaign {
	c := &campaign{options: o, out: b.out, began: time.Now(), cost: map[string]time.Duration{}, ask: b.ask}
	if o.Part == partAgent {
		c.rows = bridgeRows(o.Quick)
		c.peers = onBridge(b.host, peers.List(peers.Config{Self: b.self, Binary: legateBinary}))
	}
	for i := range c.rows {
		if o.Rounds > 0 {
			c.rows[i].Rounds = o.Rounds
		}
	}
	c.result = newResult(o, c.rows)
	c.result.Machine.Engine = b.engine
	return c
}
