package spec

import "time"

// Snapshot is everything one instance reports about itself: the one value
// behind status, its JSON and every later view.
type Snapshot struct {
	Instance string       `json:"instance"` // name of the control socket without .sock
	Version  string       `json:"version"`
	PID      int          `json:"pid"`
	Started  time.Time    `json:"started"`
	Links    []LinkStatus `json:"links"`
	Warnings []string     `json:"warnings,omitempty"` // of links and variables that were not used
	Agent    *AgentStatus `json:"agent,omitempty"`    // of an agent
}

// AgentStatus reports how an agent comes to open links in containers.
type AgentStatus struct {
	Namespaces string `json:"namespaces"` // the directory that it watches
	// Late says why links are opened only after their container has started;
	// "": they are open before its first instruction.
	Late string `json:"late,omitempty"`
	// LateHint is the next thing to do about that.
	LateHint string `json:"lateHint,omitempty"`
	// Runtime counts the starts that legate runc held until links were open.
	Runtime int64 `json:"runtime"`
}

// Place is where an agent opened a link: what it did to a container.
type Place struct {
	Container string     `json:"container"` // its id
	Name      string     `json:"name"`
	Namespace string     `json:"namespace"`        // as in /proc/PID/ns/net
	Labels    string     `json:"labels"`           // that ask for it, without passwords
	Opened    *time.Time `json:"opened,omitempty"` // nil: it has no sockets now
}

// LinkState is the condition of a link in one word.
type LinkState string

// The states of a link. Degraded: some endpoints fail and others serve.
const (
	StateUp       LinkState = "up"
	StateDegraded LinkState = "degraded"
	StateDown     LinkState = "down"
	StateHolding  LinkState = "holding" // down, and connections wait
	StatePaused   LinkState = "paused"  // by an operator; connections wait
	StateDrained  LinkState = "drained" // by an operator; it does not listen
	StateError    LinkState = "error"   // not listening; see Error
)

// LinkStatus reports one link.
type LinkStatus struct {
	Name      string           `json:"name"`
	Listen    string           `json:"listen"`
	Target    string           `json:"target"` // in force now, overrides included
	Origin    Origin           `json:"origin"`
	Limit     int              `json:"limit,omitempty"` // of connections at once; 0: none
	State     LinkState        `json:"state"`
	Since     *time.Time       `json:"since,omitempty"` // when it went down
	Full      bool             `json:"full,omitempty"`  // connections wait, since every endpoint has as many as it may
	Sources   []SourceStatus   `json:"sources,omitempty"`
	Error     string           `json:"error,omitempty"`    // why the link is in error or its source has no answer
	Hint      string           `json:"hint,omitempty"`     // with State error: what to do about it; "": not known
	Learned   *time.Time       `json:"learned,omitempty"`  // with a source's Error: when its endpoints were learned
	Override  *Override        `json:"override,omitempty"` // of its target
	Mode      *Override        `json:"mode,omitempty"`     // that it is paused or drained
	Place     *Place           `json:"place,omitempty"`    // in a container; nil: where legate runs
	Counters  LinkCounters     `json:"counters"`
	Endpoints []EndpointStatus `json:"endpoints"`
}

// LinkCounters count since the link was opened. A connection on a UDP link is
// a session.
type LinkCounters struct {
	Current     int64            `json:"current"` // accepted and not yet ended, held ones included
	Total       int64            `json:"total"`
	Held        int64            `json:"held"`      // waiting now, for whatever reason
	HeldTotal   int64            `json:"heldTotal"` // that ever waited
	Abandoned   int64            `json:"abandoned"` // clients that left while they waited
	Failed      map[string]int64 `json:"failed"`    // connections that reached no endpoint, or one that closed them at once, by reason: refused ones included
	BytesIn     uint64           `json:"bytesIn"`   // from clients to endpoints
	BytesOut    uint64           `json:"bytesOut"`  // from endpoints to clients
	DroppedUDP  int64            `json:"droppedUDP"`
	MovedUDP    int64            `json:"movedUDP"` // sessions that changed their endpoint
	EarlyClosed int64            `json:"earlyClosed"`
}

// EndpointStatus reports one endpoint as one link sees it.
type EndpointStatus struct {
	Address   string           `json:"address"`
	Health    Health           `json:"health"`
	Since     *time.Time       `json:"since,omitempty"` // when its health became that
	Check     string           `json:"check,omitempty"` // what its health is asked with, in words
	CheckedAt *time.Time       `json:"checkedAt,omitempty"`
	Ejected   *time.Time       `json:"ejectedUntil,omitempty"` // when it is tried like others again
	Drained   *Override        `json:"drained,omitempty"`
	Weight    uint16           `json:"weight"`
	Priority  uint16           `json:"priority,omitempty"`
	Host      string           `json:"host,omitempty"`
	Container string           `json:"container,omitempty"`
	Near      bool             `json:"near,omitempty"`
	Load      int64            `json:"load"`                // connections of all links
	ConnectMS float64          `json:"connectMs,omitempty"` // moving average of the time to connect; 0: not known
	From      string           `json:"from"`                // the target that it came from
	LastError string           `json:"lastError"`           // of the last failed attempt
	LastTried *time.Time       `json:"lastTried,omitempty"` // when that was
	Current   int64            `json:"current"`
	Total     int64            `json:"total"`
	Failed    map[string]int64 `json:"failed"` // attempts, by reason
	BytesIn   uint64           `json:"bytesIn"`
	BytesOut  uint64           `json:"bytesOut"`
}

// Override is what an operator asked of a link or an endpoint beside its
// configuration: it stands beside the link, never in it.
type Override struct {
	Kind   OverrideKind `json:"kind"`
	Target string       `json:"target,omitempty"` // of a swap, as typed
	Base   string       `json:"base,omitempty"`   // the link's own text when it was overridden; "" for endpoints
	When   time.Time    `json:"when"`
}

// OverrideKind is the verb that made an override.
type OverrideKind string

// The kinds of overrides.
const (
	OverrideSwap  OverrideKind = "swap"
	OverridePause OverrideKind = "pause"
	OverrideDrain OverrideKind = "drain"
)
