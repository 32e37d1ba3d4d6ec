package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// mute is a socket that takes connections, as that of a stopped process does,
// and never answers.
func mute(t *testing.T) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: testnet.SocketPath(t), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// bounded ends what would hang where there is no limit, without one of its own.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	end := time.AfterFunc(testnet.Patience, cancel)
	t.Cleanup(func() { end.Stop(); cancel() })
	return ctx
}

func hasty(address string) *Client {
	c := NewClient(address)
	c.patience = 20 * time.Millisecond
	return c
}

func verbs(c *Client) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"status": func(ctx context.Context) error { _, err := c.Snapshot(ctx); return err },
		"why":    func(ctx context.Context) error { _, err := c.Why(ctx, WhyRequest{Caller: "a", Link: "b"}); return err },
		"try": func(ctx context.Context) error {
			_, err := c.Why(ctx, WhyRequest{Caller: "a", Link: "b", Connect: true})
			return err
		},
		"swap":  func(ctx context.Context) error { _, err := c.Swap(ctx, SwapRequest{Link: "b", Undo: true}); return err },
		"pause": func(ctx context.Context) error { _, err := c.Pause(ctx, PauseRequest{Link: "b"}); return err },
		"drain": func(ctx context.Context) error {
			_, err := c.Drain(ctx, DrainRequest{Name: "b", Wait: true})
			return err
		},
		"resume": func(ctx context.Context) error { _, err := c.Resume(ctx, ResumeRequest{Name: "b"}); return err },
	}
}

func TestClient_SaysWhoDoesNotAnswer(t *testing.T) {
	testnet.CheckLeaks(t)
	address := mute(t).Addr().String()
	want := fmt.Sprintf("pid %d holds %s and does not answer", os.Getpid(), address)
	for name, verb := range verbs(hasty(address)) {
		t.Run(name, func(t *testing.T) {
			err := verb(bounded(t))
			if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(spec.HintOf(err), "kill -CONT") {
				t.Errorf("got %v (%s), want %s", err, spec.HintOf(err), want)
			}
		})
	}
}

// That an endpoint takes long to connect to says nothing about the instance.
func TestClient_LetsConnectingTakeItsTime(t *testing.T) {
	testnet.CheckLeaks(t)
	address := testnet.SocketPath(t)
	l, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	c := hasty(address)
	s := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("connect") {
			<-time.After(5 * c.patience)
		}
		fmt.Fprint(rw, `{"verdict":"goes there"}`)
	})}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	defer serving.Wait()
	defer s.Close()
	if e, err := c.Why(bounded(t), WhyRequest{Caller: "a", Link: "b", Connect: true}); err != nil || e.Verdict != "goes there" {
		t.Errorf("%+v, %v", e, err)
	}
}

// Nothing was asked of an instance that did not take the request, and the
// command must not say that it was.
func TestClient_KnowsThatNothingWasAsked(t *testing.T) {
	l := mute(t)
	ctx, cancel := context.WithCancel(bounded(t))
	go func() {
		if c, err := l.Accept(); err == nil {
			defer c.Close()
			cancel()
			<-t.Context().Done()
		}
	}()
	_, err := NewClient(l.Addr().String()).Drain(ctx, DrainRequest{Name: "b", Wait: true})
	if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "did not take the request, and nothing changed") {
		t.Errorf("got %v", err)
	}
}

// asked notes what reaches the instance.
type asked struct {
	Instance
	pauses chan string
}

func (a asked) Pause(_ context.Context, r PauseRequest) (OverrideReply, error) {
	a.pauses <- r.Link
	return OverrideReply{Link: r.Link}, nil
}

// A stopped process finds the requests of days when it goes on. Those whose
// clients left are not done; who only has no more to say still waits.
func TestServer_PassesOverThoseWhoLeft(t *testing.T) {
	l := mute(t)
	const pause = "POST /v1/pause HTTP/1.1\r\nHost: legate\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
	say := func(link string) *net.UnixConn {
		c, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
		if err != nil {
			t.Fatal(err)
		}
		body := fmt.Sprintf(`{"link":%q}`, link)
		fmt.Fprintf(c, pause, len(body), body)
		return c
	}
	say("gone").Close()
	half := say("waits")
	defer half.Close()
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_, err := hasty(l.Addr().String()).Pause(bounded(t), PauseRequest{Link: "gave up"})
	if err == nil {
		t.Fatal("it was answered by nobody")
	}
	pauses := make(chan string, 3)
	server := Serve(l, asked{pauses: pauses}, slog.New(slog.DiscardHandler))
	if got := <-pauses; got != "waits" {
		t.Errorf("it was asked to pause %s", got)
	}
	if err := server.Close(); err != nil { // no request is under way now
		t.Error(err)
	}
	close(pauses)
	for link := range pauses {
		t.Errorf("it was asked to pause %s, too", link)
	}
}
