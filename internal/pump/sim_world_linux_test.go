package pump

import (
	"container/heap"
	"fmt"
	"strings"
	"time"
)

// simFailure is what a simulation found; it is thrown by panic, since it may be
// found inside a system call of the loop.
type simFailure struct{ kind, text string }

func (f *simFailure) Error() string { return f.kind + ": " + f.text }

// simWorld is everything outside the loops: a clock that moves only when all
// loops sleep, the descriptors of the process, the network and its peers.
type simWorld struct {
	d      *simDraws
	now    int64
	seq    uint64
	agenda simAgenda
	files  []*simFile // by descriptor
	limit  int        // of descriptors
	epolls []*simEpoll
	flows  []*simFlow
	ways   map[string]*simWay // by the address of a leg
	busy   int                // depth of world events inside system calls
	// moved counts whatever changed; a loop that turns without it spins.
	moved uint64
	// calls were made since it last changed.
	calls      int
	callsMoved uint64
	// jitter is how many percent of system calls see the world move on before them.
	jitter int
	// lag is how many percent of transmissions take time.
	lag int
	// early is how many percent of waits return before their time, or find
	// something that was reported before.
	early int
	// meddle is how many percent of the handler's calls wake or cut another flow.
	meddle int
	// shortage is how many percent of calls that need something new fail at the
	// moment.
	shortage int
	cutAll   int // Engine.Close is cutting flows
	tracing  bool
	pattern  *simPattern
	streams  int
	turn     int // of all loops
	// longestTurn is how far a loop's clock, which it reads once a turn, was behind.
	longestTurn int64
	trace       []string
}

func (w *simWorld) fail(kind, format string, args ...any) {
	panic(&simFailure{kind, fmt.Sprintf(format, args...)})
}

func (w *simWorld) log(format string, args ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf("%12v  ", time.Duration(w.now))+fmt.Sprintf(format, args...))
	}
}

// simEvent is something that will happen.
type simEvent struct {
	at  int64
	seq uint64
	do  func()
}

type simAgenda []simEvent

func (a simAgenda) Len() int { return len(a) }
func (a simAgenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].seq < a[j].seq
}
func (a simAgenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *simAgenda) Push(x any)   { *a = append(*a, x.(simEvent)) }
func (a *simAgenda) Pop() any {
	old := *a
	e := old[len(old)-1]
	*a = old[:len(old)-1]
	return e
}

// after has something happen later, or at the next opportunity.
func (w *simWorld) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.agenda, simEvent{w.now + int64(d), w.seq, do})
}

// due tells whether something is to happen at this moment.
func (w *simWorld) due() bool { return len(w.agenda) > 0 && w.agenda[0].at <= w.now }

// step lets the next thing happen; its moment is now.
func (w *simWorld) step() {
	e := heap.Pop(&w.agenda).(simEvent)
	w.now = max(w.now, e.at)
	w.busy++
	e.do()
	w.busy--
}

// meanwhile is called by every system call: other threads and machines do not
// wait for the loop.
func (w *simWorld) meanwhile() {
	if w.calls++; w.moved != w.callsMoved {
		w.calls, w.callsMoved = 0, w.moved
	} else if w.calls > 100_000 {
		w.fail("spin", "%d calls in a row, and nothing moves", w.calls)
	}
	if w.busy > 0 || w.jitter == 0 || !w.d.chance(w.jitter) {
		return
	}
	for n := 1 + w.d.n(4); n > 0 && len(w.agenda) > 0 && w.agenda[0].at <= w.now+int64(time.Millisecond); n-- {
		w.step()
	}
}

func (w *simWorld) story() string {
	const last = 400
	lines := w.trace
	if len(lines) > last {
		lines = lines[len(lines)-last:]
	}
	return strings.Join(lines, "\n")
}

// simFile is an open descriptor.
type simFile struct {
	fd       int
	name     string
	end      *simEnd
	listener *simListener
	pipe     *simPipe
	writes   bool // the pipe's write end
	items    []*simItem
}

// install gives a file the lowest free descriptor, as Linux does.
func (w *simWorld) install(f *simFile) int {
	for fd := 3; fd < len(w.files); fd++ {
		if w.files[fd] == nil {
			f.fd = fd
			w.files[fd] = f
			return fd
		}
	}
	for len(w.files) < 3 {
		w.files = append(w.files, &simFile{name: "stdio"})
	}
	f.fd = len(w.files)
	w.files = append(w.files, f)
	return f.fd
}

func (w *simWorld) openFiles() (n int) {
	for fd := 3; fd < len(w.files); fd++ {
		if w.files[fd] != nil {
			n++
		}
	}
	return n
}

// file is the one behind a descriptor that the loop uses.
func (w *simWorld) file(fd int, call string) *simFile {
	if fd < 3 || fd >= len(w.files) || w.files[fd] == nil {
		w.fail("descriptor", "%s of descriptor %d, which is not open", call, fd)
	}
	return w.files[fd]
}

// socket is the connection behind a descriptor.
func (w *simWorld) socket(fd int, call string) *simEnd {
	f := w.file(fd, call)
	if f.end == nil {
		w.fail("descriptor", "%s of descriptor %d, which is %s and no connection", call, fd, f.name)
	}
	return f.end
}

// scarce draws whether a call that needs a descriptor, memory or a port fails.
func (w *simWorld) scarce(descriptors int) bool {
	return w.openFiles()+descriptors > w.limit || w.shortage > 0 && w.d.chance(w.shortage)
}

// uninstall closes a descriptor.
func (w *simWorld) uninstall(f *simFile) {
	w.files[f.fd] = nil
	for _, it := range f.items {
		it.dead = true
	}
	f.items = nil
	w.moved++
}
