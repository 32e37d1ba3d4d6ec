package daemon

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// The size of an installation that is large for Legate.
const (
	manyLinks     = 1000
	manyServices  = 200
	manyEndpoints = 10_000
)

// established counts the connections of this process's network to an address.
func established(t *testing.T, address string) (n int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscanf(address[strings.LastIndexByte(address, ':')+1:], "%d", &port); err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		f := strings.Fields(string(line))
		if len(f) > 3 && strings.HasSuffix(f[2], fmt.Sprintf(":%04X", port)) && f[3] == "01" {
			n++
		}
	}
	return n
}

// A thousand links to two hundred services with ten thousand endpoints: one
// connection to the registry, a question for each service, and of a change of
// one endpoint nobody has work but the links that use it.
func TestScale_AChangeIsWorkForItsLinksAlone(t *testing.T) {
	etcd := testnet.StartEtcd(t, testnet.EtcdConfig{})
	fill(t, etcd)
	before := established(t, etcd.Addr.String())
	dir := filepath.Dir(testnet.SocketPath(t))
	var links []spec.Link
	for i := range manyLinks {
		l, err := spec.ParseLink(fmt.Sprintf("unix:%s/%d=etcd://%s/services/s%d", dir, i, etcd.Addr, i%manyServices), spec.ParseConfig{Options: spec.DefaultOptions()})
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, l...)
	}
	began := time.Now()
	d := start(t, Config{Links: links})
	testnet.Await(t, "the endpoints of all links", func() bool {
		for _, s := range d.Snapshot().Links {
			if len(s.Endpoints) != manyEndpoints/manyServices {
				return false
			}
		}
		return true
	})
	t.Logf("%d links have their endpoints after %v", manyLinks, time.Since(began).Round(time.Millisecond))
	if n := established(t, etcd.Addr.String()) - before; n > 1 {
		t.Errorf("%d connections to the registry, want one", n)
	}
	work, reconsidered := d.discovery.Work(), d.forwarder.Reconsidered()
	if work.Watches != manyServices {
		t.Errorf("%d questions are watched, want %d", work.Watches, manyServices)
	}
	etcd.Put(t, "/services/s7/0", "192.0.2.77:80")
	using := func() (n int) {
		for _, l := range d.forwarder.Snapshot() {
			for _, e := range l.Endpoints {
				if e.Address == "192.0.2.77:80" {
					n++
				}
			}
		}
		return n
	}
	testnet.Await(t, "the change at the links of its service", func() bool { return using() == manyLinks/manyServices })
	if n := d.discovery.Work().Told - work.Told; n != 1 {
		t.Errorf("%d targets were told of a change of one", n)
	}
	if n := d.forwarder.Reconsidered() - reconsidered; n != manyLinks/manyServices {
		t.Errorf("%d links had work of it, want the %d that lead there", n, manyLinks/manyServices)
	}
}

func fill(t *testing.T, etcd *testnet.Etcd) {
	t.Helper()
	var all sync.WaitGroup
	const writers = 16
	for w := range writers {
		all.Go(func() {
			for i := w; i < manyEndpoints; i += writers {
				address := fmt.Sprintf("10.%d.%d.%d:80", i%manyServices, i/manyServices/250, 1+i/manyServices%250)
				etcd.Put(t, fmt.Sprintf("/services/s%d/%d", i%manyServices, i/manyServices), address)
			}
		})
	}
	all.Wait()
}
