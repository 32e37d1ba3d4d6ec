package control

import (
	"context"
	"errors"
	"fmt"
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
		others := slices.DeleteFunc(p.others(), func(a string) bool { return nameOf(a) != where })
		c, err := choose(ctx, p.addresses(where), others)
		if errors.Is(err, ErrNobody) {
			err = p.notNamed(ctx, where)
		}
		return c, err
	}
	return choose(ctx, p.own(), p.others())
}

// ErrNobody is in the error of an address or a name where no instance runs.
var ErrNobody = errors.New("nobody answers")

// nobody is an error for people that callers can tell from others.
type nobody struct{ user spec.UserError }

func (e *nobody) Error() string   { return e.user.What }
func (e *nobody) Unwrap() []error { return []error{&e.user, ErrNobody} }

func errNobody(hint, format string, args ...any) error {
	return &nobody{spec.UserError{What: fmt.Sprintf(format, args...), Hint: hint}}
}

// notNamed is the error for a name that no instance has.
func (p Places) notNamed(ctx context.Context, name string) error {
	hint := hintStart + " --control " + name
	if near := spec.Suggest(name, Names(ctx, p)); near != "" {
		hint = "did you mean --control " + near + "?"
	}
	return errNobody(hint, "no running legate is named %s", name)
}

// Names lists the instances that answer.
func Names(ctx context.Context, p Places) []string {
	var names []string
	for _, a := range slices.Concat(p.own(), p.others()) {
		if c, err := dial(ctx, a); err == nil {
			c.Close()
			names = append(names, nameOf(a))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// own returns the addresses of the instances in the places of this user, those
// that died included.
func (p Places) own() []string {
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
	if p.Abstract != "" {
		found = append(found, listAbstract(p.Abstract)...)
	}
	return found
}

// others returns what root finds of other users, who have only abstract names.
func (p Places) others() []string {
	if p.Search == p.Abstract {
		return nil
	}
	return slices.DeleteFunc(listAbstract(p.Search), func(a string) bool { return strings.HasPrefix(a, p.Abstract) })
}

// choose returns the only one that answers in the first group where one does:
// what other users start must not come between root and its own.
func choose(ctx context.Context, groups ...[]string) (*Client, error) {
	for _, addresses := range groups {
		if c, err := chooseOf(ctx, addresses); !errors.Is(err, ErrNobody) {
			return c, err
		}
	}
	return nil, errNobody(hintStart, "no running legate was found")
}

func chooseOf(ctx context.Context, addresses []string) (*Client, error) {
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
	return nil, errNobody(hintStart, "no running legate was found")
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
