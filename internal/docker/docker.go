// Package docker asks the engine on this host about containers. It only reads.
package docker

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"legate/internal/spec"
)

// DefaultHost is where the engine listens unless DOCKER_HOST says otherwise.
const DefaultHost = "unix:///var/run/docker.sock"

// timeout is the limit for one question. An engine that has to start the
// container that asks answers after most of a second.
const timeout = 5 * time.Second

// Client asks one engine. It speaks every API version from 1.40 (Docker 19.03)
// on. Its methods may be called at the same time.
type Client struct {
	network, address string
	tls              bool
	api              *client.Client
}

// New returns a client of the engine at host, in the form of DOCKER_HOST:
// unix:///path or tcp://address:port; "" is DefaultHost. It does not connect.
// The error is a *spec.UserError. The caller ends the client with Close.
func New(host string) (*Client, error) { return NewClient(Config{Host: host}) }

// Close closes the client's idle connections.
func (c *Client) Close() { _ = c.api.Close() } // it cannot fail

// APIVersion asks whether the engine answers, and returns the newest version of
// its API. The error is a *spec.UserError, unless ctx ended.
func (c *Client) APIVersion(ctx context.Context) (string, error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := c.api.Ping(limited, client.PingOptions{})
	if err == nil {
		return r.APIVersion, nil
	}
	return "", c.explain(ctx, err)
}

// Port is a port on which a container serves, as its image or its start said.
type Port struct {
	Protocol spec.Protocol // TCP or UDP
	Number   uint16
}

// String gives the port as a link is written: 6379, 53/udp.
func (p Port) String() string {
	if p.Protocol == spec.UDP {
		return strconv.Itoa(int(p.Number)) + "/udp"
	}
	return strconv.Itoa(int(p.Number))
}

// Compare orders ports by number, then by protocol.
func (p Port) Compare(other Port) int {
	return cmp.Or(cmp.Compare(p.Number, other.Number), cmp.Compare(p.Protocol, other.Protocol))
}

// Linked is a container that another one was linked to with --link.
type Linked struct {
	Name string // of the container, without a slash
	ID   string // 64 digits; "" where the engine does not know the container
	// Aliases are the names that resolve in the linking container, sorted.
	Aliases []string
	// Ports are the exposed and the published ones, sorted.
	Ports []Port
}

// Links returns the containers that the container id was linked to, sorted by
// name. The error is a *spec.UserError, unless ctx ended.
func (c *Client) Links(ctx context.Context, id string) ([]Linked, error) {
	own, err := c.inspect(ctx, id)
	if errdefs.IsNotFound(err) {
		return nil, spec.Errorf("mount the socket of the engine that runs this container",
			"the Docker engine at %s does not know this container (%.12s)", c.address, id)
	}
	if err != nil {
		return nil, err
	}
	byID := map[string]*Linked{}
	for _, link := range declaredLinks(own) {
		l, err := c.linked(ctx, link.name)
		if err != nil {
			return nil, err
		}
		key := l.ID
		if key == "" {
			key = l.Name
		}
		if byID[key] == nil {
			byID[key] = &l
		}
		byID[key].Aliases = append(byID[key].Aliases, link.alias)
	}
	list := make([]Linked, 0, len(byID))
	for _, l := range byID {
		slices.Sort(l.Aliases)
		l.Aliases = slices.Compact(l.Aliases)
		list = append(list, *l)
	}
	slices.SortFunc(list, func(a, b Linked) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// linked describes a linked container; one that does not exist now, as
// user-defined networks allow, has no ports.
func (c *Client) linked(ctx context.Context, name string) (Linked, error) {
	r, err := c.inspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return Linked{Name: name}, nil
	}
	if err != nil {
		return Linked{}, err
	}
	return Linked{Name: strings.TrimPrefix(r.Name, "/"), ID: r.ID, Ports: ports(r)}, nil
}

func (c *Client) inspect(ctx context.Context, id string) (container.InspectResponse, error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := c.api.ContainerInspect(limited, id, client.ContainerInspectOptions{})
	if err == nil || errdefs.IsNotFound(err) || ctx.Err() != nil {
		return r.Container, err
	}
	return r.Container, c.explain(ctx, err)
}

// declaredLink is one --link, as inspect shows it.
type declaredLink struct{ name, alias string }

// declaredLinks returns the links of a container: on the default bridge they
// are in its host configuration ("/server:/own-name/alias"), on a user-defined
// network in its settings for that network ("server:alias").
func declaredLinks(r container.InspectResponse) []declaredLink {
	var texts []string
	if r.HostConfig != nil {
		texts = append(texts, r.HostConfig.Links...)
	}
	if r.NetworkSettings != nil {
		for _, n := range r.NetworkSettings.Networks {
			if n != nil {
				texts = append(texts, n.Links...)
			}
		}
	}
	var links []declaredLink
	for _, text := range texts {
		name, alias, found := strings.Cut(text, ":")
		if !found {
			alias = name
		}
		links = append(links, declaredLink{
			name:  strings.TrimPrefix(name, "/"),
			alias: alias[strings.LastIndexByte(alias, '/')+1:],
		})
	}
	return links
}

// ports returns what a container exposes and publishes. A stopped one has its
// exposed ports only in its configuration, a running one has all of them in
// its network settings.
func ports(r container.InspectResponse) []Port {
	var all []Port
	if r.Config != nil {
		for p := range r.Config.ExposedPorts {
			all = append(all, portOf(p)...)
		}
	}
	if r.NetworkSettings != nil {
		for p := range r.NetworkSettings.Ports {
			all = append(all, portOf(p)...)
		}
	}
	slices.SortFunc(all, Port.Compare)
	return slices.Compact(all)
}

// portOf gives no port for SCTP, which links do not carry.
func portOf(p network.Port) []Port {
	switch p.Proto() {
	case network.TCP:
		return []Port{{spec.TCP, p.Num()}}
	case network.UDP:
		return []Port{{spec.UDP, p.Num()}}
	}
	return nil
}
