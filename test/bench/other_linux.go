package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"legate/test/bench/peers"
)

// other is Legate at another commit.
type other struct {
	name   string
	binary string
	dir    string
}

// buildOther builds the commit ref in a worktree of its own, which remove takes
// away.
func buildOther(ctx context.Context, ref string) (o *other, err error) {
	commit, err := output(ctx, ".", "git", "rev-parse", "--short", "--verify", ref+"^{commit}")
	if err != nil {
		return nil, fmt.Errorf("COMPARE=%s: %w", ref, err)
	}
	o = &other{name: peers.Legate + "@" + commit}
	if o.dir, err = os.MkdirTemp("", "legate-compare-"); err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	tree := filepath.Join(o.dir, "tree")
	o.binary = filepath.Join(o.dir, "legate")
	if _, err := output(ctx, ".", "git", "worktree", "add", "--detach", tree, commit); err != nil {
		o.remove()
		return nil, err
	}
	if _, err := output(ctx, tree, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", o.binary, "./cmd/legate"); err != nil {
		o.remove()
		return nil, err
	}
	return o, nil
}

func (o *other) remove() {
	os.RemoveAll(o.dir)
	_ = exec.Command("git", "worktree", "prune").Run() // forgets the folder; it would the next time as well
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}
