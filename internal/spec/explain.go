package spec

import (
	"net/netip"
	"time"
)

// Explanation is why a caller's connection to a link goes where it goes: what
// the verb why shows.
type Explanation struct {
	Link   string `json:"link"`
	Listen string `json:"listen"`
	Caller string `json:"caller"`
	// Rule says which link has the caller and by whose wish, in words.
	Rule     string    `json:"rule"`
	Target   string    `json:"target"`             // in force now, overrides included
	Override *Override `json:"override,omitempty"` // of its target
	Mode     *Override `json:"mode,omitempty"`     // that it is paused or drained
	State    LinkState `json:"state"`
	// Sources tell, for each target, what its source last said.
	Sources []SourceStatus `json:"sources"`
	// Endpoints stand in the order in which this caller's next connection
	// would try them; those that it would not try come last.
	Endpoints []EndpointStatus `json:"endpoints"`
	Chosen    string           `json:"chosen"`             // the address that would be tried first; "": none
	Verdict   string           `json:"verdict"`            // what the next connection meets, in a sentence
	Notes     []string         `json:"notes,omitempty"`    // what looks wrong, such as a server that rejects the PROXY header
	Attempts  []AttemptStatus  `json:"attempts,omitempty"` // of --connect, in order
}

// Refuse says that the link does not listen, why, and what to do about it; "":
// that is not known.
func (x *Explanation) Refuse(why, hint string) {
	x.State, x.Verdict = StateError, "refused: the link does not listen: "+why
	if hint != "" {
		x.Notes = append(x.Notes, hint)
	}
}

// SourceStatus is what the source of one target last said.
type SourceStatus struct {
	Target    string     `json:"target"`
	Source    string     `json:"source"`
	Detail    string     `json:"detail,omitempty"` // what people want to know beside it, such as which records
	Endpoints int        `json:"endpoints"`
	Learned   *time.Time `json:"learned,omitempty"`  // when the endpoints became these; nil: it has not answered yet
	Answered  *time.Time `json:"answered,omitempty"` // the last good answer; nil: none yet, or as written
	TTL       float64    `json:"ttl,omitempty"`      // seconds for which it vouches for that; 0: until it says something else
	Error     string     `json:"error,omitempty"`
	Hint      string     `json:"hint,omitempty"`   // what to do about that
	Failed    *time.Time `json:"failed,omitempty"` // since when it fails so
	Held      bool       `json:"held,omitempty"`   // the endpoints are those from before it failed
	Weak      int        `json:"weak,omitempty"`   // endpoints that it no longer names, without proof
	Until     *time.Time `json:"until,omitempty"`  // when the first of these is given up
}

// AttemptStatus is one attempt at an endpoint.
type AttemptStatus struct {
	Address   string  `json:"address"`
	Connected bool    `json:"connected"`
	Error     string  `json:"error,omitempty"`
	Millis    float64 `json:"ms"`
}

// ConnectionStatus is one live connection.
type ConnectionStatus struct {
	Link     string     `json:"link"`
	Caller   string     `json:"caller"`
	Endpoint string     `json:"endpoint,omitempty"` // "": none yet
	Since    time.Time  `json:"since"`              // connected, or accepted
	BytesIn  uint64     `json:"bytesIn"`
	BytesOut uint64     `json:"bytesOut"`
	Held     *time.Time `json:"held,omitempty"` // it waits, since then
}

// Health is the condition of an endpoint in one word, as a link sees it.
type Health string

// The conditions of an endpoint.
const (
	HealthUnknown   Health = "not tried"
	HealthOK        Health = "ok"           // the last attempt or check succeeded
	HealthClosing   Health = "closes early" // it can be reached, but closed the last connection at once
	HealthUnhealthy Health = "unhealthy"    // checks say so
	HealthStandby   Health = "standby"      // it is well, in another role than the one that is asked for
	HealthEjected   Health = "ejected"      // attempts failed, or it closed early; tried last
	HealthDrained   Health = "drained"      // by an operator: no new connections
	HealthWeak      Health = "weak"         // its source doubts that it is there
	HealthDenied    Health = "denied"       // its policy, or ours, forbids it to the link's callers
	HealthFormer    Health = "former"       // no longer the link's, but connections go on there
)

// UnixCaller is how callers on a unix socket are named.
const UnixCaller = "unix"

// String names the caller: its container, else its address without the port.
func (c Caller) String() string {
	if c.Container != nil {
		return c.Container.String()
	}
	if !c.Addr.IsValid() {
		return UnixCaller
	}
	return c.Addr.Addr().Unmap().String()
}

// CallerAt is the caller with that address, whatever its port.
func CallerAt(a netip.Addr) Caller { return Caller{Addr: netip.AddrPortFrom(a, 0)} }
