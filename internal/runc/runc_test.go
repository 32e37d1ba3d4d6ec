package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"legate/internal/control"
	"legate/internal/spec"
)

var id = strings.Repeat("0123456789abcdef", 4)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text, root, log, command, id string
		json                         bool
	}{
		{"--root /r --log /l/log.json --log-format json --systemd-cgroup start ID", "/r", "/l/log.json", "start", "ID", true},
		{"--root=/r -log=/l --debug start ID", "/r", "/l", "start", "ID", false},
		{"start ID", defaultRoot, "", "start", "ID", false},
		{"--root /r create --bundle /b --pid-file /b/p ID", "/r", "", "create", "", false},
		{"--criu start state ID", defaultRoot, "", "state", "", false},
		{"start --help", defaultRoot, "", "start", "", false},
		{"start", defaultRoot, "", "start", "", false},
		{"--version", defaultRoot, "", "", "", false},
		{"--root", "", "", "", "", false},
		{"", defaultRoot, "", "", "", false},
	} {
		got := parse(strings.Fields(c.text))
		if got.root != c.root || got.log != c.log || got.command != c.command || got.id != c.id || got.json != c.json {
			t.Errorf("%q is read as %+v", c.text, got)
		}
	}
}

// agent answers the runtime, and nothing else.
type agent struct {
	control.Instance
	asked  []control.ReadyRequest
	err    error
	silent bool
}

func (a *agent) Ready(ctx context.Context, r control.ReadyRequest) (control.ReadyReply, error) {
	a.asked = append(a.asked, r)
	if a.silent {
		<-ctx.Done()
		return control.ReadyReply{}, ctx.Err()
	}
	return control.ReadyReply{Links: true}, a.err
}

// rig is a host with one container that was created.
type rig struct {
	dir    string
	stderr bytes.Buffer
	became []string // what the runtime turned into
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "legate-runc") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{dir: dir}
	r.write(t, "runc", "#!/bin/sh\nexit 1\n")
	return r
}

func (r *rig) write(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
}

// container records one as runc and the engine do. of is whose files it has.
func (r *rig) container(t *testing.T, of string, labels map[string]string) {
	t.Helper()
	record, err := json.Marshal(map[string]any{"ID": id, "Config": map[string]any{"Labels": labels}})
	if err != nil {
		t.Fatal(err)
	}
	r.write(t, "data/"+id+"/config.v2.json", string(record))
	r.write(t, "state/"+id+"/state.json", fmt.Sprintf(
		`{"id":%q,"init_process_pid":4711,"config":{"mounts":[{"source":"proc","destination":"/proc"},{"source":"/etc/hosts","destination":"/etc/hosts"},{"source":"%s/data/%s/hostname","destination":"/etc/hostname"}]}}`,
		id, r.dir, of))
}

func (r *rig) serve(t *testing.T, a *agent) {
	t.Helper()
	s, err := control.Listen(filepath.Join(r.dir, "sock"), control.Places{})
	if err != nil {
		t.Fatal(err)
	}
	server := control.Serve(s, a, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { server.Close() })
}

// run gives the runtime arguments, with this host's places before them.
func (r *rig) run(flags, args []string) int {
	r.became = nil
	all := slices.Concat([]string{"--legate-control", r.dir + "/sock"}, flags, []string{"--root", r.dir + "/state", "--log", r.dir + "/log", "--log-format", "json"}, args)
	return Main(Process{Args: all, Environ: []string{"PATH=" + r.dir}, Stderr: &r.stderr, Exec: func(path string, args, _ []string) error {
		r.became = append([]string{path}, args[1:]...)
		return nil
	}})
}

// started tells whether the real runtime was given exactly what ours was.
func (r *rig) started(args ...string) bool {
	return slices.Equal(r.became, slices.Concat([]string{r.dir + "/runc", "--root", r.dir + "/state", "--log", r.dir + "/log", "--log-format", "json"}, args))
}

func TestMain_AsksForContainersWithLinksOnly(t *testing.T) {
	for _, c := range []struct {
		name   string
		of     string
		labels map[string]string
		args   []string
		asks   bool
	}{
		{"links", id, map[string]string{"connect.6379": "redis"}, []string{"start", id}, true},
		{"links of a guest", strings.Repeat("f", 64), map[string]string{"legate.connect": "6379=redis"}, []string{"start", id}, true},
		{"none", id, map[string]string{"legate.service": "redis"}, []string{"start", id}, false},
		{"not yet", id, map[string]string{"connect.6379": "redis"}, []string{"create", "--bundle", "/b", id}, false},
		{"another container", id, map[string]string{"connect.6379": "redis"}, []string{"kill", id, "9"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, a := newRig(t), &agent{}
			r.container(t, c.of, c.labels)
			r.serve(t, a)
			r.run(nil, c.args)
			if !r.started(c.args...) {
				t.Errorf("it became %q\n%s", r.became, r.stderr.String())
			}
			want := []control.ReadyRequest{{Container: id, PID: 4711}}
			if asked := slices.Equal(a.asked, want); asked != c.asks || !asked && a.asked != nil {
				t.Errorf("it asked %v", a.asked)
			}
		})
	}
}

func TestMain_OpenAndClosed(t *testing.T) {
	closed := []string{"--legate-closed"}
	for _, c := range []struct {
		name  string
		agent *agent // nil: none
		says  string // when it is closed; "": nothing
	}{
		{"ready", &agent{}, ""},
		{"no agent", nil, "no legate answers on "},
		{"failed", &agent{err: spec.Errorf("", "this legate is no agent")}, "this legate is no agent"},
		{"slow", &agent{silent: true}, "did not open the links of the container within 20ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.container(t, id, map[string]string{"connect.6379": "redis"})
			if c.agent != nil {
				r.serve(t, c.agent)
			}
			wait := "--legate-wait=2s"
			if c.name == "slow" {
				wait = "--legate-wait=20ms"
			}
			if r.run([]string{wait}, []string{"start", id}); !r.started("start", id) {
				t.Errorf("open, it became %q\n%s", r.became, r.stderr.String())
			}
			r.stderr.Reset()
			code := r.run(append(closed, wait), []string{"start", id})
			if c.says == "" {
				if !r.started("start", id) {
					t.Errorf("closed, it became %q\n%s", r.became, r.stderr.String())
				}
				return
			}
			log, _ := os.ReadFile(r.dir + "/log")
			if code != 1 || r.became != nil || !strings.Contains(r.stderr.String(), c.says) || !strings.Contains(string(log), `"level":"error","msg":"legate: `) {
				t.Errorf("closed, it exits with %d, becomes %q, says %q and logs %s", code, r.became, r.stderr.String(), log)
			}
		})
	}
}

// Nobody knows whether it has links: held up, or even refused, every container would be, the agent's own too.
func TestMain_StartsWhatItCannotTell(t *testing.T) {
	r := newRig(t)
	r.container(t, id, nil)
	if err := os.RemoveAll(r.dir + "/data"); err != nil {
		t.Fatal(err)
	}
	if r.run([]string{"--legate-closed"}, []string{"start", id}); !r.started("start", id) {
		t.Errorf("it became %q\n%s", r.became, r.stderr.String())
	}
}

// Another runtime than runc keeps no such records, but can be asked.
func TestMain_AsksAnotherRuntime(t *testing.T) {
	r, a := newRig(t), &agent{}
	r.container(t, id, map[string]string{"connect.6379": "redis"})
	if err := os.RemoveAll(r.dir + "/state"); err != nil {
		t.Fatal(err)
	}
	r.write(t, "bundle/config.json", fmt.Sprintf(`{"mounts":[{"source":"%s/data/%s/hosts","destination":"/etc/hosts"}]}`, r.dir, id))
	r.write(t, "runc", fmt.Sprintf("#!/bin/sh\n[ \"$7 $8\" = 'state %s' ] && echo '{\"pid\":4712,\"bundle\":\"%s/bundle\"}'\n", id, r.dir))
	r.serve(t, a)
	r.run(nil, []string{"start", id})
	if !r.started("start", id) || !slices.Equal(a.asked, []control.ReadyRequest{{Container: id, PID: 4712}}) {
		t.Errorf("it asked %v and became %q\n%s", a.asked, r.became, r.stderr.String())
	}
}

func TestMain_RefusesBadSettings(t *testing.T) {
	for _, c := range []struct {
		args    []string
		environ string
		says    string
	}{
		{[]string{"--legate-wait", "soon", "start", id}, "", `--legate-wait: "soon" must be a duration`},
		{[]string{"--legate-wait=-1s"}, "", `must be a duration`},
		{[]string{"--legate-closed=maybe"}, "", "must be true or false"},
		{[]string{"--legate-control", "agent"}, "", "no path of a socket"},
		{[]string{"--legate-open"}, "", "--legate-open: it must be one of"},
		{nil, "LEGATE_RUNC_WAIT=1", "variable LEGATE_RUNC_WAIT"},
		{nil, "LEGATE_RUNC_CLOSED=x", "variable LEGATE_RUNC_CLOSED"},
		{[]string{"--legate-runc", "/nowhere/runc"}, "", "/nowhere/runc is no runc that could be run"},
		{nil, "LEGATE_RUNC=/proc/self/exe", "/proc/self/exe is no runc"}, // it would run itself for ever
	} {
		var stderr bytes.Buffer
		code := Main(Process{Args: c.args, Environ: []string{c.environ}, Stderr: &stderr, Exec: func(path string, _, _ []string) error {
			return fmt.Errorf("became %s", path)
		}})
		if code != 1 || !strings.Contains(stderr.String(), c.says) {
			t.Errorf("%q %s: exit %d, %s", c.args, c.environ, code, stderr.String())
		}
	}
}

// An engine shows what stands in the log, and nothing else.
func TestMain_LogsBadSettings(t *testing.T) {
	r := newRig(t)
	r.run([]string{"--legate-closed", "--legate-open"}, []string{"start", id})
	if log, err := os.ReadFile(r.dir + "/log"); err != nil || !strings.Contains(string(log), `"level":"error","msg":"--legate-open: it must be one of`) {
		t.Errorf("the log has %s (%v)", log, err)
	}
}

func TestRead_FlagsWin(t *testing.T) {
	w, err := read(Process{
		Args:    []string{"--legate-wait=3s", "--legate-control", "/a/sock", "--legate-closed=false", "--root", "/r", "start", id},
		Environ: []string{"LEGATE_RUNC_WAIT=4s", "LEGATE_RUNC_CONTROL=/b/sock", "LEGATE_RUNC_CLOSED=true", "LEGATE_RUNC=/x"},
	})
	if err != nil || w.patience != 3*time.Second || w.control != "/a/sock" || w.closed || w.path != "/x" || w.call.root != "/r" || w.call.id != id {
		t.Errorf("read %+v (%v)", w, err)
	}
}
