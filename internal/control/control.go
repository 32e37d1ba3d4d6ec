// Package control is how commands talk to a running instance: HTTP and JSON
// over a unix socket that only its owner can open. The types, the handler and
// the client stand side by side, so that they cannot drift apart.
//
//	GET  /v1/snapshot   what the instance reports about itself
//	GET  /v1/why        where a caller's connection would go, and why
//	POST /v1/swap       point a link elsewhere, or back
//	POST /v1/pause      let new connections of a link wait
//	POST /v1/drain      let a link or an endpoint have no new connections
//	POST /v1/resume     end a pause or a drain
//	POST /v1/ready      wait until the links of a container are open
//
// docs/api.md describes them.
//
// The path carries the version: a change that an older client would
// misunderstand gets a new one.
package control

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"legate/internal/spec"
)

const (
	pathSnapshot = "/v1/snapshot"
	pathWhy      = "/v1/why"
	pathSwap     = "/v1/swap"
	pathPause    = "/v1/pause"
	pathDrain    = "/v1/drain"
	pathResume   = "/v1/resume"
	pathReady    = "/v1/ready"
)

// Instance is what a socket gives access to. Its errors reach the client as
// they are; a [spec.UserError] keeps its hint.
type Instance interface {
	Snapshot() spec.Snapshot
	Why(ctx context.Context, r WhyRequest) (spec.Explanation, error)
	// Swap returns when live connections are as asked, or when ctx ends.
	Swap(ctx context.Context, r SwapRequest) (SwapReply, error)
	Pause(ctx context.Context, r PauseRequest) (OverrideReply, error)
	// Drain returns when it has waited as asked, or when ctx ends; the drain
	// holds in any case.
	Drain(ctx context.Context, r DrainRequest) (OverrideReply, error)
	Resume(ctx context.Context, r ResumeRequest) (OverrideReply, error)
	// Ready returns when the links of a container that is about to start are
	// open, as far as they can be, or when ctx ends.
	Ready(ctx context.Context, r ReadyRequest) (ReadyReply, error)
}

// Live says what becomes of the connections that a swap finds.
type Live string

// What a swap does with live connections. The zero value of a request is
// LiveKeep.
const (
	LiveKeep  Live = "keep"  // they stay where they are
	LiveDrain Live = "drain" // they may end within a time, then they are cut
	LiveCut   Live = "cut"   // they are cut at once
)

// SwapRequest asks for another target of one link.
type SwapRequest struct {
	Link   string   `json:"link"`             // by name, or as it listens
	Target string   `json:"target,omitempty"` // as typed; empty with Undo
	Undo   bool     `json:"undo,omitempty"`   // back to the link's own target
	Live   Live     `json:"live,omitempty"`
	Within Duration `json:"within,omitempty"` // of LiveDrain
	// The target is asked first, and the link goes there only when one of its
	// endpoints is healthy within Timeout (0: 10 s). Force does not ask. There
	// is nothing to ask where the link carries UDP.
	Force   bool     `json:"force,omitempty"`
	Timeout Duration `json:"timeout,omitempty"`
}

// SwapReply tells what holds after a swap.
type SwapReply struct {
	Link     string         `json:"link"`
	Target   string         `json:"target"`             // in force now
	Former   string         `json:"former"`             // in force before
	Override *spec.Override `json:"override,omitempty"` // nil: as configured
	// Forgotten is an override that no longer held, of a link that was
	// configured anew, and is gone now.
	Forgotten *spec.Override `json:"forgotten,omitempty"`
	UDP       bool           `json:"udp,omitempty"` // its sessions move with their next datagram, whatever Live says
	// Ended and Cut count the former connections that ended by themselves while
	// the swap waited for them, and those that it cut; both 0 with LiveKeep.
	Ended int `json:"ended,omitempty"`
	Cut   int `json:"cut,omitempty"`
	// Warnings say what does not answer at the target of a forced swap. The
	// swap holds all the same: a server may come up later.
	Warnings []string `json:"warnings,omitempty"`
	// Kept is the state file that will bring the override back after a
	// restart; empty when it ends with the process.
	Kept string `json:"kept,omitempty"`
}

// NoLink is the error for a name that none of the links has. It suggests the
// one that was meant, or lists the first few.
func NoLink(name string, links []string) error {
	hint := "see why there are no links: legate status"
	if near := nearest(name, links); near != "" {
		hint = "did you mean " + near + "?"
	} else if len(links) > 0 {
		hint = "links: " + someOf(links)
	}
	return spec.Errorf(hint, "no link is named %s", name)
}

// NoLinkOrEndpoint is the error for a name that is neither. It suggests the one
// that was meant, or lists the first few of both.
func NoLinkOrEndpoint(name string, links, endpoints []string) error {
	hint := "see what there is: legate status --endpoints"
	if near := nearest(name, slices.Concat(links, endpoints)); near != "" {
		hint = "did you mean " + near + "?"
	} else if len(links) > 0 {
		hint = "links: " + someOf(links)
		if len(endpoints) > 0 {
			hint += "; endpoints: " + someOf(endpoints)
		}
	}
	return spec.Errorf(hint, "no link is named %[1]s, and no link has an endpoint %[1]s", name)
}

// nearest is the one that was most likely meant; "": none. Who types a port
// knows that: letters count only where nobody has it.
func nearest(name string, among []string) string {
	for _, candidate := range among {
		if port := portOf(name); port != "" && portOf(candidate) == port {
			return candidate
		}
	}
	return spec.Suggest(name, among)
}

// portOf is the port of what is written as LISTEN, or an endpoint; "": none.
func portOf(name string) string {
	name, _, _ = strings.Cut(name, "/")
	port := name[strings.LastIndexByte(name, ':')+1:]
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return ""
	}
	return port
}

func someOf(names []string) string {
	if len(names) > 10 {
		return fmt.Sprintf("%s and %d more (see legate status)", strings.Join(names[:10], ", "), len(names)-10)
	}
	return strings.Join(names, ", ")
}

// Duration is a time.Duration that JSON shows as people write it, "30s".
type Duration time.Duration

// MarshalText writes the duration as time.Duration does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("read duration %q: %w", text, err)
	}
	*d = Duration(v)
	return nil
}

// failure is the body of every answer that is not a success.
type failure struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}
