package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	gateBytes = 16 << 20
	gateTime  = 10 * time.Second
)

// gate tells what addr breaks of TCP, for a proxy is cheap that does less: the
// client's half-close must reach the server with the answer still coming, both
// directions must arrive whole, and the end must be a FIN.
func gate(addr string) error {
	c, err := dial(addr)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(gateTime)); err != nil {
		return err
	}
	sent := newSum()
	if _, err := c.Write(header(kindCheck, gateBytes)); err != nil {
		return fmt.Errorf("send: %w", err)
	}
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
