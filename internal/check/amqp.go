package check

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// amqpHeader begins a connection of AMQP 0-9-1.
const amqpHeader = "AMQP\x00\x00\x09\x01"

// amqp sends the protocol header and wants Connection.Start in return. A
// server of another version answers with its own header (section 4.2.2 of
// https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf).
func (s *session) amqp() error {
	if err := s.send([]byte(amqpHeader)); err != nil {
		return err
	}
	// A frame begins with its type, channel and size; a method with its class.
	var b [11]byte
	if n, err := io.ReadFull(s.Reader, b[:8]); err != nil {
		return orAnswer(err, n, s, b[:n])
	}
	if strings.HasPrefix(string(b[:]), "AMQP") {
		return fmt.Errorf("it speaks AMQP %d-%d-%d, not 0-9-1", b[5], b[6], b[7])
	}
	if n, err := io.ReadFull(s.Reader, b[8:]); err != nil {
		return orAnswer(err, n, s, b[:8+n])
	}
	const methodFrame, connection, start = 1, 10, 10
	size := binary.BigEndian.Uint32(b[3:])
	if b[0] != methodFrame || binary.BigEndian.Uint16(b[1:]) != 0 || size < 4 || size > answerLimit {
		return fmt.Errorf("no AMQP answer: %q", s.said(string(b[:])))
	}
	if class, method := binary.BigEndian.Uint16(b[7:]), binary.BigEndian.Uint16(b[9:]); class != connection || method != start {
		return fmt.Errorf("AMQP method %d.%d, not connection.start", class, method)
	}
	// What was not read would turn our close into a reset.
	_, err := s.Discard(int(size) - 4 + 1)
	return err
}

// orAnswer shows what came before the connection ended or fell silent, if
// anything did.
func orAnswer(err error, n int, s *session, b []byte) error {
	if n == 0 {
		return err
	}
	return &failure{fmt.Sprintf("no answer of its protocol: %q, and then %s", s.said(string(b)), s.ending(err)), err}
}

// ending is how an answer ended too early.
func (s *session) ending(err error) string {
	if network, ok := errors.AsType[net.Error](err); ok && network.Timeout() {
		return "nothing more " + within(s.check)
	}
	return "the connection's end"
}
