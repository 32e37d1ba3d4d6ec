package endpoints

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func (w *world) wantProbed(v *View, want ...string) {
	w.t.Helper()
	err := w.pool.Probe(context.Background(), *v)
	if len(want) == 0 {
		if err != nil {
			w.t.Errorf("probe: %v", err)
		}
		return
	}
	if err == nil {
		w.t.Fatal("probe finds that it serves")
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			w.t.Errorf("probe: %v, want %q in it", err, text)
		}
	}
}

func TestProbing_OneThatServesIsEnough(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2), tcp(3))
		w.refuse(tcp(1), true)
		w.swallow(tcp(3), true)
		w.wantProbed(view(one))
		if since := time.Since(w.start); since != 0 {
			t.Errorf("it took %v", since)
		}
		if w.state(one, tcp(2)) != Serving || w.state(one, tcp(3)) != Unknown {
			t.Error("what was found out is not known, or what was not is")
		}
		w.refuse(tcp(2), true)
		w.wantProbed(view(one), "10.0.0.1:80: connection refused", "10.0.0.2:80: connection refused", "10.0.0.3:80: context deadline exceeded")
		if since := time.Since(w.start); since != time.Second {
			t.Errorf("it took %v", since)
		}
	})
}

func TestProbing_WithTheCheckOfTheView(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1), tcp(2))
		w.answers(tcp(1), errRole)
		w.answers(tcp(2), errRole)
		v := checked(redisCheck(), one)
		w.wantProbed(v, "10.0.0.1:80: role is slave, not master; 10.0.0.2:80: role is slave, not master")
		w.answers(tcp(2), nil)
		w.wantProbed(v)
		w.checks(tcp(2))
		w.until(time.Second)
		w.pool.Watch("another", *view(one), Idle)
		// A link that has the view now need not wait.
		w.pool.mu.Lock()
		w.pool.running = maxRunning // no other check begins
		w.pool.mu.Unlock()
		w.pool.Watch("link", *v, Idle)
		w.wantHealth(v, tcp(2), Serving, spec.HealthOK, false)
		w.pool.mu.Lock()
		w.pool.running = 0
		w.pool.mu.Unlock()
		poke(w.pool.due)
		w.until(1100 * time.Millisecond)
		w.wantChecks(tcp(2), 1000)
	})
}

func TestProbing_WithoutEndpoints(t *testing.T) {
	inWorld(t, func(w *world) {
		w.wantProbed(view(one), "the target has no endpoint")
		w.pool.Set(one, spec.Answer{Err: errors.New("no such name")})
		w.wantProbed(view(one), "one:80 has no endpoint: no such name")
		w.set(one, tcp(1))
		w.pool.Drain(map[string]time.Time{tcp(1).String(): w.start})
		w.wantProbed(view(one), "10.0.0.1:80 is drained")
		w.set(two, udp(2))
		w.wantProbed(view(two)) // there is nothing to ask
	})
}

func TestProbing_EndsWithItsContext(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(one, tcp(1))
		w.swallow(tcp(1), true)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		if err := w.pool.Probe(ctx, *view(one)); err == nil || time.Since(w.start) != 100*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(w.start))
		}
		if w.state(one, tcp(1)) != Unknown {
			t.Error("the endpoint is blamed for our hurry")
		}
	})
}

// A server that is not up behind a published port accepts and closes.
func TestProbing_NoticesWhoClosesAtOnce(t *testing.T) {
	dial := func(ctx context.Context, e spec.Endpoint) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", e.Addr.String())
	}
	for name, c := range map[string]struct {
		serve func(net.Conn)
		good  bool
	}{
		"closes":  {func(c net.Conn) { c.Close() }, false},
		"waits":   {func(c net.Conn) { io.Copy(io.Discard, c) }, true}, //nolint:errcheck // until the client closes
		"greets":  {func(c net.Conn) { io.WriteString(c, "hello\n"); io.Copy(io.Discard, c) }, true},
		"refuses": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := spec.Endpoint{Protocol: spec.TCP, Addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(testnet.FreePort(t)))}
			if c.serve != nil {
				e.Addr = netip.MustParseAddrPort(testnet.Serve(t, "tcp4", c.serve).String())
			}
			p := New(Config{Connect: dial})
			defer p.Close()
			p.Set(one, spec.Answer{Endpoints: spec.Members(e)})
			began := time.Now()
			err := p.Probe(context.Background(), *view(one))
			if (err == nil) != c.good {
				t.Errorf("probe: %v", err)
			}
			if name == "waits" && time.Since(began) < probeHeld {
				t.Errorf("it was believed after %v", time.Since(began))
			}
			if name == "closes" && !strings.Contains(err.Error(), "accepts connections and closes them at once") {
				t.Errorf("probe: %v", err)
			}
		})
	}
}
