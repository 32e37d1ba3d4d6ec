package check

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func as(user, password, role string) spec.Check {
	c := patient(spec.CheckPostgres)
	c.User, c.Password, c.Role, c.Database = user, spec.Secret(password), role, "postgres"
	return c
}

func TestPostgres_Roles(t *testing.T) {
	primary := testnet.StartPostgres(t, testnet.PostgresConfig{})
	primary.AddUser(t, "scram", "s3cret", "scram-sha-256")
	primary.AddUser(t, "md", "s3cret", "md5")
	primary.AddUser(t, "own", "s3cret", "scram-sha-256")
	primary.SQL(t, "create database own")
	standby := primary.Standby(t)
	p, s := at(primary.Process), at(standby.Process)

	for _, e := range []spec.Endpoint{p, s, socket(primary.Path)} {
		wants(t, patient(spec.CheckPostgres), e, "")
	}
	for _, user := range []string{"scram", "md"} {
		wants(t, as(user, "s3cret", ""), p, "")
		wants(t, as(user, "s3cret", ""), s, "")
		wants(t, as(user, "s3cret", spec.RolePrimary), p, "")
		wants(t, as(user, "s3cret", spec.RoleStandby), p, "role is primary, not standby")
		wants(t, as(user, "s3cret", spec.RoleStandby), s, "")
		wants(t, as(user, "s3cret", spec.RolePrimary), s, "role is standby, not primary")
		wants(t, as(user, "wr0ng", ""), p, `password authentication failed for user "`+user+`"`)
	}
	wants(t, as("scram", "s3cret", spec.RolePrimary), socket(primary.Path), "")
	own := as("own", "s3cret", "")
	own.Database = ""
	wants(t, own, p, "")
	none := as("scram", "s3cret", "")
	none.Database = "none"
	wants(t, none, p, `database "none" does not exist`)

	standby.Promote(t) // before the primary is gone, which it would look for during 5 s
	wants(t, as("scram", "s3cret", spec.RolePrimary), s, "")

	primary.Freeze()
	wants(t, impatient(patient(spec.CheckPostgres)), p, "no answer within 200ms")
	wants(t, impatient(as("scram", "s3cret", "")), p, "no answer within 200ms")
	primary.Thaw()
	primary.Kill()
	wants(t, patient(spec.CheckPostgres), p, "connect: connection refused")
	if got := strings.Count(standby.Log(), "unexpected EOF"); got != 0 {
		t.Errorf("the server complains of %d of our ends:\n%s", got, standby.Log())
	}
}

// Servers say so themselves when they are not ready for anybody, or for no
// more: the first is unhealthy in any case, the second only when we are to log
// in, as others are served.
func TestPostgres_StartingUpAndFull(t *testing.T) {
	primary := testnet.StartPostgres(t, testnet.PostgresConfig{Args: []string{"-c", "max_connections=3", "-c", "superuser_reserved_connections=0", "-c", "max_wal_senders=0"}})
	primary.AddUser(t, "scram", "s3cret", "scram-sha-256")
	var held []*exec.Cmd
	for range 3 {
		held = append(held, hold(t, primary))
	}
	full := as("scram", "s3cret", "")
	testnet.Await(t, "the last place to be taken", func() bool {
		return text(Runner{}.Run(t.Context(), full, at(primary.Process))) == "sorry, too many clients already"
	})
	wants(t, patient(spec.CheckPostgres), at(primary.Process), "")

	// A smart shutdown lets nobody in while the last ones go on.
	primary.Signal(syscall.SIGTERM)
	for _, c := range []spec.Check{patient(spec.CheckPostgres), full} {
		testnet.Await(t, "the shutdown", func() bool {
			return text(Runner{}.Run(t.Context(), c, at(primary.Process))) == "the database system is shutting down"
		})
	}
	for _, cmd := range held {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// hold occupies a connection until the test ends.
func hold(t *testing.T, p *testnet.Postgres) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "psql", "-h", filepath.Dir(p.Path), "-p", strconv.Itoa(int(p.Addr.Port())), "-U", "postgres", "-c", "select pg_sleep(60)")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// What the environment says about PostgreSQL is for other programs.
func TestPostgres_TheEnvironmentDoesNotCount(t *testing.T) {
	for name, value := range map[string]string{
		"PGSERVICE": "none", "PGSERVICEFILE": "/nonexistent", "PGCONNECT_TIMEOUT": "soon", "PGSSLCERTMODE": "none at all",
		"PGSSLNEGOTIATION": "direct", "PGCHANNELBINDING": "require", "PGREQUIREAUTH": "gss", "PGPORT": "0", "PGHOST": "/tmp",
		"PGOPTIONS": "-c nonsense", "PGTZ": "nowhere", "PGMINPROTOCOLVERSION": "3.9", "PGMAXPROTOCOLVERSION": "nonsense",
		"PGSSLMODE": "verify-full", "PGTARGETSESSIONATTRS": "standby", "PGPASSWORD": "s3cret", "PGUSER": "nobody",
	} {
		t.Setenv(name, value)
	}
	config, err := (&session{check: as("scram", "pw", "")}).pgConfig()
	if err != nil {
		t.Fatal(err)
	}
	if config.ConnectTimeout != 0 || config.ChannelBinding == "require" || config.SSLCertMode == "require" || config.Password != "pw" || config.ValidateConnect != nil {
		t.Errorf("the environment is in it: %+v", config)
	}
}
