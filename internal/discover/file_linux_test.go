package discover

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func TestFile_WhatIsNoneHoldsNothingUp(t *testing.T) {
	testnet.CheckLeaks(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, t.TempDir(), os.DevNull} {
		n := &notebook{}
		d := New(Config{Set: n.set, Sources: map[string]Source{spec.SourceFile: File{}}})
		target := spec.Target{Source: spec.SourceFile, Protocol: spec.TCP, Path: path}
		d.Apply([]spec.Target{target})
		testnet.Await(t, "what is wrong with "+path, func() bool {
			a, ok := n.last(target)
			return ok && a.Err != nil && strings.Contains(a.Err.Error(), "it is no regular file")
		})
		d.Close()
	}
}
