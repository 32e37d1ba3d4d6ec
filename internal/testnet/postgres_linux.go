package testnet

import (
	"net/netip"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Postgres is a real PostgreSQL server without fsync: a [Process] that can be
// frozen, killed and started again. The superuser postgres needs no password
// on its unix socket, and everybody needs one on TCP.
type Postgres struct {
	*Process
	bin string // directory of initdb and its like
	dir string // holds data and the socket
}

// PostgresConfig is a PostgreSQL server. The zero value is a primary on a free
// port of 127.0.0.1.
type PostgresConfig struct {
	Addr netip.AddrPort // zero: a free port of 127.0.0.1
	Args []string       // further options of postgres, such as -c max_connections=5
}

// postgresUser is whom Debian's package makes; PostgreSQL refuses to be root.
const postgresUser = "postgres"

// StartPostgres makes a cluster, which takes about a second, starts it as a
// primary and waits until it answers.
func StartPostgres(t testing.TB, c PostgresConfig) *Postgres {
	t.Helper()
	p := newPostgres(t)
	if _, err := run(serverCommand(credential(t, postgresUser), filepath.Join(p.bin, "initdb"), "-D", p.data(), "-U", "postgres", "--no-sync",
		"--auth-local=trust", "--auth-host=md5", "--encoding=UTF8", "--locale=C", "--no-instructions")); err != nil {
		t.Fatalf("make a cluster: %v", err)
	}
	p.serve(t, c)
	return p
}

func newPostgres(t testing.TB) *Postgres {
	t.Helper()
	initdb := find(t, "initdb", "/usr/lib/postgresql/*/bin/initdb")
	return &Postgres{bin: filepath.Dir(initdb), dir: serverDir(t, postgresUser)}
}

func (p *Postgres) data() string { return p.dir + "/data" }

func (p *Postgres) serve(t testing.TB, c PostgresConfig) {
	t.Helper()
	addr := loopback(t, c.Addr)
	path := p.dir + "/.s.PGSQL." + port(addr)
	p.Process = &Process{Addr: addr, Path: path} // for Ready
	args := []string{filepath.Join(p.bin, "postgres"), "-D", p.data(), "-h", addr.Addr().String(), "-p", port(addr), "-k", p.dir, "-F",
		"-c", "shared_buffers=16MB", "-c", "max_connections=50", "-c", "hot_standby=on", "-c", "wal_keep_size=64MB", "-c", "max_wal_senders=4"}
	p.Process = StartProcess(t, ProcessConfig{
		Args: append(args, c.Args...), Dir: p.dir, User: postgresUser, Addr: addr, Path: path, Ready: p.answers,
	})
	// An immediate shutdown takes the children along; kill -9 leaves them
	// behind for a moment, with the directory that is removed.
	p.kill = unix.SIGQUIT
}

func (p *Postgres) answers() bool {
	_, err := p.psql("select 1")
	return err == nil
}

func (p *Postgres) psql(query string) (string, error) {
	return run(serverCommand(nil, filepath.Join(p.bin, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
		"-h", p.dir, "-p", port(p.Addr), "-U", "postgres", "-c", query))
}

// SQL runs a query as the superuser and returns its rows as psql -At does.
func (p *Postgres) SQL(t testing.TB, query string) string {
	t.Helper()
	out, err := p.psql(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return out
}

// AddUser makes a role that may log in, its password hashed the given way:
// scram-sha-256 or md5.
func (p *Postgres) AddUser(t testing.TB, name, password, hash string) {
	t.Helper()
	p.SQL(t, "set password_encryption = '"+hash+"'; create role "+name+" login password '"+password+"'")
}

// Standby makes a hot standby of it on another port and waits until it
// answers.
func (p *Postgres) Standby(t testing.TB) *Postgres {
	t.Helper()
	s := newPostgres(t)
	if _, err := run(serverCommand(credential(t, postgresUser), filepath.Join(p.bin, "pg_basebackup"), "-h", p.dir, "-p", port(p.Addr), "-U", "postgres",
		"-D", s.data(), "-R", "-X", "stream", "-c", "fast", "--no-sync")); err != nil {
		t.Fatalf("copy the primary: %v", err)
	}
	s.serve(t, PostgresConfig{})
	return s
}

// Promote makes a standby a primary and returns when it is one.
func (p *Postgres) Promote(t testing.TB) {
	t.Helper()
	p.SQL(t, "select pg_promote(true, 20)")
	Await(t, "the end of recovery", func() bool {
		out, err := p.psql("select pg_is_in_recovery()")
		return err == nil && out == "f"
	})
}

// Crash ends it as kill -9 of the main process does; what is left of it goes
// by itself.
func (p *Postgres) Crash(t testing.TB) {
	t.Helper()
	p.Stop(t, unix.SIGKILL)
}

// Restart starts it again after Crash or [Process.Kill], and waits until it
// answers.
func (p *Postgres) Restart(t testing.TB) {
	t.Helper()
	p.Start(t, p.answers)
}
