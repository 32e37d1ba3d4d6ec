package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

const (
	gateBytes = 4 << 20
	gateTime  = 10 * time.Second
)

// check is the server's side of the gate.
func (s *Server) check(c *net.TCPConn, k kind, token int) {
	switch k {
	case kindCheck:
		_ = answerCheck(c) // what a broken connection means is for the client to say
	case kindReset:
		_ = c.SetLinger(0)
	case kindWait:
		_, err := c.Write([]byte{byte(kindWait)})
		if err == nil {
			_, err = io.Copy(io.Discard, c)
		}
		s.tell(token, howEnded(err))
	}
}

// await makes a token for a connection of kindWait, and the channel that will
// hear how it ended. Each has its own: a connection that a proxy failed to end
// ends when the proxy does, and that is no answer to the next one's question.
func (s *Server) await() (token int, ended <-chan string) {
	c := make(chan string, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens++
	s.waiting[s.tokens] = c
	return s.tokens, c
}

func (s *Server) tell(token int, how string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.waiting[token]; ok {
		c <- how
		delete(s.waiting, token)
	}
}

func answerCheck(c *net.TCPConn) error {
	sum := newSum()
	n, err := io.Copy(sum, c)
	if err != nil {
		return err
	}
	told := binary.BigEndian.AppendUint64(nil, uint64(n))
	if _, err := c.Write(sum.Sum(told)); err != nil {
		return err
	}
	return sendStream(c, gateBytes, nil)
}

// The two ways in which a reset arrives behind a proxy.
const (
	asReset = "RST"
	asEnd   = "FIN"
)

func howEnded(err error) string {
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return asEnd
	case errors.Is(err, syscall.ECONNRESET):
		return asReset
	}
	return err.Error()
}

// Gate tells what addr, which leads to s, breaks of TCP, for a proxy is cheap
// that does less: the client's half-close must reach the server with the answer
// still coming, both directions must arrive whole, the end must be a FIN, and a
// reset on one side must end the other. Whether it arrives there as a reset is
// returned ("RST" or "FIN", towards client and server) and not demanded: most
// proxies turn it into a FIN.
func (s *Server) Gate(addr string) (resets string, err error) {
	if err := s.gateStreams(addr); err != nil {
		return "", err
	}
	toClient, err := gateServerReset(addr)
	if err != nil {
		return "", err
	}
	toServer, err := s.gateClientReset(addr)
	if err != nil {
		return "", err
	}
	return toClient + "/" + toServer, nil
}

// gateDial opens a connection and asks for what k says; only kindWait has a
// token.
func gateDial(addr string, k kind, token int) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp4", addr, gateTime)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	_ = c.SetDeadline(time.Now().Add(gateTime)) // fails only on a closed connection, and then so does Write
	if _, err := c.Write(header(k, token, 0)); err != nil {
		return nil, errors.Join(fmt.Errorf("send: %w", err), c.Close())
	}
	return c.(*net.TCPConn), nil
}

func (s *Server) gateStreams(addr string) error {
	c, err := gateDial(addr, kindCheck, 0)
	if err != nil {
		return err
	}
	defer c.Close()
	sent := newSum()
	if err := sendStream(c, gateBytes, sent); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if err := c.CloseWrite(); err != nil {
		return fmt.Errorf("half-close: %w", err)
	}
	want := sent.Sum(binary.BigEndian.AppendUint64(nil, gateBytes))
	told := make([]byte, sumSize)
	if _, err := io.ReadFull(c, told); err != nil {
		return fmt.Errorf("the answer after the client's half-close: %w", err)
	}
	if !bytes.Equal(told, want) {
		return errors.New("what the client sent arrived changed")
	}
	return gateAnswer(c)
}

func gateAnswer(c net.Conn) error {
	want, got := newSum(), newSum()
	if err := sendStream(io.Discard, gateBytes, want); err != nil {
		return err
	}
	n, err := io.Copy(got, c)
	if err != nil {
		return fmt.Errorf("the end after %d of %d bytes is no FIN: %w", n, gateBytes, err)
	}
	if n != gateBytes || got.Sum32() != want.Sum32() {
		return fmt.Errorf("the answer arrived changed, %d of %d bytes", n, gateBytes)
	}
	return nil
}

func gateServerReset(addr string) (string, error) {
	c, err := gateDial(addr, kindReset, 0)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_, err = io.Copy(io.Discard, c)
	if how := howEnded(err); how == asReset || how == asEnd {
		return how, nil
	}
	return "", fmt.Errorf("the server's reset does not end the client's connection: %w", err)
}

func (s *Server) gateClientReset(addr string) (string, error) {
	token, ended := s.await()
	c, err := gateDial(addr, kindWait, token)
	if err != nil {
		return "", err
	}
	// The server's word that it has the connection: a reset could overtake the
	// connect.
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		return "", errors.Join(fmt.Errorf("the server's first byte: %w", err), c.Close())
	}
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		return "", fmt.Errorf("reset: %w", err)
	}
	select {
	case how := <-ended:
		return how, nil
	case <-time.After(gateTime):
		return "", errors.New("the client's reset does not end the server's connection")
	}
}
