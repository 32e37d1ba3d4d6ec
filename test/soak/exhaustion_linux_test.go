package soak

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"legate/internal/testnet"
)

const (
	scarce  = 256 // descriptors
	kept    = 64  // of them, for control, DNS and checks
	waiters = 400 // clients, far more than fit
)

// More clients than descriptors allow: those that fit are served, the others wait, and nobody is reset;
// the operator is answered. As clients leave, those who waited are served.
func TestExhaustionAndRecovery(t *testing.T) {
	arrange(t)
	l := setup{binary: checked(t), files: scarce, links: []string{"1100=" + echoServers(t, 1)}}.start(t)
	start := l.usage()
	crush := &crush{t: t, clients: make([]*client, waiters)}
	defer crush.close()
	crush.connect("127.0.0.1:1100")
	fit := (scarce - kept - start.Descriptors) / 2
	testnet.Await(t, "service of those that fit", func() bool { return crush.ask() >= fit*9/10 })
	served := crush.settle()
	t.Logf("of %d clients %d are served with %d descriptors of which %d are kept and %d were open: %v", waiters, served, scarce, kept, start.Descriptors, l.usage())
	if served > fit {
		t.Errorf("%d clients are served, and the descriptors that are kept allow %d", served, fit)
	}
	if out, err := l.verb("status"); err != nil || !strings.Contains(out, "1100") {
		t.Errorf("status while descriptors are short: %v\n%s", err, out)
	}
	for left := waiters; left > 0; {
		if left -= crush.leave(); left > 0 {
			testnet.Await(t, "service of those who waited", func() bool { return crush.ask() > 0 })
		}
	}
	l.awaitIdle()
	if total := l.status(0).Counters.Total; total != waiters {
		t.Errorf("%d connections were carried, want %d", total, waiters)
	}
	l.checkBack("the crush", start)
	l.checkGoroutines(0)
}

// crush is clients of which some are served and others wait.
type crush struct {
	t       testing.TB
	clients []*client // nil: has left
}

type client struct {
	net.Conn
	name   string
	served bool
}

func (c *crush) close() {
	for _, one := range c.clients {
		if one != nil {
			one.Close()
		}
	}
}

func (c *crush) connect(addr string) {
	c.t.Helper()
	for i := range c.clients {
		conn, err := net.DialTimeout("tcp4", addr, patience)
		if err != nil {
			c.t.Fatalf("client %d does not get into the queue: %v", i, err)
		}
		c.clients[i] = &client{Conn: conn, name: fmt.Sprintf("client %4d", i)}
		if _, err := conn.Write([]byte(c.clients[i].name)); err != nil {
			c.t.Fatalf("%s: %v", c.clients[i].name, err)
		}
	}
}

// ask looks for the answers to what those who wait said long ago, has those who are served speak again,
// and returns how many these are. Whoever is ended or answered wrongly fails the test.
func (c *crush) ask() (served int) {
	c.t.Helper()
	for _, one := range c.clients {
		if one == nil {
			continue
		}
		if err := one.ask(); err != nil {
			c.t.Fatalf("%s, served before: %v: %v", one.name, one.served, err)
		}
		if one.served {
			served++
		}
	}
	return served
}

func (c *client) ask() error {
	wait := time.Millisecond
	if c.served {
		wait = patience
		if _, err := io.WriteString(c, c.name); err != nil {
			return err
		}
	}
	c.SetReadDeadline(time.Now().Add(wait))
	got := make([]byte, len(c.name))
	n, err := c.Read(got[:1])
	if !c.served && n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // it waits
	}
	c.SetReadDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = io.ReadFull(c, got[1:])
	}
	if err == nil && string(got) != c.name {
		err = fmt.Errorf("%w: %q", errWrongBytes, got)
	}
	c.served = true
	return err
}

// settle asks until nobody is served who was not before.
func (c *crush) settle() (served int) {
	c.t.Helper()
	for before := -1; served != before; {
		before, served = served, c.ask()
	}
	return served
}

// leave has those leave who are served, in order, and returns how many they were.
func (c *crush) leave() (n int) {
	c.t.Helper()
	for i, one := range c.clients {
		if one == nil || !one.served {
			continue
		}
		h := &held{conn: one.Conn, id: i}
		if err := h.close(); err != nil {
			c.t.Fatalf("%s leaves: %v", one.name, err)
		}
		c.clients[i] = nil
		n++
	}
	return n
}
