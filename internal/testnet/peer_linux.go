package testnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Step is one thing that a scripted peer does.
type Step struct {
	text string
	do   func(*Peer) error
}

// String is the step as a sentence.
func (s Step) String() string { return s.text }

// Peer is one end of a connection that follows a script and writes down what
// it sees: bytes, ends of file, errors by name.
type Peer struct {
	Conn net.Conn

	name    string
	signals *Signals
	saw     []string
}

// NewPeer makes a peer of a connection, which it owns from then on. Peers that
// share signals can wait for each other with Tell and After.
func NewPeer(name string, c net.Conn, s *Signals) *Peer {
	return &Peer{Conn: c, name: name, signals: s}
}

// Run does the steps in order and stops at the first that fails; the error
// says which and what the peer had seen by then. It leaves the connection as
// the last step left it.
func (p *Peer) Run(steps ...Step) error {
	for i, s := range steps {
		p.Conn.SetDeadline(time.Now().Add(Patience))
		if err := s.do(p); err != nil {
			return fmt.Errorf("%s, step %d (%s): %w; until then it saw [%s]", p.name, i+1, s, err, strings.Join(p.saw, ", "))
		}
	}
	return nil
}

// Saw returns what the peer has seen so far, one entry for each reading step.
func (p *Peer) Saw() []string { return p.saw }

func (p *Peer) see(format string, args ...any) {
	p.saw = append(p.saw, fmt.Sprintf(format, args...))
}

// Play runs the peers' scripts at once and fails the test with every script
// that failed. The connections are closed afterwards.
func Play(t testing.TB, parts ...Part) {
	t.Helper()
	if err := PlayErr(parts...); err != nil {
		t.Fatal(err)
	}
}

// Part is one peer with its script.
type Part struct {
	Peer  *Peer
	Steps []Step
}

// PlayErr is Play for a caller that wants the error.
func PlayErr(parts ...Part) error {
	errs := make([]error, len(parts))
	var all sync.WaitGroup
	for i, part := range parts {
		all.Go(func() {
			errs[i] = part.Peer.Run(part.Steps...)
			if errs[i] != nil {
				part.Peer.signals.abort()
			}
		})
	}
	all.Wait()
	for _, part := range parts {
		part.Peer.Conn.Close()
	}
	return errors.Join(errs...)
}

// Signals lets peers wait for each other outside of their connection. The zero
// value is ready; a signal once told stays told.
type Signals struct {
	mu      sync.Mutex
	told    map[string]chan struct{}
	aborted bool
}

func (s *Signals) channel(name string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told == nil {
		s.told = make(map[string]chan struct{})
	}
	if s.told[name] == nil {
		s.told[name] = make(chan struct{})
	}
	return s.told[name]
}

func (s *Signals) tell(name string) {
	c := s.channel(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-c:
	default:
		close(c)
	}
}

// abort ends the waits of the other peers of a script that failed, so that the
// first failure is the one that is read.
func (s *Signals) abort() {
	s.mu.Lock()
	s.aborted = true
	s.mu.Unlock()
	s.tell("")
}

func control(c any, f func(fd int) error) error {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// Name returns what an error is called: EOF, the errno's name, or its text.
func Name(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "no error"
	case errors.Is(err, io.EOF):
		return EOF
	case isTimeout(err):
		return "time-out"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

func named(err error) error {
	if isTimeout(err) {
		return errors.New("hung: nothing came")
	}
	return errors.New(Name(err))
}

// isTimeout tells whether a deadline of ours passed; package net has two errors
// for that.
func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

func short(text string) string {
	if len(text) > 40 {
		return fmt.Sprintf("%q... (%d bytes)", text[:20], len(text))
	}
	return fmt.Sprintf("%q", text)
}
