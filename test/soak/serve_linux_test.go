package soak

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"legate/internal/testnet"
)

// request is the first line of a connection: what shall happen on it.
type request struct {
	Op   string // carry, echo, reset
	ID   uint64
	Up   int64 // bytes after the line
	Down int64 // bytes after the answer
	// First is who ends its half first: "client", "server", or "" when they do not wait for each other.
	First string
	// Lag is how long the server reads nothing at first, Pause what it waits between two pieces.
	Lag, Pause time.Duration
}

// answer is the line with which the server begins.
type answer struct {
	Outcomes string // address, apart from Legate, where the server tells how connections ended
}

// outcome is what the server saw of one.
type outcome struct {
	Sum testnet.Sum
	End string // eof, reset
}

// Seeds of the streams in both directions.
func up(id uint64) uint64   { return 2 * id }
func down(id uint64) uint64 { return 2*id + 1 }

// server plays its part in every operation, and remembers the end of those that cannot tell their client.
type server struct {
	outcomes string

	mu      sync.Mutex
	told    sync.Cond          // on mu: something below changed
	live    int                // connections
	waiting map[uint64]outcome // by id, until asked for
}

// playServe serves the address that is its config until it is asked to end; then it waits for its
// connections, and for those who will ask for outcomes.
func playServe(s stage) error {
	var addr string
	if err := json.Unmarshal(s.config, &addr); err != nil {
		return err
	}
	sv := &server{waiting: make(map[uint64]outcome)}
	sv.told.L = &sv.mu
	outcomes, err := net.Listen("tcp4", "127.0.2.1:0")
	if err != nil {
		return err
	}
	sv.outcomes = outcomes.Addr().String()
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		return err
	}
	go accept(outcomes, sv.tell)
	go accept(l, sv.serve)
	if err := s.out.Encode("ready"); err != nil {
		return err
	}
	<-terminated()
	l.Close()
	sv.drain()
	return nil
}

func accept(l net.Listener, serve func(*net.TCPConn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go serve(c.(*net.TCPConn))
	}
}

func (sv *server) drain() {
	giveUp := time.AfterFunc(patience, func() { sv.change(func() { sv.live, sv.waiting = 0, nil }) })
	defer giveUp.Stop()
	sv.mu.Lock()
	defer sv.mu.Unlock()
	for sv.live > 0 || len(sv.waiting) > 0 {
		sv.told.Wait()
	}
}

func (sv *server) change(f func()) {
	sv.mu.Lock()
	f()
	sv.mu.Unlock()
	sv.told.Broadcast()
}

// tell answers an id with its outcome.
func (sv *server) tell(c *net.TCPConn) {
	defer c.Close()
	var id uint64
	if err := json.NewDecoder(c).Decode(&id); err != nil {
		return
	}
	giveUp := time.AfterFunc(patience, func() { sv.change(func() { id = 0 }) })
	defer giveUp.Stop()
	sv.mu.Lock()
	defer sv.mu.Unlock()
	for {
		o, known := sv.waiting[id]
		if known {
			_ = json.NewEncoder(c).Encode(o) // who asked and left, sees that himself
			delete(sv.waiting, id)
			sv.told.Broadcast()
		}
		if known || id == 0 {
			return
		}
		sv.told.Wait()
	}
}

func (sv *server) serve(c *net.TCPConn) {
	sv.change(func() { sv.live++ })
	defer sv.change(func() { sv.live-- })
	defer c.Close()
	var r request
	in := bufio.NewReaderSize(c, 4<<10)
	line, err := in.ReadSlice('\n')
	if err != nil || json.Unmarshal(line, &r) != nil {
		return // a probe
	}
	hello, err := json.Marshal(answer{Outcomes: sv.outcomes})
	if err != nil {
		return
	}
	if _, err := c.Write(append(hello, '\n')); err != nil {
		return
	}
	switch r.Op {
	case "carry":
		sv.carry(c, in, r)
	case "reset":
		_ = resetAfter(c, r.Down, down(r.ID)) // the client sees it
	case "echo":
		_, _ = io.Copy(c, in) // the client sees it
	}
}

// carry receives one stream and sends another.
func (sv *server) carry(c *net.TCPConn, in io.Reader, r request) {
	sent := make(chan struct{})
	received := make(chan struct{})
	go func() {
		defer close(sent)
		if r.First == "client" {
			<-received
		}
		if _, err := io.Copy(plain{c}, testnet.NewStream(down(r.ID), r.Down)); err == nil {
			_ = c.CloseWrite() // the client sees it
		}
	}()
	if r.First == "server" {
		<-sent
	}
	<-time.After(r.Lag)
	o := receive(in, r.Pause)
	close(received)
	<-sent
	// Before the connection counts as ended, or the server could be gone before anybody asks.
	sv.change(func() {
		if sv.waiting != nil {
			sv.waiting[r.ID] = o
		}
	})
}

// plain hides that a connection could splice: servers and clients are not what is tested.
type plain struct{ io.Writer }

// receive reads to the end, a piece at a time with a pause between.
func receive(in io.Reader, pause time.Duration) (o outcome) {
	buf := make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		_, _ = o.Sum.Write(buf[:n]) // never fails
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			o.End = "eof"
			return o
		case errors.Is(err, syscall.ECONNRESET):
			o.End = "reset"
			return o
		default:
			o.End = err.Error()
			return o
		}
		if pause > 0 {
			<-time.After(pause)
		}
	}
}

// resetAfter sends a stream and, when the other side's kernel has all of it, resets the connection: what
// is still in the own buffer would be lost with it.
func resetAfter(c *net.TCPConn, size int64, seed uint64) error {
	if _, err := io.Copy(plain{c}, testnet.NewStream(seed, size)); err != nil {
		return err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; <-time.After(time.Millisecond) {
		left := 0
		cerr := raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
		if err := errors.Join(cerr, err); err != nil {
			return err
		}
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d bytes were never acknowledged", left)
		}
	}
	return errors.Join(c.SetLinger(0), c.Close())
}
