package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"legate/internal/control"
	"legate/internal/spec"
	"legate/internal/testnet"
)

// instance answers as it was told to.
type instance struct {
	snapshot spec.Snapshot
	why      control.WhyRequest
	verbs    []any // the requests to pause, drain and resume
	done     control.OverrideReply
	asked    control.SwapRequest
	reply    control.SwapReply
	err      error
	waiting  chan struct{} // when set, a swap says so here and waits for its end
}

func (i *instance) Snapshot() spec.Snapshot { return i.snapshot }

func (i *instance) Swap(ctx context.Context, r control.SwapRequest) (control.SwapReply, error) {
	i.asked = r
	if i.waiting != nil {
		i.waiting <- struct{}{}
		<-ctx.Done()
		return control.SwapReply{}, ctx.Err()
	}
	return i.reply, i.err
}

func (i *instance) Why(_ context.Context, r control.WhyRequest) (spec.Explanation, error) {
	i.why = r
	return spec.Explanation{Link: r.Link, Caller: r.Caller, Verdict: "it goes there"}, i.err
}

func (i *instance) Pause(_ context.Context, r control.PauseRequest) (control.OverrideReply, error) {
	return i.override(r)
}

func (i *instance) Drain(_ context.Context, r control.DrainRequest) (control.OverrideReply, error) {
	return i.override(r)
}

func (i *instance) Resume(_ context.Context, r control.ResumeRequest) (control.OverrideReply, error) {
	return i.override(r)
}

func (i *instance) Ready(_ context.Context, r control.ReadyRequest) (control.ReadyReply, error) {
	i.verbs = append(i.verbs, r)
	return control.ReadyReply{Links: true}, i.err
}

func (i *instance) override(r any) (control.OverrideReply, error) {
	i.verbs = append(i.verbs, r)
	return i.done, i.err
}

// tempPlaces are two directories of this test, and abstract names.
func tempPlaces(t *testing.T) control.Places {
	t.Helper()
	base, err := os.MkdirTemp("", "legate") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	abstract := fmt.Sprintf("@legate-test-%s/", filepath.Base(base))
	return control.Places{Dirs: []string{filepath.Join(base, "first"), filepath.Join(base, "second")}, Abstract: abstract, Search: abstract}
}

func listen(t *testing.T, where string, p control.Places, i control.Instance) *control.Socket {
	t.Helper()
	s, err := control.Listen(where, p)
	if err != nil {
		t.Fatalf("listen on %q: %v", where, err)
	}
	server := control.Serve(s, i, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Errorf("close %s: %v", s.Address, err)
		}
	})
	return s
}

func find(t *testing.T, where string, p control.Places) *control.Client {
	t.Helper()
	c, err := control.Find(t.Context(), where, p)
	if err != nil {
		t.Fatalf("find %q: %v", where, err)
	}
	return c
}

func wantError(t *testing.T, err error, what, hint string) {
	t.Helper()
	u, ok := errors.AsType[*spec.UserError](err)
	if !ok || !strings.Contains(u.What, what) || !strings.Contains(u.Hint, hint) {
		t.Errorf("got %#v, want %q with the hint %q", err, what, hint)
	}
}

func TestClient_GetsWhatTheInstanceSays(t *testing.T) {
	p := tempPlaces(t)
	i := &instance{
		snapshot: spec.Snapshot{Instance: "legate", PID: 7, Links: []spec.LinkStatus{{Name: "db", State: spec.StateUp}}},
		reply:    control.SwapReply{Link: "db", Target: "b:1", Former: "a:1", Override: &spec.Override{Target: "b:1", Base: "1=a:1"}},
	}
	listen(t, "", p, i)
	c := find(t, "", p)
	s, err := c.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(i.snapshot, s); d != "" {
		t.Errorf("snapshot (-want +got)\n%s", d)
	}
	ask := control.SwapRequest{Link: "db", Target: "b:1", Live: control.LiveDrain, Within: control.Duration(30 * time.Second)}
	reply, err := c.Swap(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(ask, i.asked); d != "" {
		t.Errorf("request (-want +got)\n%s", d)
	}
	if d := cmp.Diff(i.reply, reply); d != "" {
		t.Errorf("reply (-want +got)\n%s", d)
	}
	i.err = spec.Errorf("links: db", "no link is named x")
	_, err = c.Swap(t.Context(), ask)
	wantError(t, err, "no link is named x", "links: db")
}

func TestClient_AsksForEveryVerb(t *testing.T) {
	p := tempPlaces(t)
	i := &instance{done: control.OverrideReply{Link: "db", Current: 2, Left: []spec.ConnectionStatus{{Link: "db", Caller: "10.0.0.7"}}}}
	listen(t, "", p, i)
	c := find(t, "", p)
	why := control.WhyRequest{Caller: "fd00::1&x", Link: "d b", Connect: true}
	e, err := c.Why(t.Context(), why)
	if err != nil || i.why != why || e.Verdict != "it goes there" {
		t.Errorf("why: got %+v, %v; it was asked %+v", e, err, i.why)
	}
	asks := []any{
		control.PauseRequest{Link: "db"},
		control.DrainRequest{Name: "db", Wait: true, Timeout: control.Duration(time.Minute)},
		control.ResumeRequest{Name: "db"},
	}
	verbs := []func() (control.OverrideReply, error){
		func() (control.OverrideReply, error) { return c.Pause(t.Context(), asks[0].(control.PauseRequest)) },
		func() (control.OverrideReply, error) { return c.Drain(t.Context(), asks[1].(control.DrainRequest)) },
		func() (control.OverrideReply, error) { return c.Resume(t.Context(), asks[2].(control.ResumeRequest)) },
	}
	for n, verb := range verbs {
		got, err := verb()
		if err != nil {
			t.Errorf("%T: %v", asks[n], err)
		}
		if d := cmp.Diff(i.done, got); d != "" {
			t.Errorf("%T (-want +got)\n%s", asks[n], d)
		}
	}
	if d := cmp.Diff(asks, i.verbs); d != "" {
		t.Errorf("it was asked (-want +got)\n%s", d)
	}
	i.err = spec.Errorf("links: db", "no link is named x")
	for n, verb := range verbs {
		if _, err := verb(); err == nil || err.Error() != "no link is named x" {
			t.Errorf("%T: got %v", asks[n], err)
		}
	}
}

func TestNoLinkOrEndpoint_SuggestsWhatWasMeant(t *testing.T) {
	links, addresses := []string{"db", "web"}, []string{"10.0.0.5:6379", "unix:/run/x"}
	for name, hint := range map[string]string{
		"wep":           "did you mean web?",
		"10.0.0.6:6379": "did you mean 10.0.0.5:6379?",
		"something":     "links: db, web; endpoints: 10.0.0.5:6379, unix:/run/x",
	} {
		wantError(t, control.NoLinkOrEndpoint(name, links, addresses), "no link is named "+name+", and no link has an endpoint "+name, hint)
	}
	ports := []string{"6001", "6010/udp", "127.0.0.1:6379"}
	for name, near := range map[string]string{"6010": "6010/udp", "6001/tcp": "6001", "0.0.0.0:6379": "127.0.0.1:6379", "6011": "6001"} {
		wantError(t, control.NoLink(name, ports), "no link is named "+name, "did you mean "+near+"?")
		wantError(t, control.NoLinkOrEndpoint(name, ports, nil), "no link is named "+name, "did you mean "+near+"?")
	}
	wantError(t, control.NoLinkOrEndpoint("x", nil, nil), "no link is named x", "legate status")
}

func TestClient_LeavingEndsTheRequest(t *testing.T) {
	testnet.CheckLeaks(t)
	p := tempPlaces(t)
	i := &instance{waiting: make(chan struct{})}
	listen(t, "", p, i)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-i.waiting
		cancel()
	}()
	_, err := find(t, "", p).Swap(ctx, control.SwapRequest{Link: "a", Undo: true})
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "http") {
		t.Errorf("got %v, want that it was canceled, in the user's words", err)
	}
}

func TestServer_CloseEndsWhatWaits(t *testing.T) {
	p := tempPlaces(t)
	s, err := control.Listen("", p)
	if err != nil {
		t.Fatal(err)
	}
	i := &instance{waiting: make(chan struct{})}
	server := control.Serve(s, i, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() {
		_, err := control.NewClient(s.Address).Swap(context.Background(), control.SwapRequest{Link: "a", Undo: true})
		ended <- err
	}()
	<-i.waiting
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil || err.Error() != "context canceled" {
		t.Errorf("the request ended with %v, want an answer that says so", err)
	}
	if _, err := os.Stat(s.Address); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestHandler_RefusesWhatIsNotForIt(t *testing.T) {
	for name, c := range map[string]struct {
		method, path, body, header string
		status                     int
		says                       string
	}{
		"browser":   {"GET", "/v1/snapshot", "", "Origin", 403, "not for browsers"},
		"linked":    {"POST", "/v1/swap", `{"link":"a","undo":true}`, "Referer", 403, "Referer"},
		"version":   {"GET", "/v2/snapshot", "", "", 404, "/v2/snapshot"},
		"method":    {"DELETE", "/v1/snapshot", "", "", 404, "DELETE"},
		"not json":  {"POST", "/v1/swap", "swap", "", 400, "read swap request"},
		"two":       {"POST", "/v1/pause", `{"link":"a"}{"link":"b"}`, "", 400, "read pause request: something follows it"},
		"unknown":   {"POST", "/v1/swap", `{"link":"a","undo":true,"later":1}`, "", 400, `\"later\"`},
		"no link":   {"POST", "/v1/swap", `{"undo":true}`, "", 400, "no link"},
		"no target": {"POST", "/v1/swap", `{"link":"a"}`, "", 400, "no target"},
		"both":      {"POST", "/v1/swap", `{"link":"a","undo":true,"target":"b:1"}`, "", 400, "only one"},
		"live":      {"POST", "/v1/swap", `{"link":"a","undo":true,"live":"kill"}`, "", 400, `live is \"kill\"`},
		"within":    {"POST", "/v1/swap", `{"link":"a","undo":true,"within":"3s"}`, "", 400, "belongs to drain"},
		"duration":  {"POST", "/v1/swap", `{"link":"a","undo":true,"live":"drain","within":"soon"}`, "", 400, `\"soon\"`},
		"timeout":   {"POST", "/v1/swap", `{"link":"a","undo":true,"force":true,"timeout":"3s"}`, "", 400, "nothing to wait for"},
		"parameter": {"POST", "/v1/resume?x=1", `{"name":"a"}`, "", 400, `resume: unknown parameter \"x\"`},
		"snapshot":  {"GET", "/v1/snapshot?x=1", "", "", 400, `snapshot: unknown parameter \"x\"`},
		"pause":     {"POST", "/v1/pause", `{}`, "", 400, "pause: link is missing"},
		"paused":    {"POST", "/v1/pause", `{"name":"a"}`, "", 400, `unknown field \"name\"`},
		"drain":     {"POST", "/v1/drain", `{"wait":true}`, "", 400, "drain: name is missing"},
		"waits":     {"POST", "/v1/drain", `{"name":"a","timeout":"3s"}`, "", 400, "timeout belongs to wait"},
		"back":      {"POST", "/v1/drain", `{"name":"a","wait":true,"timeout":"-3s"}`, "", 400, "must not be negative"},
		"resume":    {"POST", "/v1/resume", `{}`, "", 400, "resume: name is missing"},
		"why":       {"GET", "/v1/why?link=a", "", "", 400, "why: caller is missing"},
		"why link":  {"GET", "/v1/why?caller=10.0.0.7", "", "", 400, "why: link is missing"},
		"why else":  {"GET", "/v1/why?caller=10.0.0.7&link=a&conect=1", "", "", 400, `unknown parameter \"conect\"`},
		"why what":  {"GET", "/v1/why?caller=10.0.0.7&link=a&connect=2", "", "", 400, "must be true or false"},
		"large":     {"POST", "/v1/swap", `{"link":"` + strings.Repeat("a", 70<<10) + `"}`, "", 400, "too large"},
	} {
		t.Run(name, func(t *testing.T) {
			i := &instance{}
			r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
			if c.header != "" {
				r.Header.Set(c.header, "http://example.org")
			}
			w := httptest.NewRecorder()
			control.Handler(i).ServeHTTP(w, r)
			if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("got %d %s, want %d and %q", w.Code, w.Body, c.status, c.says)
			}
			if i.asked.Link != "" || i.why.Link != "" || i.verbs != nil {
				t.Error("it reached the instance")
			}
		})
	}
}

func TestClient_TellsWhatElseAnswers(t *testing.T) {
	path := testnet.SocketPath(t)
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	other := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: time.Second}
	go func() { _ = other.Serve(l) }()
	defer other.Close()
	_, err = control.NewClient(path).Snapshot(t.Context())
	wantError(t, err, "answered 404 Not Found, not as legate does", "--control")
}

func TestListen_MakesAPrivateSocket(t *testing.T) {
	p := tempPlaces(t)
	s := listen(t, "", p, &instance{})
	if want := filepath.Join(p.Dirs[0], "legate.sock"); s.Address != want || s.Name != "legate" {
		t.Errorf("it is %s at %s, want legate at %s", s.Name, s.Address, want)
	}
	fi, err := os.Stat(s.Address)
	if err != nil {
		t.Fatal(err)
	}
	if fi.Mode() != os.ModeSocket|0o600 {
		t.Errorf("its mode is %v", fi.Mode())
	}
}

func TestListen_NeverTakesALiveOne(t *testing.T) {
	p := tempPlaces(t)
	first := listen(t, "", p, &instance{})
	second := listen(t, "", p, &instance{})
	if want := fmt.Sprintf("legate-%d", os.Getpid()); second.Name != want {
		t.Errorf("the second one is %s, want %s", second.Name, want)
	}
	for _, where := range []string{"legate", first.Address} {
		_, err := control.Listen(where, p)
		wantError(t, err, "already in use", "--control")
	}
	if _, err := find(t, "legate", p).Snapshot(t.Context()); err != nil {
		t.Errorf("the first one no longer answers: %v", err)
	}
}

func TestListen_ReplacesAStaleOne(t *testing.T) {
	p := tempPlaces(t)
	path := filepath.Join(p.Dirs[0], "legate.sock")
	leaveStale(t, path)
	listen(t, "", p, &instance{snapshot: spec.Snapshot{PID: 1}})
	if s, err := find(t, "", p).Snapshot(t.Context()); err != nil || s.PID != 1 {
		t.Errorf("got %v, %v", s, err)
	}
}

func leaveStale(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
}

func TestListen_LeavesOtherFilesAlone(t *testing.T) {
	path := testnet.SocketPath(t)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := control.Listen(path, control.Places{})
	wantError(t, err, "not a socket", "choose another path")
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, []byte("precious")) {
		t.Errorf("the file holds %q, %v", b, err)
	}
}

func TestListen_RefusesAPathThatIsTooLong(t *testing.T) {
	_, err := control.Listen("/tmp/"+strings.Repeat("a", 120), control.Places{})
	wantError(t, err, "a socket's can have 107", "choose another path")
}

// A file stands where the directory would be: that cannot be written, by root
// either.
func blocked(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestListen_GoesWhereItCanWrite(t *testing.T) {
	p := tempPlaces(t)
	blocked(t, p.Dirs[0])
	if s := listen(t, "", p, &instance{}); filepath.Dir(s.Address) != p.Dirs[1] {
		t.Errorf("it is at %s, want it in %s", s.Address, p.Dirs[1])
	}
}

func TestListen_SaysThatItCanWriteNowhere(t *testing.T) {
	p := tempPlaces(t)
	p.Abstract = ""
	blocked(t, p.Dirs[0])
	blocked(t, p.Dirs[1])
	_, err := control.Listen("", p)
	wantError(t, err, "not a directory", "--control off")
}

func TestFind_NeedsExactlyOne(t *testing.T) {
	p := tempPlaces(t)
	_, err := control.Find(t.Context(), "", p)
	wantError(t, err, "no running legate was found", "legate run")
	leaveStale(t, filepath.Join(p.Dirs[0], "dead.sock"))
	_, err = control.Find(t.Context(), "", p)
	wantError(t, err, "no running legate was found", "legate run")
	listen(t, "web", p, &instance{})
	if c := find(t, "", p); filepath.Base(c.Address) != "web.sock" {
		t.Errorf("found %s", c.Address)
	}
	listen(t, "db", p, &instance{})
	_, err = control.Find(t.Context(), "", p)
	wantError(t, err, "several legates are running: db, web", "--control db")
	_, err = control.Find(t.Context(), "cache", p)
	wantError(t, err, "no running legate is named cache", "--control cache")
	_, err = control.Find(t.Context(), "wep", p)
	wantError(t, err, "no running legate is named wep", "did you mean --control web?")
	_, err = control.Find(t.Context(), "off", p)
	wantError(t, err, "is off", "--control NAME")
}

// The same name in two places can only be told apart by the address.
func TestFind_ShowsAddressesWhereNamesAreEqual(t *testing.T) {
	p := tempPlaces(t)
	first := listen(t, "db", control.Places{Dirs: p.Dirs[:1]}, &instance{})
	listen(t, "db", control.Places{Dirs: p.Dirs[1:]}, &instance{})
	_, err := control.Find(t.Context(), "", p)
	wantError(t, err, first.Address, "--control "+first.Address)
}

func TestCheckWhere(t *testing.T) {
	for _, good := range []string{"", "off", "db", "Db_1.2-x", "./x.sock", "/run/legate/x y.sock", "@legate/0/legate.sock"} {
		if err := control.CheckWhere(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"OFF", "Off", "a b", "..", ".hidden", "-x", "näme", "a\nb"} {
		wantError(t, control.CheckWhere(bad), strconv.Quote(bad)+" cannot be a name", "")
	}
}
