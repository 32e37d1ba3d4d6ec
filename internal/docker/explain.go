package docker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"

	"legate/internal/spec"
)

// cause is what an error was wrapped around by the layers that only add what
// we say ourselves.
func cause(err error) error {
	if at := (*net.OpError)(nil); errors.As(err, &at) {
		return at.Err
	}
	if at := (*url.Error)(nil); errors.As(err, &at) {
		return at.Err
	}
	return err
}

// explain says in the user's words why a question had no answer.
func (c *Client) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = io.EOF // of a stream that ended
	}
	if reason := c.unreachable(ctx); reason != nil {
		return reason
	}
	if reason := c.refused(err); reason != nil {
		return reason
	}
	if c.wantsTLS(ctx) {
		return spec.Errorf("set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH=DIRECTORY with ca.pem, cert.pem and key.pem",
			"the Docker engine at %s wants TLS", c.address)
	}
	text := plain(err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		text = "nothing came within " + timeout.String()
	case closed(err):
		text = "it closed the connection"
	}
	return spec.Errorf("see whether `docker ps` works on this host, and the engine's log",
		"the Docker engine at %s did not answer: %s", c.address, text)
}

// closed tells whether the engine closed the connection. Which of these it is
// depends on how far the question was.
func closed(err error) bool {
	for _, one := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, one) {
			return true
		}
	}
	return strings.Contains(err.Error(), "server closed idle connection") // package net/http has no other word for it
}

// unreachable says why the engine cannot be connected to; nil when it can. The
// client's own errors have lost the cause.
func (c *Client) unreachable(ctx context.Context) error {
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(ctx, c.network, c.address)
	switch {
	case err == nil:
		conn.Close()
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrPermission):
		return spec.Errorf("run as root, or add the group that owns the socket: --group-add $(stat -c %g "+c.address+")",
			"no permission to use the Docker socket %s", c.address)
	case errors.Is(err, fs.ErrNotExist):
		return spec.Errorf("mount it: -v "+c.address+":"+c.address, "there is no Docker socket %s", c.address)
	case errors.Is(err, syscall.ECONNREFUSED):
		return spec.Errorf("start the Docker engine; if it was restarted, re-create this container or mount the socket's directory instead",
			"nothing answers at the Docker socket %s", c.address)
	}
	return spec.Errorf("check DOCKER_HOST", "the Docker engine at %s cannot be reached: %s", c.address, plain(err))
}

// refused says how an engine, or a proxy before it, wants to be asked; nil
// where that is not what is wrong.
func (c *Client) refused(err error) error {
	var unverified *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	switch {
	case errdefs.IsPermissionDenied(err):
		return spec.Errorf("a socket proxy has to let GET /containers, /images, /events, /version and /_ping pass: CONTAINERS=1 IMAGES=1 EVENTS=1 VERSION=1 PING=1",
			"the Docker engine at %s refuses the question: %s", c.address, plain(err))
	case errors.As(err, &unverified), errors.As(err, &authority):
		return spec.Errorf("compare ca.pem in DOCKER_CERT_PATH with the authority of the engine, and the names in the engine's certificate with DOCKER_HOST",
			"the certificate of the Docker engine at %s is not trusted: %s", c.address, plain(err))
	case strings.Contains(err.Error(), "remote error: tls: "):
		return spec.Errorf("put cert.pem and key.pem, from the authority that the engine trusts, into DOCKER_CERT_PATH",
			"the Docker engine at %s refuses our certificate", c.address)
	}
	return nil
}

// wantsTLS tries whether an engine that did not understand us would understand
// TLS. It says so itself, but its reset overtakes what it says.
func (c *Client) wantsTLS(ctx context.Context) bool {
	if c.tls || c.network != "tcp" {
		return false
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := dialer.DialContext(limited, c.network, c.address)
	if err == nil {
		conn.Close()
	}
	return err == nil
}
