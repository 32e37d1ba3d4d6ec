package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"legate/internal/spec"
)

func TestAudit_SaysWhatIsOpenWhere(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before := now.Add(-2 * time.Minute)
	place := spec.Place{Container: strings.Repeat("ab", 32), Name: "web", Namespace: "net:[4026532345]", Labels: "connect.6379=redis", Opened: &before}
	closed := place
	closed.Opened = nil
	s := spec.Snapshot{Instance: "legate", PID: 7, Agent: &spec.AgentStatus{Namespaces: "/n", Runtime: 1}, Links: []spec.LinkStatus{
		{Name: "web/6379", Listen: "localhost:6379", State: spec.StateUp, Place: &place},
		{Name: "web/80", Listen: "localhost:80", State: spec.StateError, Place: &closed},
		{Name: "8080", Listen: "8080"},
	}}
	var out bytes.Buffer
	if err := auditOf(s).print(&out, now); err != nil {
		t.Fatal(err)
	}
	want := `legate, pid 7: 1 link is open in 1 container, and nothing else in any
links are open before a container's first instruction, by the namespaces in /n
1 start waited for links by legate runc

CONTAINER           NAMESPACE         LINK      LISTENS ON      OPENED           LABELS
web (abababababab)  net:[4026532345]  web/6379  localhost:6379  2m ago           connect.6379=redis
web (abababababab)  net:[4026532345]  web/80    localhost:80    not open: error  connect.6379=redis
`
	if out.String() != want {
		t.Errorf("it prints\n%s\nwant\n%s", out.String(), want)
	}
}
