package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// dial connects from the host itself, as its containers' bridge lets it.
func (h host) dial(address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return h.Dial(ctx, "tcp", address)
}

// redisConn speaks just enough of the Redis protocol to move values of any size.
type redisConn struct {
	net.Conn
	in *bufio.Reader
}

func (h host) redis(address string) (*redisConn, error) {
	conn, err := h.dial(address)
	if err != nil {
		return nil, err
	}
	return &redisConn{conn, bufio.NewReader(conn)}, nil
}

// within has everything on this connection fail after d.
func (c *redisConn) within(d time.Duration) { _ = c.SetDeadline(time.Now().Add(d)) }

func (c *redisConn) send(words ...string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
	}
	_, err := c.Write(b.Bytes())
	return err
}

// line reads one line of an answer: "+PONG", "$5".
func (c *redisConn) line() (string, error) {
	line, err := c.in.ReadString('\n')
	return strings.TrimSuffix(line, "\r\n"), err
}

func (c *redisConn) ping() error {
	if err := c.send("PING"); err != nil {
		return err
	}
	line, err := c.line()
	if err == nil && line != "+PONG" {
		err = fmt.Errorf("answer %q", line)
	}
	return err
}

// twoAmbassadors walks through with Legate as both and returns the address on host B.
func (w *world) twoAmbassadors() string {
	w.t.Helper()
	walkThrough(w, "legate", "legate")
	w.a.awaitRedis("redis")
	w.a.awaitListening("redis_ambassador1", "6379")
	w.b.awaitListening("redis_ambassador2", "6379")
	return w.b.address("redis_ambassador2") + ":6379"
}

// The cable between the hosts is pulled for 5 s in the middle of a transfer, which then completes.
func TestCableCutInTransfer(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		client, err := w.b.redis(w.twoAmbassadors())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		client.within(time.Minute)
		value := make([]byte, 128<<20) // more than all buffers beyond the cut can hold
		rand.Read(value)
		store(t, client, value)
		fetchAcrossCut(t, w, client, value)
	})
}

func store(t *testing.T, client *redisConn, value []byte) {
	t.Helper()
	if err := client.send("SET", "value", string(value)); err != nil {
		t.Fatalf("send value: %v", err)
	}
	if line, err := client.line(); line != "+OK" {
		t.Fatalf("store value: %q, %v", line, err)
	}
}

func fetchAcrossCut(t *testing.T, w *world, client *redisConn, value []byte) {
	t.Helper()
	if err := client.send("GET", "value"); err != nil {
		t.Fatalf("ask for value: %v", err)
	}
	if line, err := client.line(); line != fmt.Sprintf("$%d", len(value)) {
		t.Fatalf("ask for value: %q, %v", line, err)
	}
	got := make([]byte, len(value))
	first := got[:16<<20]
	if _, err := io.ReadFull(client.in, first); err != nil {
		t.Fatalf("read before the cut: %v", err)
	}
	if err := w.lab.Cut(t.Context()); err != nil {
		t.Fatal(err)
	}
	mended := time.AfterFunc(5*time.Second, func() {
		if err := w.lab.Mend(context.Background()); err != nil {
			t.Error(err)
		}
	})
	defer mended.Stop()
	cut := time.Now()
	if _, err := io.ReadFull(client.in, got[len(first):]); err != nil {
		t.Fatalf("read across the cut: %v", err)
	}
	if took := time.Since(cut); took < 5*time.Second {
		t.Errorf("the rest arrived in %v, so the cut did not fall into the transfer", took)
	}
	if !bytes.Equal(got, value) {
		t.Error("the value that arrived is not the one that was stored")
	}
}

// 2,000 connections, all open at once, through both ambassadors: each is answered, twice.
func TestManyConnectionsAtOnce(t *testing.T) {
	eachEngine(t, func(t *testing.T, w *world) {
		const many = 2000
		address := w.twoAmbassadors()
		idle1, idle2 := w.a.memory("redis_ambassador1"), w.b.memory("redis_ambassador2")
		clients := make([]*redisConn, many)
		defer func() {
			for _, c := range clients {
				if c != nil {
					c.Close()
				}
			}
		}()
		began := time.Now()
		together(t, many, func(i int) (err error) {
			if clients[i], err = w.b.redis(address); err != nil {
				return err
			}
			clients[i].within(30 * time.Second)
			return clients[i].ping()
		})
		if t.Failed() {
			return
		}
		took := time.Since(began)
		together(t, many, func(i int) error { return clients[i].ping() })
		t.Logf("%d connections in %v; resident memory: first ambassador %s, was %s; second %s, was %s", many, took.Round(time.Millisecond),
			w.a.memory("redis_ambassador1"), idle1, w.b.memory("redis_ambassador2"), idle2)
	})
}

// together calls f for 0 to n-1 at once and reports the first few failures.
func together(t *testing.T, n int, f func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = f(i) })
	}
	all.Wait()
	failed := 0
	for i, err := range errs {
		if err == nil {
			continue
		}
		if failed++; failed <= 5 {
			t.Errorf("connection %d: %v", i, err)
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d connections failed", failed, n)
	}
}
