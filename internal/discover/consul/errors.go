package consul

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"unicode"

	"legate/internal/spec"
)

var (
	errSlow = errors.New("no answer in time")
	errLost = errors.New("the connection was lost")
)

// failed says what was asked of whom. The hint of err is kept, and what would
// differ from one time to the next is not: the ports of a lost connection are
// of no use to anybody.
func (c *client) failed(q query, err error) error {
	hint := hintFor(err)
	if user, ok := errors.AsType[*spec.UserError](err); ok {
		hint = user.Hint
	} else if hint == "" && errors.Is(err, errForbidden) {
		hint = mayRead(q)
	}
	return spec.Errorf(hint, "ask Consul at %s for %s: %s", c.name, q.about, explain(err))
}

func mayRead(q query) string { return "set " + envToken + " to a token that may read " + q.permission }

// hidden is the error where all that there is may not be read.
func (c *client) hidden(q query) error {
	return c.failed(q, spec.Errorf(mayRead(q), "permission denied"))
}

// unseen adds to an error about nothing that there may be something.
func (c *client) unseen(err error) error {
	return spec.Errorf("if there is, set "+envToken+" to a token that may read it", "%s, or it may not be read without a token", err)
}

// refusal is an answer that is none, in the server's words.
type refusal struct {
	kind error
	text string
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.kind }

var (
	errForbidden = errors.New("permission denied")
	errCrowded   = errors.New("too many connections")
	errPlain     = errors.New("it wants TLS")
	errServer    = errors.New("refused")
)

// refused says why a response is no answer; nil: it is one.
func refused(r *http.Response, body []byte) error {
	said := readable(firstLine(string(body[:min(len(body), 4096)])))
	named := r.Header.Get("X-Consul-Index") != ""
	switch status := r.StatusCode; {
	case status == http.StatusOK, status == http.StatusNotFound && named && len(body) == 0:
		return nil
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return &refusal{errForbidden, and("permission denied", said)}
	case status == http.StatusTooManyRequests:
		return &refusal{errCrowded, and("it answers 429", said)}
	case status == http.StatusBadRequest && strings.Contains(said, "HTTP request to an HTTPS server"):
		return &refusal{errPlain, "it wants TLS"}
	case status >= 300 && status < 400:
		return fmt.Errorf("%w: it redirects to %q", errNotConsul, readable(r.Header.Get("Location")))
	case status == http.StatusNotFound:
		return fmt.Errorf("%w: it answers 404", errNotConsul)
	default:
		return &refusal{errServer, and(fmt.Sprintf("it answers %d", status), said)}
	}
}

func and(text, said string) string {
	if said == "" || strings.EqualFold(text, said) {
		return text
	}
	if rest, found := cutPrefixFold(said, text+": "); found {
		said = rest
	}
	return text + ": " + said
}

func cutPrefixFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

// noHTTP tells an answer that is not even HTTP from a connection that broke,
// which package net/http tells apart in the text alone.
func noHTTP(err error) error {
	_, what, found := strings.Cut(err.Error(), "transport connection broken: ")
	errno := syscall.Errno(0)
	if !found || errors.As(err, &errno) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return fmt.Errorf("%w: %s", errNotConsul, readable(what))
}

// hintFor is what to do about an error; "": nothing comes to mind.
func hintFor(err error) string {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		header   tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &unknown):
		return "set " + envCACert + " to the certificate of the authority that signed the server's"
	case errors.As(err, &hostname):
		return "set " + envServerName + " to a name that its certificate is for"
	case errors.As(err, &invalid):
		return "renew the server's certificate"
	case remoteAlert(err) != "":
		return "set " + envCert + " and " + envKey + " to a certificate that the server accepts"
	case errors.As(err, &header), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "without TLS: remove " + envSSL + " and write http:// in " + envAddr
	case errors.Is(err, errPlain):
		return "set " + envSSL + "=true, or write https:// in " + envAddr
	case errors.Is(err, errCrowded):
		return "raise limits.http_max_conns_per_client in Consul's configuration: each service that is watched takes one connection"
	case errors.Is(err, errNotConsul), errors.Is(err, syscall.ECONNREFUSED):
		return "set " + envAddr + " to the address of Consul's HTTP API"
	}
	return ""
}

// explain says what went wrong in words that are the same each time.
func explain(err error) string {
	var (
		errno    syscall.Errno
		name     *net.DNSError
		path     *fs.PathError
		hostname x509.HostnameError
		unknown  x509.UnknownAuthorityError
		invalid  x509.CertificateInvalidError
		verify   *tls.CertificateVerificationError
		header   tls.RecordHeaderError
		said     *refusal
		timeout  net.Error
	)
	switch {
	case errors.As(err, &said):
		return said.Error()
	case errors.As(err, &name):
		return "look up " + readable(name.Name) + ": " + unresolved(name)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE): // as EOF: it depends on who was faster
		return errLost.Error()
	case errors.As(err, &errno):
		return errno.Error()
	case errors.As(err, &path):
		return path.Err.Error()
	case errors.As(err, &hostname):
		return "its certificate is not for " + readable(hostname.Host)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "its certificate has expired or is not yet valid" // the error itself has the time of day in it
	case errors.As(err, &unknown):
		return "its certificate is signed by an unknown authority"
	case errors.As(err, &verify):
		return "its certificate is not trusted: " + readable(verify.Err.Error())
	case remoteAlert(err) != "":
		return "it ends the handshake: " + remoteAlert(err)
	case errors.As(err, &header), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "it does not speak TLS"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return errLost.Error()
	case errors.As(err, &timeout) && timeout.Timeout():
		return errSlow.Error()
	}
	return readable(innermost(err).Error())
}

// remoteAlert is what a TLS server says is wrong with us; "": it does not.
func remoteAlert(err error) string {
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "remote error" {
		return op.Err.Error()
	}
	return ""
}

func unresolved(err *net.DNSError) string {
	if err.IsTimeout {
		return errSlow.Error()
	}
	if strings.Contains(err.Err, "->") { // both ends of a socket
		return "the name server does not answer"
	}
	return readable(err.Err)
}

// innermost drops what package net wraps errors in: there are ephemeral ports
// in it.
func innermost(err error) error {
	for {
		var (
			request *url.Error
			op      *net.OpError
		)
		switch {
		case errors.As(err, &request):
			err = request.Err
		case errors.As(err, &op):
			err = op.Err
		default:
			return err
		}
	}
}

// readable makes foreign text fit for a line that people read.
func readable(text string) string {
	const limit = 200
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			return r
		}
		return ' '
	}, text))
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit]) + "..."
	}
	return text
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}
