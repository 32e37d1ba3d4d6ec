package forward

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// What cannot be opened comes with advice that fits it: that of ports is of no
// use for a path.
func TestBind_ExplainsPaths(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, group, what, hint string }{
		{filepath.Join(dir, "none", "s"), "", "no such file or directory", "mkdir -p " + filepath.Join(dir, "none")},
		{filepath.Join(file, "s"), "", "not a directory", "is a file"},
		{file, "", "no socket", "remove that file"},
		{filepath.Join(dir, "s"), "nobody-has-it", "find group nobody-has-it", "socket-group=1000"},
	} {
		l := spec.Link{Listen: spec.Listen{Protocol: spec.Unix, Path: c.path}, Options: spec.DefaultOptions()}
		l.Options.SocketGroup = c.group
		ls, err := Bind(l)
		if err == nil {
			t.Errorf("%s: no error", c.path)
			_ = closeListeners(ls)
			continue
		}
		err = explainTaken(l, nil, err)
		u, ok := errors.AsType[*spec.UserError](err)
		if !ok || !strings.Contains(err.Error(), c.what) || !strings.Contains(u.Hint, c.hint) {
			t.Errorf("%s: got %#v, want %q with the hint %q", c.path, err, c.what, c.hint)
		}
	}
}

func TestExplainTaken_AsksForTheProtocolFirst(t *testing.T) {
	for _, c := range []struct {
		err        syscall.Errno
		unix, port string // in the hints
	}{
		{syscall.EACCES, "can write: ls -ld /run", "1024"},
		{syscall.EROFS, "can write: ls -ld /run", ""},
		{syscall.EADDRINUSE, "another path", "ss -lnp"},
	} {
		for want, on := range map[string]spec.Listen{
			c.unix: {Protocol: spec.Unix, Path: "/run/s"},
			c.port: {Protocol: spec.TCP, Port: 80},
		} {
			u, _ := errors.AsType[*spec.UserError](explainTaken(spec.Link{Listen: on}, nil, c.err))
			if want != "" && (u == nil || !strings.Contains(u.Hint, want)) {
				t.Errorf("%v on %s: %#v, want the hint %q", c.err, on, u, want)
			}
		}
	}
}

func TestBind_SocketsOfLocalhostShareALimit(t *testing.T) {
	testnet.NeedIPv6(t)
	l := spec.Link{Listen: spec.Listen{Protocol: spec.TCP, Host: "localhost", Port: uint16(testnet.FreePort(t))}, Options: spec.DefaultOptions()}
	l.Options.MaxConnections = 1
	ls, err := Bind(l)
	if err != nil {
		t.Fatal(err)
	}
	if len(ls) != 2 || ls[0].Limit == nil || ls[0].Limit != ls[1].Limit {
		t.Errorf("got %+v", ls)
	}
	if err := closeListeners(ls); err != nil {
		t.Error(err)
	}
}
