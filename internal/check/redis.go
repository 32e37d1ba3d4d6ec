package check

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"legate/internal/spec"
)

// redis logs in where there is a login, and asks PING and, for a role, ROLE or
// INFO replication. A user of its own needs no more than
//
//	ACL SETUSER legate on >PASSWORD +ping +role
//
// https://redis.io/docs/latest/develop/reference/protocol-spec/
func (s *session) redis() error {
	c := s.check
	if s.password != "" || c.User != "" {
		login := []string{"AUTH", s.password}
		if c.User != "" {
			login = []string{"AUTH", c.User, s.password}
		}
		if err := s.login(login); err != nil {
			return err
		}
	}
	pong, err := s.command("PING")
	if err != nil {
		return s.permitted(err, "PING", "+ping")
	}
	if pong != "PONG" {
		return fmt.Errorf("PING was answered with %q", s.said(pong))
	}
	if c.Role == "" {
		return nil
	}
	role, err := s.redisRole()
	if err != nil {
		return err
	}
	if role != redisRole(c.Role) {
		return &spec.RoleError{Is: s.said(role), Want: c.Role}
	}
	return nil
}

// redisRole is the word of the protocol for a role.
func redisRole(role string) string {
	if role == spec.RoleReplica {
		return "slave"
	}
	return role
}

// login keeps to itself what follows "with args": a server whose AUTH was
// renamed sends the password back, cut at 128 bytes.
func (s *session) login(args []string) error {
	answer, err := s.command(args...)
	var said redisError
	if errors.As(err, &said) {
		text, _, _ := strings.Cut(string(said), ", with args")
		return fmt.Errorf("log in: %s", s.said("-"+text))
	}
	if err == nil && answer != "OK" {
		return fmt.Errorf("log in: AUTH was answered with %q", s.said(answer))
	}
	return err
}

// permitted says what a user lacks.
func (s *session) permitted(err error, command, permission string) error {
	var said redisError
	if !errors.As(err, &said) {
		return err
	}
	switch word, _, _ := strings.Cut(string(said), " "); word {
	case "NOAUTH":
		return fmt.Errorf("-%s (set check-password)", s.said(strings.TrimSuffix(string(said), ".")))
	case "NOPERM":
		user := s.check.User
		if user == "" {
			user = "default"
		}
		return fmt.Errorf("the user may not run %s (ACL SETUSER %s %s)", command, user, permission)
	}
	return fmt.Errorf("-%s", s.said(string(said)))
}

// redisRole asks ROLE, and INFO where that is forbidden: users who are
// not administrators often have only one of the two.
func (s *session) redisRole() (string, error) {
	role, err := s.command("ROLE")
	var said redisError
	if err == nil || !errors.As(err, &said) || !strings.HasPrefix(string(said), "NOPERM") {
		return role, s.permitted(err, "ROLE", "+role")
	}
	info, err := s.command("INFO", "replication")
	if err != nil {
		return "", s.permitted(err, "ROLE or INFO", "+role")
	}
	for _, text := range strings.Split(info, "\n") {
		if role, ok := strings.CutPrefix(text, "role:"); ok {
			return strings.TrimSpace(role), nil
		}
	}
	return "", errors.New("INFO replication names no role")
}

// redisError is an error that the server answered, without its dash.
type redisError string

func (e redisError) Error() string { return "-" + string(e) }

// command sends a command and gives its answer: a string, or the first one of
// an array, after which nothing more may be asked.
func (s *session) command(args ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, arg := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(arg), arg)
	}
	if err := s.send([]byte(b.String())); err != nil {
		return "", err
	}
	return s.reply(true)
}

// reply reads a reply of RESP 2. Arrays are not read to their end: of ROLE's
// only the first word is wanted, and its list of replicas may be long.
func (s *session) reply(array bool) (string, error) {
	raw, err := s.ReadSlice('\n')
	if err != nil && len(raw) == 0 {
		return "", err
	}
	text, whole := strings.CutSuffix(string(raw), "\r\n")
	if !whole || text == "" {
		return "", s.noRedis(string(raw))
	}
	switch rest := text[1:]; text[0] {
	case '+', ':':
		return rest, nil
	case '-':
		return "", redisError(rest)
	case '$':
		return s.bulk(rest)
	case '*':
		if n, err := strconv.Atoi(rest); err == nil && n > 0 && array {
			return s.reply(false)
		}
	}
	return "", s.noRedis(text)
}

func (s *session) bulk(length string) (string, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > answerLimit {
		return "", s.noRedis("$" + length)
	}
	b := make([]byte, n+len("\r\n"))
	if _, err := io.ReadFull(s.Reader, b); err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

func (s *session) noRedis(text string) error {
	return fmt.Errorf("no Redis answer: %q", s.said(text))
}
