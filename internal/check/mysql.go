package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// mysql reads the server's greeting and then ends the login as a client does
// whose name is not known.
//
// A client that leaves after the greeting is a handshake error to the server,
// and after max_connect_errors of them, 100 by default, it blocks our host:
// "Host ... is blocked because of many connection errors". A login that is
// refused is none of those (in sql/sql_connect.cc, Host_errors has only
// m_handshake in what may block). HAProxy's mysql-check has the same
// problem, and solves it with a user that exists; ours needs none.
// https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html
func (s *session) mysql() error {
	greeting, sequence, err := s.packet()
	if err != nil {
		return err
	}
	switch {
	case len(greeting) == 0:
		return errors.New("no MySQL greeting")
	case greeting[0] == mysqlError:
		return s.mysqlError(greeting)
	case greeting[0] != 10 || !strings.Contains(string(greeting[1:]), "\x00"):
		return fmt.Errorf("no MySQL greeting: %q", s.said(string(greeting)))
	}
	if err := s.reply41(sequence+1, loginPacket()); err != nil {
		return err
	}
	return s.endLogin()
}

// The first bytes of what follows the greeting.
const (
	mysqlOK    = 0x00
	mysqlError = 0xff
)

// loginPacket is a HandshakeResponse41 with a user and no password.
func loginPacket() []byte {
	const longPassword, protocol41, secureConnection, pluginAuth = 1, 1 << 9, 1 << 15, 1 << 19
	b := binary.LittleEndian.AppendUint32(nil, longPassword|protocol41|secureConnection|pluginAuth)
	b = binary.LittleEndian.AppendUint32(b, 1<<24-1) // the longest packet
	b = append(b, 45)                                // utf8mb4, which every server from 5.5 on has
	b = append(b, make([]byte, 23)...)
	b = append(b, "legate-check\x00"...)
	b = append(b, 0) // no password
	return append(b, "mysql_native_password\x00"...)
}

// loginRounds is how often a server may ask again for a password, in other
// ways, before it decides.
const loginRounds = 8

// endLogin answers until the server has decided. How is of no interest, other
// than that it has no room.
func (s *session) endLogin() error {
	for range loginRounds {
		b, sequence, err := s.packet()
		if err != nil {
			return err
		}
		switch {
		case len(b) > 0 && b[0] == mysqlError:
			return s.refusal(b)
		case len(b) > 0 && b[0] == mysqlOK:
			const quit = 1
			return s.reply41(0, []byte{quit})
		}
		if err := s.reply41(sequence+1, nil); err != nil { // no password either way
			return err
		}
	}
	return errors.New("the MySQL login has no end")
}

// refusal tells a server that has no room from one that does not know us.
func (s *session) refusal(b []byte) error {
	const conCount, shutdown, hostBlocked, tooManyUser = 1040, 1053, 1129, 1203
	if len(b) < 3 {
		return s.mysqlError(b)
	}
	switch binary.LittleEndian.Uint16(b[1:]) {
	case conCount, shutdown, hostBlocked, tooManyUser:
		return s.mysqlError(b)
	}
	return nil
}

// mysqlError shows an ERR packet: code, perhaps a state, text.
func (s *session) mysqlError(b []byte) error {
	if len(b) < 3 {
		return errors.New("a MySQL error without a text")
	}
	text := string(b[3:])
	if strings.HasPrefix(text, "#") && len(text) > 6 {
		text = text[6:]
	}
	return fmt.Errorf("%s (MySQL error %d)", s.said(text), binary.LittleEndian.Uint16(b[1:]))
}

// packetLimit is the longest packet of a greeting or a refusal.
const packetLimit = 4096

// packet reads one packet.
func (s *session) packet() (b []byte, sequence byte, err error) {
	var head [4]byte
	if n, err := io.ReadFull(s.Reader, head[:]); err != nil {
		return nil, 0, orAnswer(err, n, s, head[:n])
	}
	n := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if n > packetLimit {
		return nil, 0, fmt.Errorf("no MySQL answer: %q", s.said(string(head[:])))
	}
	b = make([]byte, n)
	_, err = io.ReadFull(s.Reader, b)
	return b, head[3], err
}

// reply41 sends one packet.
func (s *session) reply41(sequence byte, b []byte) error {
	head := []byte{byte(len(b)), byte(len(b) >> 8), byte(len(b) >> 16), sequence}
	return s.send(append(head, b...))
}
