package forward

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"legate/internal/pump"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// A link that is gone, the last of its connections included, asks nothing of
// its endpoints any more, whatever becomes of them.
func TestRetired_ForgetsItsChecks(t *testing.T) {
	a := testnet.Serve(t, "tcp4", testnet.Echo).String()
	w := newWorld(t, func(o *spec.Options) {
		checked(o)
		o.AllUnhealthy = spec.AllUnhealthyHold
	}, a)
	c := w.dial()
	exchange(t, c, "x")
	other := w.link
	other.Name, other.Options = "other", spec.DefaultOptions()
	other.Options.Check.Kind, other.Options.Check.Interval = spec.CheckTCP, time.Hour
	other.Listen.Port = uint16(testnet.FreePort(t))
	first := w.fw.serving()[0]
	if errs := w.fw.Apply([]spec.Link{other}); errs[0] != nil {
		t.Fatal(errs[0])
	}
	c.Close()
	testnet.Eventually(t, soon, func() bool { return first.live() == 0 })
	_, e := fixed(a, spec.TCP)
	w.pool.Drain(map[string]time.Time{e.String(): time.Now()})
	w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateDown })
	w.pool.Drain(nil)
	w.eventually(func(s spec.LinkStatus) bool { return s.State == spec.StateUp })
	start, before := time.Now(), w.asked.Load()
	testnet.Eventually(t, soon, func() bool { return time.Since(start) > 10*w.link.Options.Check.Interval })
	if n := w.asked.Load() - before; n > 1 {
		t.Errorf("%d checks for a link that is gone", n)
	}
}

// Who waits at a paused link is not to wait for ever because the link got
// another socket, or went.
func TestRetired_WaitingConnectionsFollowThePause(t *testing.T) {
	for name, gone := range map[string]bool{"reopened": false, "removed": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
			w.mode(spec.ModePause)
			c := w.dial()
			w.eventually(waiting(1))
			if gone {
				w.fw.Apply(nil)
				w.pool.Keep(w.fw.Awaited()) // as the daemon does
				exchange(t, c, "x")
				if left := w.fw.Awaited(); left != nil {
					t.Errorf("nobody waits for %v any more", left)
				}
				return
			}
			w.link.Options.MaxConnections = 77
			w.apply()
			w.mode(spec.ModeServe)
			exchange(t, c, "x")
		})
	}
}

// lateAcceptor does something before it stops accepting.
type lateAcceptor struct {
	pump.Acceptor
	before func()
}

func (a lateAcceptor) Close() error {
	a.before()
	return a.Acceptor.Close()
}

type lateEngine struct {
	pump.Engine
	before func()
}

func (e lateEngine) Serve(l pump.Listener, h pump.Handler) (pump.Acceptor, error) {
	a, err := e.Engine.Serve(l, h)
	return lateAcceptor{a, e.before}, err
}

// A client may be accepted after the last one left, while the link is closed:
// it is waited for like all others.
func TestRetired_RemembersWhoWasAcceptedLast(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	var first, last net.Conn
	w.fw.cfg.Engine = lateEngine{w.fw.cfg.Engine, func() {
		first.Close()
		testnet.Eventually(t, soon, func() bool { return len(w.fw.Connections(nil)) == 0 })
		last = w.dial()
		exchange(t, last, "accepted")
	}}
	w.link.Listen.Port = uint16(testnet.FreePort(t))
	w.addr = net.JoinHostPort("127.0.0.1", itoa(int(w.link.Listen.Port)))
	w.apply()
	first = w.dial()
	exchange(t, first, "x")
	w.fw.Apply(nil)
	exchange(t, last, "still")
	if n := len(w.fw.Connections(nil)); n != 1 {
		t.Errorf("%d connections are known of, want 1", n)
	}
}

// What goes on of a link that was withdrawn ends when nobody lives any more where
// it was, be that later than the link.
func TestRetired_EndsWithItsNamespace(t *testing.T) {
	w := newWorld(t, nil, testnet.Serve(t, "tcp4", testnet.Echo).String())
	var ended atomic.Bool
	w.fw.cfg.Ended = func(namespace string) bool { return ended.Load() && namespace == "4:1" }
	w.fw.Apply(nil)
	w.link.Listen.Namespace = "4:1"
	w.apply()
	here, c := w.link, w.dial()
	exchange(t, c, "x")
	here.Listen.Namespace, here.Listen.Port = "", uint16(testnet.FreePort(t))
	w.link = here
	w.apply()
	exchange(t, c, "y")
	ended.Store(true)
	w.apply()
	w.resets(c, soon)
}
