package etcd

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"regexp"
	"strings"

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
	{"remote error: tls: bad certificate", "it refuses our certificate", "let ETCDCTL_CERT and ETCDCTL_KEY name another one"},
	{"remote error: tls: unknown certificate", "it refuses our certificate", "let ETCDCTL_CERT and ETCDCTL_KEY name another one"},
	{"remote error: tls: unknown authority", "it refuses our certificate", "let ETCDCTL_CERT and ETCDCTL_KEY name another one"},
	{"first record does not look like a TLS handshake", "it speaks no TLS", "unset ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY and https://"},
	{"connection refused", "connection refused", ""},
	{"no route to host", "no route to host", ""},
	{"network is unreachable", "network is unreachable", ""},
	{"no such host", "no such host", ""},
	{"i/o timeout", "no answer to a connect", ""},
	{"keepalive ping failed", "it stopped answering", ""},
}

// foreign are errors after which it is worth to ask what else is there.
var foreign = []string{
	"server preface", "unexpected HTTP status code", "unknown service", "unknown method", "missing selected ALPN",
	"no application protocol", "deadline exceeded", "deadline has expired", "content-type", "frame",
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
	return spec.Errorf("", "nothing is at /%s in etcd at %s", path, c.server)
}

// explain says why a question failed, in the same words each time.
func (c *client) explain(ctx context.Context, path string, err error) error {
	what, hint := c.why(ctx, err)
	return spec.Errorf(strings.ReplaceAll(hint, "PATH", "/"+path), "ask etcd at %s for /%s: %s", c.server, path, what)
}

func (c *client) why(ctx context.Context, err error) (what, hint string) {
	said := desc(err)
	for _, r := range reasons {
		if strings.Contains(said, r.contains) {
			return r.what, r.hint
		}
	}
	for _, text := range foreign {
		if strings.Contains(said, text) {
			if what, hint = c.probe(ctx); what != "" {
				return what, hint
			}
		}
	}
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		return "no answer", ""
	case codes.Unavailable:
		if strings.Contains(said, "server preface") {
			return "it does not speak etcd's protocol", "is another server there?"
		}
		return "the connection was lost", ""
	}
	if errors.Is(err, errLate) {
		return "no answer", ""
	}
	return ends.ReplaceAllString(said, ""), ""
}

// probe asks a server that does not speak gRPC what it is, as etcd of all
// versions answers it over HTTP; "": nothing is known.
func (c *client) probe(ctx context.Context) (what, hint string) {
	ctx, cancel := context.WithTimeout(ctx, c.dialTimeout)
	defer cancel()
	for _, address := range c.addresses {
		version, err := c.version(ctx, address)
		switch {
		case err == nil && (strings.HasPrefix(version, "2.") || strings.HasPrefix(version, "0.")):
			return "this etcd (" + version + ") has only the v2 API", "Legate speaks v3: upgrade etcd to 3.4 or later"
		case err == nil:
			return "it answers over HTTP as etcd " + version + " but not by the v3 protocol", "ask the client port itself, not a proxy of HTTP"
		case errors.Is(err, errOtherHTTP):
			return "an HTTP server that is not etcd is there", "check the address"
		case c.tls == nil && speaksTLS(ctx, address):
			return "it speaks TLS only", "write https:// in ETCDCTL_ENDPOINTS, or let ETCDCTL_CACERT name the certificate of its authority"
		}
	}
	return "", ""
}

var errOtherHTTP = errors.New("not etcd's answer")

func (c *client) version(ctx context.Context, address string) (string, error) {
	scheme := "http"
	if c.tls != nil {
		scheme = "https"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+address+"/version", nil)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{TLSClientConfig: c.tls.Clone(), DisableKeepAlives: true}
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var version struct{ EtcdServer string }
	err = json.NewDecoder(io.LimitReader(answer.Body, 4096)).Decode(&version)
	if err != nil || !release.MatchString(version.EtcdServer) {
		return "", errOtherHTTP
	}
	return version.EtcdServer, nil
}

var release = regexp.MustCompile(`^\d+\.\d+[0-9A-Za-z.+-]{0,30}$`)

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
