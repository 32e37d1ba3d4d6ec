package daemon

import (
	"context"

	"legate/internal/control"
	"legate/internal/spec"
)

// Ready waits until the links of a container that is about to start are open.
// It implements control.Instance.
func (d *Daemon) Ready(ctx context.Context, r control.ReadyRequest) (control.ReadyReply, error) {
	if d.agent == nil {
		return control.ReadyReply{}, spec.Errorf("start one, or name its socket: --legate-control PATH", "this legate is no agent")
	}
	links, err := d.agent.Ready(ctx, r.Container, r.PID)
	return control.ReadyReply{Links: links}, err
}
