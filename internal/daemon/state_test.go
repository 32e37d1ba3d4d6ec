package daemon

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"legate/internal/spec"
)

func openTestState(t *testing.T, dir string) *state {
	t.Helper()
	s, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// put writes a swap.
func put(s *state, link, target string) error {
	return s.edit(func(o overrides) {
		o.Swaps[link] = spec.Override{Kind: spec.OverrideSwap, Target: target}
	})
}

func TestState_SurvivesARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for it")
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	want := overrides{
		Swaps: map[string]spec.Override{
			"db": {Kind: spec.OverrideSwap, Target: "b:1", Base: "1=a:1", When: at},
			"80": {Kind: spec.OverrideSwap, Target: "unix:/run/x", Base: "80=web:80", When: at.Add(1)},
		},
		Modes: map[string]spec.Override{
			"db":  {Kind: spec.OverridePause, Base: "1=a:1", When: at.Add(2)},
			"web": {Kind: spec.OverrideDrain, Base: "2=a:1", When: at.Add(3)},
		},
		Endpoints: map[string]spec.Override{"unix:/run/x": {Kind: spec.OverrideDrain, When: at.Add(4)}},
	}
	s := openTestState(t, dir)
	if err := put(s, "gone", "c:1"); err != nil {
		t.Fatal(err)
	}
	err := s.edit(func(o overrides) {
		delete(o.Swaps, "gone")
		maps.Copy(o.Swaps, want.Swaps)
		maps.Copy(o.Modes, want.Modes)
		maps.Copy(o.Endpoints, want.Endpoints)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	if d := cmp.Diff(want, openTestState(t, dir).overrides); d != "" {
		t.Errorf("after a restart (-want +got)\n%s", d)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 2 {
		t.Errorf("files left: %v, %v; want the state and its lock", left, err)
	}
}

func TestState_BelongsToOneInstance(t *testing.T) {
	dir := t.TempDir()
	first := openTestState(t, dir)
	_, err := openState(dir)
	u, ok := errors.AsType[*spec.UserError](err)
	if !ok || !strings.Contains(u.What, dir) || u.Hint == "" {
		t.Errorf("got %v, want an error that names %s", err, dir)
	}
	first.close()
	openTestState(t, dir)
}

func TestState_KeepsADamagedFileForWhoWantsToMendIt(t *testing.T) {
	for name, text := range map[string]string{
		"cut off": `{"version":2,"overrides":{"swaps":{"db":`,
		"empty":   "",
		"older":   `{"version":1,"overrides":{"db":{"target":"b:1","base":"1=a:1"}}}`,
		"types":   `{"version":2,"overrides":{"swaps":{"db":"b:1"}}}`,
		"kind":    `{"version":2,"overrides":{"swaps":{"db":{"kind":"pause"}}}}`,
		"no kind": `{"version":2,"overrides":{"endpoints":{"10.0.0.5:1":{}}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, stateFile)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			s := openTestState(t, dir)
			if s.damaged == nil || !strings.Contains(s.damaged.Error(), path) {
				t.Errorf("it says %v, want the path", s.damaged)
			}
			if d := cmp.Diff(noOverrides(), s.overrides); d != "" {
				t.Errorf("it read (-want +got)\n%s", d)
			}
			if err := put(s, "db", "b:1"); err != nil {
				t.Fatal(err)
			}
			checkDamaged(t, path, text)
		})
	}
}

// checkDamaged wants exactly these files to have been put aside.
func checkDamaged(t *testing.T, path string, texts ...string) {
	t.Helper()
	aside, err := filepath.Glob(path + ".damaged-2*Z")
	if err != nil || len(aside) != len(texts) {
		t.Fatalf("put aside: %v, %v; want %d files", aside, err, len(texts))
	}
	for i, text := range texts {
		if got, err := os.ReadFile(aside[i]); err != nil || string(got) != text {
			t.Errorf("%s holds %q, %v", aside[i], got, err)
		}
	}
}

func TestState_KeepsEveryDamagedFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, stateFile)
	for _, text := range []string{"first", "second"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		openTestState(t, dir).close()
	}
	checkDamaged(t, path, "first", "second")
}

// After an update and the way back the swaps of the newer one must be there.
func TestState_LeavesTheFileOfANewerVersionAlone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, stateFile)
	const text = `{"version":3,"overrides":[]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds the directory unlocked
		_, err := openState(dir)
		if u, ok := errors.AsType[*spec.UserError](err); !ok || !strings.Contains(u.What, "version 3") || !strings.Contains(u.Hint, "--state-dir") {
			t.Errorf("got %v", err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != text {
		t.Errorf("the file holds %q, %v", got, err)
	}
}

// What cannot be written must not be in force either: after a restart it would
// be gone without a word.
func TestState_ChangesNothingWhenItCannotBeSaved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := openTestState(t, dir)
	if err := put(s, "db", "a:1"); err != nil {
		t.Fatal(err)
	}
	before := s.overrides.clone()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := put(s, "db", "b:1"); err == nil {
		t.Error("it was saved in a directory that is gone")
	}
	if d := cmp.Diff(before, s.overrides); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestState_SaysThatItsDirectoryIsUnusable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openState(filepath.Join(file, "dir"))
	u, ok := errors.AsType[*spec.UserError](err)
	if !ok || !strings.Contains(u.What, file) || !strings.Contains(u.Hint, "--state-dir") {
		t.Errorf("got %v", err)
	}
}
