package testnet

import (
	"net"
	"strings"
	"testing"
	"time"
)

func TestStartRedis_MasterAndReplica(t *testing.T) {
	master := StartRedis(t, RedisConfig{Password: "secret"})
	replica := master.Replica(t)
	master.Do(t, "SET", "a", "1")
	Await(t, "the value at the replica", func() bool { return replica.Do(t, "GET", "a") == "1" })
	master.Kill()
	if c, err := net.Dial("tcp", master.Addr.String()); err == nil {
		c.Close()
		t.Error("killed, it accepts")
	}
	replica.Promote(t)
	if got := replica.Do(t, "ROLE"); !strings.HasPrefix(got, "master") {
		t.Errorf("promoted, it is %q", got)
	}
	master.Restart(t)
	if got := master.Do(t, "GET", "a"); got != "" {
		t.Errorf("it kept %q", got)
	}
}

func TestProcess_FreezeAnswersNothing(t *testing.T) {
	r := StartRedis(t, RedisConfig{})
	r.Freeze()
	c, err := net.Dial("tcp", r.Addr.String())
	if err != nil {
		t.Fatalf("frozen, the kernel does not accept for it: %v", err)
	}
	defer c.Close()
	c.Write([]byte("PING\r\n"))
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 10)); err == nil {
		t.Errorf("it answered %d bytes", n)
	}
	r.Thaw()
	c.SetReadDeadline(time.Now().Add(Patience))
	if _, err := c.Read(make([]byte, 10)); err != nil {
		t.Errorf("thawed, it does not answer: %v", err)
	}
}

func TestStartPostgres_PrimaryAndStandby(t *testing.T) {
	primary := StartPostgres(t, PostgresConfig{})
	primary.SQL(t, "create table t (i int)")
	standby := primary.Standby(t)
	primary.SQL(t, "insert into t values (7)")
	Await(t, "the row at the standby", func() bool { return standby.SQL(t, "select i from t") == "7" })
	primary.Crash(t)
	if primary.answers() {
		t.Error("crashed, it answers")
	}
	standby.Promote(t)
	standby.SQL(t, "insert into t values (8)")
	primary.Restart(t)
	if got := primary.SQL(t, "select count(*) from t"); got != "1" {
		t.Errorf("after the crash it has %s rows", got)
	}
}
