package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

const (
	stateFile    = "overrides.json"
	stateVersion = 2
)

// state keeps the overrides of one instance, and in a file when it has a
// directory. Its owner serialises the calls.
type state struct {
	overrides overrides // never edited, but replaced
	path      string    // "": in memory only
	lock      *os.File  // held while the directory is ours
	// damaged is why the file of the last run was not used; it is kept beside
	// the new one.
	damaged error
}

// stateJSON is the file. A version that is not ours is not guessed at.
type stateJSON struct {
	Version   int       `json:"version"`
	Overrides overrides `json:"overrides"`
}

// openState reads the overrides of the last run. A damaged file is reported in
// the state and not an error: forwarding is worth more than what it held.
func openState(dir string) (*state, error) {
	s := &state{overrides: noOverrides()}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, stateDirError(err)
	}
	s.path = filepath.Join(dir, stateFile)
	if err := s.take(dir); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(s.path)
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		s.close()
		return nil, stateDirError(err)
	}
	err = s.decode(text)
	if _, ok := errors.AsType[*spec.UserError](err); ok {
		s.close()
		return nil, err
	}
	if s.damaged = err; err != nil {
		return s, s.setAside()
	}
	return s, nil
}

func stateDirError(err error) error {
	return spec.Errorf("give --state-dir a directory that this user can write, or leave it out", "open state: %v", err)
}

// take makes sure that no other instance writes the same file.
func (s *state) take(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, stateFile+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return stateDirError(err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		s.lock = f
		return nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return spec.Errorf("give each instance a --state-dir of its own", "state directory %s is in use by another legate", dir)
	}
	return fmt.Errorf("lock state directory %s: %w", dir, err)
}

// decode reads the file. One of a newer legate is an error for the user: it is
// in order, and after the way back to that legate its swaps shall hold.
func (s *state) decode(text []byte) error {
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("read state file %s: %w", s.path, err)
	}
	if v.Version > stateVersion {
		return spec.Errorf("start the legate that wrote it, or give this one another --state-dir",
			"state file %s is of version %d, and this legate reads %d", s.path, v.Version, stateVersion)
	}
	var f stateJSON
	if err := json.Unmarshal(text, &f); err != nil {
		return fmt.Errorf("read state file %s: %w", s.path, err)
	}
	if f.Version != stateVersion {
		return fmt.Errorf("read state file %s: version %d, this legate reads %d", s.path, f.Version, stateVersion)
	}
	if err := f.Overrides.check(); err != nil {
		return fmt.Errorf("read state file %s: %w", s.path, err)
	}
	s.overrides = f.Overrides.clone()
	return nil
}

// setAside renames the damaged file, so that neither the next swap nor the next
// damaged file replaces what somebody may want to mend by hand.
func (s *state) setAside() error {
	aside := s.path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000000Z")
	if err := os.Rename(s.path, aside); err != nil {
		s.close()
		return stateDirError(err)
	}
	s.damaged = fmt.Errorf("%w; it was renamed to %s, and every link goes where it is configured to", s.damaged, filepath.Base(aside))
	return nil
}

// edit changes the overrides. When it fails, nothing has changed.
func (s *state) edit(change func(o overrides)) error {
	next := s.overrides.clone()
	change(next)
	if s.path != "" {
		if err := s.write(next); err != nil {
			return spec.Errorf("make room or mend the directory; nothing was changed", "save override: %v", err)
		}
	}
	s.overrides = next
	return nil
}

// write replaces the file in one step: a crash leaves the old or the new one.
func (s *state) write(next overrides) error {
	text, err := json.MarshalIndent(stateJSON{stateVersion, next}, "", "  ")
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), stateFile+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), s.path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(s.path))
}

// syncDir makes the rename itself last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (s *state) close() {
	if s.lock != nil {
		s.lock.Close()
	}
}
