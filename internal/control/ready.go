package control

import (
	"errors"
	"fmt"
	"strings"
)

// ReadyRequest tells of a container that starts when it is answered.
type ReadyRequest struct {
	Container string `json:"container"` // its id, 64 hexadecimal digits
	// PID is its first process, as the host of the agent numbers it; 0: not
	// known, and then the agent must find it by itself.
	PID int `json:"pid,omitempty"`
}

// ReadyReply tells what the container finds.
type ReadyReply struct {
	Links bool `json:"links"` // it asks for links; all are open or in error
}

func (r *ReadyRequest) check() error {
	isHex := func(c rune) bool { return strings.ContainsRune("0123456789abcdef", c) }
	switch {
	case len(r.Container) != 64 || strings.TrimFunc(r.Container, isHex) != "":
		return fmt.Errorf("ready: container is %q: must be an id of 64 digits", r.Container)
	case r.PID < 0:
		return errors.New("ready: pid must not be negative")
	}
	return nil
}
