//go:build !linux

package intercept

import (
	"context"
	"errors"

	"legate/internal/pump"
	"legate/internal/spec"
)

// Namespace needs Linux.
type Namespace struct{}

// Open fails with errors.ErrUnsupported.
func Open(string) (*Namespace, error) { return nil, errors.ErrUnsupported }

// ID is empty.
func (*Namespace) ID() string { return "" }

// Close does nothing.
func (*Namespace) Close() error { return nil }

// Do fails with errors.ErrUnsupported.
func (*Namespace) Do(func() error) error { return errors.ErrUnsupported }

// Socket fails with errors.ErrUnsupported.
func (*Namespace) Socket(int, int) (int, error) { return -1, errors.ErrUnsupported }

// MayEnter is false.
func MayEnter() bool { return false }

// Bind fails with errors.ErrUnsupported.
func Bind(*Namespace, spec.Link, func(spec.Link) ([]pump.Listener, error)) ([]pump.Listener, error) {
	return nil, errors.ErrUnsupported
}

// Of fails with errors.ErrUnsupported.
func Of(int) (Found, error) { return Found{}, errors.ErrUnsupported }

// Watch fails with errors.ErrUnsupported.
func Watch(context.Context, WatchConfig) error { return errors.ErrUnsupported }

// Life needs Linux.
type Life struct{}

// NewLife fails with errors.ErrUnsupported.
func NewLife() (*Life, error) { return nil, errors.ErrUnsupported }

// Watch fails with errors.ErrUnsupported.
func (*Life) Watch(int, *Namespace, func()) (func(), error) { return nil, errors.ErrUnsupported }

// Close does nothing.
func (*Life) Close() error { return nil }

// Set fails with errors.ErrUnsupported.
func (Redirect) Set() error { return errors.ErrUnsupported }

// Remove fails with errors.ErrUnsupported.
func (Redirect) Remove() error { return errors.ErrUnsupported }
