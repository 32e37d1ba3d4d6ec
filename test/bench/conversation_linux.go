package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"syscall"

	"legate/test/bench/load"
	"legate/test/bench/peers"
)

// conversation is the clients in their container.
type conversation struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	questions *json.Encoder
	answers   *json.Decoder
	said      bytes.Buffer
}

// converse starts the client's container. Its label is what makes it a client of
// the agent.
func (b *bridge) converse(ctx context.Context) (*conversation, error) {
	c := &conversation{cmd: b.host.Command(ctx, "run", "-i", "--name", "client", "--network", network,
		"--label", "connect."+serverPort+"="+serverName, endsImage, b.self, roleClients)}
	// A group of its own keeps the terminal's Ctrl-C from it; it ends with us.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.cmd.Stderr = &c.said
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start clients: %w", err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start clients: %w", err)
	}
	c.questions, c.answers = json.NewEncoder(c.in), json.NewDecoder(out)
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start clients: %w", err)
	}
	if _, err := c.ask(ping{Addr: b.addrs[peers.Direct], Shape: pingPong(1)}); err != nil {
		return nil, err
	}
	pid, err := b.process(ctx, "client")
	b.ends = append(b.ends, pid)
	return c, err
}

func (c *conversation) ask(q ping) (load.Result, error) {
	if err := c.questions.Encode(q); err != nil {
		return load.Result{}, fmt.Errorf("ask the clients: %w: %s", err, c.said.String())
	}
	var a pong
	if err := c.answers.Decode(&a); err != nil {
		return load.Result{}, fmt.Errorf("hear the clients: %w: %s", err, c.said.String())
	}
	if a.Error != "" {
		return load.Result{}, errors.New(a.Error)
	}
	return a.Result, nil
}

// end ends the clients, so that the next measurement has the host for itself.
func (c *conversation) end() {
	_ = c.in.Close() // they end at the end of their input
	_ = c.cmd.Wait()
}
