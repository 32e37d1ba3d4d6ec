package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"legate/test/bench/load"
	"legate/test/bench/machine"
	"legate/test/bench/peers"
	"legate/test/e2e/lab"
)

// bridge is a Docker host on which containers talk to each other: a server and
// its client on one network, an agent as the README runs it, and HAProxy in
// containers of that network.
type bridge struct {
	lab    *lab.Lab
	host   *lab.Host
	engine string // as people say it
	self   string // this program, which is in the containers, too
	out    io.Writer

	list   []peers.Peer
	pids   map[string]int // of proxies
	addrs  map[string]string
	ends   []int // processes of server and clients
	client *conversation
}

// The images of the benchmark, the network, and where its server is.
const (
	endsImage    = "legate-bench/ends"
	haproxyImage = "legate-bench/haproxy"
	network      = "bench"
	serverName   = "server"
	serverPort   = "6379"
)

// errNoHost is why there can be no Docker host here.
var errNoHost = errors.New("needs root and a Docker engine (test/setup/packages.sh)")

// newBridge stands up the host, with the current engine if that is there. Its
// owner closes it.
func newBridge(ctx context.Context, self string, out io.Writer) (*bridge, error) {
	engines, _ := lab.Engines(ctx)
	if os.Getuid() != 0 || len(engines) == 0 {
		return nil, errNoHost
	}
	engine := engines[len(engines)-1]
	fmt.Fprintf(out, "standing up a host with Docker %s\n", engine.Label)
	hosts, err := lab.Start(ctx, engine)
	if err != nil {
		return nil, err
	}
	b := &bridge{lab: hosts, host: hosts.A, engine: engine.Label, self: self, out: out,
		pids: map[string]int{}, addrs: map[string]string{}}
	if err := b.furnish(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bridge) close() error { return b.lab.Close() }

// furnish makes images and starts what every measurement needs.
func (b *bridge) furnish(ctx context.Context) error {
	fmt.Fprintln(b.out, "making images")
	err := errors.Join(
		b.host.MakeImage(ctx, "."),
		b.host.Import(ctx, lab.Image{Name: endsImage, Files: []string{b.self}}),
	)
	if err != nil {
		return err
	}
	if _, err := b.host.Docker(ctx, "network", "create", network); err != nil {
		return err
	}
	pid, err := b.start(ctx, "run", "-d", "--name", serverName, "--network", network, endsImage, b.self, roleServe, "0.0.0.0:"+serverPort)
	b.ends = []int{pid}
	return err
}

// start starts a container and returns its process.
func (b *bridge) start(ctx context.Context, command ...string) (pid int, err error) {
	id, err := b.host.Docker(ctx, command...)
	if err != nil {
		return 0, err
	}
	return b.process(ctx, strings.TrimSpace(id))
}

func (b *bridge) process(ctx context.Context, container string) (pid int, err error) {
	text, err := b.host.Docker(ctx, "inspect", "-f", "{{.State.Pid}}", container)
	if err != nil {
		return 0, err
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(text)); err == nil && pid == 0 {
		said, _ := b.host.Command(ctx, "logs", container).CombinedOutput()
		err = fmt.Errorf("container %s ended: %s", container, bytes.TrimSpace(said))
	}
	return pid, err
}

// startAgent starts the agent, and returns when it sees namespaces appear.
func (b *bridge) startAgent(ctx context.Context) (pid int, err error) {
	if pid, err = b.start(ctx, b.host.Agent("agent", "agent")...); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	return pid, lab.Poll(ctx, func() (bool, string) {
		log, _ := b.host.Command(ctx, "logs", "agent").CombinedOutput()
		return bytes.Contains(log, []byte("links are open before")), "the agent says: " + string(log)
	})
}

const readyTime = 20 * time.Second

// onBridge are the ways from container to container. HAProxy is as in the other
// rows, and with one thread, as suits one connection.
func onBridge(host *lab.Host, known []peers.Peer) (list []peers.Peer) {
	for _, p := range known {
		switch p.Name {
		case peers.Direct:
			list = append(list, p)
		case peers.Legate:
			p.Command = docker(host.Agent("agent", "agent")...)
			list = append(list, p)
		case peers.HAProxy:
			p.Config = strings.NewReplacer("LISTEN", ":"+serverPort, "SERVER", serverName+":"+serverPort).Replace(p.Config)
			list = append(list, haproxyIn(p))
			p.Name, p.Config = p.Name+"-1", strings.Replace(p.Config, "nbthread 2", "nbthread 1", 1)
			list = append(list, haproxyIn(p))
		}
	}
	return list
}

func haproxyIn(p peers.Peer) peers.Peer {
	p.Command = docker("run", "-d", "--name", p.Name, "--network", network, haproxyImage, "haproxy", "-db", "-f", "/bin/"+p.Name+".cfg")
	return p
}

func docker(args ...string) func(peers.Ask) (*exec.Cmd, error) {
	return func(peers.Ask) (*exec.Cmd, error) { return exec.Command("docker", args...), nil }
}

// startAll starts the proxies and the client.
func (b *bridge) startAll(ctx context.Context, list []peers.Peer, note func(fact)) error {
	b.list = list
	image := lab.Image{Name: haproxyImage, Programs: []string{"haproxy"}, Scripts: map[string]string{}}
	for _, p := range list {
		if p.Config != "" {
			image.Scripts[p.Name+".cfg"] = p.Config
		}
	}
	if err := b.host.Import(ctx, image); err != nil {
		return err
	}
	for _, p := range list {
		f, err := b.startOne(ctx, p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		note(f)
	}
	var err error
	if b.client, err = b.converse(ctx); err != nil {
		return err
	}
	return b.await(ctx)
}

// startOne starts a proxy and learns where the client finds it.
func (b *bridge) startOne(ctx context.Context, p peers.Peer) (f fact, err error) {
	f.Peer = p.Name
	container := serverName
	if p.Command != nil {
		cmd, err := p.Command(peers.Ask{})
		if err != nil {
			return f, err
		}
		f.Command = strings.Join(cmd.Args, " ")
		container = p.Name
	}
	if p.Ours {
		b.addrs[p.Name] = "127.0.0.1:" + serverPort
		b.pids[p.Name], err = b.startAgent(ctx)
		return f, err
	}
	if p.Command != nil {
		if b.pids[p.Name], err = b.start(ctx, strings.Fields(f.Command)[1:]...); err != nil {
			return f, err
		}
	}
	ip, err := b.host.Docker(ctx, "inspect", "-f", "{{.NetworkSettings.Networks."+network+".IPAddress}}", container)
	b.addrs[p.Name] = strings.TrimSpace(ip) + ":" + serverPort
	return f, err
}

// await returns when every way leads to the server.
func (b *bridge) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTime)
	defer cancel()
	for name, addr := range b.addrs {
		err := lab.Poll(ctx, func() (bool, string) {
			_, err := b.client.ask(ping{Addr: addr, Shape: pingPong(1)})
			return err == nil, fmt.Sprintf("%s at %s: %v", name, addr, err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ask is a round: every row on every way in turn.
func (b *bridge) ask(ctx context.Context, t task, take func(int, event)) error {
	r := &round{task: t, say: func(e event) error { take(t.Number, e); return nil }}
	for _, name := range t.Peers {
		for _, p := range b.list {
			if p.Name == name {
				r.list = append(r.list, &contestant{Peer: p, addr: b.addrs[name]})
			}
		}
	}
	for _, w := range t.Rows {
		if err := r.block(ctx, w, func(c *contestant, w row) (sample, error) { return b.cell(t.What, c, w) }); err != nil {
			return err
		}
	}
	return nil
}

// cell puts one row's load on one way.
func (b *bridge) cell(what errand, c *contestant, w row) (s sample, err error) {
	if what == calibrate {
		w.Shape.Rate, w.Shape.Time = 0, min(mostTime, w.Shape.Time)
	}
	if _, err := b.client.ask(ping{Addr: c.addr, Shape: w.Shape}); err != nil {
		return s, err
	}
	before, err := b.clocks(c.Name)
	if err != nil {
		return s, err
	}
	if s.Result, err = b.client.ask(ping{}); err != nil {
		return s, err
	}
	after, err := b.clocks(c.Name)
	if err != nil {
		return s, err
	}
	s.CPU = after.cpu - before.cpu
	s.Busy, _ = after.busy.Since(before.busy)
	s.Foreign = after.busy.Foreign(before.busy, after.all-before.all)
	return s, nil
}

// clocks are those of a way when all is quiet.
func (b *bridge) clocks(name string) (now clocks, err error) {
	if pid := b.pids[name]; pid != 0 {
		if now.cpu, err = peers.SettledCPU(pid); err != nil {
			return now, err
		}
	}
	now.all = now.cpu
	for _, pid := range b.ends {
		used, err := machine.CPUTime(pid)
		if err != nil {
			return now, err
		}
		now.all += used
	}
	now.busy, err = machine.ReadBusy()
	return now, err
}

func pingPong(conns int) load.Shape {
	return load.Shape{Conns: conns, Request: 1, Response: 1, Depth: 1, Units: 1, Time: time.Second, Mode: load.Stream}
}

// bridgeRows are what is measured from container to container: one connection as
// fast as it goes, which is how ping-pong goes, and many at one rate.
func bridgeRows(quick bool) []row {
	list := []row{
		{"pingpong", "1M round trips of 1 byte, 1 connection", 1e6, kindLoad, pingPong(1), 0, "", manyRounds},
		{"pingpong-64", "1M round trips of 1 byte, 64 connections", 1e6, kindLoad, pingPong(64), .5, "", manyRounds},
	}
	if quick {
		for i := range list {
			list[i].Shape.Time /= 8
		}
	}
	return list
}
