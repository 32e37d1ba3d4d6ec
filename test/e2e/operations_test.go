package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// operations is the scene of the README's chapter: PostgreSQL and Redis on both hosts, an ambassador on
// host B, and two clients there that write without a pause and know the ambassador only.
type operations struct {
	*world
	readme map[string][]command
	app    writer // PostgreSQL, a connection for each write
	worker writer // Redis, one connection for as long as it lasts
}

// TestOperations types the README's chapter on operations, word for word. Nobody restarts a client, or
// tells it anything.
func TestOperations(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		o := &operations{world: w, readme: chapter(t, "Operations")}
		o.databases()
		o.ambassador()
		for _, scenario := range []struct {
			section string
			play    func(section []command)
		}{
			{"What is going on", o.tells},
			{"A migration", o.migrates},
			{"Another server", o.swaps},
			{"Taking a server out", o.drains},
			{"The primary dies", o.losesPrimaries},
			{"Changing places", o.changesPlaces},
		} {
			commands := o.readme[scenario.section]
			if len(commands) == 0 {
				t.Fatalf("README.md has no section %q with commands", scenario.section)
			}
			began := time.Now()
			scenario.play(commands)
			t.Logf("%s: %v", scenario.section, time.Since(began).Round(time.Millisecond))
		}
		for _, p := range []writer{o.app, o.worker} {
			if n := p.run("docker inspect -f {{.RestartCount}}/{{.State.Status}} " + p.name); n != "0/running" {
				t.Errorf("%s is %s, want it to run as it was started", p.name, n)
			}
		}
	})
}

// databases starts PostgreSQL and Redis, primaries on host A and their standbys on host B, and cache3,
// another Redis on host A.
func (o *operations) databases() {
	o.t.Helper()
	o.start(
		container{o.a, "db1", postgres("db1", "")},
		container{o.b, "db2", postgres("db2", "192.168.1.52")},
		container{o.a, "cache1", redis("6379")},
		container{o.b, "cache2", redis("6379", "--replicaof", "192.168.1.52", "6379")},
		container{o.a, "cache3", redis("6380")},
	)
	o.b.awaitStreaming("db2", time.Time{})
	o.b.awaitReplica("cache2", time.Time{})
}

func postgres(name, standbyOf string) []string {
	return []string{"--stop-signal", "SIGINT", "-p", "5432:5432", "-e", "NAME=" + name, "-e", "STANDBY_OF=" + standbyOf, "legate-e2e/postgres"}
}

func redis(port string, args ...string) []string {
	return append([]string{"-p", port + ":6379", "crosbymichael/redis", "redis-server", "--protected-mode", "no", "--save", "",
		"--repl-diskless-sync-delay", "0"}, args...)
}

func (h host) awaitStreaming(standby string, since time.Time) {
	h.t.Helper()
	h.awaitSaid(standby, "started streaming WAL from primary", since)
}

func (h host) awaitReplica(replica string, since time.Time) {
	h.t.Helper()
	h.awaitSaid(replica, "MASTER <-> REPLICA sync: Finished with success", since)
}

// ambassador starts it and its clients.
func (o *operations) ambassador() {
	o.t.Helper()
	for _, c := range o.readme[""] {
		o.typeIn(c)
	}
	o.app = writer{o.b, "app", regexp.MustCompile(`^db\d$`).MatchString}
	o.worker = writer{o.b, "worker", regexp.MustCompile(`^\d+$`).MatchString}
	// One after the other, so that they have the addresses of the README.
	o.start(container{o.b, o.app.name, []string{"--link", "ambassador:db", "-e", "PGPASSWORD=secret", "legate-e2e/postgres", "sh", "-c",
		`while :; do psql -h db -U app -d postgres -tAqc "insert into writes default values returning current_setting('cluster_name')" 2>&1; sleep 0.05; done`}})
	o.start(container{o.b, o.worker.name, []string{"--link", "ambassador:cache", "legate-e2e/tools", "sh", "-c",
		`while :; do redis-cli -h cache -r -1 -i 0.05 INCR writes 2>&1; sleep 0.05; done`}})
	o.app.goesOn(time.Time{})
	o.worker.goesOn(time.Time{})
}

// tells: status, why and doctor say what the README shows.
func (o *operations) tells(section []command) {
	o.t.Helper()
	for _, c := range section {
		o.typeIn(c)
	}
}

// migrates: PostgreSQL restarts while its link is paused. Not one write fails.
func (o *operations) migrates(section []command) {
	o.t.Helper()
	began := time.Now()
	for _, c := range section {
		o.typeIn(c)
		if c.has("restart") {
			o.a.awaitSaid("db1", "ready to accept connections", began)
			o.nothingWritten()
		}
	}
	o.app.goesOn(time.Now())
	o.app.neverFailed(began)
	o.b.awaitStreaming("db2", began)
}

// nothingWritten makes sure that no write went through the paused link since its server is back.
func (o *operations) nothingWritten() {
	o.t.Helper()
	const since = "select count(*) from writes where at > pg_postmaster_start_time()"
	if n := o.a.docker("exec", "db1", "psql", "-U", "postgres", "-tAc", since); n != "0" {
		o.t.Errorf("%s writes went through a paused link", n)
	}
}

// swaps: a target that does not serve is not taken, a good one is, and given back.
func (o *operations) swaps(section []command) {
	o.t.Helper()
	for _, c := range section {
		began := time.Now()
		o.typeIn(c)
		o.a.run("docker exec cache3 redis-cli DEL writes")
		o.worker.goesOn(time.Now())
		moved := o.a.run("docker exec cache3 redis-cli EXISTS writes") == "1"
		if want := c.has("192.168.1.52:6380"); want != moved {
			o.t.Errorf("after %q the worker writes to the new server: %v", c.text, moved)
		}
		o.app.neverFailed(began)
	}
}

// drains: the worker's connection is named, and ends when the server says so; the next one waits until
// the endpoint is back.
func (o *operations) drains(section []command) {
	o.t.Helper()
	for _, c := range section {
		o.typeIn(c)
	}
	o.worker.goesOn(time.Now())
}

// losesPrimaries: both servers of host A are killed, those of host B promoted.
func (o *operations) losesPrimaries(section []command) {
	o.t.Helper()
	began := time.Now()
	for _, c := range section {
		o.typeIn(c)
	}
	o.measure("PostgreSQL", o.app, o.b.promoted("db2", began))
	o.measure("Redis", o.worker, o.b.promoted("cache2", began))
}

// promoted is when a server first said that it is a primary.
func (h host) promoted(server string, since time.Time) time.Time {
	h.t.Helper()
	says := "MASTER MODE enabled"
	if strings.HasPrefix(server, "db") {
		says = "database system is ready to accept connections"
	}
	return h.awaitSaid(server, says, since)
}

// measure waits for writes and tells how long after the promotion the first was.
func (o *operations) measure(what string, p writer, promoted time.Time) {
	o.t.Helper()
	o.t.Logf("%s: %v from promotion to first write", what, p.goesOn(promoted).Sub(promoted).Round(time.Millisecond))
}

// changesPlaces: what was killed comes back as standbys, and takes over while the primaries live.
func (o *operations) changesPlaces(section []command) {
	o.t.Helper()
	began := time.Now()
	o.a.run("docker rm -f db1 cache1")
	o.start(
		container{o.a, "db1", postgres("db1", "192.168.1.53")},
		container{o.a, "cache1", redis("6379", "--replicaof", "192.168.1.53", "6379")},
	)
	o.a.awaitStreaming("db1", began)
	o.a.awaitReplica("cache1", began)

	began = time.Now()
	for _, c := range section {
		o.typeIn(c)
	}
	o.measure("PostgreSQL", o.app, o.a.promoted("db1", began))
	o.measure("Redis", o.worker, o.a.promoted("cache1", began))
}
