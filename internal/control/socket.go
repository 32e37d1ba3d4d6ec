package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

// Off is the value of --control that asks for no control socket.
const Off = "off"

// DefaultName is the name of an instance that was given none.
const DefaultName = "legate"

const suffix = ".sock"

// maxPath is what fits into sockaddr_un with its final zero; macOS has four
// bytes less and reports the rest itself. See unix(7).
const maxPath = 107

// errLive means that the address is taken by something that answers, or that
// we may not ask.
var errLive = errors.New("already in use by a running process")

// Places is where sockets are made and looked for.
type Places struct {
	Dirs []string // in order of preference
	// Abstract is the prefix of abstract names, with @, for systems where no
	// directory can be written; "" where the system has none.
	Abstract string
	// Search is the prefix of the abstract names that are looked at: for root
	// those of every user, in the same pid namespace only.
	Search string
}

// DefaultPlaces returns /run/legate, then the user's runtime directory, then
// the abstract names of the user.
func DefaultPlaces(getenv func(string) string) Places {
	p := Places{Dirs: []string{"/run/legate"}}
	p.Abstract, p.Search = abstractPrefixes(os.Geteuid())
	if x := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(x) {
		p.Dirs = append(p.Dirs, filepath.Join(x, "legate"))
	}
	return p
}

// Socket is a listening control socket.
type Socket struct {
	net.Listener
	Name    string // of the instance
	Address string // a path, or an abstract name with @
}

// Listen opens the socket of an instance. where is a path (with a slash), a
// name, or "" for the first free one of legate and legate-PID. A stale socket
// is replaced; a live one never.
func Listen(where string, p Places) (*Socket, error) {
	switch {
	case isAddress(where):
		l, err := listenAddress(where)
		if err != nil {
			return nil, listenError(where, err)
		}
		return &Socket{l, nameOf(where), where}, nil
	case where != "":
		return listenName(where, p)
	}
	s, err := listenName(DefaultName, p)
	if errors.Is(err, errLive) {
		s, err = listenName(fmt.Sprintf("%s-%d", DefaultName, os.Getpid()), p)
	}
	return s, err
}

// isAddress tells an address from a name.
func isAddress(where string) bool { return strings.ContainsRune(where, '/') || abstract(where) }

func abstract(address string) bool { return strings.HasPrefix(address, "@") }

func nameOf(address string) string { return strings.TrimSuffix(filepath.Base(address), suffix) }

// CheckWhere tells what keeps a value from being used as --control: it is a
// path, a name, Off or "". The error is a *spec.UserError.
func CheckWhere(where string) error {
	if where == "" || where == Off || isAddress(where) {
		return nil
	}
	if strings.EqualFold(where, Off) {
		return spec.Errorf("write off for no control socket", "control: %q cannot be a name", where)
	}
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
	}
	if strings.ContainsFunc(where, func(r rune) bool { return !plain(r) }) || strings.HasPrefix(where, ".") || strings.HasPrefix(where, "-") {
		return spec.Errorf("names have letters, digits and . _ -; a path has a slash", "control: %q cannot be a name", where)
	}
	return nil
}

// addresses lists where an instance of that name can be.
func (p Places) addresses(name string) []string {
	var a []string
	for _, d := range p.Dirs {
		a = append(a, filepath.Join(d, name+suffix))
	}
	if p.Abstract != "" {
		a = append(a, p.Abstract+name+suffix)
	}
	return a
}

// listenName tries the places in order: only one that cannot be written leads
// to the next, so that a name is never live twice for one user.
func listenName(name string, p Places) (*Socket, error) {
	var why []error
	for _, a := range p.addresses(name) {
		if !abstract(a) {
			if err := os.MkdirAll(filepath.Dir(a), 0o755); err != nil {
				why = append(why, err)
				continue
			}
		}
		l, err := listenAddress(a)
		if err == nil {
			return &Socket{l, name, a}, nil
		}
		if !notWritable(err) {
			return nil, listenError(a, err)
		}
		why = append(why, err)
	}
	return nil, spec.Errorf("name a place that can be written with --control /path/to/legate.sock, or do without: --control off",
		"open control socket: %v", errors.Join(why...))
}

func notWritable(err error) bool {
	return errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) ||
		errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

func listenError(address string, err error) error {
	switch {
	case errors.Is(err, errLive):
		return &liveError{spec.UserError{
			What: fmt.Sprintf("control socket %s is %v", address, errLive),
			Hint: "look at it: legate status --control " + address + "; or choose another name with --control NAME",
		}}
	case notWritable(err):
		return spec.Errorf("choose a path that can be written, or do without: --control off", "open control socket: %v", err)
	}
	return spec.Errorf("choose another path, as with: --control /run/legate/NAME.sock; or do without: --control off", "open control socket: %v", err)
}

// liveError lets Listen know why and the user read what to do.
type liveError struct{ user spec.UserError }

func (e *liveError) Error() string   { return e.user.What }
func (e *liveError) Unwrap() []error { return []error{&e.user, errLive} }

func listenAddress(address string) (net.Listener, error) {
	if abstract(address) {
		return listenAbstract(address)
	}
	return listenPath(address)
}

func listenAbstract(address string) (net.Listener, error) {
	l, err := net.Listen("unix", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, errLive
	}
	if err != nil {
		return nil, err
	}
	return ownersOnly{l}, nil
}

func listenPath(path string) (net.Listener, error) {
	if err := CheckLength(path); err != nil {
		return nil, err
	}
	// Without the lock two starting instances could both see a stale socket,
	// and the slower one would remove the other's live one.
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	l, err := listenPrivate(path)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	return listenPrivate(path)
}

// CheckLength tells of a path that is too long for a socket.
func CheckLength(path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("the path %s has %d characters, a socket's can have %d", path, len(path), maxPath)
	}
	return nil
}

// lockDir locks the directory itself, so that no lock file is left behind.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { d.Close() }, nil
}

// listenPrivate makes the socket with mode 0600 from its first moment: Linux
// gives the file the mode of the socket, and chmod alone would leave a gap.
func listenPrivate(path string) (net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.Fchmod(int(fd), 0o600) })
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if fi.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return errLive
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err // another user's: whether it lives is not ours to know
	}
	return os.Remove(path)
}

// dial connects to a control socket.
func dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", address)
	if err != nil || !abstract(address) {
		return c, err
	}
	// Anybody may have taken an abstract name: the answer must come from the
	// same user or from root, unless root itself asks.
	if uid, err := peerUID(c); err != nil || os.Geteuid() != 0 && !trusted(uid) {
		c.Close()
		return nil, &net.OpError{Op: "dial", Net: "unix", Addr: c.RemoteAddr(), Err: errors.Join(os.ErrPermission, err)}
	}
	return c, nil
}

func trusted(uid int) bool { return uid == 0 || uid == os.Geteuid() }

// ownersOnly accepts root and the user of this process: an abstract socket has
// no file whose mode could keep others out.
type ownersOnly struct{ net.Listener }

func (l ownersOnly) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, err := peerUID(c); err == nil && trusted(uid) {
			return c, nil
		}
		c.Close()
	}
}
