package intercept

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

// Watch reports the namespaces of containers, those whose files are in the
// engine's directory and those that come, each as soon as it can be told whose
// it is: a container's is there before its first instruction, and the report
// is usually, too. It returns nil when ctx ends, and an error where the
// directory cannot be watched at all.
//
// It never says that a namespace ended: the engine removes its file a minute
// later. See Life.
func Watch(ctx context.Context, c WatchConfig) error {
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	d, err := newDirectory(c.Dir)
	if err != nil {
		return err
	}
	w := &watcher{WatchConfig: c, dir: d, pending: make(map[string]*file)}
	defer w.close()
	stop := context.AfterFunc(ctx, func() { _ = d.inotify.Close() }) // wakes read
	defer stop()
	if err := w.run(); ctx.Err() == nil {
		return err
	}
	return nil
}

// watcher is one Watch.
type watcher struct {
	WatchConfig
	dir     *directory
	pending map[string]*file // by name
	state   string           // that was told last
	denied  error            // why some processes could not be asked
}

// file is one of the engine's that is not known to be a container's yet.
type file struct {
	ns       *Namespace // nil: it is not one yet
	since    time.Time  // that is so
	next     time.Time  // when to look again
	until    time.Time  // when to give up
	existing bool       // it was there at the start
}

const (
	// firstPause between two looks at a file. Namespaces take 7 us to 2 ms to
	// be mounted over theirs, and the runtime's poller counts milliseconds.
	firstPause = 200 * time.Microsecond
	// mountShare and processShare are the shares of the time something took by
	// which it is noticed late. On a busy host both the engine and the
	// container's start are slow, so the margin grows with it. A look for a
	// mount is one system call, a look for a process is some for each process
	// of the host.
	mountShare, processShare = 8, 4
	// hostFile is the engine's for its own network, which containers with
	// --network host are in. It need not be that of process 1.
	hostFile = "default"
	// patienceAtStart is for files that are there at the start: nearly all are
	// either a container's at once, or of one that has ended.
	patienceAtStart = time.Second
)

func (w *watcher) run() error {
	if err := w.list(true); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		if err := w.dir.inotify.SetReadDeadline(w.look()); err != nil {
			return err
		}
		n, err := w.dir.read(buf)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("watch %s: %w", w.Dir, err)
		}
		if n.anew {
			if err := w.list(false); err != nil {
				return err
			}
		}
		now := time.Now()
		for _, name := range n.names {
			w.expect(name, now, false)
		}
	}
}

// list watches the directory, be it a new one, and looks at all files in it.
func (w *watcher) list(existing bool) error {
	if err := w.dir.arm(); err != nil {
		return err
	}
	if !w.dir.there {
		w.tell(spec.Errorf("start the engine; if it has another --exec-root, name its directory netns",
			"%s does not exist", w.Dir))
		return nil
	}
	entries, err := os.ReadDir(w.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // and there is news of that
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", w.Dir, err)
	}
	w.tell(nil)
	now := time.Now()
	for _, e := range entries {
		w.expect(e.Name(), now, existing)
	}
	return nil
}

// tell tells what changed.
func (w *watcher) tell(state error) {
	text := "watched"
	if state != nil {
		text = state.Error()
	}
	if w.State != nil && text != w.state {
		w.State(state)
	}
	w.state = text
}

// expect begins to look at a file, anew where it was known: the engine may
// have made another of the same name.
func (w *watcher) expect(name string, now time.Time, existing bool) {
	w.forget(name)
	if name == hostFile {
		return
	}
	patience := w.Patience
	if existing {
		patience = min(patience, patienceAtStart)
	}
	w.pending[name] = &file{since: now, next: now, until: now.Add(patience), existing: existing}
}

func (w *watcher) forget(name string) {
	if f := w.pending[name]; f != nil && f.ns != nil {
		_ = f.ns.Close()
	}
	delete(w.pending, name)
}

// look takes the look at each file that is due, reports what it finds, and
// returns when the next one is due; zero: none is. Files that came together
// stay together, so that one look at the processes does for all.
func (w *watcher) look() (next time.Time) {
	now := time.Now()
	ids := make(map[string]bool)
	for name, f := range w.pending {
		if !now.Before(f.next) && w.mounted(name, f, now) {
			ids[f.ns.ID()] = true
		}
	}
	if len(ids) > 0 {
		w.resolve(ids)
	}
	for name, f := range w.pending {
		if !now.Before(f.next) {
			if !now.Before(f.until) {
				w.giveUp(name, f)
				continue
			}
			f.next = now.Add(max(firstPause, min(f.pause(now), f.until.Sub(now))))
		}
		if next.IsZero() || f.next.Before(next) {
			next = f.next
		}
	}
	return next
}

// pause until the next look.
func (f *file) pause(now time.Time) time.Duration {
	age := now.Sub(f.since)
	switch {
	case f.existing:
		return age // nobody's start waits for it
	case f.ns != nil:
		return age / processShare
	}
	return age / mountShare
}

// mounted tells whether a file is a namespace, and not the host's. It forgets
// one that is neither nor will be.
func (w *watcher) mounted(name string, f *file, now time.Time) bool {
	if f.ns != nil {
		return true
	}
	ns, err := open(filepath.Join(w.Dir, name))
	switch {
	case err == nil && !isHost(ns.ID()):
		f.ns, f.since = ns, now
		return true
	case err == nil:
		_ = ns.Close()
	case errors.Is(err, ErrNoNamespace):
		return false // not yet
	case !errors.Is(err, fs.ErrNotExist):
		w.tell(explainOpen(filepath.Join(w.Dir, name), err))
	}
	w.forget(name)
	return false
}

// resolve reports those pending files whose container is known now.
func (w *watcher) resolve(ids map[string]bool) {
	found, err := residents(ids)
	w.denied = err
	for name, f := range w.pending {
		if f.ns == nil {
			continue
		}
		r, ok := found[f.ns.ID()]
		if !ok {
			continue
		}
		delete(w.pending, name)
		w.tell(nil)
		w.Found(Found{Namespace: f.ns, PID: r.pid, Container: r.container})
	}
}

// giveUp forgets a file. If it is a new one and still there, the reason may
// hold for all others, too.
func (w *watcher) giveUp(name string, f *file) {
	mounted := f.ns != nil
	w.forget(name)
	switch {
	case f.existing:
	case mounted && w.denied != nil:
		w.tell(explainOpen("of other processes", w.denied))
	case !mounted && isBare(filepath.Join(w.Dir, name)):
		w.tell(spec.Errorf("mount it so that later mounts come through: docker run -v "+w.Dir+":"+w.Dir+":ro,rslave",
			"namespaces that are made in %s cannot be seen from here", w.Dir))
	}
}

// isBare tells whether a file is as the engine makes it: empty, and not even
// another kind of namespace.
func isBare(path string) bool {
	st, err := os.Lstat(path)
	var fsys unix.Statfs_t
	return err == nil && st.Mode().IsRegular() && st.Size() == 0 && unix.Statfs(path, &fsys) == nil && fsys.Type != unix.NSFS_MAGIC
}

func (w *watcher) close() {
	_ = w.dir.inotify.Close()
	for name := range w.pending {
		w.forget(name)
	}
}
