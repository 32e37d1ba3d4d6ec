package daemon

import (
	"fmt"
	"testing"

	"legate/internal/systemd"
	"legate/internal/systemd/systemdtest"
	"legate/internal/testnet"
)

// What the manager keeps of a link that ends, or that needs another socket, is
// gone before the link's own is closed: otherwise clients would wait for nobody,
// and the address would be taken.
func TestSockets_FollowTheLinks(t *testing.T) {
	played := systemdtest.Play(t)
	m, err := systemd.New(systemd.Config{Environ: []string{"NOTIFY_SOCKET=" + played.Path}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	origin := make(changing)
	d := start(t, Config{Manager: m, Origins: []Origin{origin}})
	address := fmt.Sprintf("127.0.0.1:%d", testnet.FreePort(t))
	set := func(texts ...string) {
		links := parseLinks(t, texts...)
		origin <- links
		origin <- links // it is taken when the one before is set
	}
	for _, most := range []int{1, 2} {
		set(fmt.Sprintf("%s=127.0.0.1:1;max-connections=%d", address, most))
		for _, l := range d.Snapshot().Links {
			if l.Error != "" {
				t.Fatalf("with at most %d connections: %s", most, l.Error)
			}
		}
		testnet.Await(t, "the socket at the manager", func() bool { return played.Kept() == 1 })
		if !accepts(address) {
			t.Errorf("with at most %d connections nobody listens", most)
		}
	}
	if played.Said("FDSTOREREMOVE=1") != 1 {
		t.Errorf("the manager heard %q", played.All())
	}
	set()
	if accepts(address) || played.Kept() != 0 {
		t.Errorf("after the end of the link %d sockets are kept, and somebody listens: %v", played.Kept(), accepts(address))
	}
}
