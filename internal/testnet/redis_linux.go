package testnet

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// Redis is a real redis-server: a [Process] that can be frozen, killed and
// started again, and asked with [Redis.Do].
type Redis struct {
	*Process
	Config RedisConfig
}

// RedisConfig is a Redis server. The zero value is a master on a free port of
// 127.0.0.1 that asks for no password and keeps nothing on disk.
type RedisConfig struct {
	Addr     netip.AddrPort // zero: a free port of 127.0.0.1
	Password string         // of the default user; "": none
	// ReplicaOf makes it a replica of that master, with the same password.
	ReplicaOf netip.AddrPort
	Args      []string // further options of redis-server
}

// StartRedis starts a server and waits until it answers. Its Path is a unix
// socket beside the TCP port.
func StartRedis(t testing.TB, c RedisConfig) *Redis {
	t.Helper()
	server, dir := find(t, "redis-server"), serverDir(t, "")
	find(t, "redis-cli")
	r := &Redis{Config: c}
	addr, path := loopback(t, c.Addr), dir+"/redis.sock"
	args := []string{server, "--bind", addr.Addr().String(), "--port", port(addr), "--unixsocket", path,
		"--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", dir, "--repl-diskless-sync-delay", "0"}
	if c.Password != "" {
		args = append(args, "--requirepass", c.Password, "--masterauth", c.Password)
	}
	if c.ReplicaOf.IsValid() {
		args = append(args, "--replicaof", c.ReplicaOf.Addr().String(), port(c.ReplicaOf))
	}
	r.Process = &Process{Path: path} // for Ready
	r.Process = StartProcess(t, ProcessConfig{
		Args: append(args, c.Args...), Dir: dir, Addr: addr, Path: path,
		Ready: r.answers,
	})
	return r
}

func port(a netip.AddrPort) string { return strconv.Itoa(int(a.Port())) }

func (r *Redis) answers() bool {
	out, err := r.cli("PING")
	return err == nil && out == "PONG"
}

func (r *Redis) cli(args ...string) (string, error) {
	line := []string{"redis-cli", "-s", r.Path, "-e"}
	if r.Config.Password != "" {
		line = append(line, "--no-auth-warning", "-a", r.Config.Password)
	}
	return run(serverCommand(nil, append(line, args...)...))
}

// Do sends a command as the default user and returns what redis-cli prints.
func (r *Redis) Do(t testing.TB, args ...string) string {
	t.Helper()
	out, err := r.cli(args...)
	if err != nil {
		t.Fatalf("redis: %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// Restart starts it again after [Process.Kill] and waits until it answers.
func (r *Redis) Restart(t testing.TB) {
	t.Helper()
	r.Start(t, r.answers)
}

// Replica starts a replica of it and waits until the two are in step.
func (r *Redis) Replica(t testing.TB) *Redis {
	t.Helper()
	replica := StartRedis(t, RedisConfig{Password: r.Config.Password, ReplicaOf: r.Addr})
	Await(t, "the replica's link to its master", func() bool {
		return strings.Contains(replica.Do(t, "INFO", "replication"), "master_link_status:up")
	})
	return replica
}

// Promote makes a replica a master.
func (r *Redis) Promote(t testing.TB) {
	t.Helper()
	r.Do(t, "REPLICAOF", "NO", "ONE")
}
