package consul

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"legate/internal/spec"
)

// answerLimit is how much of an answer is read: tens of thousands of instances
// with all their checks.
const answerLimit = 16 << 20

// query is one request, without the server and how long to wait.
type query struct {
	path       string // escaped
	values     url.Values
	about      string // what it asks for, for messages
	permission string // what a token must be allowed to read for it
}

// answer is what Consul answered.
type answer struct {
	status   int    // 200, or 404 of a key that is not there
	index    uint64 // of the state that it shows
	body     []byte
	filtered bool // something was left out that the token may not read
	guarded  bool // something may have been, and no token was sent
}

// client asks one server, one question at a time on one connection. It is
// closed by who made it.
type client struct {
	name   string // of the server, for messages
	server server
	getenv func(string) string
	http   *http.Client
	pace   patience
	closes bool // the last answer was the last one on its connection
}

// connect makes a client for a target; the connection is made by its first
// question.
func (s *Source) connect(t spec.Target) (*client, error) {
	host := ""
	if t.Source == spec.SourceConsulKV {
		host = t.Host
	}
	at, err := where(s.getenv, host)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		DialContext:            dialer(at.unix),
		TLSHandshakeTimeout:    s.pace.answer,
		MaxResponseHeaderBytes: 64 << 10,
		MaxConnsPerHost:        1,
		// The usual agent is on this host, where compressing only takes time.
		DisableCompression: true,
	}
	if at.base.Scheme == "https" {
		if transport.TLSClientConfig, err = secure(s.getenv); err != nil {
			return nil, err
		}
	}
	return &client{name: at.name(), server: at, getenv: s.getenv, pace: s.pace, http: &http.Client{
		Transport: transport,
		// Consul does not redirect what is asked here, and whoever does shall
		// not be sent the token.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func dialer(unix string) func(ctx context.Context, network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: 10 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if unix != "" {
			network, address = "unix", unix
		}
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return &conversation{Conn: c, spoke: make(chan struct{})}, nil
	}
}

// conversation is a connection that hears nothing before it said something. Consul
// refuses a connection too many before it is asked; package net/http would take
// that for noise, and often lose why.
type conversation struct {
	net.Conn
	once  sync.Once
	spoke chan struct{}
}

func (c *conversation) Read(p []byte) (int, error) {
	<-c.spoke
	return c.Conn.Read(p)
}

func (c *conversation) Write(p []byte) (int, error) {
	c.once.Do(func() { close(c.spoke) })
	return c.Conn.Write(p)
}

func (c *conversation) Close() error {
	defer c.once.Do(func() { close(c.spoke) })
	return c.Conn.Close()
}

func (c *client) close() { c.http.CloseIdleConnections() }

// ask asks for the state, with an index for the first change after it.
func (c *client) ask(ctx context.Context, q query, index uint64) (answer, error) {
	limit := c.pace.answer
	if index > 0 {
		limit += c.pace.wait + c.pace.wait/16
	}
	ctx, slow := context.WithTimeoutCause(ctx, limit, errSlow)
	defer slow()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request, err := c.request(c.trace(ctx, index, cancel), q, index)
	if err != nil {
		return answer{}, c.failed(q, err)
	}
	a, err := c.exchange(request)
	if err == nil {
		return a, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return answer{}, c.failed(q, err)
}

// trace gives up a question about changes that goes out on a connection of its
// own. Package net/http asks anew by itself when the server is gone, and a
// server that was started again without its data would keep us waiting for
// what it numbers lower than the index that it lost. One that closes after
// each answer, and says so, is another matter.
func (c *client) trace(ctx context.Context, index uint64, giveUp context.CancelCauseFunc) context.Context {
	if index == 0 || c.closes {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !info.Reused {
			giveUp(errLost)
		}
	}})
}

func (c *client) request(ctx context.Context, q query, index uint64) (*http.Request, error) {
	values := url.Values{}
	for name, value := range q.values {
		values[name] = value
	}
	for name, variable := range map[string]string{"ns": envNamespace, "partition": envPartition} {
		if value := c.getenv(variable); value != "" {
			values.Set(name, value)
		}
	}
	if index > 0 {
		values.Set("index", strconv.FormatUint(index, 10))
		values.Set("wait", fmt.Sprintf("%dms", c.pace.wait.Milliseconds()))
	}
	base := c.server.base
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.String()+q.path+"?"+values.Encode(), nil)
	if err != nil {
		return nil, err
	}
	token, err := secret(c.getenv)
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("X-Consul-Token", token)
	}
	if auth := c.getenv(envAuth); auth != "" {
		user, password, _ := strings.Cut(auth, ":")
		request.SetBasicAuth(user, password)
	}
	return request, nil
}

// exchange reads the answer to its end, so that the connection serves the next
// question, too.
func (c *client) exchange(request *http.Request) (answer, error) {
	response, err := c.http.Do(request)
	if err != nil {
		return answer{}, noHTTP(err)
	}
	defer response.Body.Close()
	c.closes = response.Close
	body, err := io.ReadAll(io.LimitReader(response.Body, answerLimit+1))
	if err != nil {
		return answer{}, err
	}
	if len(body) > answerLimit {
		return answer{}, fmt.Errorf("the answer is longer than %d MiB", answerLimit>>20)
	}
	if err := refused(response, body); err != nil {
		return answer{}, err
	}
	a := answer{
		status:   response.StatusCode,
		body:     body,
		filtered: isTrue(response.Header.Get("X-Consul-Results-Filtered-By-Acls")),
		guarded:  response.Header.Get("X-Consul-Default-Acl-Policy") == "deny" && request.Header.Get("X-Consul-Token") == "",
	}
	if a.index, err = strconv.ParseUint(response.Header.Get("X-Consul-Index"), 10, 64); err != nil {
		return answer{}, fmt.Errorf("%w: X-Consul-Index is %q", errNotConsul, readable(response.Header.Get("X-Consul-Index")))
	}
	if leaderless(response.Header) {
		return answer{}, errors.New("it has no leader")
	}
	return a, nil
}

// leaderless tells whether nobody can say what is registered. What comes from
// Consul's streaming back end says so always, and without reason:
// https://github.com/hashicorp/consul/issues/9776
func leaderless(h http.Header) bool {
	leader := h.Get("X-Consul-Knownleader")
	return leader != "" && !isTrue(leader) && h.Get("X-Consul-Query-Backend") != "streaming"
}

func isTrue(text string) bool {
	on, err := strconv.ParseBool(text)
	return on && err == nil
}
