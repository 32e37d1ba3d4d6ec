package etcd

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"legate/internal/spec"
)

// reason is what people are told where an error contains a text. gRPC wraps
// what went wrong below it into text, with ports that differ each time.
type reason struct{ contains, what, hint string }

// reasons in the order in which they are looked for. PATH in a hint is the
// path asked for.
var reasons = []reason{
	{"user name is empty", "it wants a user", "set ETCDCTL_USER=USER:PASSWORD"},
	{"invalid user ID or password", "the user or the password is wrong", "check ETCDCTL_USER and ETCDCTL_PASSWORD"},
	{"invalid auth token", "it does not accept its own token", "check that ETCDCTL_USER still exists"},
	{"permission denied", "the user may not read it", "etcdctl role grant-permission ROLE read --prefix PATH"},
	{"no leader", "it has no leader", "etcdctl endpoint status --cluster"},
	{"leader changed", "its leader changed", ""},
	{"etcdserver: request timed out", "it has no answer of its other members", "etcdctl endpoint status --cluster"},
	{"certificate signed by unknown authority", "its certificate is from an unknown authority", "let ETCDCTL_CACERT name the certificate of its authority"},
	{"certificate is not trusted", "its certificate is from an unknown authority", "let ETCDCTL_CACERT name the certificate of its authority"},
	{"certificate is valid for", "its certificate has another name", "ask it by a name of its certificate"},
	{"doesn't contain any IP SANs", "its certificate has another name", "ask it by a name of its certificate"},
	{"not valid for any names", "its certificate has another name", "ask it by a name of its certificate"},
	{"certificate has expired or is not yet valid", "its certificate has expired or is not yet valid", "renew it, or set the clock"},
	{"certificate required", "it wants a certificate", "let ETCDCTL_CERT and ETCDCTL_KEY name one"},
	{"remote error: tls: bad certificate", refused, "let ETCDCTL_CERT and ETCDCTL_KEY name another one"},
	{"remote error: tls: unknown certificate", refused, "let ETCDCTL_CERT and ETCDCTL_KEY name another one"},
	{"first record does not look like a TLS handshake", "it speaks no TLS", "unset ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY and https://"},
	{"connection refused", "connection refused", ""},
	{"no route to host", "no route to host", ""},
	{"network is unreachable", "network is unreachable", ""},
	{"no such host", "no such host", ""},
	{"keepalive ping failed", "it stopped answering", ""},
	{"no answer to a watch", "no answer", ""},
	{"i/o timeout", "no answer", ""},
	{"context deadline exceeded", "no answer", ""},
	// gRPC's own timer closed it under the reader.
	{"use of closed network connection", "no answer", ""},
}

const refused = "it refuses our certificate"

// closed are texts of a connection that the other side ended. Which one it is
// depends on who was faster.
var closed = []string{"EOF", "broken pipe", "connection reset", "transport is closing", "goaway", "GOAWAY"}

func containsOneOf(s string, texts []string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(s, text) })
}

// ends are the two ends of a connection, the near one with a port that differs
// each time.
var ends = regexp.MustCompile(`\b(read|write) (tcp|udp) \S+->\S+: `)

// nothing says that no key is there. The user of a registry with rights may
// just not see it.
func (c *client) nothing(path string, denied bool) error {
	if denied {
		return spec.Errorf("perhaps the user may not read all of it: etcdctl role grant-permission ROLE read --prefix /"+path,
			"nothing that %s may read is at /%s in etcd at %s", c.user, path, c.server)
	}
	return spec.Errorf("write an endpoint there: etcdctl put /"+path+" 192.168.1.52:6379", "nothing is at /%s in etcd at %s", path, c.server)
}

// explain says why a question failed, in the same words each time.
func (c *client) explain(ctx context.Context, path string, err error) error {
	what, hint := c.why(ctx, err)
	return spec.Errorf(strings.ReplaceAll(hint, "PATH", "/"+path), "ask etcd at %s for /%s: %s", c.server, path, what)
}

func (c *client) why(ctx context.Context, err error) (what, hint string) {
	said := desc(err)
	if what, hint = c.known(said); what != "" {
		return what, hint
	}
	if own, ok := strings.CutPrefix(said, "etcdserver: "); ok {
		return printable(own), ""
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Unimplemented, codes.Internal:
		if what, hint = c.probe(ctx); what != "" {
			return what, hint
		}
	}
	if containsOneOf(said, closed) {
		return "it closed the connection", ""
	}
	if status.Code(err) == codes.Unimplemented || strings.Contains(said, "server preface") {
		return "it does not speak etcd's protocol", "is another server there?"
	}
	return printable(ends.ReplaceAllString(said, "")), ""
}

// printable keeps what a server says to one short line.
func printable(said string) string {
	quoted := strconv.Quote(said[:min(len(said), 200)])
	return quoted[1 : len(quoted)-1]
}

// known looks a text up in reasons; "": there is none.
func (c *client) known(said string) (what, hint string) {
	for _, r := range reasons {
		if !strings.Contains(said, r.contains) {
			continue
		}
		// Before TLS 1.3 there is no other alert for this.
		if r.what == refused && (c.tls == nil || len(c.tls.Certificates) == 0) {
			return c.known("certificate required")
		}
		return r.what, r.hint
	}
	return "", ""
}

// probe asks a server that gRPC cannot speak with what it is; "": nothing is
// known.
func (c *client) probe(ctx context.Context) (what, hint string) {
	ctx, cancel := context.WithTimeout(ctx, c.dialTimeout)
	defer cancel()
	for _, address := range c.addresses {
		if what, hint = c.probeOne(ctx, address); what != "" {
			return what, hint
		}
	}
	return "", ""
}

func (c *client) probeOne(ctx context.Context, address string) (what, hint string) {
	if c.tls != nil {
		if what, hint = c.known(alert(ctx, address, c.tls)); what != "" {
			return what, hint
		}
	}
	version, err := version(ctx, address, c.tls)
	switch {
	case err == nil && (strings.HasPrefix(version, "2.") || strings.HasPrefix(version, "0.")):
		return "this etcd (" + version + ") has only the v2 API", "Legate speaks v3: upgrade etcd to 3.4 or later"
	case errors.Is(err, errOtherHTTP):
		return "an HTTP server that is not etcd is there", "check the address"
	case err == nil: // it was away for a moment
	case c.tls == nil && speaksTLS(ctx, address):
		return "it speaks TLS only", "write https:// in ETCDCTL_ENDPOINTS, or let ETCDCTL_CACERT name the certificate of its authority"
	case c.tls != nil && speaksHTTP(ctx, address):
		return c.known("first record does not look like a TLS handshake")
	}
	return "", ""
}

var errOtherHTTP = errors.New("not etcd's answer")

// alert is what a server says against a certificate of ours. With TLS 1.3 it
// says so after the handshake, and what is written before that was read may
// turn the alert into a reset.
func alert(ctx context.Context, address string, config *tls.Config) string {
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(alertWait))
	if _, err = conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return ""
	}
	return err.Error()
}

// alertWait is more than a round trip to a registry.
const alertWait = 300 * time.Millisecond

// version asks for the release as etcd of all versions answers it over HTTP.
// It does so by hand: the client of net/http writes to the process's own log
// when a server says what nobody asked for.
func version(ctx context.Context, address string, config *tls.Config) (string, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if until, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(until)
	}
	if config != nil {
		config = config.Clone()
		config.ServerName = serverName(address)
		conn = tls.Client(conn, config)
	}
	fmt.Fprintf(conn, "GET /version HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", address)
	answer, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, versionLimit)), nil)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var version struct{ EtcdServer string }
	err = json.NewDecoder(answer.Body).Decode(&version)
	if err != nil || !release.MatchString(version.EtcdServer) {
		return "", errOtherHTTP
	}
	return version.EtcdServer, nil
}

// versionLimit is how much is read of an answer with a version in it.
const versionLimit = 64 << 10

var release = regexp.MustCompile(`^\d+\.\d+[0-9A-Za-z.+-]{0,30}$`)

// speaksHTTP tells whether a server that fails under TLS would without.
func speaksHTTP(ctx context.Context, address string) bool {
	_, err := version(ctx, address, nil)
	return err == nil || errors.Is(err, errOtherHTTP)
}

// speaksTLS tells whether a server that does not understand us would under
// TLS. Nothing is sent, so who it is does not matter.
func speaksTLS(ctx context.Context, address string) bool {
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		conn.Close()
	}
	return err == nil || strings.Contains(err.Error(), "remote error: tls")
}
