package intercept

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/forward"
	"legate/internal/testnet"
)

// with runs body in a process that has these capabilities only.
func with(t *testing.T, capabilities string, body func()) {
	t.Helper()
	testnet.NeedRoot(t)
	setpriv, err := exec.LookPath("setpriv")
	if err != nil {
		testnet.Skip(t, "needs setpriv, of util-linux")
	}
	some := "-all"
	for name := range strings.FieldsSeq(capabilities) {
		some += ",+" + name
	}
	testnet.Child{Through: []string{setpriv, "--bounding-set", some, "--inh-caps", some}}.Run(t, body)
}

// The kernel's first process beside init has all capabilities, as runc has.
const kthreadd = 2

func TestRights_WithoutPtrace(t *testing.T) {
	with(t, "sys_admin net_bind_service dac_override", func() {
		_, err := Of(kthreadd)
		wantUserError(t, err, "of process 2: permission denied", "SYS_PTRACE")
		e, tenant := newEngine(t), newTenant(t)
		s := watch(t, WatchConfig{Dir: e.dir, Patience: 500 * time.Millisecond})
		s.awaitState(t, "")
		e.mount(t, e.create(t, "c"), tenant.path())
		s.awaitState(t, "permission denied")
	})
}

func TestRights_WithoutNetBindService(t *testing.T) {
	with(t, "sys_admin sys_ptrace", func() {
		ns := newTenant(t).open(t)
		_, err := Bind(ns, link("53"), forward.Bind)
		wantUserError(t, err, "127.0.0.1:53: permission denied", "NET_BIND_SERVICE")
		bind(t, ns, "1024")
	})
}

func TestRights_WithoutSysAdmin(t *testing.T) {
	with(t, "sys_ptrace net_bind_service", func() {
		ns, err := Open("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		wantUserError(t, ns.Do(func() error { t.Error("entered"); return nil }), "operation not permitted", "SYS_ADMIN")
	})
}

func TestWatch_WhatCannotBeWatched(t *testing.T) {
	testnet.CheckLeaks(t)
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// It is not there as a directory; that may come.
	s := watch(t, WatchConfig{Dir: file})
	s.awaitState(t, "does not exist")
	wantUserError(t, explainInotify("/dir", unix.EMFILE), "/dir", "max_user_instances")
	wantUserError(t, explainInotify("/dir", unix.ENOSPC), "/dir", "max_user_watches")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Watch(ctx, WatchConfig{Dir: file, Found: func(Found) {}}); err != nil {
		t.Errorf("a watch that is over before it began: %v", err)
	}
}
