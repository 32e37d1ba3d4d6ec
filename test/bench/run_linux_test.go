package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"legate/internal/testnet"
)

// The bench starts itself in its roles, and in these tests itself is the test.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == roleServe || os.Args[1] == roleLoad) {
		if err := run(os.Args[1:]); err != nil {
			panic(err)
		}
		return
	}
	m.Run()
}

func tinyBench(t *testing.T, rows ...row) (*bench, *bytes.Buffer) {
	t.Helper()
	t.Setenv("GORACE", "atexit_sleep_ms=0") // a second otherwise, for each process
	var out bytes.Buffer
	b, err := newBench(options{Rounds: 2}, &out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.close()
		if left := children(os.Getpid()); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
	})
	b.rows = nil
	for _, r := range rows {
		b.rows = append(b.rows, &contestant{row: r})
	}
	for i := range b.loads {
		b.loads[i].Count /= 200
	}
	return b, &out
}

func TestBench_MeasuresEveryRowInEveryRound(t *testing.T) {
	b, out := tinyBench(t, row{Name: direct}, row{Name: "gone", command: func(_, _, _ string) (*exec.Cmd, error) {
		return nil, errors.New("not installed")
	}})
	r, err := b.run(t.Context())
	if err != nil {
		t.Fatal(err, out)
	}
	if len(r.Samples) != 2*len(b.loads) || r.Rounds != 2 {
		t.Errorf("%d samples in %d rounds: %+v", len(r.Samples), r.Rounds, r.Samples)
	}
	for _, s := range r.Samples {
		if s.Wall <= 0 || s.Load <= 0 || s.Server <= 0 || s.Proxy != 0 {
			t.Errorf("sample %+v", s)
		}
	}
	if r.Rows[1].Note != "not installed" || strings.Count(out.String(), "not installed") != 1 {
		t.Errorf("row %+v in\n%s", r.Rows[1], out)
	}
}

func TestBench_ChargesTheProxy(t *testing.T) {
	if _, err := findHAProxy(); err != nil {
		testnet.Skip(t, "haproxy: "+err.Error())
	}
	b, out := tinyBench(t, row{Name: base, command: haproxy, version: haproxyVersion})
	r, err := b.run(t.Context())
	if err != nil || r.Rows[0].Note != "" {
		t.Fatal(err, r, out)
	}
	for _, s := range r.Samples {
		if s.Proxy <= 0 {
			t.Errorf("sample %+v", s)
		}
	}
	if !strings.HasPrefix(r.Rows[0].Version, "HAProxy") || !strings.Contains(r.Rows[0].Command, "-db") {
		t.Errorf("row %+v", r.Rows[0])
	}
}

func TestBench_StoppedLeavesNothing(t *testing.T) {
	b, _ := tinyBench(t, row{Name: direct})
	b.loads[0].Count = 1 << 30
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // in the midst of that
	defer cancel()
	if _, err := b.run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
