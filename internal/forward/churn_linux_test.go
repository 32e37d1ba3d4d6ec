package forward

import (
	"fmt"
	"net"
	"os"
	"runtime/metrics"
	"sync"
	"testing"

	"legate/internal/testnet"
)

// churnVariable tells the process that makes the connections where to.
const churnVariable = "FORWARD_TEST_CHURN"

// Everything on the way of a connection, with client and server in another
// process, so that only what the forwarding costs is counted.
func TestConnection_ThroughTheEngineAllocatesNothing(t *testing.T) {
	const warmUp, connections, most = 4000, 10_000, 0.05
	if os.Getenv(churnVariable) == "" {
		server := net.JoinHostPort("127.0.0.1", itoa(testnet.FreePort(t)))
		w := newWorld(t, nil, server)
		t.Setenv(churnVariable, fmt.Sprintln(w.addr, server, testnet.Serve(t, "tcp4", tellAllocations)))
	}
	testnet.Child{}.Run(t, func() {
		var addr, server, meter string
		if _, err := fmt.Sscanln(os.Getenv(churnVariable), &addr, &server, &meter); err != nil {
			t.Fatal(err)
		}
		testnet.ListenAt(t, "tcp4", server).Handle(testnet.Say("hello"))
		counter := testnet.Dial(t, meter)
		churn(t, addr, warmUp)
		before := askAllocations(t, counter)
		churn(t, addr, connections)
		if each := float64(askAllocations(t, counter)-before) / connections; each > most {
			t.Errorf("%.2f objects per connection, want %v at most", each, most)
		}
	})
}

// churn makes n short connections, some at once.
func churn(t *testing.T, addr string, n int) {
	const atOnce = 8
	var clients sync.WaitGroup
	for range atOnce {
		clients.Go(func() {
			for range n / atOnce {
				if err := hello(addr); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	clients.Wait()
}

func hello(addr string) error {
	c, err := net.Dial("tcp4", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	var word string
	_, err = fmt.Fscanln(c, &word)
	return err
}

// tellAllocations answers each line with how many objects this process has
// allocated.
func tellAllocations(c net.Conn) {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
	line := make([]byte, 1)
	for {
		if _, err := c.Read(line); err != nil {
			return
		}
		metrics.Read(sample)
		if _, err := fmt.Fprintln(c, sample[0].Value.Uint64()); err != nil {
			return
		}
	}
}

func askAllocations(t *testing.T, counter net.Conn) (n int64) {
	t.Helper()
	if _, err := fmt.Fprintln(counter); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanln(counter, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
