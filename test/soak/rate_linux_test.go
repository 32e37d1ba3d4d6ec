package soak

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// naming is the config of playNamed.
type naming struct{ Name, Addr string }

// playNamed answers every line with its name and how many connections it had before this one. Asked to
// end, it stops accepting as a server does that loses no client: nobody new gets in, those who are in are
// served.
func playNamed(s stage) error {
	var cfg naming
	if err := json.Unmarshal(s.config, &cfg); err != nil {
		return err
	}
	listen := net.ListenConfig{}
	listen.SetMultipathTCP(false) // whose sockets take no filter
	l, err := listen.Listen(context.Background(), "tcp4", cfg.Addr)
	if err != nil {
		return err
	}
	if err := s.out.Encode("ready"); err != nil {
		return err
	}
	var all sync.WaitGroup
	accepting := make(chan error, 1)
	go func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				accepting <- err
				return
			}
			all.Go(func() { answerByName(c, cfg.Name, n) })
		}
	}()
	<-terminated()
	if err := stopAccepting(l.(*net.TCPListener)); err != nil {
		return err
	}
	if err := <-accepting; !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	l.Close()
	all.Wait()
	return nil
}

func answerByName(c net.Conn, name string, n int) {
	defer c.Close()
	in := bufio.NewReaderSize(c, 64)
	for {
		c.SetReadDeadline(time.Now().Add(patience))
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		if _, err := fmt.Fprintf(c, "%s %d %s", name, n, line); err != nil {
			return
		}
	}
}

// quietTime is how long a listener goes on accepting when nobody new gets in: the last handshakes end
// meanwhile.
const quietTime = 50 * time.Millisecond

// stopAccepting lets no further SYN in and then gives the loop time for those who are on their way: to
// close a listener resets everybody who waits in its queue, whose bytes may have been sent already.
func stopAccepting(l *net.TCPListener) error {
	const flags, syn = 13, 0x02 // of a TCP header
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: syn, Jt: 0, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
	}
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	})
	return errors.Join(cerr, err, l.SetDeadline(time.Now().Add(quietTime)))
}

// rating is the config of playRate.
type rating struct {
	Addrs []string
	Rate  int // connections per second
	// Second is where a client goes that got no answer at Addrs; "": nowhere.
	Second string
}

// mostAtOnce bounds the connections that are open at one time.
const mostAtOnce = 8000

// rated is what playRate reports.
type rated struct {
	Done     int
	Worst    time.Duration
	Servers  map[string]*served
	Seconds  int // of Done, those that the second address answered
	Failures []failure
}

// served is what one server answered, by when the clients began.
type served struct {
	Count       int
	First, Last time.Time
}

// failure is one connection that got no answer.
type failure struct {
	Began time.Time
	Took  time.Duration
	Error string
}

func (f failure) String() string {
	return fmt.Sprintf("at %s, after %v: %s", f.Began.Format("05.000"), f.Took.Round(time.Millisecond), f.Error)
}

// playRate opens connections at a rate, whatever becomes of them, until it is asked to end.
func playRate(s stage) error {
	var cfg rating
	if err := json.Unmarshal(s.config, &cfg); err != nil {
		return err
	}
	g := &generator{cfg: cfg, report: rated{Servers: make(map[string]*served)}}
	if err := s.out.Encode("ready"); err != nil {
		return err
	}
	g.run(terminated())
	return s.out.Encode(g.report)
}

type generator struct {
	cfg  rating
	open atomic.Int64

	mu     sync.Mutex
	report rated // guarded by mu
}

func (g *generator) run(until <-chan os.Signal) {
	var all sync.WaitGroup
	defer all.Wait()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	began := time.Now()
	for n := 0; ; {
		select {
		case <-until:
			return
		case <-tick.C:
		}
		for due := int(time.Since(began).Seconds() * float64(g.cfg.Rate)); n < due; n++ {
			if g.open.Add(1) > mostAtOnce {
				g.open.Add(-1)
				g.note(time.Now(), "", fmt.Errorf("%d connections are open already", mostAtOnce), false)
				continue
			}
			number := n // n goes on
			all.Go(func() {
				defer g.open.Add(-1)
				g.one(number)
			})
		}
	}
}

func (g *generator) one(n int) {
	began := time.Now()
	server, err := askName(g.cfg.Addrs[n%len(g.cfg.Addrs)], n)
	second := err != nil && g.cfg.Second != ""
	if second {
		server, err = askName(g.cfg.Second, n)
	}
	g.note(began, server, err, second)
}

func (g *generator) note(began time.Time, server string, err error, second bool) {
	took := time.Since(began)
	g.mu.Lock()
	defer g.mu.Unlock()
	r := &g.report
	r.Worst = max(r.Worst, took)
	if err != nil {
		r.Failures = append(r.Failures, failure{began, took, err.Error()})
		return
	}
	r.Done++
	if second {
		r.Seconds++
	}
	by := r.Servers[server]
	if by == nil {
		by = &served{First: began, Last: began}
		r.Servers[server] = by
	}
	by.Count++
	if began.Before(by.First) {
		by.First = began
	}
	if began.After(by.Last) {
		by.Last = began
	}
}

// askName connects for one question, and takes the end of the connection as seriously as the answer.
func askName(addr string, n int) (server string, err error) {
	c, err := net.DialTimeout("tcp4", addr, patience)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(c, "%d\n", n); err != nil {
		return "", err
	}
	line, err := bufio.NewReaderSize(c, 64).ReadString('\n')
	if err != nil {
		return "", err
	}
	name, rest, _ := strings.Cut(line, " ")
	if _, id, _ := strings.Cut(rest, " "); id != fmt.Sprintf("%d\n", n) {
		return "", fmt.Errorf("%w: %q", errWrongBytes, line)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("after the answer: %w", err)
	}
	return name, nil
}

// queueing is the config of playQueue.
type queueing struct {
	Addr  string
	Conns int
}

// queued is what playQueue reports.
type queued struct {
	Failures []string
	// Places are, in the order of connecting, which connection each was for its server.
	Places []int
}

// playQueue opens connections one after the other, each with a question, says so, and then waits for all
// answers.
func playQueue(s stage) error {
	var cfg queueing
	if err := json.Unmarshal(s.config, &cfg); err != nil {
		return err
	}
	conns := make([]net.Conn, cfg.Conns)
	for i := range conns {
		c, err := net.DialTimeout("tcp4", cfg.Addr, patience)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		defer c.Close()
		if _, err := fmt.Fprintf(c, "%d\n", i); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		conns[i] = c
	}
	if err := s.out.Encode("waiting"); err != nil {
		return err
	}
	report := queued{Places: make([]int, len(conns))}
	for i, c := range conns {
		c.SetReadDeadline(time.Now().Add(patience))
		var name string
		var id int
		if _, err := fmt.Fscanf(c, "%s %d %d\n", &name, &report.Places[i], &id); err != nil || id != i {
			report.Failures = append(report.Failures, fmt.Sprintf("connection %d: %v (%q, %d)", i, err, name, id))
		}
	}
	return s.out.Encode(report)
}

// reset tells whether a connection failed as clients take for "try the next host at once".
func (f failure) reset() bool {
	return strings.Contains(f.Error, syscall.ECONNRESET.Error()) || strings.Contains(f.Error, syscall.ECONNREFUSED.Error())
}
