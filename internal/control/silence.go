package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptrace"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

// patience is how long an instance may take to begin with a request; one that
// is well takes a few milliseconds. A process that is stopped still holds its
// socket, and the kernel connects to that.
const patience = 5 * time.Second

var errSilent = errors.New("no answer")

// hearing knows of one request who got it, and whether it was taken up.
type hearing struct {
	cancel context.CancelCauseFunc
	limit  *time.Timer // nil: the caller has a limit of its own
	holder atomic.Int64
	taken  atomic.Bool
}

// listen gives a request its limit. A verb may take its time once it is taken
// up: the server asks for the body then, and that is the first that we hear. Of
// one without a body that lasts nothing is heard before.
func (c *Client) listen(ctx context.Context, lasts bool) (context.Context, *hearing) {
	ctx, cancel := context.WithCancelCause(ctx)
	h := &hearing{cancel: cancel}
	if _, limited := ctx.Deadline(); !limited && !lasts {
		h.limit = time.AfterFunc(c.patience, func() { cancel(errSilent) })
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn:              func(i httptrace.GotConnInfo) { h.holder.Store(int64(peerPID(i.Conn))) },
		GotFirstResponseByte: h.heard,
	}), h
}

func (h *hearing) heard() {
	h.taken.Store(true)
	if h.limit != nil {
		h.limit.Stop()
	}
}

func (h *hearing) end() {
	h.heard()
	h.cancel(nil)
}

// silence says of a request that was not taken up who has it; nil of others.
func (c *Client) silence(ctx context.Context, h *hearing, changes bool) error {
	what, hint := "what holds "+c.Address, "see what that is: sudo ss -xlp src "+c.Address
	if pid := h.holder.Load(); pid != 0 {
		what = fmt.Sprintf("pid %d holds %s and", pid, c.Address)
		hint = fmt.Sprintf("see what it does: ps -o pid,stat,args -p %[1]d; a stopped one (T) goes on with: kill -CONT %[1]d", pid)
	}
	switch {
	case h.taken.Load():
		return nil
	case errors.Is(context.Cause(ctx), errSilent) && changes:
		return spec.Errorf(hint, "%s does not answer; nothing changed", what)
	case errors.Is(context.Cause(ctx), errSilent):
		return spec.Errorf(hint, "%s does not answer", what)
	case errors.Is(ctx.Err(), context.Canceled) && changes:
		return spec.Errorf(hint, "stopped waiting; %s did not take the request, and nothing changed", what)
	}
	return nil
}

// connection is the key of a request's own connection.
type connection struct{}

func withConnection(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connection{}, c)
}

// left tells whether the client of a request has gone. What it asked of a
// process that was stopped must not come to pass when that goes on. One that
// only ended its own sending, as nc -N does, still waits: POLLHUP needs both.
func left(ctx context.Context) bool {
	c, ok := ctx.Value(connection{}).(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		_, err := unix.Poll(p, 0)
		gone = err == nil && p[0].Revents&unix.POLLHUP != 0
	})
	return gone || err != nil
}
