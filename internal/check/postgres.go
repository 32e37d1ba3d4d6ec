package check

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"legate/internal/spec"
)

// postgres sends a start-up packet. Without a user any answer but "the
// database system is starting up", or shutting down, is a good one; with a
// user it logs in and asks whether the server is in recovery.
//
// A user needs nothing but the right to log in:
//
//	CREATE ROLE legate LOGIN PASSWORD '...'
//
// https://www.postgresql.org/docs/current/protocol-flow.html
func (s *session) postgres() error {
	if s.check.User == "" {
		return s.startUp()
	}
	return s.logIn()
}

// noUser is whom a check without a user says to be. Whether there is such a
// one does not matter: nobody answers for it.
const noUser = "legate-check"

func (s *session) startUp() error {
	b, err := (&pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": noUser, "database": "postgres"},
	}).Encode(nil)
	if err != nil {
		return err
	}
	if err := s.send(b); err != nil {
		return err
	}
	var head [5]byte
	if n, err := io.ReadFull(s.Reader, head[:]); err != nil {
		return orAnswer(err, n, s, head[:n])
	}
	size := binary.BigEndian.Uint32(head[1:])
	if head[0] != 'R' && head[0] != 'E' || size < 4 || size > messageLimit {
		return fmt.Errorf("no PostgreSQL answer: %q", s.said(string(head[:])))
	}
	body := make([]byte, size-4)
	if _, err := io.ReadFull(s.Reader, body); err != nil {
		return err
	}
	if head[0] == 'R' {
		return nil
	}
	var e pgproto3.ErrorResponse
	if err := e.Decode(body); err != nil || e.Code == "" {
		return fmt.Errorf("no PostgreSQL answer: %q", s.said(string(body)))
	}
	if e.Code == cannotConnectNow || e.Code == adminShutdown {
		return s.pgError(e.Code, e.Message)
	}
	return nil
}

// pgError is what the server said, or its code when it has no words for it.
func (s *session) pgError(code, message string) error {
	if text := s.said(message); text != "" {
		return errors.New(text)
	}
	return fmt.Errorf("PostgreSQL error %q", s.said(code))
}

// Codes of https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	cannotConnectNow = "57P03"
	adminShutdown    = "57P01"
	noSuchDatabase   = "3D000"
)

// messageLimit is the longest message that a server may send in a check.
const messageLimit = 16 << 10

// logIn gives the password away only as a proof (SCRAM) or a hash (md5), never
// in clear: an address that was another server's yesterday must not learn it.
// The connection is encrypted where the server offers it, as libpq does by
// default (sslmode=prefer), and the certificate is not verified: checks have
// no name to verify it by, and the answer is a role and no secret.
func (s *session) logIn() error {
	config, err := s.pgConfig()
	if err != nil {
		return err
	}
	// Without a deadline of pgconn's own: the connection has one already, and
	// a context would leave a goroutine behind that cancels the query.
	conn, err := pgconn.ConnectConfig(context.Background(), config)
	if err != nil {
		return s.loginError(err)
	}
	raw, err := conn.Hijack()
	if err != nil {
		return err
	}
	recovering, err := s.inRecovery(raw.Frontend)
	if err != nil {
		return err
	}
	raw.Frontend.Send(&pgproto3.Terminate{})
	_ = raw.Frontend.Flush()
	role := spec.RolePrimary
	if recovering {
		role = spec.RoleStandby
	}
	if want := s.check.Role; want != "" && want != role {
		return &spec.RoleError{Is: role, Want: want}
	}
	return nil
}

// pgConfig leaves nothing to files in a home directory and, but for PGSERVICE
// that names a service which does not exist, to the environment: pgconn reads
// both as libpq does.
func (s *session) pgConfig() (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig("host=localhost port=5432 user=x password=x database=x passfile=/dev/null connect_timeout=0 " +
		"target_session_attrs=any sslmode=disable sslnegotiation=postgres sslcertmode=allow sslkey='' sslcert='' sslrootcert='' " +
		"channel_binding=prefer require_auth='' min_protocol_version=3.0 max_protocol_version=3.0")
	if err != nil {
		return nil, fmt.Errorf("prepare the login: %w", err)
	}
	config.User, config.Password = s.check.User, s.password
	if config.Database = s.check.Database; config.Database == "" {
		config.Database = s.check.User
	}
	config.RuntimeParams = map[string]string{"application_name": "legate-check"}
	config.TLSConfig, config.Fallbacks, config.SSLNegotiation = nil, nil, ""
	config.RequireAuth = "scram-sha-256,md5,none"
	config.MaxProtocolMessageBodyLen = messageLimit
	config.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return s, nil }
	config.AfterNetConnect = s.encrypt
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(&roundsGuard{Reader: r}, w)
	}
	return config, nil
}

// encrypt asks for TLS and goes on without where the server has none.
func (s *session) encrypt(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
	if s.endpoint.Protocol == spec.Unix {
		return conn, nil
	}
	request, err := (&pgproto3.SSLRequest{}).Encode(nil)
	if err != nil {
		return conn, err
	}
	if err := s.send(request); err != nil {
		return conn, err
	}
	answer, err := s.ReadByte()
	switch {
	case err != nil:
		return conn, err
	case answer == 'N':
		return conn, nil
	case answer == 'E': // a server that cannot even start a process for us
		return conn, errors.New("the server has no process for the connection")
	case answer != 'S':
		return conn, fmt.Errorf("no PostgreSQL answer: %q", s.said(string(answer)))
	case s.Buffered() > 0: // sent by somebody in between, before the encryption began (CVE-2021-23222)
		return conn, errors.New("unencrypted bytes after the answer to TLS")
	}
	return tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}), nil
}

// roundsGuard ends a login whose server wants a million rounds of hashing or
// more. pgconn allows ten millions, which no deadline interrupts: any server
// could keep a core busy for seconds at each check. PostgreSQL's own number is
// 4096 (scram_iterations). The number follows ",i=", which nothing else in an
// honest login has (RFC 5802, section 7).
type roundsGuard struct {
	io.Reader
	seen []byte // the last bytes, in which the number may have begun
}

const roundsDigits = len("999999")

var errRounds = errors.New("the server wants the password hashed more than 999999 times")

func (g *roundsGuard) Read(p []byte) (int, error) {
	n, err := g.Reader.Read(p)
	g.seen = append(g.seen, p[:n]...)
	for rest := g.seen; ; {
		_, number, found := bytes.Cut(rest, []byte(",i="))
		if !found {
			break
		}
		if len(number)-len(bytes.TrimLeft(number, "0123456789")) > roundsDigits {
			return 0, errRounds
		}
		rest = number
	}
	g.seen = g.seen[max(0, len(g.seen)-len(",i=")-roundsDigits):]
	return n, err
}

// loginError takes the server's words, or the innermost cause, out of what
// pgconn wraps around them.
func (s *session) loginError(err error) error {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		if err := s.pgError(said.Code, said.Message); said.Code != noSuchDatabase {
			return err
		}
		return fmt.Errorf("%s (set check-database)", s.said(said.Message))
	}
	var network net.Error
	if errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if strings.Contains(err.Error(), "require_auth") {
		return errors.New("the server wants the password in clear text, or in a way that checks do not have: give the user one for scram-sha-256")
	}
	return fmt.Errorf("log in: %s", s.said(innermost(err).Error()))
}

// innermost follows the first of several errors, which with one address to
// connect to is the only one.
func innermost(err error) error {
	for {
		switch outer := err.(type) { //nolint:errorlint // it walks through the wrappers itself
		case interface{ Unwrap() error }:
			if outer.Unwrap() == nil {
				return err
			}
			err = outer.Unwrap()
		case interface{ Unwrap() []error }:
			if len(outer.Unwrap()) == 0 {
				return err
			}
			err = outer.Unwrap()[0]
		default:
			return err
		}
	}
}

var errNoRole = errors.New("the question for the role has no answer")

// inRecovery asks the one question that tells a standby from a primary.
func (s *session) inRecovery(f *pgproto3.Frontend) (recovering bool, err error) {
	f.Send(&pgproto3.Query{String: "select pg_catalog.pg_is_in_recovery()"})
	if err := f.Flush(); err != nil {
		return false, err
	}
	for answered := false; ; {
		message, err := f.Receive()
		if err != nil {
			return false, err
		}
		switch m := message.(type) {
		case *pgproto3.DataRow:
			if len(m.Values) != 1 {
				return false, errNoRole
			}
			value := string(m.Values[0])
			recovering, answered = value == "t", value == "t" || value == "f"
		case *pgproto3.ErrorResponse:
			return false, s.pgError(m.Code, m.Message)
		case *pgproto3.ReadyForQuery:
			if !answered {
				return false, errNoRole
			}
			return recovering, nil
		}
	}
}
