package systemd

import (
	"slices"
	"strings"
	"testing"
	"time"
)

const self = 42

func TestRead(t *testing.T) {
	for name, test := range map[string]struct {
		environ []string
		want    settings
	}{
		"nobody":                   {nil, settings{}},
		"a path":                   {[]string{"NOTIFY_SOCKET=/run/systemd/notify"}, settings{notify: "/run/systemd/notify"}},
		"abstract, in a container": {[]string{"NOTIFY_SOCKET=@/org/notify", "HOME=/"}, settings{notify: "@/org/notify"}},
		"watchdog":                 {[]string{"WATCHDOG_USEC=30000000", "WATCHDOG_PID=42"}, settings{watchdog: 30 * time.Second}},
		"watchdog of all":          {[]string{"WATCHDOG_USEC=500"}, settings{watchdog: 500 * time.Microsecond}},
		"watchdog of another":      {[]string{"WATCHDOG_USEC=30000000", "WATCHDOG_PID=41"}, settings{}},
		"sockets":                  {[]string{"LISTEN_PID=42", "LISTEN_FDS=2", "LISTEN_FDNAMES=legate-a:web.socket"}, settings{names: []string{"legate-a", "web.socket"}}},
		"sockets without a name":   {[]string{"LISTEN_PID=42", "LISTEN_FDS=2"}, settings{names: []string{"", ""}}},
		"too many names":           {[]string{"LISTEN_FDS=1", "LISTEN_FDNAMES=a:b"}, settings{names: []string{"a"}}},
		"sockets of another":       {[]string{"LISTEN_PID=7", "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b"}, settings{}},
	} {
		got, err := read(test.environ, self)
		if err != nil || got.notify != test.want.notify || got.watchdog != test.want.watchdog || !slices.Equal(got.names, test.want.names) {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, test.want)
		}
	}
}

func TestRead_RefusesWhatNobodyWrites(t *testing.T) {
	for _, environ := range [][]string{
		{"NOTIFY_SOCKET=notify"},
		{"WATCHDOG_USEC=soon"},
		{"WATCHDOG_USEC=1", "WATCHDOG_PID=me"},
		{"LISTEN_FDS=-1"},
		{"LISTEN_FDS=9007199254740992"},
		{"LISTEN_FDS=1048577"},
		{"LISTEN_FDS=1", "LISTEN_PID=1x"},
	} {
		if s, err := read(environ, self); err == nil {
			t.Errorf("%q: %+v and no error", environ, s)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Fuzz(func(t *testing.T, environ string) {
		s, err := read(strings.Split(environ, "\n"), self)
		if err != nil {
			return
		}
		if len(s.names) > maxPassed || s.watchdog < 0 || s.notify != "" && !strings.Contains("/@", s.notify[:1]) {
			t.Errorf("%q: %+v", environ, s)
		}
	})
}
