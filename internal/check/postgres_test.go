package check

import (
	"encoding/binary"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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
	wants(t, none, p, `database "none" does not exist (set check-database)`)

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
	primary := testnet.StartPostgres(t, testnet.PostgresConfig{Args: []string{"-c", "log_connections=on", "-c", "max_connections=3", "-c", "superuser_reserved_connections=0", "-c", "max_wal_senders=0"}})
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

// hold occupies a connection, and returns when it has it: a check in between
// could take the last place.
func hold(t *testing.T, p *testnet.Postgres) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "psql", "-h", filepath.Dir(p.Path), "-p", strconv.Itoa(int(p.Addr.Port())), "-U", "postgres", "-c", "select pg_sleep(60)")
	const authorized = "connection authorized"
	before := strings.Count(p.Log(), authorized)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testnet.Await(t, "a connection of psql", func() bool { return strings.Count(p.Log(), authorized) > before })
	return cmd
}

// What the environment says about PostgreSQL is for other programs.
func TestPostgres_TheEnvironmentDoesNotCount(t *testing.T) {
	for name, value := range map[string]string{
		"PGSERVICEFILE": "/nonexistent", "PGCONNECT_TIMEOUT": "soon", "PGSSLCERTMODE": "none at all",
		"PGSSLNEGOTIATION": "direct", "PGCHANNELBINDING": "require", "PGREQUIREAUTH": "gss", "PGPORT": "0", "PGHOST": "/tmp",
		"PGOPTIONS": "-c nonsense", "PGTZ": "nowhere", "PGMINPROTOCOLVERSION": "3.9", "PGMAXPROTOCOLVERSION": "nonsense",
		"PGSSLMODE": "verify-full", "PGTARGETSESSIONATTRS": "standby", "PGPASSWORD": "s3cret", "PGUSER": "nobody",
	} {
		t.Setenv(name, value)
	}
	config, err := (&session{check: as("scram", "pw", ""), password: "pw"}).pgConfig()
	if err != nil {
		t.Fatal(err)
	}
	if config.ConnectTimeout != 0 || config.ChannelBinding == "require" || config.SSLCertMode == "require" || config.Password != "pw" || config.ValidateConnect != nil {
		t.Errorf("the environment is in it: %+v", config)
	}
}

// A server that asks for so many rounds is refused before the first of them.
func TestPostgres_HashesNoMillionsOfTimes(t *testing.T) {
	sasl := message('R', "\x00\x00\x00\x0aSCRAM-SHA-256\x00\x00")
	s := testnet.Serve(t, "tcp4", func(c net.Conn) {
		b := make([]byte, 4096)
		_, _ = c.Read(b) // whether TLS is there
		_, _ = c.Write([]byte("N"))
		_, _ = c.Read(b)
		_, _ = c.Write([]byte(sasl))
		n, _ := c.Read(b)
		_, nonce, _ := strings.Cut(string(b[:n]), "r=")
		_, _ = c.Write([]byte(message('R', "\x00\x00\x00\x0br="+nonce+"abc,s=c2FsdA==,i=1000000")))
		drain(c)
	})
	begin := time.Now()
	wants(t, as("scram", "s3cret", ""), spec.Endpoint{Protocol: spec.TCP, Addr: s.Addr}, "log in: the server wants the password hashed more than 999999 times")
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// message is one of PostgreSQL's protocol.
func message(kind byte, body string) string {
	return string(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)+4))) + body
}

func TestPostgres_Answers(t *testing.T) {
	fail := func(fields string) string { return message('E', fields+"\x00") }
	for answer, want := range map[string]string{
		message('R', "\x00\x00\x00\x00"):                                    "",
		message('R', "\x00\x00\x00\x05salt"):                                "",
		fail("SFATAL\x00C28000\x00Mno entry\x00"):                           "",
		fail("SFATAL\x00C53300\x00Msorry, too many clients already\x00"):    "",
		fail("SFATAL\x00C57P03\x00Mthe database system is starting up\x00"): "the database system is starting up",
		fail("SFATAL\x00C57P01\x00Mterminating connection\x00"):             "terminating connection",
		fail(""):                `no PostgreSQL answer: "."`,
		"E\x00\x00\x00\x04":     `no PostgreSQL answer: ""`,
		"E\xff\xff\xff\xffxxxx": `no PostgreSQL answer: "E."`,
		"R\x00\x00\x00\x03":     `no PostgreSQL answer: "R...."`,
		"R\x00\x00":             `no answer of its protocol: "R..", and then the connection's end`,
		"HTTP/1.1 400\r\n":      `no PostgreSQL answer: "HTTP/"`,
		"":                      "it closed the connection instead of an answer",
	} {
		wants(t, patient(spec.CheckPostgres), saying(t, answer), want)
	}
	for answer, want := range map[string]string{
		"N" + message('R', "\x00\x00\x00\x03"): "the server wants the password in clear text, or in a way that checks do not have: give the user one for scram-sha-256",
		"N" + message('R', "\x00\x00\x00\x00") + message('Z', "I") + message('D', "\x00\x01\x00\x00\x00\x01t") + message('Z', "I"): "role is standby, not primary",
		"N" + message('R', "\x00\x00\x00\x00") + message('Z', "I") + message('D', "\x00\x01\xff\xff\xff\xff") + message('Z', "I"):  "the question for the role has no answer",
		"N" + message('R', "\x00\x00\x00\x00") + message('Z', "I") + message('Z', "I"):                                             "the question for the role has no answer",
		"N" + message('R', "\x00\x00\x00\x00") + message('Z', "I"):                                                                 "it closed the connection instead of an answer",
		"N" + fail("SFATAL\x00C28000\x00Mthe password s3cret is wrong\x00"):                                                        "the password *** is wrong",
		"SMITM":                 "log in: unencrypted bytes after the answer to TLS",
		"Ecould not fork\n\x00": "log in: the server has no process for the connection",
		"":                      "it closed the connection instead of an answer",
	} {
		wants(t, as("scram", "s3cret", spec.RolePrimary), saying(t, answer), want)
	}
}
