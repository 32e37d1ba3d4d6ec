package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"legate/internal/testnet"
	"legate/test/bench/peers"
)

// The bench starts itself in its roles, and in these tests itself is the test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == roleRound || os.Args[1] == peers.RoleRelay) {
		if err := run(os.Args[1:]); err != nil {
			panic(err)
		}
		return
	}
	m.Run()
}

// quickly is a campaign whose every cell is a moment.
func quickly(t *testing.T, binary string, o options) (*campaign, *bytes.Buffer) {
	t.Helper()
	t.Setenv("GORACE", "atexit_sleep_ms=0") // a second otherwise, for each process
	var out bytes.Buffer
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Quick, o.Rounds, o.Limit = true, 1, time.Minute
	b, err := newCampaign(o, peers.Config{Self: self, Binary: binary}, &out)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b.result.Rows {
		b.result.Rows[i].Shape.Time /= 2
	}
	t.Cleanup(func() {
		b.close()
		if left := leftovers(t, self, b.dir); len(left) > 0 {
			t.Errorf("processes are left: %q", left)
		}
	})
	return b, &out
}

// leftovers are the processes of this test or with files in dir, wherever in
// the tree of processes they are by now.
func leftovers(t *testing.T, self, dir string) (list []string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		exe, _ := os.Readlink(d + "/exe") // one that ended meanwhile is not left
		line, _ := os.ReadFile(d + "/cmdline")
		if d != fmt.Sprintf("/proc/%d", os.Getpid()) && (exe == self || strings.Contains(string(line), dir)) {
			list = append(list, string(line))
		}
	}
	return list
}

// buildLegate builds what is here, and not what may lie in bin.
func buildLegate(t *testing.T) string {
	t.Helper()
	file := t.TempDir() + "/legate"
	if out, err := exec.Command("go", "build", "-o", file, "legate/cmd/legate").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// needNamespaces skips where nobody may make one.
func needNamespaces(t *testing.T) {
	t.Helper()
	cmd := exec.Command("true")
	cmd.SysProcAttr = ownNetwork()
	if err := cmd.Run(); err != nil {
		testnet.Skip(t, "network namespaces: "+err.Error())
	}
	if _, err := exec.LookPath("strace"); err != nil {
		testnet.Skip(t, "strace: "+err.Error())
	}
	for _, name := range []string{peers.HAProxy, peers.Nginx, peers.Socat} {
		for _, p := range peers.List(peers.Config{}) {
			if p.Name == name {
				if _, err := p.Path(); err != nil {
					testnet.Skip(t, name+": "+err.Error())
				}
			}
		}
	}
}

func TestCampaign_MeasuresEveryPeerInEveryRow(t *testing.T) {
	needNamespaces(t)
	// One row of each kind: the others are the same code with other numbers.
	b, out := quickly(t, buildLegate(t), options{Rows: []string{"requests", "churn", "gso-64", "mem-active", "mem-stalled"}})
	r, err := b.run(t.Context())
	if err != nil {
		t.Fatal(err, out)
	}
	for _, p := range r.Peers {
		if p.Note != "" || p.Peer != peers.Direct && (p.Version == "" || p.Command == "" || p.Size == 0 || p.Start.Median <= 0) {
			t.Errorf("peer %+v", p)
		}
	}
	for _, w := range r.Rows {
		for _, p := range b.peers {
			if w.Kind == kindUDP && !p.UDP && p.Command != nil {
				continue
			}
			checkCell(t, r, w, p)
		}
	}
	checkCalls(t, r)
	if err := r.print(out); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"requests: 100k small requests, 50 connections; at ", "RST/RST", "haproxy-tuned", "QUICK=1 shows"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

// checkCalls: no proxy forwards a request with fewer than a read and a write each
// way, nor a connection without accepting, connecting and closing twice.
func checkCalls(t *testing.T, r *result) {
	t.Helper()
	for _, name := range []string{peers.Legate, peers.HAProxy, peers.Nginx, peers.Go} {
		for of, least := range map[string]float64{"requests": 4, "churn": 8} {
			i := slices.IndexFunc(r.Calls, func(c calls) bool { return c.Peer == name && c.Of == of })
			if i < 0 || r.Calls[i].Each < least || r.Calls[i].Each > 10*least {
				t.Errorf("system calls of %s in %s: %+v", name, of, r.Calls)
			}
		}
	}
}

// checkCell looks at the samples: of tiny loads no number is worth more than
// that it is there.
func checkCell(t *testing.T, r *result, w row, p peers.Peer) {
	t.Helper()
	i := slices.IndexFunc(r.Samples, func(s sample) bool { return s.Row == w.Name && s.Peer == p.Name })
	if i < 0 {
		t.Errorf("%s, %s: no sample", w.Name, p.Name)
		return
	}
	s := r.Samples[i]
	switch {
	case s.Error != "":
		t.Errorf("%s, %s: %s", w.Name, p.Name, s.Error)
	case w.Kind == kindMemory:
		if p.Command != nil && s.Kernel == 0 {
			t.Errorf("%s, %s: %+v", w.Name, p.Name, s)
		}
	case s.Units <= 0 || s.Wall <= 0 || s.Busy <= 0 || s.P50 <= 0 || (s.CPU > 0) != (p.Command != nil):
		t.Errorf("%s, %s: %+v", w.Name, p.Name, s)
	}
}

func TestCampaign_SaysWhoIsNotThere(t *testing.T) {
	needNamespaces(t)
	b, out := quickly(t, "gone", options{Rows: []string{"requests"}, Peers: []string{peers.Legate}})
	r, err := b.run(t.Context())
	if err != nil {
		t.Fatal(err, out)
	}
	if err := r.verdict(); err == nil || !strings.Contains(err.Error(), "not built") {
		t.Errorf("verdict %v", err)
	}
	if n := strings.Count(out.String(), "not built"); n != 1 {
		t.Errorf("said %d times:\n%s", n, out)
	}
}

func TestCampaign_StoppedLeavesNothing(t *testing.T) {
	needNamespaces(t)
	b, _ := quickly(t, "", options{Rows: []string{"churn"}, Peers: []string{peers.Go}})
	w := b.result.Rows[0]
	w.Shape.Rate, w.Shape.Time = 100, time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // in the midst of that
	defer cancel()
	err := b.round(ctx, 1, []row{w})
	if !errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "killed") {
		t.Errorf("error %v; the round has to end by itself", err)
	}
}

// What a proxy started is left when the round is killed.
func TestSpace_ClearEndsWhoIsLeft(t *testing.T) {
	needNamespaces(t)
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	cmd.SysProcAttr = ownNetwork()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s, err := openSpace(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	var child int
	_, err = fmt.Fscan(out, &child)
	if err := errors.Join(err, cmd.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if _, err := os.Stat(spaceOf(child)); err != nil {
		t.Fatalf("the child ended by itself: %v", err)
	}
	if err := s.clear(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(spaceOf(child)); err == nil {
		t.Error("the child is left")
	}
}

func TestListen_StopsWhoSaysNoEvent(t *testing.T) {
	stopped, taken := 0, 0
	err := listen(strings.NewReader("{}\nwhat?\n{}\n"), func(event) { taken++ }, func() { stopped++ })
	if err == nil || stopped != 1 || taken != 1 {
		t.Errorf("%v; stopped %d times, after %d events", err, stopped, taken)
	}
}

func TestBuildOther(t *testing.T) {
	if _, err := buildOther(t.Context(), "no-such-commit"); err == nil || !strings.Contains(err.Error(), "COMPARE=no-such-commit") {
		t.Errorf("error %v", err)
	}
}
