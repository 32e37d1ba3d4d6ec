package control

import (
	"errors"
	"fmt"

	"legate/internal/spec"
)

// PauseRequest asks a link to let new connections wait until it is resumed.
type PauseRequest struct {
	Link string `json:"link"` // by name, or as it listens
}

// DrainRequest asks a link to stop listening, or an endpoint to get no new
// connections, until it is resumed. Live connections go on.
type DrainRequest struct {
	Name string `json:"name"` // a link as in PauseRequest, or an endpoint's address as a snapshot shows it
	// Wait answers only when the last live connection is gone, or after
	// Timeout; 0 is no limit.
	Wait    bool     `json:"wait,omitempty"`
	Timeout Duration `json:"timeout,omitempty"`
}

// ResumeRequest ends what a pause or a drain asked for.
type ResumeRequest struct {
	Name string `json:"name"` // as in DrainRequest
}

// OverrideReply tells what holds after a pause, a drain or a resume.
type OverrideReply struct {
	// Link or Endpoint is what was meant by the name; the other is empty.
	Link     string         `json:"link,omitempty"`
	Endpoint string         `json:"endpoint,omitempty"`
	Override *spec.Override `json:"override,omitempty"` // in force now; nil after a resume
	Former   *spec.Override `json:"former,omitempty"`   // in force before, of the same link or endpoint
	UDP      bool           `json:"udp,omitempty"`      // a link whose sessions are never held
	Current  int            `json:"current"`            // live connections of the link, or at the endpoint
	Held     int            `json:"held"`               // of those, how many wait; when resumed: waited until now
	// Left are the live connections that were left when a drain had waited long
	// enough, oldest first, and not more than MaxLeft of them.
	Left []spec.ConnectionStatus `json:"left,omitempty"`
	// Notes say what else the name could have meant, and what is not there.
	Notes []string `json:"notes,omitempty"`
	// Kept is the state file that will bring the override back after a
	// restart; empty when it ends with the process.
	Kept string `json:"kept,omitempty"`
}

// MaxLeft is how many connections a drain names; nobody reads more.
const MaxLeft = 100

// WhyRequest asks where a caller's connection would go.
type WhyRequest struct {
	Caller  string `json:"caller"`            // an IP address, perhaps with a port, or "unix"
	Link    string `json:"link"`              // by name, or as it listens
	Connect bool   `json:"connect,omitempty"` // and try it
}

func (r *PauseRequest) check() error { return needs("pause", "link", r.Link) }

func (r *ResumeRequest) check() error { return needs("resume", "name", r.Name) }

func (r *DrainRequest) check() error {
	switch {
	case r.Timeout < 0:
		return errors.New("drain: timeout must not be negative")
	case r.Timeout != 0 && !r.Wait:
		return errors.New("drain: timeout belongs to wait")
	}
	return needs("drain", "name", r.Name)
}

func (r *WhyRequest) check() error {
	return errors.Join(needs("why", "caller", r.Caller), needs("why", "link", r.Link))
}

func needs(verb, field, value string) error {
	if value == "" {
		return fmt.Errorf("%s: %s is missing", verb, field)
	}
	return nil
}
