package docker

import "context"

// PID returns the process of a container that runs, as this host numbers it; 0:
// it does not run. The engine does not answer while it starts that container.
// The error is a *spec.UserError, unless ctx ended.
func (c *Client) PID(ctx context.Context, id string) (int, error) {
	r, err := c.inspect(ctx, id)
	if err != nil || r.State == nil {
		return 0, err
	}
	return r.State.Pid, nil
}

// ImageLabels returns the labels of an image, by its id: those that a
// container has without anybody who started it having said so. The error is a
// *spec.UserError, unless ctx ended.
func (c *Client) ImageLabels(ctx context.Context, image string) (map[string]string, error) {
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := c.api.ImageInspect(limited, image)
	if err != nil {
		return nil, c.explain(ctx, err)
	}
	if r.Config == nil {
		return nil, nil
	}
	return r.Config.Labels, nil
}

// DefaultNamespaces is where the engine keeps the network namespaces of its
// containers, unless it was given another --exec-root. Its API does not tell.
const DefaultNamespaces = "/var/run/docker/netns"
