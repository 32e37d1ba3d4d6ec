package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"legate/internal/docker"
	"legate/internal/spec"
)

// How often the engine is asked for this container's links. A link cannot be
// added to a running container, so only a server that is replaced by one with
// other ports is news; one that is missing is waited for.
const (
	dockerPause  = 30 * time.Second
	missingPause = 2 * time.Second
)

// dockerOrigin makes links of this container's --links and of the ports that
// the linked containers expose. They lead to the alias, not to the address of
// the moment, and so follow a restarted server.
type dockerOrigin struct {
	parse  spec.ParseConfig
	engine docker.Config
	id     string
	also   []string // warnings from before it was chosen

	// known are the linked containers by their first alias. What was known
	// once stays: the engine drops the links of a container that is being
	// replaced, and clients shall wait for the new one.
	known    map[string]docker.Linked
	failed   error // of the last question
	links    []spec.Link
	warnings []string
}

// errNoDocker: there is no engine to ask, which is nothing to warn of.
var errNoDocker = errors.New("no Docker")

// fromDocker asks the engine once. The error says why it told nothing.
func (c OriginConfig) fromDocker(ctx context.Context) (*dockerOrigin, error) {
	engine := docker.FromEnvironment(func(name string) string { return getenv(c.Environ, name) })
	if engine.Host == "" {
		if _, err := os.Stat(strings.TrimPrefix(docker.DefaultHost, "unix://")); err != nil {
			return nil, fmt.Errorf("%w socket", errNoDocker)
		}
	}
	id, err := c.Own.ID()
	if err != nil {
		return nil, fmt.Errorf("%w container around this process", errNoDocker)
	}
	c.Parse.Origin = spec.OriginDocker
	o := &dockerOrigin{parse: c.Parse, engine: engine, id: id, known: map[string]docker.Linked{}}
	client, err := docker.NewClient(engine)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	o.ask(ctx, client)
	return o, o.failed
}

// Watch implements Origin.
func (o *dockerOrigin) Watch(ctx context.Context, set func(spec.Wish)) error {
	client, err := docker.NewClient(o.engine)
	if err != nil {
		return err
	}
	defer client.Close()
	said := ""
	for {
		warnings := append(slices.Clip(o.also), o.warnings...)
		if now := texts(o.links, warnings); now != said {
			set(spec.Wish{Links: o.links, Warnings: warnings})
			said = now
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(o.pause()):
		}
		o.ask(ctx, client)
	}
}

// texts tells whether two lists of links and warnings are the same.
func texts(links []spec.Link, warnings []string) string {
	var b strings.Builder
	for _, l := range links {
		b.WriteString(l.Text + "\n")
	}
	return b.String() + "\n" + strings.Join(warnings, "\n")
}

func (o *dockerOrigin) pause() time.Duration {
	for _, l := range o.known {
		if l.ID == "" || o.failed != nil {
			return missingPause
		}
	}
	return dockerPause
}

// ask learns what the engine says now.
func (o *dockerOrigin) ask(ctx context.Context, client *docker.Client) {
	list, err := client.Links(ctx, o.id)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	o.learn(list, err)
}

func (o *dockerOrigin) learn(list []docker.Linked, err error) {
	for _, l := range list {
		if before, known := o.known[l.Aliases[0]]; known && l.ID == "" {
			l.Ports = before.Ports
		}
		o.known[l.Aliases[0]] = l
	}
	o.failed = err
	o.links, o.warnings = portLinks(o.known, o.parse)
	if err != nil {
		o.warnings = append(o.warnings, spec.WithHint(err))
	}
}

// portLinks makes a link of every port of every linked container. A port that
// two of them serve is left out: nobody can say which one is meant.
func portLinks(known map[string]docker.Linked, parse spec.ParseConfig) (links []spec.Link, warnings []string) {
	servers := map[docker.Port][]string{}
	for _, alias := range slices.Sorted(maps.Keys(known)) {
		l := known[alias]
		if l.ID != "" && len(l.Ports) == 0 {
			warnings = append(warnings, fmt.Sprintf("the linked container %s exposes no port (start it with --expose PORT, or give a link: PORT=%s:PORT)", l.Name, alias))
		}
		for _, p := range l.Ports {
			servers[p] = append(servers[p], alias)
		}
	}
	ports := slices.SortedFunc(maps.Keys(servers), docker.Port.Compare)
	for _, p := range ports {
		if aliases := servers[p]; len(aliases) > 1 {
			warnings = append(warnings, conflict(p, known[aliases[0]].Name, known[aliases[1]].Name, aliases[1]))
			continue
		}
		l, err := aliasLink(p, servers[p][0], parse)
		if err != nil {
			warnings = append(warnings, spec.WithHint(err))
			continue
		}
		links = append(links, l...)
	}
	return links, append(warnings, spec.WarnUnused(links, parse.Options)...)
}

func conflict(p docker.Port, first, second, alias string) string {
	return fmt.Sprintf("port %s of the linked container %s is also one of %s, and one address cannot lead to both (give links of your own: LISTEN=%s:%d)",
		p, second, first, alias, p.Number)
}

// aliasLink is the link PORT=alias:PORT.
func aliasLink(p docker.Port, alias string, parse spec.ParseConfig) ([]spec.Link, error) {
	return spec.ParseLink(fmt.Sprintf("%s=%s:%s", p, alias, p), parse)
}
