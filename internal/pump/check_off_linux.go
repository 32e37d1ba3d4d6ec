//go:build !pumpcheck

package pump

// verify is on with the build tag pumpcheck.
func (l *loop) verify() {}
