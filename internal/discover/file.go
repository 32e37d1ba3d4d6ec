package discover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"legate/internal/spec"
)

// filePoll is how often a file is looked at. Inotify would be told nothing
// where people keep such files: of a single file that is mounted into a
// container, or on a network file system.
const filePoll = 250 * time.Millisecond

// fileLimit is far above any list of endpoints, and keeps a wrong path such as
// a disk image from filling the memory.
const fileLimit = 16 << 20

// File is the source of targets that are lists of endpoints in a file:
//
//	[{"address": "10.0.0.5:6379", "weight": 1, "priority": 0, "host": "a"}]
//
// Only address must be there: HOST:PORT, [ADDRESS]:PORT or unix:/PATH. A list of
// strings will do as well. What the file says is believed at once, an
// empty list included; a file that cannot be read says nothing. The zero value
// is ready.
type File struct{}

// Watch implements Source. It never fails: a file is looked at as often while
// something is wrong with it, so that whoever mends it need not wait.
func (File) Watch(ctx context.Context, q Query, set func(Result)) error {
	f := reading{path: q.Target.Path}
	tick := time.NewTicker(filePoll)
	defer tick.Stop()
	for {
		if r, ok := f.look(); ok {
			set(r)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// grain is the coarsest step of modification times among the file systems that
// people have (FAT: 2 s). A file that was written again within one step looks
// unchanged, so that one which is new to us is read at every look for as long.
const grain = 2 * time.Second

// reading is what was read last.
type reading struct {
	path  string
	info  fs.FileInfo // nil: it could not be read
	since time.Time   // when it was first seen like that
}

// look reads the file; false: it is the one that was read before, or somebody
// writes it at this moment.
func (f *reading) look() (Result, bool) {
	now := time.Now()
	info, err := os.Stat(f.path)
	if err != nil {
		f.info = nil
		return Result{Err: unreadable(f.path, err)}, true
	}
	if !info.Mode().IsRegular() { // opening a named pipe would wait for its writer, whatever ctx says
		f.info = nil
		return Result{Err: spec.Errorf("name the file that has the list of endpoints", "read endpoints of %s: it is no regular file", f.path)}, true
	}
	if f.info == nil || !same(f.info, info) {
		f.since = now
	} else if now.Sub(f.since) > grain {
		return Result{}, false
	}
	r := Result{Detail: "modified " + info.ModTime().Format(time.DateTime)}
	var whole bool
	if r.Places, whole, r.Err = readFile(f.path); !whole {
		f.info = nil
		return r, true
	}
	if after, err := os.Stat(f.path); err != nil || !same(info, after) {
		return Result{}, false
	}
	f.info = info
	return r, true
}

// same tells whether a file looks like it did before. A file that was renamed
// over another one may well have its size and time: tools that deploy files set
// the time themselves.
func same(before, now fs.FileInfo) bool {
	return os.SameFile(before, now) && before.ModTime().Equal(now.ModTime()) && before.Size() == now.Size() && before.Mode() == now.Mode()
}

// readFile reads a list; whole is false where the file could not be read to its
// end, which can change without the file.
func readFile(path string) (places []Place, whole bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, unreadable(path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, fileLimit+1))
	switch {
	case err != nil:
		return nil, false, unreadable(path, err)
	case len(text) > fileLimit:
		return nil, true, spec.Errorf("name the file that has the list of endpoints", "read endpoints of %s: it has more than %d MiB", path, fileLimit>>20)
	}
	places, err = parseFile(text)
	if err != nil {
		return nil, true, spec.Errorf(`write it like [{"address":"10.0.0.5:6379"}], into another file that is then renamed`, "read endpoints of %s: %v", path, err)
	}
	return places, true, nil
}

func unreadable(path string, err error) error {
	hint := "check the path"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint = "create it; in a container mount the directory that it is in, so that it may be replaced: -v /DIRECTORY:/DIRECTORY"
	case errors.Is(err, fs.ErrPermission):
		hint = "let the user of this process read it"
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return spec.Errorf(hint, "read endpoints of %s: %v", path, err)
}

// entry is one endpoint as it stands in a file.
type entry struct {
	Address  string  `json:"address"`
	Weight   *uint16 `json:"weight"`
	Priority uint16  `json:"priority"`
	Host     string  `json:"host"`
}

// UnmarshalJSON takes a bare address as well.
func (e *entry) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte(`"`)) {
		return json.Unmarshal(text, &e.Address)
	}
	type plain entry
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields() // or a misspelt weight would go unnoticed
	return d.Decode((*plain)(e))
}

func parseFile(text []byte) ([]Place, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	var entries []entry
	if err := d.Decode(&entries); err != nil {
		return nil, inJSON(err, text)
	}
	if entries == nil {
		return nil, errors.New("it has null where a list is wanted")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the list")
	}
	places := make([]Place, len(entries))
	for i, e := range entries {
		t, err := spec.ParseEndpoint(e.Address)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i+1, err)
		}
		if t.Port == 0 && t.Path == "" {
			return nil, fmt.Errorf("entry %d: %q has no port", i+1, e.Address)
		}
		p := placeOf(t)
		p.Priority, p.On = e.Priority, e.Host
		if e.Weight != nil {
			p.Weight = *e.Weight
		}
		places[i] = p
	}
	return places, nil
}

// inJSON says where in the text the error is.
func inJSON(err error, text []byte) error {
	if errors.Is(err, io.EOF) {
		return errors.New("it is empty; no endpoints are []")
	}
	at := int64(-1)
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		at = e.Offset
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		at = e.Offset
	}
	if at < 0 || at > int64(len(text)) {
		return err
	}
	return fmt.Errorf("line %d: %w", 1+bytes.Count(text[:at], []byte("\n")), err)
}
