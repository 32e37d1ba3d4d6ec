// Package check asks an endpoint for its health, in the protocol that its
// server speaks: one connection, one question, one answer.
//
// What a server says is never trusted: every read is bounded in time and in
// bytes, whatever comes is an answer or an error, and the error is one line
// for people that never holds the check's password.
package check

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"

	"legate/internal/spec"
)

// Runner asks endpoints. The zero value dials with the net package; copies
// may be used by several goroutines at once.
type Runner struct {
	// Dial connects to an endpoint until ctx ends; nil: as net.Dialer does.
	Dial func(ctx context.Context, e spec.Endpoint) (net.Conn, error)
}

// Run asks the endpoint once and returns nil when it is healthy. The check
// ends with ctx, and after c.Timeout where that is set. The error is for
// people; it wraps what the system said, so that a shortage of our own can be
// told from a sick endpoint with errors.Is.
func (r Runner) Run(ctx context.Context, c spec.Check, e spec.Endpoint) error {
	if c.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Timeout)
		defer cancel()
	}
	password, err := secret(c)
	if err != nil {
		return err
	}
	conn, err := r.dial(ctx, e)
	if err != nil {
		return explain(ctx, c, "connect: ", err)
	}
	defer conn.Close()
	if c.Kind == spec.CheckTCP && (c.SendProxy == "" || c.SendProxy == spec.ProxyOff) {
		return nil // it accepted: no buffer and no timer for the commonest check
	}
	end, _ := ctx.Deadline()
	conn.SetDeadline(end)
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	s := &session{Conn: conn, Reader: bufio.NewReaderSize(io.LimitReader(conn, answerLimit), 4096), check: c, endpoint: e, password: password, end: end}
	return s.hide(explain(ctx, c, "", s.ask()))
}

func (r Runner) dial(ctx context.Context, e spec.Endpoint) (net.Conn, error) {
	if r.Dial != nil {
		return r.Dial(ctx, e)
	}
	var d net.Dialer
	switch e.Protocol {
	case spec.Unix:
		return d.DialContext(ctx, "unix", e.Path)
	case spec.TCP:
		return d.DialContext(ctx, "tcp", e.Addr.String())
	}
	return nil, fmt.Errorf("no check for protocol %q", e.Protocol)
}

// ErrMute is in the error of a server that took the connection and then did
// not answer in time.
var ErrMute = errors.New("it accepted, and did not answer")

// answerLimit is how much of a server's answers is read in one check. The
// largest honest one is Redis's INFO replication, with a line per replica.
const answerLimit = 64 << 10

// session is one check under way.
type session struct {
	net.Conn
	*bufio.Reader // of Conn, bounded
	check         spec.Check
	endpoint      spec.Endpoint
	password      string
	end           time.Time // of the check; zero: none
}

// Read is that of the bounded reader.
func (s *session) Read(p []byte) (int, error) { return s.Reader.Read(p) }

func (s *session) ask() error {
	if err := s.announce(); err != nil {
		return err
	}
	switch s.check.Kind {
	case spec.CheckTCP:
		return nil
	case spec.CheckHTTP:
		return s.http()
	case spec.CheckRedis:
		return s.redis()
	case spec.CheckPostgres:
		return s.postgres()
	case spec.CheckMySQL:
		return s.mysql()
	case spec.CheckAMQP:
		return s.amqp()
	case spec.CheckExpect:
		return s.expect()
	}
	return fmt.Errorf("there is no check %q", s.check.Kind)
}

// announce sends the PROXY header of a connection that is the proxy's own: the
// receiver then takes the addresses of the connection itself.
// https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, sections 2.1 and 2.2
func (s *session) announce() error {
	var header string
	switch s.check.SendProxy {
	case spec.ProxyV1:
		header = "PROXY UNKNOWN\r\n"
	case spec.ProxyV2:
		header = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	default:
		return nil
	}
	return s.send([]byte(header))
}

func (s *session) send(b []byte) error {
	_, err := s.Write(b)
	return err
}

// passwordLimit is the longest password in a file.
const passwordLimit = 4096

// secret reads the password's file anew each time, so that a rotated secret
// works without a restart. Editors and echo put a line feed behind it.
func secret(c spec.Check) (string, error) {
	if c.PasswordFile == "" {
		return string(c.Password), nil
	}
	// A named pipe that nobody writes to would hold the check up for ever.
	f, err := os.OpenFile(c.PasswordFile, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("read the check's password: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "", fmt.Errorf("read the check's password: %s is no regular file", c.PasswordFile)
	}
	b, err := io.ReadAll(io.LimitReader(f, passwordLimit+1))
	if err != nil {
		return "", fmt.Errorf("read the check's password: %w", err)
	}
	if len(b) > passwordLimit {
		return "", fmt.Errorf("read the check's password: %s has more than %d bytes", c.PasswordFile, passwordLimit)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// failure is a line for people over what the system said.
type failure struct {
	text string
	err  error
}

func (f *failure) Error() string { return f.text }
func (f *failure) Unwrap() error { return f.err }

// explain says in words what went wrong with the connection.
func explain(ctx context.Context, c spec.Check, doing string, err error) error {
	var errno syscall.Errno
	var network net.Error
	told, isTold := errors.AsType[*failure](err)
	switch {
	case err == nil:
		return nil
	case isTold:
		return told
	case errors.Is(ctx.Err(), context.Canceled):
		return &failure{doing + "stopped", ctx.Err()}
	case errors.As(err, &network) && network.Timeout(), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		if doing == "" {
			err = errors.Join(ErrMute, err)
		}
		return &failure{doing + "no answer " + within(c), err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &failure{doing + "it closed the connection instead of an answer", err}
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &failure{doing + "it reset the connection instead of an answer", err}
	case errors.As(err, &errno):
		return &failure{doing + errno.Error(), err}
	}
	return &failure{doing + line(err.Error()), err}
}

func within(c spec.Check) string {
	if c.Timeout == 0 { // the caller's context ended it
		return "in time"
	}
	return "within " + c.Timeout.String()
}

// hide takes the password out of what a server may have sent back.
func (s *session) hide(err error) error {
	if err == nil || s.password == "" || !strings.Contains(err.Error(), s.password) {
		return err
	}
	if _, ok := errors.AsType[*spec.RoleError](err); ok {
		return err // of words that said made, and words of ours
	}
	shown := strings.ReplaceAll(err.Error(), s.password, "***")
	// Of what it wraps only the system's part goes along: the rest has the
	// password in it.
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return &failure{shown, errno}
	}
	return errors.New(shown)
}

// said is an answer as it can stand in an error: without the password, and
// cut only after that, so that no half of it is left.
func (s *session) said(text string) string {
	if s.password != "" {
		text = strings.ReplaceAll(text, s.password, "***")
	}
	return line(text)
}

// lineLimit is how much of an answer people are shown.
const lineLimit = 160

// line makes one readable line of what somebody said.
func line(text string) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return '.'
		}
		return r
	}, strings.ToValidUTF8(text, "."))
	text = strings.Join(strings.Fields(text), " ")
	if short := []rune(text); len(short) > lineLimit {
		return string(short[:lineLimit]) + "..."
	}
	return text
}
