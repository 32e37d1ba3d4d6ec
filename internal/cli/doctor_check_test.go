package cli

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"legate/internal/daemon"
	"legate/internal/testnet"
)

// The link's own check is asked, and a standby that waits for its turn is well.
func TestDoctor_AsksAsTheLinksCheckDoes(t *testing.T) {
	role := func(r string) *testnet.Server {
		return testnet.Serve(t, "tcp4", func(c net.Conn) {
			in := bufio.NewReader(c)
			for {
				line, err := in.ReadString('\n')
				switch {
				case err != nil:
					return
				case strings.HasPrefix(line, "PING"):
					_, _ = fmt.Fprint(c, "+PONG\r\n")
				case strings.HasPrefix(line, "ROLE"):
					_, _ = fmt.Fprintf(c, "*1\r\n$%d\r\n%s\r\n", len(r), r)
				}
			}
		})
	}
	master, replica := role("master"), role("slave")
	link := func(targets ...string) string {
		return fmt.Sprintf("%d=%s;check=redis;check-role=master", testnet.FreePort(t), strings.Join(targets, ","))
	}
	both := link(master.String(), replica.String())
	found := judgeTargets(onHost, reach(t.Context(), doctorLinks(t, both), daemon.SourceConfig{}))
	wantFinding{verdictOK, master.String() + " answers", ""}.check(t, both, found)
	wantFinding{verdictOK, replica.String() + ": role is slave, not master; another one has it", ""}.check(t, both, found)
	alone := link(replica.String())
	wantFinding{verdictMissing, "role is slave", "check=tcp"}.check(t, alone, judgeTargets(onHost, reach(t.Context(), doctorLinks(t, alone), daemon.SourceConfig{})))
}

// What there was no time to try has not failed.
func TestDoctor_SaysWhatItHadNoTimeToTry(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	link := fmt.Sprintf("%d=%s", testnet.FreePort(t), testnet.Serve(t, "tcp4", testnet.Echo))
	found := judgeTargets(onHost, reach(over, doctorLinks(t, link), daemon.SourceConfig{}))
	wantFinding{verdictWeak, "was not tried: others took too long", "legate doctor"}.check(t, link, found)
	if n := countOf(found, verdictMissing); n != 0 {
		t.Errorf("%d missing: %v", n, found)
	}
}
