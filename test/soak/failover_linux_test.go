package soak

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"legate/internal/testnet"
)

// checking is how often and how surely endpoints are asked in a fail-over.
type checking struct {
	interval   time.Duration
	rise, fall int
}

func checkingOf(t testing.TB) checking {
	t.Helper()
	if _, long := asked(t); long {
		return checking{2 * time.Second, 2, 3}
	}
	return checking{200 * time.Millisecond, 2, 3}
}

func (c checking) String() string {
	return fmt.Sprintf("on-unhealthy=cut;check-interval=%v;check-rise=%d;check-fall=%d", c.interval, c.rise, c.fall)
}

// promise is the longest time from when a server says that it is the primary until it is written to.
func (c checking) promise() time.Duration {
	return c.interval*time.Duration(max(c.rise, c.fall)) + time.Second
}

// writer writes all the time to one address, on one connection while that works, as an application does
// that knows nothing of fail-overs.
type writer struct {
	open func(ctx context.Context) (write func(context.Context) error, end func(), err error)

	mu     sync.Mutex
	writes int       // guarded by mu
	last   time.Time // of the last good write; guarded by mu
	failed []string  // guarded by mu
}

// start returns when the writer has written for a while; stop ends it.
func (w *writer) start(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			if err := w.connection(ctx); err != nil && ctx.Err() == nil {
				w.mu.Lock()
				w.failed = append(w.failed, err.Error())
				w.mu.Unlock()
				<-time.After(10 * time.Millisecond) // as its pool would
			}
		}
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	t.Cleanup(stop)
	testnet.Await(t, "the first writes", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.writes >= 20
	})
	return stop
}

func (w *writer) connection(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	write, end, err := w.open(ctx)
	if err != nil {
		return err
	}
	defer end()
	for ctx.Err() == nil {
		if err := write(ctx); err != nil {
			return err
		}
		w.mu.Lock()
		w.writes++
		w.last = time.Now()
		w.mu.Unlock()
		<-time.After(2 * time.Millisecond)
	}
	return ctx.Err()
}

// after tells whether something was written after that moment.
func (w *writer) after(at time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last.After(at)
}

// goesOn waits for the first write after the promotion, and says how long that took.
func (w *writer) goesOn(t testing.TB, c checking, promoted time.Time) {
	t.Helper()
	testnet.Await(t, "a write after the promotion", func() bool { return w.after(promoted) })
	w.mu.Lock()
	defer w.mu.Unlock()
	took := w.last.Sub(promoted)
	t.Logf("written %v after the server said that it is the primary (promised: %v); %d writes, %d connections failed meanwhile", took.Round(time.Millisecond), c.promise(), w.writes, len(w.failed))
	if _, long := asked(t); long && took > c.promise() {
		t.Errorf("it took %v, and %v are promised; the writer saw %v", took, c.promise(), w.failed)
	}
}

// The primary dies, the standby is promoted, and the writer goes on.
func TestOperations_PostgresFailover(t *testing.T) {
	arrange(t)
	const password = "a secret"
	primary := testnet.StartPostgres(t, testnet.PostgresConfig{})
	primary.AddUser(t, "legate", password, "scram-sha-256")
	primary.SQL(t, "create table written (n bigserial); grant all on written, written_n_seq to legate")
	standby := primary.Standby(t)
	secret := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(secret, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := checkingOf(t)
	forwarding(t, fmt.Sprintf("%d=%s,%s;check=postgres;check-user=legate;check-database=postgres;check-password-file=%s;check-role=primary;%v",
		inFront, primary.Addr, standby.Addr, secret, c))
	w := &writer{open: func(ctx context.Context) (func(context.Context) error, func(), error) {
		conn, err := pgconn.Connect(ctx, fmt.Sprintf("host=127.0.0.1 port=%d user=legate password='%s' dbname=postgres sslmode=disable", inFront, password))
		if err != nil {
			return nil, nil, err
		}
		write := func(ctx context.Context) error {
			return conn.Exec(ctx, "insert into written default values").Close()
		}
		return write, func() { _ = conn.Close(context.Background()) }, nil
	}}
	stop := w.start(t)
	primary.Kill()
	standby.SQL(t, "select pg_promote(false)")
	w.goesOn(t, c, outOfRecovery(t, standby))
	stop()
	if out := standby.SQL(t, "select count(*) > 0 from written"); out != "t" {
		t.Errorf("the promoted server has rows: %s", out)
	}
}

// outOfRecovery is when a standby first says that it is the primary.
func outOfRecovery(t testing.TB, s *testnet.Postgres) time.Time {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres", filepath.Dir(s.Path), s.Addr.Port()))
	if err != nil {
		t.Fatalf("ask the standby: %v", err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	for {
		answers, err := conn.Exec(ctx, "select pg_is_in_recovery()").ReadAll()
		if err != nil || len(answers) != 1 || len(answers[0].Rows) != 1 {
			t.Fatalf("ask the standby: %v, %v", answers, err)
		}
		if string(answers[0].Rows[0][0]) == "f" {
			return time.Now()
		}
		<-time.After(time.Millisecond)
	}
}

// The replica is promoted and the master demoted, while both live and the writer is connected to the
// latter.
func TestOperations_RedisFailover(t *testing.T) {
	arrange(t)
	master := testnet.StartRedis(t, testnet.RedisConfig{})
	replica := master.Replica(t)
	c := checkingOf(t)
	forwarding(t, fmt.Sprintf("%d=%s,%s;check=redis;check-role=master;%v", inFront, master.Addr, replica.Addr, c))
	w := &writer{open: openRedis}
	w.start(t)
	// The other way round both would be masters for a moment, and writes to the former would be lost.
	master.Do(t, "REPLICAOF", replica.Addr.Addr().String(), fmt.Sprint(replica.Addr.Port()))
	replica.Promote(t)
	w.goesOn(t, c, time.Now())
	if role := replica.Do(t, "ROLE"); !strings.HasPrefix(role, "master") {
		t.Errorf("the promoted server is %s", role)
	}
}

func openRedis(ctx context.Context) (func(context.Context) error, func(), error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", inFront))
	if err != nil {
		return nil, nil, err
	}
	until, _ := ctx.Deadline()
	conn.SetDeadline(until)
	in := bufio.NewReader(conn)
	readOnly := errors.New("read-only")
	write := func(ctx context.Context) error {
		for ctx.Err() == nil { // an application that keeps its connection, whatever the server says
			if _, err := conn.Write([]byte("INCR written\r\n")); err != nil {
				return err
			}
			line, err := in.ReadString('\n')
			if err != nil {
				return err
			}
			if strings.HasPrefix(line, ":") {
				return nil
			}
			if !strings.HasPrefix(line, "-READONLY") {
				return fmt.Errorf("%w: %s", readOnly, line)
			}
			<-time.After(2 * time.Millisecond)
		}
		return ctx.Err()
	}
	return write, func() { conn.Close() }, nil
}
