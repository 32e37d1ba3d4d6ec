package daemon

import (
	"context"
	"sync"

	"legate/internal/discover"
	"legate/internal/discover/consul"
	"legate/internal/discover/dns"
	"legate/internal/discover/docker"
	"legate/internal/discover/etcd"
	engine "legate/internal/docker"
	"legate/internal/spec"
)

// SourceConfig says how sources are reached. Its zero value asks those of this
// machine, at their usual places.
type SourceConfig struct {
	// Environ has the variables by which their own tools know them, such as
	// CONSUL_HTTP_ADDR, ETCDCTL_ENDPOINTS and DOCKER_HOST.
	Environ []string
	// DNS are the name servers to ask, as ADDRESS[:PORT]; none: those of
	// /etc/resolv.conf.
	DNS []string
}

// engine is where the Docker engine is.
func (c SourceConfig) engine() engine.Config {
	return engine.FromEnvironment(func(name string) string { return getenv(c.Environ, name) })
}

// open makes the sources, and of the engine's containers as containers says.
func (c SourceConfig) open(containers docker.Config) map[string]discover.Source {
	get := func(name string) string { return getenv(c.Environ, name) }
	names := dns.New(dns.Config{Servers: c.DNS})
	registry := consul.New(consul.Config{Getenv: get})
	return map[string]discover.Source{
		spec.SourceDNS:      names,
		spec.SourceSRV:      names,
		spec.SourceName:     names,
		spec.SourceConsul:   registry,
		spec.SourceConsulKV: registry,
		spec.SourceEtcd:     etcd.New(etcd.Config{Getenv: get}),
		spec.SourceDocker:   docker.New(containers),
		spec.SourceFile:     discover.File{},
	}
}

// CheckDNS reads name servers separated by commas. The error is a
// *spec.UserError that names the bad one.
func CheckDNS(list []string) error {
	for _, server := range list {
		if _, err := dns.ParseServer(server); err != nil {
			return err
		}
	}
	return nil
}

// Resolved is what the source of one target said.
type Resolved struct {
	Answer spec.Answer
	Source spec.SourceStatus
}

// Resolve asks the sources of the targets once. It returns when all have
// answered, or when ctx ends: a target without an answer then has an error.
func Resolve(ctx context.Context, c SourceConfig, targets []spec.Target) map[spec.Target]Resolved {
	var mu sync.Mutex // guards found
	found := map[spec.Target]spec.Answer{}
	known := newAnswers()
	d := discover.New(discover.Config{Sources: c.open(docker.Config{Table: engine.NewTable(c.engine()), Trust: docker.TrustDoubted}), Set: func(t spec.Target, a spec.Answer) {
		mu.Lock()
		found[t] = a
		mu.Unlock()
		known.add(t)
	}})
	defer d.Close()
	d.Apply(targets)
	known.wait(ctx, targets)
	mu.Lock()
	defer mu.Unlock()
	all := make(map[spec.Target]Resolved, len(targets))
	for _, t := range targets {
		r := Resolved{Answer: found[t]}
		if r.Answer.At.IsZero() && r.Answer.Err == nil {
			r.Answer.Err = spec.Errorf("see whether its server answers at all", "ask for %s: no answer in time", t)
		}
		r.Source, _ = d.Report(t)
		all[t] = r
	}
	return all
}
