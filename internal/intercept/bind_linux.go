package intercept

import (
	"errors"
	"syscall"

	"legate/internal/pump"
	"legate/internal/spec"
)

// Bind makes a link's listening sockets inside a namespace, with what makes
// them anywhere: forward.Bind. The caller owns them. An address that somebody
// in the namespace has taken is a *spec.UserError.
//
// They keep the namespace alive, and nothing tells them when its container has
// ended: that is what Life is for.
func Bind(ns *Namespace, l spec.Link, bind func(spec.Link) ([]pump.Listener, error)) ([]pump.Listener, error) {
	var ls []pump.Listener
	err := ns.Do(func() (err error) {
		ls, err = bind(l)
		return err
	})
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, spec.Errorf("write another port in the label, or take the label away and use what the container serves itself",
			"something in the container already listens on %s", l.Listen)
	case errors.Is(err, syscall.EACCES):
		return nil, spec.Errorf("run Legate with the capability NET_BIND_SERVICE, or write a port above 1023 in the label", "%v", err)
	}
	return ls, err
}
