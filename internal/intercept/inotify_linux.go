package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

// directory follows the files that appear in a directory by inotify(7),
// wherever that directory comes from: also when it, or one above it, is made,
// removed or renamed.
type directory struct {
	path    string
	inotify *os.File
	raw     func(func(uintptr)) error
	// next has what matters in each watched directory: the component of path
	// below it; "" is path itself, where every name matters.
	next map[int32]string
	// there tells whether path is watched.
	there bool
}

const (
	// selfGone is reported of a watched directory itself.
	selfGone = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_UNMOUNT | unix.IN_IGNORED
	watched  = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR
)

func newDirectory(path string) (*directory, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, explainInotify(path, err)
	}
	d := &directory{path: path, inotify: os.NewFile(uintptr(fd), "inotify")}
	raw, err := d.inotify.SyscallConn()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", path, err), d.inotify.Close())
	}
	d.raw = raw.Control
	return d, nil
}

func explainInotify(path string, err error) error {
	switch {
	case errors.Is(err, unix.EMFILE):
		return spec.Errorf("sysctl fs.inotify.max_user_instances=1024", "watch %s: too many inotify instances", path)
	case errors.Is(err, unix.ENOSPC):
		return spec.Errorf("sysctl fs.inotify.max_user_watches=65536", "watch %s: too many inotify watches", path)
	}
	return fmt.Errorf("watch %s: %w", path, err)
}

// arm watches every directory from the root down to path, as far as there are
// any, and none else. What comes into path after it returns is reported by
// read; what was there before has to be listed.
func (d *directory) arm() error {
	old := d.next
	d.next, d.there = make(map[int32]string), false
	err := d.descend()
	for wd := range old {
		if _, still := d.next[wd]; !still {
			_ = d.raw(func(fd uintptr) { _, _ = unix.InotifyRmWatch(int(fd), uint32(wd)) }) // it is gone by itself where the directory is
		}
	}
	return err
}

func (d *directory) descend() error {
	at := "/"
	for _, name := range append(strings.Split(strings.Trim(d.path, "/"), "/"), "") {
		wd, err := d.add(at)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		if err != nil {
			return explainInotify(d.path, err)
		}
		d.next[wd] = name
		at = filepath.Join(at, name)
	}
	d.there = true
	return nil
}

func (d *directory) add(path string) (wd int32, err error) {
	failed := d.raw(func(fd uintptr) {
		var n int
		n, err = unix.InotifyAddWatch(int(fd), path, watched)
		wd = int32(n)
	})
	return wd, errors.Join(failed, err)
}

// news is what happened: names in the directory, or something that makes it
// necessary to arm and list again.
type news struct {
	names []string
	anew  bool
}

// read waits for news until the deadline of d.inotify.
func (d *directory) read(buf []byte) (news, error) {
	n, err := d.inotify.Read(buf)
	if err != nil {
		return news{}, err
	}
	return d.parse(buf[:n]), nil
}

// parse reads events as the kernel writes them: whole ones only.
func (d *directory) parse(buf []byte) (n news) {
	for len(buf) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(buf))
		mask := binary.NativeEndian.Uint32(buf[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		if end > len(buf) {
			return n
		}
		name := strings.TrimRight(string(buf[unix.SizeofInotifyEvent:end]), "\x00")
		buf = buf[end:]
		n.add(d, wd, mask, name)
	}
	return n
}

func (n *news) add(d *directory, wd int32, mask uint32, name string) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		n.anew = true
		return
	}
	next, ours := d.next[wd]
	switch {
	case !ours: // of a directory that is not watched any more
	case mask&selfGone != 0, next != "" && name == next:
		n.anew = true
	case next == "":
		n.names = append(n.names, name)
	}
}
