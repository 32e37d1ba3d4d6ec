package forward

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// Flows end, and their memory is used again, while others look for them, cut
// them and wait for them.
func TestEndFormer_AmidChurn(t *testing.T) {
	const rounds, clients = 100, 4
	servers := []string{testnet.Serve(t, "tcp4", testnet.Echo).String(), testnet.Serve(t, "tcp4", testnet.Echo).String()}
	w := newWorld(t, nil, servers[0])
	stop := make(chan struct{})
	var made atomic.Int64
	var busy sync.WaitGroup
	for range clients {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					ping(t, w.addr)
					made.Add(1)
				}
			}
		})
	}
	for i := range rounds {
		w.point(servers[i%2])
		if _, err := w.fw.EndFormer(t.Context(), "test", time.Duration(i%3)*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if l := w.fw.serving()[0]; len(l.strays()) != 0 {
			t.Error("connections to the former endpoint are left")
		}
		w.status()
	}
	close(stop)
	busy.Wait()
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Current == 0 })
	s := w.status()
	var total int64
	for _, e := range s.Endpoints {
		total += e.Total
		if e.Current != 0 {
			t.Errorf("%s still has %d connections", e.Address, e.Current)
		}
	}
	if s.Counters.Total != made.Load() || total > made.Load() {
		t.Errorf("%d connections were made, %d counted, %d at endpoints", made.Load(), s.Counters.Total, total)
	}
}

// ping makes a connection that may be cut at any moment.
func ping(t *testing.T, addr string) {
	c, err := testnet.DialErr(addr)
	if err != nil {
		if testnet.Name(err) != testnet.RESET {
			t.Error(err)
		}
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(soon))
	if _, err := c.Write([]byte("x")); err != nil {
		return
	}
	_, _ = c.Read(make([]byte, 1))
}
