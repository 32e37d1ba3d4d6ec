package daemon

import (
	"context"

	"legate/internal/spec"
)

// Origin says which links are wanted: the complete list soon after the start
// and after every change, until ctx ends. What is wrong with a single link does
// not touch the others; an error ends the watch, and the links that were set
// stay.
type Origin interface {
	Watch(ctx context.Context, set func(spec.Wish)) error
}

// Static is an origin that never changes: what the environment holds.
type Static struct {
	Links    []spec.Link
	Warnings []string
}

// Watch sets the links once. It implements Origin.
func (s Static) Watch(ctx context.Context, set func(spec.Wish)) error {
	set(spec.Wish{Links: s.Links, Warnings: s.Warnings})
	<-ctx.Done()
	return nil
}
