package docker

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"legate/internal/testnet"
)

// A container that is asked for is there before its event was heard, and does not stay where it went while
// the answer was under way.
func TestTable_ReadIsNotBehindTheEvents(t *testing.T) {
	testnet.CheckLeaks(t)
	var gone atomic.Bool
	asked := make(chan string, 16)
	engine := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Api-Version", "1.41")
		switch {
		case strings.HasSuffix(r.URL.Path, "/events"):
			rw.(http.Flusher).Flush()
			<-r.Context().Done() // none is ever told
		case strings.HasSuffix(r.URL.Path, "/containers/json"):
			list := "[]"
			if r.URL.Query().Has("filters") {
				asked <- r.URL.Query().Get("filters")
				if !gone.Swap(true) {
					list = fmt.Sprintf(`[{"Id":%q,"Names":["/web"],"State":"running"}]`, idA)
				}
			}
			fmt.Fprint(rw, list)
		}
	}))
	defer engine.Close()
	table := NewTable(Config{Host: "tcp://" + engine.Listener.Addr().String()})
	if err := table.Read(t.Context(), idA); err != nil || len(asked) != 0 {
		t.Errorf("without anybody who reads the table: asked %d times, %v", len(asked), err)
	}
	s := table.Subscribe(Everyone)
	defer s.Close()
	if err := s.Next(t.Context()); err != nil || table.Get(idA) != nil {
		t.Fatalf("at first %v, %v", table.All(), err)
	}
	if err := table.Read(t.Context(), idA); err != nil {
		t.Fatal(err)
	}
	if err := s.Next(t.Context()); err != nil { // that it is there
		t.Fatal(err)
	}
	testnet.Await(t, "that it is gone", func() bool { return table.Get(idA) == nil })
	for range 2 {
		if filter := <-asked; !strings.Contains(filter, idA) {
			t.Errorf("asked for %s", filter)
		}
	}
}
