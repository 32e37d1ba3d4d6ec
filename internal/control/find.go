package control

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"legate/internal/spec"
)

// Find returns a client for the instance that where names: a path, a name, or
// "" for the only one that runs.
func Find(ctx context.Context, where string, p Places) (*Client, error) {
	c, err := find(ctx, where, p)
	if err == nil {
		c.where = where
	}
	return c, err
}

func find(ctx context.Context, where string, p Places) (*Client, error) {
	switch {
	case where == Off:
		return nil, spec.Errorf("name the running one: --control NAME", "the control socket is off (--control or LEGATE_CONTROL)")
	case isAddress(where):
		return NewClient(where), nil
	case where != "":
		return choose(ctx, p.addresses(where), spec.Errorf(hintStart+" --control "+where, "no running legate is named %s", where))
	}
	return choose(ctx, p.list(), spec.Errorf(hintStart, "no running legate was found"))
}

// Names lists the instances that answer.
func Names(ctx context.Context, p Places) []string {
	var names []string
	for _, a := range p.list() {
		if c, err := dial(ctx, a); err == nil {
			c.Close()
			names = append(names, nameOf(a))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// list returns the addresses of all instances, those that died included.
func (p Places) list() []string {
	var found []string
	for _, d := range p.Dirs {
		// A directory that is not there or not ours to read has none for us.
		entries, _ := os.ReadDir(d)
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), suffix) {
				found = append(found, filepath.Join(d, e.Name()))
			}
		}
	}
	if p.Search != "" {
		found = append(found, listAbstract(p.Search)...)
	}
	return found
}

// choose returns the only one that answers; none is the error where there is
// not one.
func choose(ctx context.Context, addresses []string, none error) (*Client, error) {
	var live, denied []string
	for _, a := range addresses {
		c, err := dial(ctx, a)
		switch {
		case err == nil:
			c.Close()
			live = append(live, a)
		case errors.Is(err, os.ErrPermission):
			denied = append(denied, a)
		}
	}
	switch {
	case len(live) == 1:
		return NewClient(live[0]), nil
	case len(live) > 1:
		return nil, errSeveral(live)
	case len(denied) > 0:
		return nil, errDenied(strings.Join(denied, ", "))
	}
	return nil, none
}

func errSeveral(live []string) error {
	names := make([]string, len(live))
	for i, a := range live {
		names[i] = nameOf(a)
	}
	slices.Sort(names)
	if len(slices.Compact(slices.Clone(names))) < len(names) {
		names = live // one name in two places: only the address tells them apart
	}
	return spec.Errorf("say which one, as with: --control "+names[0], "several legates are running: %s", strings.Join(names, ", "))
}
