package daemon

import (
	"context"

	"legate/internal/spec"
)

// Origin says which links are wanted: the complete list soon after the start
// and after every change, until ctx ends. What is wrong with a single link is
// a warning; an error ends the watch, and the links that were set stay.
type Origin interface {
	Watch(ctx context.Context, set func(links []spec.Link, warnings []string)) error
}

// Static is an origin that never changes: what the environment holds.
type Static struct {
	Links    []spec.Link
	Warnings []string
}

// Watch sets the links once. It implements Origin.
func (s Static) Watch(ctx context.Context, set func([]spec.Link, []string)) error {
	set(s.Links, s.Warnings)
	<-ctx.Done()
	return nil
}
