//go:build !linux

package systemd

import "context"

// Manager is nobody: systemd runs on Linux.
type Manager struct{}

// New reads the variables, and finds no manager.
func New(cfg Config) (*Manager, error) {
	_, err := read(cfg.Environ, cfg.PID)
	return nil, err
}

// Close does nothing.
func (m *Manager) Close() error { return nil }

// Ready does nothing.
func (m *Manager) Ready(string) {}

// Stopping does nothing.
func (m *Manager) Stopping(string) {}

// Watch returns at once.
func (m *Manager) Watch(context.Context, func()) {}

// Take finds nothing.
func (m *Manager) Take(Socket) (fd int, ok bool) { return -1, false }

// DropRest does nothing.
func (m *Manager) DropRest() {}

// Store keeps nothing.
func (m *Manager) Store(int) (name string) { return "" }

// Remove does nothing.
func (m *Manager) Remove(bool, ...string) {}
