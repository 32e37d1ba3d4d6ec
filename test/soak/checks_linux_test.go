package soak

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// many gives links with so many endpoints each, all of them on one server.
func many(links, each int, options string) (texts []string) {
	for l := range links {
		addrs := make([]string, each)
		for i := range addrs {
			n := l*each + i
			addrs[i] = fmt.Sprintf("127.%d.%d.%d:1000", 2+n/62500, n/250%250, 1+n%250)
		}
		texts = append(texts, fmt.Sprintf("%d=%s%s", inFront+l, strings.Join(addrs, ","), options))
	}
	return texts
}

// What it costs to ask many endpoints for their health, all of which must be found healthy.
func TestOperations_CostOfChecks(t *testing.T) {
	arrange(t)
	endpoints, lasting := 200, 2*time.Second
	if _, long := asked(t); long {
		endpoints, lasting = 1000, 20*time.Second
	}
	p := startPeer(t, "named", naming{Name: "all", Addr: "0.0.0.0:1000"})
	var ready string
	p.hear(&ready)
	l := forwarding(t, many(1, endpoints, ";check=tcp;check-interval=2s;on-unhealthy=cut")...)
	testnet.Await(t, "all endpoints to be healthy", func() bool {
		for _, e := range l.status(0).Endpoints {
			if e.Health != spec.HealthOK {
				return false
			}
		}
		return true
	})
	began, before := time.Now(), l.processor()
	<-time.After(lasting)
	took := time.Since(began)
	t.Logf("%d endpoints asked every 2 s: %.2f %% of a core; %v", endpoints, 100*float64(l.processor()-before)/float64(took), l.usage())
}

// processor is the time for which it had a core.
func (l *legate) processor() time.Duration {
	l.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", l.cmd.Process.Pid))
	if err != nil {
		l.t.Fatalf("look at legate: %v", err)
	}
	// Fields 14 and 15 of proc_pid_stat(5), in hundredths of a second; the second field may have spaces.
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')'):]))
	var ticks int64
	for _, field := range f[12:14] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			l.t.Fatalf("read the time of legate: %v", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// What many endpoints take in memory, with a check each.
func TestOperations_MemoryOfEndpoints(t *testing.T) {
	arrange(t)
	const links = 10
	each := 100
	if _, long := asked(t); long {
		each = 1000
	}
	const options = ";check=tcp;check-interval=1h;on-unhealthy=cut"
	few := forwarding(t, many(links, 1, options)...)
	least := few.usage()
	few.finish()
	l := forwarding(t, many(links, each, options)...)
	now := l.usage() // before anybody asks for a status of all
	n := 0
	for i := range links {
		n += len(l.status(i).Endpoints)
	}
	if n != links*each {
		t.Fatalf("%d endpoints, want %d", n, links*each)
	}
	t.Logf("%d endpoints, each a target of its own: %v, %d goroutines; with %d: %v; %.0f bytes of resident memory for each, with all that a target takes",
		n, now, l.goroutines(), links, least, float64(now.RSS-least.RSS)/float64(n-links))
}
