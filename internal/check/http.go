package check

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"legate/internal/spec"
)

// http asks for a path and judges the status alone. A redirect is an answer
// like any other, and is not followed: it would lead to another server.
func (s *session) http() error {
	c := s.check
	host := c.Host
	if host == "" && s.endpoint.Protocol == spec.Unix {
		host = "localhost"
	} else if host == "" {
		host = s.endpoint.Addr.String()
	}
	request := "GET " + c.Path + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: legate-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	if err := s.send([]byte(request)); err != nil {
		return err
	}
	status, err := s.status()
	if err != nil {
		return err
	}
	s.rest()
	if low, high := c.StatusRange(); status < low || status > high {
		return fmt.Errorf("HTTP status %d", status)
	}
	return nil
}

// status is that of the answer itself: statuses below 200 only announce it
// (103 Early Hints; RFC 9110, section 15.2).
func (s *session) status() (int, error) {
	for {
		status, err := s.statusLine()
		if err != nil || status >= 200 || status == switching {
			return status, err
		}
		for blank := false; !blank; {
			text, err := s.ReadSlice('\n')
			if err != nil {
				return 0, err
			}
			blank = len(strings.TrimRight(string(text), "\r\n")) == 0
		}
	}
}

// switching ends HTTP on the connection.
const switching = 101

func (s *session) statusLine() (int, error) {
	text, err := s.ReadSlice('\n')
	if err != nil && len(text) == 0 {
		return 0, err
	}
	// HTTP/1.1 200 OK: RFC 9112, section 4; the phrase may be missing.
	version, rest, _ := strings.Cut(strings.TrimRight(string(text), "\r\n"), " ")
	number, _, _ := strings.Cut(rest, " ")
	status, bad := strconv.Atoi(number)
	if err != nil || bad != nil || !strings.HasPrefix(version, "HTTP/1.") || len(number) != 3 || status < 100 {
		return 0, fmt.Errorf("no HTTP answer: %q", s.said(string(text)))
	}
	return status, nil
}

// restLimit and restWait bound what is read of a body that nobody wants.
const (
	restLimit = 16 << 10
	restWait  = 100 * time.Millisecond
)

// rest takes the body, as a client that closes before its end is in the
// server's log.
func (s *session) rest() {
	if end := time.Now().Add(restWait); s.end.IsZero() || end.Before(s.end) {
		s.SetReadDeadline(end)
	}
	_, _ = io.CopyN(io.Discard, s.Reader, restLimit) // the verdict stands, however it ends
}
