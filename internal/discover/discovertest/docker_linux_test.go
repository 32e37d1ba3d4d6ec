package discovertest

import (
	"cmp"
	"net"
	"os"
	"path/filepath"
	"testing"

	"legate/internal/discover"
	adapter "legate/internal/discover/docker"
	"legate/internal/docker"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// The engines that testnet finds.
const installed, built = "installed", "current"

// dockerBench is an engine whose containers are the endpoints.
type dockerBench struct {
	registry
	*testnet.Dockerd
	tls  string        // where it wants certificates, in its own network
	keys docker.Config // what our sources show there; zero: they use the socket
	ca   *testnet.CA   // of the engine's certificate and of its clients'
}

func dockerAdapter(engine string) Adapter {
	return Adapter{
		Start: func(t testing.TB) Bench { return startDocker(t, engine) },
		Down:  "nothing answers at the Docker socket", Paused: "did not answer",
		Takes: "who kills an engine here takes its containers along, as the end of a machine does",
		Credentials: func(t testing.TB, b Bench) Lock {
			e := b.(*dockerBench)
			return e.lock(t, "refuses our certificate", e.ca, testnet.NewCA(t))
		},
		Certificates: func(t testing.TB, b Bench) Lock {
			e := b.(*dockerBench)
			return e.lock(t, "is not trusted", testnet.NewCA(t), e.ca)
		},
		Lacks: map[string]string{"restarted_without_its_data": "an engine knows for certain what runs: a container that it lost is one that died"},
	}
}

func startDocker(t testing.TB, engine string) *dockerBench {
	t.Helper()
	dockerd := testnet.DockerEngines(t)[engine]
	if dockerd == "" {
		testnet.Skip(t, "needs the "+engine+" Docker engine (package docker.io, test/setup/engine.sh)")
	}
	b := &dockerBench{ca: testnet.NewCA(t), tls: "127.0.0.1:2376"}
	cert, key := b.ca.Server(t, "127.0.0.1")
	b.Dockerd = testnet.StartDockerd(t, testnet.DockerdConfig{Program: dockerd, Args: []string{
		"--host=tcp://" + b.tls, "--tlsverify", "--tlscacert=" + b.ca.File, "--tlscert=" + cert, "--tlskey=" + key}})
	b.Import(t, "box")
	b.Docker(t, "network", "create", "--subnet", "10.77.0.0/24", "backend")
	return b
}

func (b *dockerBench) Target() spec.Target {
	return spec.Target{Source: spec.SourceDocker, Protocol: spec.TCP, Host: "redis", Port: 6379}
}

func (b *dockerBench) Sources(t testing.TB, at string) map[string]discover.Source {
	t.Helper()
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	replace(t, nowhere, "")
	config := b.keys
	if config.Host == "" {
		config.Host = "unix://" + cmp.Or(at, b.Path)
	}
	return map[string]discover.Source{spec.SourceDocker: adapter.New(adapter.Config{
		Table: docker.NewTable(config), Own: docker.Own{Mountinfo: nowhere, Cgroup: nowhere, Hostname: "the-host"},
	})}
}

func (b *dockerBench) Set(t testing.TB, addresses ...string) {
	t.Helper()
	b.change(addresses,
		func(a string) {
			b.Docker(t, "run", "-d", "--restart", "always", "--network", "backend", "--ip", a, "--name", "p-redis-"+a,
				"--label", "com.docker.compose.project=p", "--label", "com.docker.compose.service=redis", "box")
		},
		func(a string) { b.Docker(t, "rm", "-f", "p-redis-"+a) })
}

func (b *dockerBench) Kill(testing.TB) { b.Dockerd.Kill() }

func (b *dockerBench) Address() (network, address string) { return "unix", b.Path }

// lock is the same engine, asked over TLS by who trusts one authority and has a
// certificate of another.
func (b *dockerBench) lock(t testing.TB, says string, trusted, own *testnet.CA) Lock {
	t.Helper()
	dir := t.TempDir()
	copyFile(t, trusted.File, filepath.Join(dir, "ca.pem"))
	show(t, own, dir)
	address := Forward(t, "tcp", 0, func() (c net.Conn, err error) {
		b.Net.Do(t, func() error { c, err = net.Dial("tcp", b.tls); return nil })
		return c, err
	})
	locked := *b
	locked.keys = docker.Config{Host: "tcp://" + address, TLS: true, Certificates: dir}
	return Lock{Bench: &shared{&locked, b}, Says: says, Unlock: func(t testing.TB) {
		copyFile(t, b.ca.File, filepath.Join(dir, "ca.pem"))
		show(t, b.ca, dir)
	}}
}

// shared is the locked way to a server, whose endpoints are set at the open one.
type shared struct {
	*dockerBench
	open Bench
}

func (s *shared) Set(t testing.TB, addresses ...string) { s.open.Set(t, addresses...) }

// show makes a certificate of a client.
func show(t testing.TB, authority *testnet.CA, dir string) {
	t.Helper()
	cert, key := authority.Client(t, "legate")
	copyFile(t, key, filepath.Join(dir, "key.pem"))
	copyFile(t, cert, filepath.Join(dir, "cert.pem"))
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	replace(t, to, string(text))
}
