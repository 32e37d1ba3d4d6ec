package daemon

import (
	"errors"
	"net/netip"

	"legate/internal/agent"
	source "legate/internal/discover/docker"
	"legate/internal/docker"
	"legate/internal/forward"
	"legate/internal/spec"
)

// AgentConfig says how links are made of the labels of this host's containers.
type AgentConfig struct {
	Labels spec.LabelConfig
	// Namespaces is where the engine keeps its network namespaces; "":
	// docker.DefaultNamespaces.
	Namespaces string
	// Omni serves ambassadord's clients, too: see agent.Config.
	Omni bool
}

// newAgent returns the agent that the configuration asks for; nil: none. It
// shares the table of containers with the source docker:NAME.
func newAgent(cfg Config, containers *docker.Table, sockets *sockets) *agent.Agent {
	if cfg.Agent == nil {
		return nil
	}
	return agent.New(agent.Config{
		Engine:     cfg.Sources.engine(),
		Table:      containers,
		Labels:     cfg.Agent.Labels,
		Namespaces: cfg.Agent.Namespaces,
		Bind:       sockets.bind,
		Omni:       cfg.Agent.Omni,
		Log:        cfg.Log,
	})
}

// containers is how containers are found, which are those of the table: by names
// from an agent's labels, or by those of the operator.
func (c Config) containers(a *agent.Agent, table *docker.Table) source.Config {
	switch {
	case a == nil:
		return source.Config{Table: table, Trust: source.TrustDoubted}
	case c.Agent.Labels.TrustImageLabels:
		return source.Config{Table: table, Enters: a.Enters(), Trust: source.TrustAll}
	}
	return source.Config{Table: table, Enters: a.Enters()}
}

// parse reads the targets that a link is swapped to, a container's as its labels
// are read: a word is one for the sources.
func (d *Daemon) parse(text string, l spec.Link) ([]spec.Target, error) {
	if l.For != nil && d.agent != nil {
		return spec.ContainerTargets(text, *l.For, l, d.agent.Labels())
	}
	return spec.ParseTargets(text, l)
}

// openOmni serves the address of omni mode, if that is wished.
func (d *Daemon) openOmni() error {
	if d.agent == nil || !d.agent.Omni() {
		return nil
	}
	at := spec.Listen{Protocol: spec.TCP, Port: spec.OmniPort}
	return d.forwarder.Switch(at, func(client netip.Addr, port uint16) (spec.Listen, error) {
		l, err := d.agent.Route(client, port)
		if errors.Is(err, agent.ErrNotYet) {
			err = forward.ErrNotYet
		}
		return l, err
	})
}

// SetUpOmni leads every TCP port of this process's network to that of omni
// mode, as an agent in that mode does itself where it may.
func SetUpOmni() error { return agent.SetUpOmni() }

// CleanUpOmni takes that back, whoever did it.
func CleanUpOmni() error { return agent.CleanUpOmni() }
