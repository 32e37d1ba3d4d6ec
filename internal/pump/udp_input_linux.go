package pump

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// udpInput is what the acceptor's goroutine has in hand.
type udpInput struct {
	a     *udpAcceptor
	take  func(uintptr) bool // receive, made once: a closure per datagram would be an allocation
	wide  bool
	empty bool // the queue was, after Close
	err   error
	taken int // since Close
	fails int // in a row
}

func newUDPInput(a *udpAcceptor) *udpInput {
	in := &udpInput{a: a}
	in.take = in.receive
	return in
}

// handleNext waits for datagrams and hands them on. No error ends it: what the
// kernel reports on an unconnected socket concerns one datagram or one client.
func (in *udpInput) handleNext() {
	in.empty, in.err = false, nil
	err := in.a.raw.Read(in.take)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = in.a.file.SetReadDeadline(time.Time{})
		return
	}
	if err == nil {
		err = in.err
	}
	if err != nil {
		in.failed(err)
	}
	if in.a.phase.Load() == udpClosing && (in.empty || in.taken >= queuedAtClose) {
		in.a.beginNoMore()
	}
}

// receive is called by the runtime when the socket is readable, and first of
// all to find out. False waits for more, and what comes after the queue was
// seen empty ends that wait, however long the datagrams in hand took: Go's
// poller is edge-triggered and is not told to forget before the next Read
// (internal/poll, FD.RawRead). So no call is needed to see EAGAIN.
func (in *udpInput) receive(fd uintptr) bool {
	closing := in.a.phase.Load() == udpClosing
	b := in.a.batches.get(in.wide)
	defer in.a.batches.put(b)
	n, err := b.receive(int(fd))
	switch {
	case err == nil:
		in.fails = 0
		in.wide = b.widen(n)
		in.dispatch(b, n)
	case !errors.Is(err, unix.EAGAIN):
		in.err = err
		return true
	}
	if closing {
		in.taken += n
		in.empty = !b.full(n)
	}
	return closing || b.full(n)
}

// dispatch hands each session what is for it, in order.
func (in *udpInput) dispatch(b *udpBatch, n int) {
	got := 0
	for i := range n {
		m, local, err := b.message(i)
		if err == nil {
			b.keys[got], err = b.key(i, local)
		}
		if err != nil {
			in.a.dropped.Add(1)
			continue
		}
		b.msgs[got] = m
		got++
	}
	groupUDP(b.order[:], b.keys[:got])
	for i := range got {
		b.train[i] = b.msgs[b.order[i]]
	}
	for from := 0; from < got; {
		key, to := b.keys[b.order[from]], from+1
		for to < got && b.keys[b.order[to]] == key {
			to++
		}
		in.a.dispatch(b, key, &udpTrain{msgs: b.train[from:to]})
		from = to
	}
}

// failed waits a little when reading fails again and again, so that a lasting
// error does not become a loop that eats a core.
func (in *udpInput) failed(err error) {
	in.fails++
	if in.fails == 1 || isRefusal(err) {
		return
	}
	if in.fails == 2 {
		in.a.cfg.Log.Warn("receive from udp clients", "address", in.a.own.addr, "error", err)
	}
	<-time.After(min(time.Duration(in.fails)*time.Millisecond, 100*time.Millisecond))
}

// udpOutput is what a session's goroutine has in hand.
type udpOutput struct {
	s       *udpSession
	up      *upstream
	merging bool // of up
	wide    bool
	err     error
}

// begin is before each wait for answers.
func (o *udpOutput) begin(up *upstream) {
	if o.up != up {
		o.up, o.merging = up, false
	}
	o.err = nil
}

// receive is to a session what udpInput.receive is to the listening socket.
func (o *udpOutput) receive(fd uintptr) bool {
	b := o.s.a.batches.get(o.wide)
	defer o.s.a.batches.put(b)
	n, err := b.receive(int(fd))
	o.err = err
	if err != nil {
		return !errors.Is(err, unix.EAGAIN)
	}
	o.wide = b.widen(n)
	if o.wide && !o.merging && o.s.a.offload.merge {
		// Not before: it is a system call, which one question and one answer do
		// not need. Where it fails, answers come one by one.
		o.merging = true
		_ = mergeUDP(int(fd))
	}
	got := 0
	for i := range n {
		m, _, err := b.message(i)
		if err != nil {
			o.s.a.dropped.Add(1)
			continue
		}
		b.train[got] = m
		got++
	}
	o.s.answered(o.up, b, &udpTrain{msgs: b.train[:got]})
	return b.full(n)
}
