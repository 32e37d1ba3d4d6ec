package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"legate/internal/spec"
)

// Client talks to the instance behind one socket.
type Client struct {
	// Address of the socket: a path, or a name that begins with @.
	Address string
	where   string // how the user named it; "": not at all
	http    *http.Client
	// patience is how long the instance may take to begin with a request.
	patience time.Duration
}

// NewClient returns a client for a socket; nothing is opened yet.
func NewClient(address string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, address) }
	return &Client{
		Address: address,
		// A connection per request: commands make one, and none must linger.
		// It sends what it asks when the instance takes it up, however late: one
		// that did not must find nothing when the command has given up.
		http:     &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true, ExpectContinueTimeout: 24 * time.Hour}},
		patience: patience,
	}
}

// Snapshot asks for everything the instance reports about itself.
func (c *Client) Snapshot(ctx context.Context) (spec.Snapshot, error) {
	var s spec.Snapshot
	return s, c.do(ctx, request{method: http.MethodGet, path: pathSnapshot}, &s)
}

// Swap asks for another target and returns when live connections are as asked.
func (c *Client) Swap(ctx context.Context, r SwapRequest) (SwapReply, error) {
	var done SwapReply
	return done, c.do(ctx, request{method: http.MethodPost, path: pathSwap, ask: r}, &done)
}

// Why asks where a caller's connection would go.
func (c *Client) Why(ctx context.Context, r WhyRequest) (spec.Explanation, error) {
	var e spec.Explanation
	q := url.Values{"caller": {r.Caller}, "link": {r.Link}}
	err := c.do(ctx, request{method: http.MethodGet, path: pathWhy + "?" + q.Encode()}, &e)
	if err != nil || !r.Connect {
		return e, err
	}
	// That it answered has shown that it is well: connecting takes its time.
	q.Set("connect", "true")
	return e, c.do(ctx, request{method: http.MethodGet, path: pathWhy + "?" + q.Encode(), lasts: true}, &e)
}

// Pause asks that new connections of a link wait.
func (c *Client) Pause(ctx context.Context, r PauseRequest) (OverrideReply, error) {
	return c.override(ctx, pathPause, r)
}

// Drain asks that a link or an endpoint gets no new connections, and returns
// when it has waited as asked.
func (c *Client) Drain(ctx context.Context, r DrainRequest) (OverrideReply, error) {
	return c.override(ctx, pathDrain, r)
}

// Resume ends a pause or a drain.
func (c *Client) Resume(ctx context.Context, r ResumeRequest) (OverrideReply, error) {
	return c.override(ctx, pathResume, r)
}

// Ready waits until the links of a container that is about to start are open,
// as far as they can be.
func (c *Client) Ready(ctx context.Context, r ReadyRequest) (ReadyReply, error) {
	var done ReadyReply
	return done, c.do(ctx, request{method: http.MethodPost, path: pathReady, ask: r}, &done)
}

func (c *Client) override(ctx context.Context, path string, ask any) (OverrideReply, error) {
	var done OverrideReply
	return done, c.do(ctx, request{method: http.MethodPost, path: path, ask: ask}, &done)
}

// request is one call of the API.
type request struct {
	method, path string
	ask          any  // nil: nothing
	lasts        bool // nothing is heard before all is done
}

func (c *Client) do(ctx context.Context, q request, answer any) error {
	var body bytes.Buffer
	if q.ask != nil {
		if err := json.NewEncoder(&body).Encode(q.ask); err != nil {
			return fmt.Errorf("write request: %w", err)
		}
	}
	ctx, hearing := c.listen(ctx, q.lasts)
	defer hearing.end()
	h, err := http.NewRequestWithContext(ctx, q.method, "http://legate"+q.path, &body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if q.ask != nil {
		h.Header.Set("Expect", "100-continue")
	}
	r, err := c.http.Do(h)
	if err != nil {
		return cmp.Or(c.silence(ctx, hearing, q.ask != nil), c.unreachable(err))
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return c.readFailure(r)
	}
	if err := json.NewDecoder(r.Body).Decode(answer); err != nil {
		return c.unreachable(err)
	}
	return nil
}

func (c *Client) readFailure(r *http.Response) error {
	var f failure
	text, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if json.Unmarshal(text, &f) != nil || f.Error == "" {
		return spec.Errorf("see what listens there, or name another with --control",
			"the control socket answered %s, not as legate does", r.Status)
	}
	if r.StatusCode == http.StatusNotFound && f.Hint == "" {
		f.Hint = "the running legate has another version than this command; compare: legate version, legate status"
	}
	return spec.Errorf(Addressed(c.where, f.Hint), "%s", f.Error)
}

// Addressed writes the commands in a text so that they reach the instance that
// where, if anything, names. It does not know how it is called: as they stand,
// they would ask another one.
func Addressed(where, text string) string {
	if where == "" {
		return text
	}
	for _, verb := range []string{"status", "why", "swap", "pause", "drain", "resume"} {
		text = strings.ReplaceAll(text, "legate "+verb, "legate "+verb+" --control "+where)
	}
	return text
}

// unreachable says in the user's words why there was no answer.
func (c *Client) unreachable(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("stopped waiting for legate's answer: %w", context.Canceled) // without the address that HTTP knows
	case errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, os.ErrPermission):
		return errDenied(c.Address)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return errNobody(hintStart, "no legate answers on %s", c.Address)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return spec.Errorf(Addressed(c.where, "see whether it still runs: legate status"), "legate on %s ended before it answered", c.Address)
	}
	return fmt.Errorf("ask %s: %w", c.Address, err)
}

const hintStart = "start one: legate run 6379=192.168.1.52:6379"

func errDenied(address string) error {
	return spec.Errorf("run this command as the user that started it, as with: sudo legate status",
		"permission denied for %s: it belongs to another user", address)
}
