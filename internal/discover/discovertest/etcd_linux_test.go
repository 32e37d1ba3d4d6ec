package discovertest

import (
	"testing"

	"legate/internal/discover"
	"legate/internal/discover/etcd"
	"legate/internal/spec"
	"legate/internal/testnet"
)

const (
	etcdEndpoints = "ETCDCTL_ENDPOINTS"
	etcdUser      = "ETCDCTL_USER"
	etcdCACert    = "ETCDCTL_CACERT"
)

// etcdBench is a server whose values below a key are the endpoints.
type etcdBench struct {
	registry
	*testnet.Etcd
	env environment
}

func startEtcd(t testing.TB, c testnet.EtcdConfig) *etcdBench {
	b := &etcdBench{Etcd: testnet.StartEtcd(t, c)}
	b.env.set(etcdEndpoints, b.Addr.String())
	return b
}

func etcdAdapter(old bool) Adapter {
	return Adapter{
		Start: func(t testing.TB) Bench { return startEtcd(t, testnet.EtcdConfig{Old: old}) },
		Down:  "connection refused", Paused: "no answer",
		Credentials: func(t testing.TB, _ Bench) Lock {
			b := startEtcd(t, testnet.EtcdConfig{Old: old})
			b.AddUser(t, "reader", "right", "service/")
			b.env.set(etcdUser, "reader:wrong")
			return Lock{Bench: b, Says: "the password is wrong", Unlock: func(testing.TB) { b.env.set(etcdUser, "reader:right") }}
		},
		Certificates: func(t testing.TB, _ Bench) Lock {
			authority := testnet.NewCA(t)
			b := startEtcd(t, testnet.EtcdConfig{Old: old, CA: authority})
			b.env.set(etcdCACert, testnet.NewCA(t).File)
			return Lock{Bench: b, Says: "unknown authority", Unlock: func(testing.TB) { b.env.set(etcdCACert, authority.File) }}
		},
	}
}

func (b *etcdBench) Target() spec.Target {
	return spec.Target{Source: spec.SourceEtcd, Protocol: spec.TCP, Path: "service/redis"}
}

func (b *etcdBench) Sources(_ testing.TB, at string) map[string]discover.Source {
	return map[string]discover.Source{spec.SourceEtcd: etcd.New(etcd.Config{Getenv: b.env.with(etcdEndpoints, at)})}
}

func (b *etcdBench) Set(t testing.TB, addresses ...string) {
	t.Helper()
	b.change(addresses,
		func(a string) { b.Put(t, "service/redis/"+a, a+":6379") },
		func(a string) { b.Delete(t, "service/redis/"+a) })
}

func (b *etcdBench) Kill(testing.TB) { b.Etcd.Kill() }

func (b *etcdBench) Lose(t testing.TB) {
	t.Helper()
	b.named = nil
	b.Etcd.Lose(t)
}

func (b *etcdBench) Address() (network, address string) { return "tcp", b.Addr.String() }
