package docker

import (
	"context"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/network"

	"legate/internal/spec"
)

// DefaultNamespaces is where the engine keeps the network namespaces of its
// containers, unless it was given another --exec-root. Its API does not tell.
const DefaultNamespaces = "/var/run/docker/netns"

// PID returns the process of a container that runs, as this host numbers it; 0:
// it does not run. The engine does not answer while it starts that container.
// The error is a *spec.UserError, unless ctx ended or there is no such
// container.
func (c *Client) PID(ctx context.Context, id string) (int, error) {
	r, err := c.inspect(ctx, id)
	if err != nil || r.State == nil {
		return 0, err
	}
	return r.State.Pid, nil
}

// Variables returns a container's environment, as NAME=VALUE. The engine does
// not answer while it starts that container. The error is a *spec.UserError,
// unless ctx ended or there is no such container.
func (c *Client) Variables(ctx context.Context, id string) ([]string, error) {
	r, err := c.inspect(ctx, id)
	if err != nil || r.Config == nil {
		return nil, err
	}
	return r.Config.Env, nil
}

// Exposed returns the ports that a container's configuration exposes, sorted,
// also while it does not run: those of its image, and what was exposed or
// published when it was made. The engine does not answer while it starts that
// container. The error is a *spec.UserError, unless ctx ended or there is no
// such container.
func (c *Client) Exposed(ctx context.Context, id string) ([]Port, error) {
	r, err := c.inspect(ctx, id)
	if err != nil || r.Config == nil {
		return nil, err
	}
	r.NetworkSettings = nil
	return ports(r), nil
}

// Image is what every container of an image has, without anybody who started
// it having said so.
type Image struct {
	Labels    map[string]string
	Ports     []Port   // that it exposes, sorted
	Variables []string // NAME=VALUE
}

// Image reads an image by its id. The error is a *spec.UserError, unless ctx
// ended.
func (c *Client) Image(ctx context.Context, id string) (Image, error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := c.api.ImageInspect(limited, id)
	if errdefs.IsNotFound(err) {
		return Image{}, errNoImage(id)
	}
	if err != nil {
		return Image{}, c.explain(ctx, err)
	}
	if r.Config == nil {
		return Image{}, nil
	}
	i := Image{Labels: r.Config.Labels, Variables: r.Config.Env}
	for text := range r.Config.ExposedPorts {
		if p, err := network.ParsePort(text); err == nil {
			i.Ports = append(i.Ports, portOf(p)...)
		}
	}
	slices.SortFunc(i.Ports, Port.Compare)
	return i, nil
}

// errNoImage is of an image that was removed by force.
func errNoImage(id string) error {
	return spec.Errorf("make its containers anew", "the engine has no image %.19s", id)
}

// MayAskImages tells why the engine, or a proxy before it, does not tell of
// images; nil: it does. The error is a *spec.UserError, unless ctx ended.
func (c *Client) MayAskImages(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	const none = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	if _, err := c.api.ImageInspect(limited, none); err != nil && !errdefs.IsNotFound(err) {
		return c.explain(ctx, err)
	}
	return nil
}
