package intercept

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/testnet"
)

// engine stands for the one thing that Watch sees of an engine: its directory.
type engine struct{ dir string }

func newEngine(t testing.TB) *engine {
	t.Helper()
	testnet.NeedRoot(t)
	e := &engine{dir: filepath.Join(t.TempDir(), "netns")}
	e.make(t)
	return e
}

func (e *engine) make(t testing.TB) {
	t.Helper()
	if err := os.Mkdir(e.dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// create makes an empty file; mount puts a namespace over it, as libnetwork
// does.
func (e *engine) create(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(e.dir, name)
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	return path
}

func (e *engine) mount(t testing.TB, path, namespace string) {
	t.Helper()
	if err := unix.Mount(namespace, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount %s over %s: %v", namespace, path, err)
	}
	inode := path // it may be renamed with its directory
	t.Cleanup(func() { e.unmount(t, inode) })
}

func (e *engine) unmount(t testing.TB, path string) {
	t.Helper()
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		t.Errorf("unmount %s: %v", path, err)
	}
}

// spectator is who runs a Watch.
type spectator struct {
	mu     sync.Mutex
	found  []Found
	at     []time.Time
	states []error
}

func (s *spectator) take(f Found) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found, s.at = append(s.found, f), append(s.at, time.Now())
}

func (s *spectator) state(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states = append(s.states, err)
}

// of returns what was found of a container.
func (s *spectator) of(id string) (all []Found) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.found {
		if f.Container == id {
			all = append(all, f)
		}
	}
	return all
}

func (s *spectator) lastState() (error, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.states) == 0 {
		return nil, false
	}
	return s.states[len(s.states)-1], true
}

func (s *spectator) await(t testing.TB, id string, p *tenant) {
	t.Helper()
	testnet.Await(t, "report of container "+id[:4], func() bool { return len(s.of(id)) > 0 })
	f := s.of(id)[0]
	if f.PID != p.pid || f.Namespace.ID() != p.open(t).ID() {
		t.Errorf("found process %d in %s, want %d in %s", f.PID, f.Namespace.ID(), p.pid, p.open(t).ID())
	}
}

func (s *spectator) awaitState(t testing.TB, what string) {
	t.Helper()
	testnet.Await(t, "state "+what, func() bool {
		err, told := s.lastState()
		return told && (what == "" && err == nil || what != "" && err != nil && strings.Contains(err.Error(), what))
	})
}

func watch(t testing.TB, c WatchConfig) *spectator {
	t.Helper()
	s := &spectator{}
	c.Found, c.State = s.take, s.state
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Watch(ctx, c) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
		for _, f := range s.found {
			f.Namespace.Close()
		}
	})
	return s
}

func TestWatch_WhatIsThereAndWhatComes(t *testing.T) {
	testnet.CheckLeaks(t)
	e := newEngine(t)
	before, after := newContainer(t, idA), newContainer(t, idB)
	e.mount(t, e.create(t, "before"), before.path())
	s := watch(t, WatchConfig{Dir: e.dir})
	s.await(t, idA, before)
	s.awaitState(t, "")
	e.mount(t, e.create(t, "after"), after.path())
	s.await(t, idB, after)
	if n := len(s.of(idA)); n != 1 {
		t.Errorf("the first was reported %d times", n)
	}
}

// The engine makes the file first, and on a busy host the rest takes its time.
func TestWatch_WhatIsLate(t *testing.T) {
	testnet.CheckLeaks(t)
	e := newEngine(t)
	s := watch(t, WatchConfig{Dir: e.dir})
	s.awaitState(t, "")
	path := e.create(t, "late")
	p := newTenant(t)
	cgroup := newCgroup(t, idA)
	t.Cleanup(p.kill) // before the cgroup is removed
	wait(t, 50*time.Millisecond)
	e.mount(t, path, p.path())
	wait(t, 50*time.Millisecond)
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), fmt.Append(nil, p.pid), 0); err != nil {
		t.Fatal(err)
	}
	s.await(t, idA, p)
}

// wait is for what is late by intent.
func wait(t testing.TB, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// What is run in a container later ends before it.
func TestWatch_TheFirstProcessStandsForItsContainer(t *testing.T) {
	for name, flags := range map[string]uintptr{"in a PID namespace": unix.CLONE_NEWPID, "with the host's processes": 0} {
		t.Run(name, func(t *testing.T) { testFirstProcess(t, flags) })
	}
}

func testFirstProcess(t *testing.T, flags uintptr) {
	testnet.CheckLeaks(t)
	e := newEngine(t)
	p := newContainerWith(t, idA, flags)
	ns := p.open(t)
	wait(t, 20*time.Millisecond) // two ticks of the clock that processes' starts are in
	var later *tenant
	if err := ns.Do(func() error { later = joinContainer(t, p); return nil }); err != nil {
		t.Fatal(err)
	}
	if f, err := Of(later.pid); err != nil || f.Namespace.ID() != ns.ID() || f.Container != idA {
		t.Fatalf("the later process is in %+v, %v", f, err)
	} else {
		f.Namespace.Close()
	}
	s := watch(t, WatchConfig{Dir: e.dir})
	e.mount(t, e.create(t, "c"), p.path())
	s.await(t, idA, p)
}

func TestWatch_GarbageIsIgnored(t *testing.T) {
	testnet.CheckLeaks(t)
	e := newEngine(t)
	mkfifo := func(name string) {
		if err := unix.Mkfifo(filepath.Join(e.dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mkfifo("pipe")
	e.create(t, "empty")
	s := watch(t, WatchConfig{Dir: e.dir, Patience: 100 * time.Millisecond})
	s.awaitState(t, "")
	mkfifo("pipe2")
	e.mount(t, e.create(t, "mnt"), "/proc/self/ns/uts")
	// Made before their files, which are given up if that takes long.
	hosts, other, nobody := newContainerIn(t, idB, 0), newContainer(t, idB), newTenant(t)
	e.mount(t, e.create(t, "own"), hosts.path()) // --network host
	e.mount(t, e.create(t, "default"), other.path())
	e.mount(t, e.create(t, "nobodys"), nobody.path())
	if err := os.WriteFile(filepath.Join(e.dir, "text"), []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(e.create(t, "short-lived")); err != nil {
		t.Fatal(err)
	}
	p := newContainer(t, idA)
	e.mount(t, e.create(t, "good"), p.path())
	s.await(t, idA, p)
	// No event tells that nothing came; twice the patience, with which all were given up.
	wait(t, 200*time.Millisecond)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.found) != 1 {
		t.Errorf("found %+v, want one", s.found)
	}
	if len(s.states) != 1 {
		t.Errorf("states %v, want none but the first", s.states)
	}
}

// Without slave propagation an agent in a container sees the files, and no
// namespace ever.
func TestWatch_SaysThatMountsDoNotComeThrough(t *testing.T) {
	testnet.CheckLeaks(t)
	e := newEngine(t)
	s := watch(t, WatchConfig{Dir: e.dir, Patience: 50 * time.Millisecond})
	s.awaitState(t, "")
	e.create(t, "c")
	s.awaitState(t, "cannot be seen from here")
	err, _ := s.lastState()
	wantUserError(t, err, e.dir, "rslave")
	p := newContainer(t, idA)
	e.mount(t, e.create(t, "d"), p.path())
	s.await(t, idA, p)
	s.awaitState(t, "")
}

func TestWatch_TheDirectoryComesAndGoes(t *testing.T) {
	testnet.CheckLeaks(t)
	testnet.NeedRoot(t)
	root := filepath.Join(t.TempDir(), "run")
	e := &engine{dir: filepath.Join(root, "docker", "netns")}
	s := watch(t, WatchConfig{Dir: e.dir})
	s.awaitState(t, "does not exist")
	p := newContainer(t, idA)
	arrives := func() {
		t.Helper()
		e.mount(t, e.create(t, "c"), p.path())
		testnet.Await(t, "report", func() bool { return len(s.of(idA)) > 0 })
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.found {
			f.Namespace.Close()
		}
		s.found = nil
	}
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.awaitState(t, "")
	arrives()
	e.unmount(t, filepath.Join(e.dir, "c"))
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	s.awaitState(t, "does not exist")
	if err := os.MkdirAll(e.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.awaitState(t, "")
	arrives()
	e.unmount(t, filepath.Join(e.dir, "c"))
	if err := os.Rename(root, root+"-old"); err != nil { // two above it
		t.Fatal(err)
	}
	s.awaitState(t, "does not exist")
	if err := os.Rename(root+"-old", root); err != nil {
		t.Fatal(err)
	}
	s.awaitState(t, "")
	if err := os.Remove(filepath.Join(e.dir, "c")); err != nil {
		t.Fatal(err)
	}
	arrives()
	e.unmount(t, filepath.Join(e.dir, "c"))
}

// All of them at once, as at the start of an agent or of a composition.
func TestWatch_ManyAtOnce(t *testing.T) {
	testnet.CheckLeaks(t)
	e := newEngine(t)
	s := watch(t, WatchConfig{Dir: e.dir})
	s.awaitState(t, "")
	tenants := make(map[string]*tenant)
	for i := range 30 {
		id := fmt.Sprintf("%064x", i+1)
		tenants[id] = newContainer(t, id)
	}
	for id, p := range tenants {
		e.mount(t, e.create(t, id[52:]), p.path())
	}
	for id, p := range tenants {
		s.await(t, id, p)
	}
}

func event(wd int32, mask uint32, name string) []byte {
	pad := (len(name) + 16) / 16 * 16
	if name == "" {
		pad = 0
	}
	b := make([]byte, unix.SizeofInotifyEvent+pad)
	binary.NativeEndian.PutUint32(b, uint32(wd))
	binary.NativeEndian.PutUint32(b[4:], mask)
	binary.NativeEndian.PutUint32(b[12:], uint32(pad))
	copy(b[unix.SizeofInotifyEvent:], name)
	return b
}

func TestEvents(t *testing.T) {
	d := &directory{next: map[int32]string{1: "run", 2: "netns", 3: ""}}
	join := func(events ...[]byte) (all []byte) {
		for _, e := range events {
			all = append(all, e...)
		}
		return all
	}
	for name, test := range map[string]struct {
		buf  []byte
		want news
	}{
		"a file":                      {event(3, unix.IN_CREATE, "abc"), news{names: []string{"abc"}}},
		"two":                         {join(event(3, unix.IN_CREATE, "a"), event(3, unix.IN_MOVED_TO, "b")), news{names: []string{"a", "b"}}},
		"one above":                   {event(2, unix.IN_CREATE, "netns"), news{anew: true}},
		"something else above":        {event(2, unix.IN_CREATE, "other"), news{}},
		"the same name in the wrong":  {event(1, unix.IN_CREATE, "netns"), news{}},
		"removed":                     {event(3, unix.IN_DELETE_SELF, ""), news{anew: true}},
		"one above renamed":           {event(1, unix.IN_MOVE_SELF, ""), news{anew: true}},
		"unmounted":                   {event(3, unix.IN_UNMOUNT, ""), news{anew: true}},
		"too much":                    {event(-1, unix.IN_Q_OVERFLOW, ""), news{anew: true}},
		"of what is not watched now":  {event(9, unix.IN_CREATE, "abc"), news{}},
		"the end of an earlier watch": {event(9, unix.IN_IGNORED, ""), news{}},
		"half an event":               {event(3, unix.IN_CREATE, "abc")[:20], news{}},
	} {
		if got := d.parse(test.buf); fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func FuzzEvents(f *testing.F) {
	f.Fuzz(func(t *testing.T, buf []byte) {
		d := &directory{next: map[int32]string{1: "run", 2: "netns", 3: ""}}
		for _, name := range d.parse(buf).names {
			if len(name) > len(buf) || strings.HasSuffix(name, "\x00") {
				t.Errorf("name %q of %d bytes", name, len(buf))
			}
		}
	})
}

// BenchmarkWatch measures from the mount of a namespace to the report of its
// container.
func BenchmarkWatch(b *testing.B) {
	e := newEngine(b)
	s := watch(b, WatchConfig{Dir: e.dir})
	s.awaitState(b, "")
	p := newContainer(b, idA)
	var took []time.Duration
	for b.Loop() {
		s.mu.Lock()
		for _, f := range s.found {
			f.Namespace.Close()
		}
		s.found = nil
		s.mu.Unlock()
		path := e.create(b, "c")
		began := time.Now()
		if err := unix.Mount(p.path(), path, "", unix.MS_BIND, ""); err != nil {
			b.Fatal(err)
		}
		testnet.Await(b, "report", func() bool { return len(s.of(idA)) > 0 })
		s.mu.Lock()
		took = append(took, s.at[len(s.at)-1].Sub(began))
		s.mu.Unlock()
		e.unmount(b, path)
		if err := os.Remove(path); err != nil {
			b.Fatal(err)
		}
	}
	report(b, took)
}
