package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// network is the wire: a namespace with a bridge, and one namespace per host plugged into it.
type network struct{ prefix string }

func (n network) space(name string) string { return n.prefix + name }

// path is what nsenter and setns open.
func (n network) path(name string) string { return "/run/netns/" + n.space(name) }

func (n network) up(ctx context.Context, hosts []*Host) error {
	wire := n.space("net")
	steps := []string{
		"ip netns add " + wire,
		"ip -n " + wire + " link add br0 type bridge",
		"ip -n " + wire + " link set br0 up",
	}
	for _, h := range hosts {
		steps = append(steps, n.plugIn(wire, h)...)
	}
	for _, step := range steps {
		if _, err := run(ctx, strings.Fields(step)...); err != nil {
			return fmt.Errorf("lay network: %w", err)
		}
	}
	return nil
}

func (n network) plugIn(wire string, h *Host) []string {
	space := n.space(h.Name)
	return []string{
		"ip netns add " + space,
		"ip link add eth0 netns " + space + " type veth peer name p-" + h.Name + " netns " + wire,
		"ip -n " + wire + " link set p-" + h.Name + " master br0 up",
		"ip -n " + space + " addr add " + h.IP + "/24 dev eth0",
		"ip -n " + space + " link set eth0 up",
		"ip -n " + space + " link set lo up",
	}
}

// plug sets the bridge's end of a host's cable up or down: the host keeps its address and routes, so
// that packets vanish and no connect fails at once.
func (n network) plug(ctx context.Context, state, host string) error {
	if _, err := run(ctx, "ip", "-n", n.space("net"), "link", "set", "p-"+host, state); err != nil {
		return fmt.Errorf("set cable of host %s %s: %w", host, state, err)
	}
	return nil
}

func (n network) down(ctx context.Context) error {
	spaces, err := filepath.Glob("/run/netns/" + n.prefix + "*")
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, space := range spaces {
		if _, err := run(ctx, "ip", "netns", "del", filepath.Base(space)); err != nil {
			return fmt.Errorf("delete namespace: %w", err)
		}
	}
	return nil
}
