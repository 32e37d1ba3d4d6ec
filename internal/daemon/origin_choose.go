package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"legate/internal/docker"
	"legate/internal/spec"
)

// OriginConfig says where links are looked for when none are given. The zero
// value finds nothing in the environment, because that is empty.
type OriginConfig struct {
	Environ []string // as os.Environ returns it
	// Parse holds what the links take from the command line: options and the
	// address to bind. Its Origin and Hosts are not used.
	Parse spec.ParseConfig
	// OnlyLinks passes over LEGATE_LINKS: --links asks for what --link made.
	OnlyLinks bool
	Hosts     string     // hosts file; "": /etc/hosts
	Own       docker.Own // where this container's id is found
}

// ErrUnlinked says that nothing is to be forwarded, in a container that the
// engine knows and has no --link for: so an agent is started by those who know
// connectable.
var ErrUnlinked = errors.New("the engine has no link for this container")

// ChooseOrigin returns where the links come from when none are given: the first
// of LEGATE_LINKS, the link variables, the links of this container that the
// Docker engine knows, and the link entries of the hosts file. It asks the
// engine, and so may take some seconds. Where there is nothing of all this, or
// what there is cannot be used, the error is a *spec.UserError, which may be
// ErrUnlinked, too.
func ChooseOrigin(ctx context.Context, c OriginConfig) (Origin, error) {
	c.Hosts = cmp.Or(c.Hosts, "/etc/hosts")
	c.Parse.Hosts = hostEntries(c.Hosts)
	links, warnings, err := c.environment()
	if err != nil {
		return nil, hinted(err)
	}
	if len(links) > 0 {
		return Static{Links: links, Warnings: warnings}, nil
	}
	none := nothing{reasons: []string{"no link variables"}, warnings: warnings}
	linked, err := c.fromDocker(ctx)
	switch {
	case errors.Is(err, errNoDocker):
		none.reasons = append(none.reasons, err.Error())
	case err != nil:
		none.warnings = append(none.warnings, spec.WithHint(err))
	case len(linked.links) > 0:
		linked.also = warnings
		return linked, nil
	default:
		none.reasons = append(none.reasons, "no --link that Docker knows of")
		none.warnings = append(none.warnings, linked.warnings...)
	}
	if len(others(c.Parse.Hosts)) > 0 {
		return newHostsOrigin(c, none.warnings), nil
	}
	if linked != nil && len(linked.known) == 0 && linked.failed == nil && !c.asksForLinks() && len(none.warnings) == 0 {
		return nil, unlinked{none.error()}
	}
	return nil, none.error()
}

// asksForLinks tells whether something was said that only links can mean.
func (c OriginConfig) asksForLinks() bool { return c.OnlyLinks || c.Parse.Bind != "" }

// unlinked is ErrUnlinked in the words of another error.
type unlinked struct{ error }

func (u unlinked) Is(target error) bool { return target == ErrUnlinked }
func (u unlinked) Unwrap() error        { return u.error }

// hinted gives a hint to the list of what is wrong with all variables.
func hinted(err error) error {
	if spec.HintOf(err) != "" {
		return err
	}
	return spec.Errorf("correct or remove them, or give a link: legate 6379=redis:6379", "%s", err)
}

// environment reads LEGATE_LINKS, or else the link variables.
func (c OriginConfig) environment() ([]spec.Link, []string, error) {
	if list := getenv(c.Environ, "LEGATE_LINKS"); list != "" && !c.OnlyLinks {
		return spec.LinkList(list, c.Parse)
	}
	return spec.EnvLinks(c.Environ, c.Parse)
}

// getenv returns the last value of a variable, as a shell's child sees it.
func getenv(environ []string, name string) string {
	for _, v := range slices.Backward(environ) {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

func hostEntries(path string) []spec.HostEntry {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil // an empty image on no network has none
	}
	return spec.ParseHosts(bytes.NewReader(text))
}

// nothing collects why there are no links.
type nothing struct {
	reasons  []string
	warnings []string // what was there and could not be used
}

func (n nothing) error() error {
	why := strings.Join(append(n.reasons, "no --link entries in /etc/hosts"), ", ")
	if len(n.warnings) > 0 {
		why += "; " + strings.Join(n.warnings, "; ")
	}
	return spec.Errorf("give a link (legate 6379=redis:6379), set LEGATE_LINKS=6379=redis:6379, or start the container with --link redis:redis"+
		" (on a user-defined network also with -v /var/run/docker.sock:/var/run/docker.sock)",
		"no link is given, and there is none to be found: %s", why)
}
