package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func env(list map[string]string) func(string) string {
	return func(name string) string { return list[name] }
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want options
	}{
		{nil, options{Rounds: defaultRounds, Budget: defaultBudget}},
		{map[string]string{"QUICK": "0"}, options{Rounds: defaultRounds, Budget: defaultBudget}},
		{map[string]string{"QUICK": "1"}, options{Rounds: quickRounds, Quick: true}},
		{map[string]string{"ROUNDS": "9"}, options{Rounds: 9}},
		{map[string]string{"QUICK": "1", "ROUNDS": "3", "ONLY": "legate,direct"}, options{Rounds: 3, Quick: true, Only: []string{"legate", "direct"}}},
	} {
		if got, err := optionsFrom(env(c.env)); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %+v, %v; want %+v", c.env, got, err, c.want)
		}
	}
	for name, bad := range map[string]string{"ROUNDS": "0", "QUICK": "yes", "ONLY": "nginx"} {
		if _, err := optionsFrom(env(map[string]string{name: bad})); err == nil || !strings.Contains(err.Error(), name+"="+bad) {
			t.Errorf("%s=%s: error %v", name, bad, err)
		}
	}
}

func TestSpread(t *testing.T) {
	if got, want := spreadOf([]float64{4, 1, 2, 3}), (spread{2.5, 1, 1.75, 3.25, 4, 4}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, want := spreadOf([]float64{7}), (spread{7, 7, 7, 7, 7, 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := spreadOf(nil); got != (spread{}) {
		t.Errorf("got %+v", got)
	}
}

// The second round was twice as slow for all: paired, that changes nothing.
func TestRatios_ArePairedByRound(t *testing.T) {
	got := ratios(map[int]float64{1: 3, 2: 6, 3: 5}, map[int]float64{1: 2, 2: 4, 4: 1})
	if len(got) != 2 || got[0] != 1.5 || got[1] != 1.5 {
		t.Errorf("got %v", got)
	}
}

func serveHere(t *testing.T) string {
	t.Helper()
	l, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(l)
	t.Cleanup(s.close)
	return l.Addr().String()
}

func TestLoad_DoesWhatItSays(t *testing.T) {
	addr := serveHere(t)
	for _, w := range []workload{
		{Kind: kindRequests, Conns: 3, Count: 100},
		{Kind: kindBulk, Conns: 2, Count: 3<<20 + 1},
		{Kind: kindConnections, Conns: 3, Count: 50},
	} {
		r, err := load(addr, w)
		if err != nil || r.Wall <= 0 {
			t.Errorf("%q: %+v, %v", w.Kind, r, err)
		}
		if w.Kind != kindBulk && (r.P50 <= 0 || r.P99 < r.P50 || r.P99 > r.Wall) {
			t.Errorf("%q: %+v", w.Kind, r)
		}
	}
}

func TestPercentile(t *testing.T) {
	var list []time.Duration
	for i := range 101 {
		list = append(list, time.Duration(i))
	}
	if at(list, 50) != 50 || at(list, 99) != 99 || at(list[:1], 99) != 0 || at(nil, 50) != 0 {
		t.Errorf("p50 %d, p99 %d", at(list, 50), at(list, 99))
	}
}

func TestShare_AddsUp(t *testing.T) {
	w := workload{Conns: 7, Count: 100}
	var sum int64
	for i := range w.Conns {
		sum += share(w, i)
	}
	if sum != w.Count {
		t.Errorf("%d of %d", sum, w.Count)
	}
}

// between is a proxy for one connection that handles the two directions as it
// is told.
func between(t *testing.T, server string, toServer, toClient func(dst, src *net.TCPConn)) string {
	t.Helper()
	l, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		defer c.Close()
		s, err := dial(server)
		if err != nil {
			return
		}
		defer s.Close()
		back := make(chan struct{})
		go func() { defer close(back); toClient(c, s) }()
		toServer(s, c)
		<-back
	}()
	return l.Addr().String()
}

func whole(dst, src *net.TCPConn) {
	_, _ = io.Copy(dst, src)
	_ = dst.CloseWrite()
}

func TestGate(t *testing.T) {
	flip := func(dst, src *net.TCPConn) {
		b := make([]byte, 64<<10)
		for at := 0; ; {
			n, err := src.Read(b)
			if at <= 1<<20 && at+n > 1<<20 {
				b[1<<20-at] ^= 1
			}
			at += n
			_, _ = dst.Write(b[:n])
			if err != nil {
				_ = dst.CloseWrite()
				return
			}
		}
	}
	ends := func(dst, src *net.TCPConn) { // both directions at the first end
		_, _ = io.Copy(dst, src)
		dst.Close()
		src.Close()
	}
	short := func(dst, src *net.TCPConn) {
		_, _ = io.CopyN(dst, src, 1<<20)
		_ = dst.CloseWrite()
		_, _ = io.Copy(io.Discard, src)
	}
	resets := func(dst, src *net.TCPConn) {
		_, _ = io.CopyN(dst, src, sumSize+gateBytes)
		_ = dst.SetLinger(0)
		dst.Close()
	}
	for _, c := range []struct {
		name               string
		toServer, toClient func(dst, src *net.TCPConn)
		want               string // "" passes
	}{
		{"right", whole, whole, ""},
		{"no half-close", ends, whole, "answer after the client's half-close"},
		{"changed on the way there", flip, whole, "what the client sent arrived changed"},
		{"changed on the way back", whole, flip, "the answer arrived changed"},
		{"cut off", whole, short, "the answer arrived changed"},
		{"reset at the end", whole, resets, "is no FIN"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := gate(between(t, serveHere(t), c.toServer, c.toClient))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func example() *result {
	r := newResult(options{Rounds: 2}, workloads(false))
	list := []*contestant{{row: row{Name: direct}}, {row: row{Name: base}}, {row: row{Name: "<new> & old"}}, {row: row{Name: "gone"}, note: "not <installed>"}}
	for i, c := range list[:3] {
		for _, w := range r.Workloads {
			for round := 1; round <= 2; round++ {
				c.samples = append(c.samples, sample{Row: c.Name, Round: round, Workload: w.Name, Proxy: float64(i * round), Wall: 2, P50: 1e-3, P99: 5e-3})
			}
		}
	}
	r.complete(list, 2)
	return r
}

func TestResult_Tables(t *testing.T) {
	var out bytes.Buffer
	if err := example().print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3.000 (2.000..4.000)", "2.00 (2.00..2.00)", "50000/s, p50 1000 us, p99 5000 us", "0.50 GB/s", "gone: not <installed>"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

func TestResult_Files(t *testing.T) {
	dir, r := t.TempDir(), example()
	if err := r.save(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, jsonFile))
	if err != nil {
		t.Fatal(err)
	}
	var back result
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if got := back.Rows[2].Workloads["bulk"].Ratio; got.Median != 2 || got.Rounds != 2 {
		t.Errorf("the ratio is %+v", got)
	}
	plot, err := os.ReadFile(filepath.Join(dir, plotFile))
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(plot)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not XML: %v\n%s", err, plot)
		}
	}
	if n := bytes.Count(plot, []byte("2.00  (3.000 s)")); n != len(r.Workloads) {
		t.Errorf("%d bars of the second row:\n%s", n, plot)
	}
}

func TestVerdict_IsAboutLegate(t *testing.T) {
	r := &result{Rows: []rowSum{{Row: base, Note: "not installed"}, {Row: ours}}}
	if err := r.verdict(); err != nil {
		t.Error(err)
	}
	r.Rows[1].Note = "it fails the gate"
	if r.verdict() == nil {
		t.Error("nobody hears that Legate fails the gate")
	}
}
