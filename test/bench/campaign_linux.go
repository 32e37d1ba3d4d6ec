package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"legate/test/bench/load"
	"legate/test/bench/machine"
	"legate/test/bench/peers"
)

// campaign is one run of the benchmark: as many rounds as its rows want.
type campaign struct {
	options
	out    io.Writer
	config peers.Config
	dir    string // for files of proxies
	rows   []row
	peers  []peers.Peer
	noise  *machine.Noise
	began  time.Time
	last   time.Time                // when the last row of a round ended
	cost   map[string]time.Duration // how long each row took the last time
	result *result
	// ask has somebody carry out a task, and hands on what they say.
	ask func(ctx context.Context, t task, take func(number int, e event)) error
}

func newCampaign(o options, c peers.Config, out io.Writer) (*campaign, error) {
	dir, err := os.MkdirTemp("", "legate-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	// Workers of nginx have fewer rights and read their files here.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a folder: %w", err)
	}
	b := &campaign{options: o, out: out, config: c, dir: dir, began: time.Now(), cost: map[string]time.Duration{}}
	for _, r := range rows(o.Full, o.Quick) {
		if o.Rows == nil || slices.Contains(o.Rows, r.Name) {
			if o.Rounds > 0 {
				r.Rounds = o.Rounds
			}
			b.rows = append(b.rows, r)
		}
	}
	for _, p := range peers.List(c) {
		// Without the direct connection nobody knows what the machine does by itself.
		if o.Peers == nil || slices.Contains(o.Peers, p.Name) || p.Name == peers.Direct || p.Name == c.OtherName {
			b.peers = append(b.peers, p)
		}
	}
	b.result = newResult(o, b.rows)
	b.ask = b.askRound
	return b, nil
}

func (b *campaign) close() { os.RemoveAll(b.dir) }

func (b *campaign) run(ctx context.Context) (*result, error) {
	if !b.Quick {
		fmt.Fprintln(b.out, "looking how fast this machine is when nothing else runs")
		b.noise = machine.NewNoise()
		b.result.Machine.Spin = b.noise.Reference
	}
	if err := b.calibrate(ctx); err != nil {
		return nil, err
	}
	if err := b.trace(ctx); err != nil {
		return nil, err
	}
	for number := 1; ; number++ {
		lacking := b.result.lacking()
		if len(lacking) == 0 || number > b.most() || b.result.out(peers.Legate) {
			break
		}
		if time.Since(b.began)+b.expected(lacking) > b.Limit {
			fmt.Fprintf(b.out, "stopped after %d rounds: another would take it over %s\n", number-1, b.Limit)
			break
		}
		if err := b.round(ctx, number, lacking); err != nil {
			return nil, err
		}
	}
	b.result.complete(b.peers)
	return b.result, nil
}

// most is how many rounds there may be: as many again as are wanted, for those
// that do not count.
func (b *campaign) most() (n int) {
	for _, r := range b.rows {
		n = max(n, 2*r.Rounds)
	}
	return n
}

func (b *campaign) round(ctx context.Context, number int, lacking []row) error {
	if b.result.out(peers.Direct) {
		return errors.New("the connection without a proxy does not work; nothing can be compared with it")
	}
	b.last = time.Now()
	return b.ask(ctx, task{Number: number, What: measure, Rows: lacking, Peers: b.order(number), Noise: b.noise}, b.note)
}

// expected is how long a round of some rows will take, as they last did.
func (b *campaign) expected(list []row) (sum time.Duration) {
	for _, w := range list {
		sum += b.cost[w.Name]
	}
	return sum
}

// order takes the peers in turn forwards and backwards, and each time another
// one first. Whoever failed the gate is out.
func (b *campaign) order(number int) (names []string) {
	for _, p := range b.peers {
		if (!p.Seldom || number%2 == 1) && !b.result.out(p.Name) {
			names = append(names, p.Name)
		}
	}
	first := number / 2 % len(names)
	names = slices.Concat(names[first:], names[:first])
	if number%2 == 0 {
		slices.Reverse(names)
	}
	return names
}

// note keeps what a round says, and shows how far it is.
func (b *campaign) note(number int, e event) {
	switch {
	case e.Fact != nil:
		if b.result.fact(*e.Fact) {
			fmt.Fprintf(b.out, "%s: %s\n", e.Fact.Peer, e.Fact.Note)
		}
	case e.Sample != nil:
		b.result.Samples = append(b.result.Samples, *e.Sample)
	case e.Block != nil:
		b.result.Blocks = append(b.result.Blocks, *e.Block)
		b.cost[e.Block.Row], b.last = time.Since(b.last), time.Now()
		fmt.Fprintln(b.out, b.result.progress(*e.Block, time.Since(b.began), b.left()))
	}
}

// left guesses from how long each row took the last time; rows that were not
// yet measured count as this round's average.
func (b *campaign) left() (sum time.Duration) {
	if len(b.cost) == 0 {
		return 0
	}
	var known time.Duration
	for _, cost := range b.cost {
		known += cost
	}
	for _, w := range b.result.Rows {
		cost, measured := b.cost[w.Name]
		if !measured {
			cost = known / time.Duration(len(b.cost))
		}
		quiet, _ := b.result.quietRounds(w.Name)
		sum += cost * time.Duration(max(0, w.Rounds-quiet))
	}
	return sum
}

// calibrate finds the rate of every row: a share of the most that the slowest
// of the proxies does.
func (b *campaign) calibrate(ctx context.Context) error {
	known := append(rows(false, b.Quick), b.rows...)
	var list []row
	for _, r := range b.rows {
		i := slices.IndexFunc(known, func(k row) bool { return k.Name == r.calibrated() })
		if r.Kind != kindMemory && r.Share > 0 && !slices.ContainsFunc(list, func(k row) bool { return k.Name == known[i].Name }) {
			list = append(list, known[i])
		}
	}
	if len(list) == 0 {
		return nil
	}
	fmt.Fprintln(b.out, "looking for the rate that every proxy can do")
	var names []string
	for _, p := range b.peers {
		if p.Command != nil {
			names = append(names, p.Name)
		}
	}
	err := b.ask(ctx, task{What: calibrate, Rows: list, Peers: names}, func(_ int, e event) {
		if e.Fact != nil {
			b.note(0, e)
		}
		if e.Sample != nil {
			b.result.maximum(*e.Sample)
		}
	})
	if err != nil {
		return err
	}
	b.result.setRates()
	return nil
}

// trace counts system calls, where strace is.
func (b *campaign) trace(ctx context.Context) error {
	if _, err := exec.LookPath("strace"); err != nil || b.Part != "" || b.Rows != nil && !slices.ContainsFunc(b.Rows, isTraced) {
		return nil
	}
	fmt.Fprintln(b.out, "counting system calls")
	var names []string
	for _, p := range b.peers {
		names = append(names, p.Name)
	}
	return b.ask(ctx, task{What: trace, Rows: traced(b.Quick), Peers: names}, func(_ int, e event) {
		if e.Calls != nil {
			b.result.Calls = append(b.result.Calls, *e.Calls)
		}
	})
}

func isTraced(name string) bool {
	return slices.ContainsFunc(traced(false), func(r row) bool { return r.Name == name })
}

// askRound has a round in a network namespace of its own do something, and hands
// on what it says. When it returns nobody is left in that namespace.
func (b *campaign) askRound(ctx context.Context, t task, take func(int, event)) error {
	t.Config, t.Dir = b.config, b.dir
	question, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("write task: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	cmd := exec.CommandContext(ctx, b.config.Self, roleRound)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = ownNetwork()
	cmd.Stdin = bytes.NewReader(question)
	var said bytes.Buffer
	cmd.Stderr = &said
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start round: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start round in a namespace (root, or user namespaces): %w", err)
	}
	space, unseen := openSpace(cmd.Process.Pid)
	if unseen != nil {
		stop()
	}
	err = errors.Join(unseen, listen(answers, func(e event) { take(t.Number, e) }, stop))
	cause := context.Cause(ctx)
	if waited := cmd.Wait(); waited != nil || cause != nil {
		err = errors.Join(cause, err, errors.New("round: "+strings.TrimPrefix(strings.TrimSpace(said.String()), "error: ")), waited)
	}
	if space != nil {
		defer space.close()
		err = errors.Join(err, space.clear())
	}
	return err
}

// listen hands on what a round says. After something else it stops the round,
// and reads on until it has ended: a full pipe would keep it from that.
func listen(answers io.Reader, take func(event), stop func()) error {
	lines := json.NewDecoder(answers)
	for {
		var e event
		err := lines.Decode(&e)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			stop()
			_, _ = io.Copy(io.Discard, answers) // why it fails matters less than the first failure
			return fmt.Errorf("read the round's answer: %w", err)
		}
		take(e)
	}
}

// rateOf is a row's rate of requests, or of bursts of datagrams.
func rateOf(r row, most load.Result) float64 {
	per := most.Units / most.Wall.Seconds() / r.Shape.Units
	if r.Kind == kindUDP {
		per /= load.Burst
	}
	return per * r.Share
}
