package check

import (
	"net/netip"
	"strings"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

func TestRedis_Roles(t *testing.T) {
	master := testnet.StartRedis(t, testnet.RedisConfig{})
	replica := master.Replica(t)
	any, asMaster, asReplica := patient(spec.CheckRedis), patient(spec.CheckRedis), patient(spec.CheckRedis)
	asMaster.Role, asReplica.Role = spec.RoleMaster, spec.RoleReplica

	for _, e := range []spec.Endpoint{at(master.Process), at(replica.Process), socket(master.Path)} {
		wants(t, any, e, "")
	}
	wants(t, asMaster, at(master.Process), "")
	wants(t, asReplica, at(master.Process), "role is master, not replica")
	wants(t, asReplica, at(replica.Process), "")
	wants(t, asMaster, at(replica.Process), "role is slave, not master")

	replica.Do(t, "CONFIG", "SET", "replica-serve-stale-data", "no")
	master.Kill()
	stale := func() string { return text(Runner{}.Run(t.Context(), any, at(replica.Process))) }
	testnet.Await(t, "the replica's refusal", func() bool { return strings.HasPrefix(stale(), "-MASTERDOWN Link with MASTER is down") })
	wants(t, any, at(master.Process), "connect: connection refused")

	replica.Promote(t)
	wants(t, asMaster, at(replica.Process), "")
	replica.Freeze()
	wants(t, impatient(asMaster), at(replica.Process), "no answer within 200ms")
	replica.Thaw()
	wants(t, asMaster, at(replica.Process), "")
}

func TestRedis_Users(t *testing.T) {
	r := testnet.StartRedis(t, testnet.RedisConfig{Password: "s3cret"})
	e := at(r.Process)
	r.Do(t, "ACL", "SETUSER", "legate", "on", ">pw", "+ping", "+role")
	r.Do(t, "ACL", "SETUSER", "info", "on", ">pw", "+ping", "+info")
	r.Do(t, "ACL", "SETUSER", "ping", "on", ">pw", "+ping")
	r.Do(t, "ACL", "SETUSER", "nothing", "on", ">pw")
	as := func(user string, password spec.Secret) spec.Check {
		c := patient(spec.CheckRedis)
		c.Role, c.User, c.Password = spec.RoleMaster, user, password
		return c
	}
	wants(t, as("", "s3cret"), e, "")
	wants(t, as("legate", "pw"), e, "")
	wants(t, as("info", "pw"), e, "")
	wants(t, as("ping", "pw"), e, "the user may not run ROLE or INFO (ACL SETUSER ping +role)")
	wants(t, as("nothing", "pw"), e, "the user may not run PING (ACL SETUSER nothing +ping)")
	wants(t, as("", ""), e, "-NOAUTH Authentication required (set check-password)")
	wants(t, as("legate", "s3cret"), e, "log in: -WRONGPASS invalid username-password pair or user is disabled.")
	wants(t, as("", "two words\r\n\x00\"'"), e, "log in: -WRONGPASS invalid username-password pair or user is disabled.")
	open := testnet.StartRedis(t, testnet.RedisConfig{})
	wants(t, as("", "s3cret"), at(open.Process), "log in: -ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?")
}

// A server whose AUTH has another name sends back what it was given.
func TestRedis_ARenamedLoginDoesNotShowThePassword(t *testing.T) {
	r := testnet.StartRedis(t, testnet.RedisConfig{Args: []string{"--rename-command", "AUTH", "LOGIN"}})
	c := patient(spec.CheckRedis)
	for _, password := range []string{"s3cret", strings.Repeat("long", 100), "with space's"} {
		c.Password = spec.Secret(password)
		wants(t, c, at(r.Process), "log in: -ERR unknown command 'AUTH'")
	}
}

// A server that reads its data says so to everybody.
func TestRedis_Loading(t *testing.T) {
	r := testnet.StartRedis(t, testnet.RedisConfig{Args: []string{"--enable-debug-command", "yes", "--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"}})
	r.Do(t, "DEBUG", "POPULATE", "1000")
	r.Do(t, "CONFIG", "SET", "save", "3600 1")
	done := make(chan struct{})
	go func() { // answers at the end of the loading
		defer close(done)
		_ = Runner{}.Run(t.Context(), spec.Check{Kind: spec.CheckExpect, Send: `DEBUG RELOAD\r\n`, Expect: "+OK", Timeout: testnet.Patience}, at(r.Process))
	}()
	c := patient(spec.CheckRedis)
	testnet.Await(t, "the loading", func() bool {
		return text(Runner{}.Run(t.Context(), c, at(r.Process))) == "-LOADING Redis is loading the dataset in memory"
	})
	<-done
	wants(t, c, at(r.Process), "")
}

func TestRedis_Answers(t *testing.T) {
	for answer, want := range map[string]string{
		"+PONG\r\n":                    "",
		"+PONG\n":                      `no Redis answer: "+PONG"`,
		"$4\r\nPONG\r\n":               "",
		"$-1\r\n":                      `no Redis answer: "$-1"`,
		"$9999999999999999999\r\n":     `no Redis answer: "$9999999999999999999"`,
		"$60000\r\nPONG":               "it closed the connection instead of an answer",
		"*1\r\n*1\r\n":                 `no Redis answer: "*1"`,
		"+QUEUED\r\n":                  `PING was answered with "QUEUED"`,
		"":                             "it closed the connection instead of an answer",
		"\r\n":                         `no Redis answer: ""`,
		"HTTP/1.1 400 Bad Request\r\n": `no Redis answer: "HTTP/1.1 400 Bad Request"`,
		"-ERR a\tb\x1b[31m\xff\r\n":    "-ERR a b.[31m.",
	} {
		wants(t, patient(spec.CheckRedis), saying(t, answer), want)
	}
	long := text(Runner{}.Run(t.Context(), patient(spec.CheckRedis), saying(t, strings.Repeat("x", 2*answerLimit))))
	if !strings.HasPrefix(long, "no Redis answer: \"xxx") || len(long) > 2*lineLimit {
		t.Errorf("a long answer is shown as %q", long)
	}
}
