package daemon

import (
	"legate/internal/agent"
	"legate/internal/docker"
	"legate/internal/spec"
)

// AgentConfig says how links are made of the labels of this host's containers.
type AgentConfig struct {
	Labels spec.LabelConfig
	// Namespaces is where the engine keeps its network namespaces; "":
	// docker.DefaultNamespaces.
	Namespaces string
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
		Log:        cfg.Log,
	})
}
