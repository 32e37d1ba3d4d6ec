package discovertest

import (
	"testing"

	"legate/internal/discover"
	"legate/internal/discover/consul"
	"legate/internal/spec"
	"legate/internal/testnet"
)

const (
	consulAddr   = "CONSUL_HTTP_ADDR"
	consulToken  = "CONSUL_HTTP_TOKEN"
	consulCACert = "CONSUL_CACERT"
)

// consulBench is an agent whose services, or keys, are the endpoints.
type consulBench struct {
	registry
	*testnet.Consul
	env environment
	kv  bool
}

func newConsulBench(t testing.TB, c testnet.ConsulConfig, kv bool) *consulBench {
	b := &consulBench{Consul: testnet.StartConsul(t, c), kv: kv}
	b.env.set(consulAddr, b.Addr.String())
	return b
}

func startConsul(t testing.TB, c testnet.ConsulConfig) *consulBench {
	return newConsulBench(t, c, false)
}

func startConsulKV(t testing.TB, c testnet.ConsulConfig) *consulBench {
	return newConsulBench(t, c, true)
}

func consulAdapter(start func(testing.TB, testnet.ConsulConfig) *consulBench) Adapter {
	return Adapter{
		Start: func(t testing.TB) Bench { return start(t, testnet.ConsulConfig{}) },
		Down:  "connection refused", Paused: "no answer in time",
		Credentials: func(t testing.TB, _ Bench) Lock {
			b := start(t, testnet.ConsulConfig{ACL: true})
			b.env.set(consulToken, "b1c9cf56-0000-0000-0000-000000000000")
			return Lock{Bench: b, Says: "permission denied", Unlock: func(testing.TB) { b.env.set(consulToken, b.Token) }}
		},
		Certificates: func(t testing.TB, _ Bench) Lock {
			authority := testnet.NewCA(t)
			b := start(t, testnet.ConsulConfig{CA: authority})
			b.env.set(consulAddr, "https://"+b.TLS.String())
			b.env.set(consulCACert, testnet.NewCA(t).File)
			return Lock{Bench: b, Says: "unknown authority", Unlock: func(testing.TB) { b.env.set(consulCACert, authority.File) }}
		},
		Lacks: map[string]string{"restarted_with_its_data": "the agent of the tests keeps everything in memory, and one that did not would start with the same index: to us nothing was lost"},
	}
}

func (b *consulBench) Target() spec.Target {
	if b.kv {
		return spec.Target{Source: spec.SourceConsulKV, Protocol: spec.TCP, Path: "service/redis"}
	}
	return spec.Target{Source: spec.SourceConsul, Protocol: spec.TCP, Host: "redis"}
}

func (b *consulBench) Sources(_ testing.TB, at string) map[string]discover.Source {
	return map[string]discover.Source{b.Target().Source: consul.New(consul.Config{Getenv: b.env.with(consulAddr, at)})}
}

func (b *consulBench) Set(t testing.TB, addresses ...string) {
	t.Helper()
	if b.kv {
		b.change(addresses,
			func(a string) { b.Put(t, "service/redis/"+a, a+":6379") },
			func(a string) { b.Delete(t, "service/redis/"+a) })
		return
	}
	b.change(addresses,
		func(a string) { b.Register(t, testnet.ConsulService{ID: a, Name: "redis", Address: a, Port: 6379}) },
		func(a string) { b.Deregister(t, a) })
}

func (b *consulBench) Kill(testing.TB) { b.Consul.Kill() }

func (b *consulBench) Lose(testing.TB) {} // it always does

func (b *consulBench) Restart(t testing.TB) {
	t.Helper()
	b.named = nil
	b.Consul.Restart(t)
}

func (b *consulBench) Address() (network, address string) { return "tcp", b.Addr.String() }
