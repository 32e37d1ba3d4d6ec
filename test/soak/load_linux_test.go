package soak

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"legate/internal/testnet"
)

// loading is the config of playLoad.
type loading struct {
	Steady    string // address of the link whose connections must not notice anything
	Socket    string // path of another entrance to the same
	Broken    string // address of the link whose servers are killed
	Datagrams string // address of a UDP link
	Seed      uint64
}

// operation is one kind of traffic.
type operation struct {
	name    string
	workers int
	run     func(w *worker) error
}

// operations are all at work at the same time. In each every byte is checked, and how it ended.
func operations() []operation {
	return []operation{
		{"churn", 4, func(w *worker) error { return w.carry(request{Up: w.upTo(2000), Down: w.upTo(2000)}, reader{}) }},
		{"chat", 20, (*worker).talk},
		{"bulk", 2, func(w *worker) error { return w.carry(request{Up: 8 << 20, Down: 8 << 20}, reader{}) }},
		{"half", 4, (*worker).halfClosed},
		{"slow", 4, (*worker).slow},
		{"stopped", 4, (*worker).stopped},
		{"reset-up", 2, (*worker).resetUp},
		{"reset-down", 2, (*worker).resetDown},
		{"killed", 6, (*worker).maybeKilled},
		{"datagrams", sessions, (*worker).datagrams},
	}
}

// progress is what playLoad reports: every second since its start, and at the end.
type progress struct {
	Ops   map[string]counts
	Bytes int64
	Over  bool // the last report
}

func (p progress) failed() (n int) {
	for _, c := range p.Ops {
		n += c.Failed
	}
	return n
}

// worker does one operation after the other.
type worker struct {
	cfg    loading
	number int // among those of its operation
	random *rand.Rand
	ids    *atomic.Uint64
	bytes  *atomic.Int64
	udp    *net.UDPConn // nil: not open yet
}

// playLoad does all operations at once until it is asked to end; then the running ones are done to
// their end.
func playLoad(s stage) error {
	var cfg loading
	if err := json.Unmarshal(s.config, &cfg); err != nil {
		return err
	}
	var all sync.WaitGroup
	var ids atomic.Uint64
	var bytes atomic.Int64
	ids.Store(cfg.Seed)
	stop := make(chan struct{})
	tallies := make(map[string]*tally)
	for _, op := range operations() {
		t := &tally{}
		tallies[op.name] = t
		for i := range op.workers {
			w := &worker{cfg: cfg, number: i, random: rand.New(rand.NewPCG(cfg.Seed, uint64(i))), ids: &ids, bytes: &bytes}
			all.Go(func() { w.work(op.run, t, stop) })
		}
	}
	report := func(over bool) error {
		p := progress{Ops: make(map[string]counts), Bytes: bytes.Load(), Over: over}
		for name, t := range tallies {
			p.Ops[name] = t.report()
		}
		return s.out.Encode(p)
	}
	err := eachSecond(terminated(), func() error { return report(false) })
	close(stop)
	all.Wait()
	return errors.Join(err, report(true))
}

func eachSecond(until <-chan os.Signal, f func() error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-until:
			return nil
		case <-tick.C:
		}
		if err := f(); err != nil {
			return err
		}
	}
}

func (w *worker) work(run func(*worker) error, t *tally, stop <-chan struct{}) {
	defer func() {
		if w.udp != nil {
			w.udp.Close()
		}
	}()
	for {
		select {
		case <-stop:
			return
		default:
		}
		began := time.Now()
		t.add(time.Since(began), run(w))
	}
}

func (w *worker) upTo(n int64) int64 { return w.random.Int64N(n) }

// reader is how a client reads: nothing at first, then in pieces.
type reader struct{ lag, pause time.Duration }

// conn is an operation under way.
type conn struct {
	stream
	in       *bufio.Reader
	outcomes string
}

// stream is what TCP and unix connections share.
type stream interface {
	net.Conn
	CloseWrite() error
}

// open connects and says what shall happen.
func (w *worker) open(addr string, r *request) (*conn, error) {
	r.ID = w.ids.Add(1)
	network := "tcp4"
	if strings.HasPrefix(addr, "/") {
		network = "unix"
	}
	dialed, err := net.DialTimeout(network, addr, patience)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c := &conn{stream: dialed.(stream), in: bufio.NewReaderSize(dialed, 4<<10)}
	dialed.SetDeadline(time.Now().Add(2 * patience))
	if err := c.begin(r); err != nil {
		c.Close()
		return nil, err
	}
	w.bytes.Add(r.Up + r.Down)
	return c, nil
}

func (c *conn) begin(r *request) error {
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if _, err := c.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("send request: %w", err)
	}
	line, err = c.in.ReadSlice('\n')
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	c.outcomes = a.Outcomes
	return nil
}

// carry sends a stream and receives another, and asks the server what it received.
func (w *worker) carry(r request, how reader) error {
	r.Op = "carry"
	c, err := w.open([]string{w.cfg.Steady, w.cfg.Socket}[w.random.IntN(2)], &r)
	if err != nil {
		return err
	}
	defer c.Close()
	got, err := c.both(r, how)
	if err != nil {
		return err
	}
	if err := got.is(down(r.ID), r.Down, "eof"); err != nil {
		return fmt.Errorf("the client received %w", err)
	}
	return c.checkOutcome(r, "eof")
}

// both sends and receives; each direction ends by itself, in the order that r says.
func (c *conn) both(r request, how reader) (got outcome, err error) {
	received := make(chan struct{})
	sent := make(chan error, 1)
	go func() {
		if r.First == "server" {
			<-received
		}
		_, err := io.Copy(plain{c.stream}, testnet.NewStream(up(r.ID), r.Up))
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	<-time.After(how.lag)
	got = receive(c.in, how.pause)
	close(received)
	if err := <-sent; err != nil {
		return got, fmt.Errorf("send: %w", err)
	}
	return got, nil
}

// is checks that o is a whole stream.
func (o outcome) is(seed uint64, size int64, end string) error {
	if want := testnet.StreamSum(seed, size); o.Sum != want || o.End != end {
		return fmt.Errorf("%d bytes, sum %x, end %s, want %d bytes, sum %x, end %s", o.Sum.Bytes, o.Sum.CRC, o.End, want.Bytes, want.CRC, end)
	}
	return nil
}

// checkOutcome asks the server.
func (c *conn) checkOutcome(r request, end string) error {
	direct, err := net.DialTimeout("tcp4", c.outcomes, patience)
	if err != nil {
		return fmt.Errorf("ask for the outcome: %w", err)
	}
	defer direct.Close()
	direct.SetDeadline(time.Now().Add(2 * patience))
	var o outcome
	if err := errors.Join(json.NewEncoder(direct).Encode(r.ID), json.NewDecoder(direct).Decode(&o)); err != nil {
		return fmt.Errorf("ask for the outcome: %w", err)
	}
	if err := o.is(up(r.ID), r.Up, end); err != nil {
		return fmt.Errorf("the server received %w", err)
	}
	return nil
}

// talk is a connection that lasts, and carries a line now and then.
func (w *worker) talk() error {
	r := request{Op: "echo"}
	c, err := w.open(w.cfg.Steady, &r)
	if err != nil {
		return err
	}
	defer c.Close()
	for i := range 5 + w.random.IntN(25) {
		line := fmt.Sprintf("line %d of %d\n", i, r.ID)
		if _, err := c.Write([]byte(line)); err != nil {
			return fmt.Errorf("send line %d: %w", i, err)
		}
		got, err := c.in.ReadString('\n')
		if err != nil {
			return fmt.Errorf("read line %d: %w", i, err)
		}
		if got != line {
			return fmt.Errorf("line %d: %w", i, errWrongBytes)
		}
		w.bytes.Add(2 * int64(len(line)))
		<-time.After(100 * time.Millisecond)
	}
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if o := receive(c.in, 0); o.Sum.Bytes != 0 || o.End != "eof" {
		return fmt.Errorf("after the last line %d bytes, end %s", o.Sum.Bytes, o.End)
	}
	return nil
}

// halfClosed has one side say everything, and end, before the other begins.
func (w *worker) halfClosed() error {
	r := request{Up: w.upTo(1 << 20), Down: w.upTo(1 << 20), First: "client"}
	if w.random.IntN(2) == 0 {
		r.First = "server"
	}
	return w.carry(r, reader{})
}

// slow has both sides read with pauses, slower than the other sends.
func (w *worker) slow() error {
	const pause = 20 * time.Millisecond
	return w.carry(request{Up: 1 << 20, Down: 1 << 20, Pause: pause}, reader{pause: pause})
}

// stopped has one side read nothing for a while, with more under way than all buffers hold.
func (w *worker) stopped() error {
	lag := time.Second + time.Duration(w.upTo(int64(time.Second)))
	if w.random.IntN(2) == 0 {
		return w.carry(request{Up: 16 << 20, Down: w.upTo(1000), Lag: lag}, reader{})
	}
	return w.carry(request{Up: w.upTo(1000), Down: 16 << 20}, reader{lag: lag})
}

// resetUp is a client that resets: the server receives what came before, and the reset.
func (w *worker) resetUp() error {
	r := request{Op: "carry", Up: w.upTo(256 << 10), First: "client"}
	c, err := w.open(w.cfg.Steady, &r)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := resetAfter(c.stream.(*net.TCPConn), r.Up, up(r.ID)); err != nil {
		return err
	}
	return c.checkOutcome(r, "reset")
}

// resetDown is a server that resets.
func (w *worker) resetDown() error {
	r := request{Op: "reset", Down: w.upTo(256 << 10)}
	c, err := w.open(w.cfg.Steady, &r)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := receive(c.in, 0).is(down(r.ID), r.Down, "reset"); err != nil {
		return fmt.Errorf("the client received %w", err)
	}
	return nil
}

// maybeKilled is a connection whose server may be killed at any moment. Then it may end early, reset or
// not, as the kernel of that server says it; but a client is always let in, and what arrives is right.
func (w *worker) maybeKilled() error {
	r := request{Op: "carry", Up: w.upTo(1 << 20), Down: w.upTo(4 << 20)}
	c, err := w.open(w.cfg.Broken, &r)
	if err != nil {
		return unlessKilled(err)
	}
	defer c.Close()
	got, err := c.both(r, reader{pause: time.Millisecond})
	if unlessKilled(err) != nil || got.End != "reset" && got.End != "eof" {
		return fmt.Errorf("the client received the end %s: %w", got.End, err)
	}
	return got.is(down(r.ID), min(got.Sum.Bytes, r.Down), got.End)
}

// unlessKilled passes over what a dying server does to a connection that it had.
func unlessKilled(err error) error {
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
