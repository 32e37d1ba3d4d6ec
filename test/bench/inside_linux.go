package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"legate/test/bench/load"
)

// The arguments that make this program what runs in a container.
const (
	roleServe   = "serve"
	roleClients = "clients"
	roleLodge   = "lodge"
)

// prepare is what a round does, for the same reasons.
func prepare() {
	runtime.GOMAXPROCS(4)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(roundMemory)
}

// serveMain is the server in a container, until it is told to end.
func serveMain(addr string) error {
	prepare()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fmt.Errorf("read address: %w", err)
	}
	s, err := load.Listen(at)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return s.Close()
}

// ping is what clients in a container are asked for: with an address to connect,
// without one to put the load on.
type ping struct {
	Addr  string     `json:"addr,omitempty"`
	Shape load.Shape `json:"shape"`
}

// pong is their answer.
type pong struct {
	Result load.Result `json:"result"`
	Error  string      `json:"error,omitempty"`
}

// clientsMain is the clients in a container: a line for every step, so that
// between them the clocks of the proxy can be read.
func clientsMain(in io.Reader, out io.Writer) error {
	prepare()
	questions, answers := json.NewDecoder(in), json.NewEncoder(out)
	var o openClients
	defer o.close()
	for {
		var q ping
		err := questions.Decode(&q)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read what to do: %w", err)
		}
		var a pong
		if a.Result, err = o.do(q); err != nil {
			a.Error = err.Error()
		}
		if err := answers.Encode(a); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

// openClients are those of the last address; nil: none are.
type openClients struct{ load.Clients }

func (o *openClients) do(q ping) (load.Result, error) {
	if q.Addr == "" {
		if o.Clients == nil {
			return load.Result{}, errors.New("nobody is connected")
		}
		return o.Run()
	}
	o.close()
	clients, err := load.Open(q.Addr, q.Shape, nil)
	if err == nil {
		o.Clients = clients
	}
	return load.Result{}, err
}

func (o *openClients) close() {
	if o.Clients != nil {
		o.Close()
	}
	o.Clients = nil
}

// lodging is what an application in a container finds.
type lodging struct {
	Missing int           `json:"missing"` // links at its first look
	All     time.Duration `json:"all"`     // from its first instruction until it has all; 0: it had
}

const lodgeTime = 30 * time.Second

// lodgeMain is an application with links on the ports from first on. It looks
// which of them listen, which no client of them would notice, and stays.
func lodgeMain(first, count string, out io.Writer) error {
	began := time.Now()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	from, err := strconv.Atoi(first)
	n, bad := strconv.Atoi(count)
	if err := errors.Join(err, bad); err != nil {
		return fmt.Errorf("read ports: %w", err)
	}
	var l lodging
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for tries := 0; ; tries++ {
		there, err := listening(from, n)
		if err != nil {
			return err
		}
		if tries == 0 {
			l.Missing = n - there
		} else {
			l.All = time.Since(began)
		}
		if there == n {
			break
		}
		if time.Since(began) > lodgeTime {
			return fmt.Errorf("%d of %d links within %v", there, n, lodgeTime)
		}
		<-look.C
	}
	if err := json.NewEncoder(out).Encode(l); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// listening counts the ports from first on that are listened on at 127.0.0.1,
// in /proc/net/tcp: addresses in the order of the host, state 0A.
func listening(first, count int) (there int, err error) {
	text, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		return 0, fmt.Errorf("list sockets: %w", err)
	}
	for line := range bytes.Lines(text) {
		words := strings.Fields(string(line))
		if len(words) < 4 || words[3] != "0A" {
			continue
		}
		address, port, _ := strings.Cut(words[1], ":")
		number, err := strconv.ParseUint(port, 16, 16)
		if err == nil && address == "0100007F" && int(number) >= first && int(number) < first+count {
			there++
		}
	}
	return there, nil
}
