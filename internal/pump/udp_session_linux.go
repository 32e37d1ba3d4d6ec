package pump

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

var (
	errNeverHeld    = errors.New("no endpoint, and a UDP session is never held")
	errManyAttempts = errors.New("gave up after too many attempts for one datagram")
)

const (
	// maxAsks bounds the attempts for one datagram: they are made on the
	// goroutine that reads for all clients.
	maxAsks = 16
	// maxSends bounds how often one datagram is sent again because an error
	// that earlier ones caused was reported in its place.
	maxSends = 4
)

// udpSession is one client and its connected socket. Two goroutines work on
// it: the acceptor's passes on what the client sends, its own what the
// endpoint answers. Each waits only for the other's non-blocking calls.
//
// The read deadline of the socket is how its goroutine is interrupted, and is
// set to when the session would be idle; it is not touched per datagram.
type udpSession struct {
	a      *udpAcceptor
	flow   Flow
	client udpClient
	start  time.Time

	// up is nil once the session has ended. It is changed, and its descriptor
	// used for sending, only under mu.
	up    atomic.Pointer[upstream]
	woken atomic.Bool
	cutBy atomic.Pointer[error]
	last  atomic.Int64 // when a datagram passed, in nanoseconds since a.start
	out   udpRoute     // to the client; but for what it carried, of run alone

	mu      sync.Mutex // guards the following, and calls of the handler until the end
	in      udpRoute   // to the endpoint; what it carried is free to read
	leg     int        // of the last step, which up is connected to
	refused error      // the endpoint's, not yet told to the handler
	ended   bool
	cause   Cause
	err     error
}

func newUDPSession(a *udpAcceptor, key udpKey) *udpSession {
	s := &udpSession{a: a, client: newUDPClient(key, a.own.family), start: time.Now()}
	s.out = udpRoute{to: &s.client, segment: a.offload.longest()}
	s.flow = Flow{Client: key.name(), engine: s}
	s.touch()
	return s
}

// The flow's side. None of these takes mu: the handler may call them from
// inside Next.

func (s *udpSession) wake() {
	s.woken.Store(true)
	s.interrupt()
}

func (s *udpSession) cut(cause error) {
	s.cutBy.CompareAndSwap(nil, &cause)
	s.interrupt()
}

func (s *udpSession) freeze() (State, error) { return State{}, ErrNotMovable }

func (s *udpSession) local() netip.AddrPort { return netip.AddrPort{} }

func (s *udpSession) counters() Counters {
	return Counters{In: s.in.carried.Load(), Out: s.out.carried.Load()}
}

// interrupt wakes run. A socket that replaces this one at the same moment is
// noticed by run, which then looks for why it may have been woken.
func (s *udpSession) interrupt() {
	if up := s.up.Load(); up != nil {
		_ = up.file.SetReadDeadline(aLongTimeAgo)
	}
}

func (s *udpSession) touch() { s.last.Store(int64(time.Since(s.a.start))) }

// idleAt is when the session ends unless a datagram passes.
func (s *udpSession) idleAt() time.Time {
	return s.a.start.Add(time.Duration(s.last.Load()) + s.a.idle())
}

// open asks for the first endpoint.
func (s *udpSession) open() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ask(Attempt{Kind: Accepted})
	return !s.ended
}

// forward passes a client's datagrams on or drops them; false when the session
// had ended before. If it ends on the way, it leaves those that are the next
// session's.
func (s *udpSession) forward(b *udpBatch, t *udpTrain) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.touch()
	if s.refused != nil {
		s.askAfterRefusal(s.refused)
	}
	s.send(b, t)
	return true
}

// send needs mu. An error that ICMP brought for an earlier datagram is
// reported instead of sending this one (udp(7)), which therefore is sent
// again, to wherever the handler now says.
func (s *udpSession) send(b *udpBatch, t *udpTrain) {
	fails, at := 0, t.at
	for !t.done() {
		up := s.up.Load()
		if up == nil {
			s.a.dropped.Add(1)
			t.drop()
			return
		}
		err := b.tx.send(up.fd, &s.in, t)
		if err == nil {
			return
		}
		if t.at != at {
			fails, at = 0, t.at
		}
		fails++
		s.failed(up, err)
		if fails == maxSends || isUDPShortage(err) {
			s.a.dropped.Add(int64(b.tx.drop(t)))
		}
	}
}

// failed needs mu.
func (s *udpSession) failed(up *upstream, err error) {
	switch {
	case isRefusal(err):
		s.askAfterRefusal(err)
	case errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.EINTR), isUDPShortage(err):
		// Too long for the path, or an earlier one was.
	default:
		// The next datagram begins anew, with another socket.
		s.end(CauseEnded, fmt.Errorf("send to %s: %w", up.addr, err))
	}
}

func isUDPShortage(err error) bool { return errors.Is(err, unix.EAGAIN) || IsShortage(err) }

func (s *udpSession) askAfterRefusal(err error) {
	s.refused = nil
	s.ask(Attempt{Kind: Refused, Leg: s.leg, Err: err})
}

// ask needs mu. It has the handler name an endpoint and connects to it; then
// either that is done or the session has ended.
func (s *udpSession) ask(last Attempt) {
	for range maxAsks {
		step := s.a.cfg.Handler.Next(&s.flow, last)
		if len(step.Dial) == 0 {
			s.end(CauseEnded, whyEnded(step))
			return
		}
		done, shortage := s.connect(step.Dial)
		if shortage != nil {
			s.end(CauseEnded, shortage)
			return
		}
		if done {
			s.a.cfg.Handler.Connected(&s.flow, s.leg)
			return
		}
		last = Attempt{Kind: DialFailed}
	}
	s.end(CauseEnded, errManyAttempts)
}

func whyEnded(step Step) error {
	switch {
	case step.End == nil:
		return errNeverHeld
	case errors.Is(step.End, io.EOF):
		return nil
	}
	return step.End
}

// connect needs mu. It takes the first leg that can be connected at all, which
// for UDP only tells that there is a route, and keeps the socket when that is
// where it goes already. The old socket is closed first: what still arrives on
// it is a late answer, and a session never needs a second descriptor.
func (s *udpSession) connect(legs []Leg) (done bool, shortage error) {
	for i := range legs {
		legs[i].Err = ErrNotTried
	}
	for i := range legs {
		if up := s.up.Load(); up != nil && up.leads(&legs[i]) && legs[i].Refuse == nil {
			s.leg, legs[i].Err = i, nil
			return true, nil
		}
		s.disconnect()
		up, err := dialUDP(&legs[i], s.a.own)
		legs[i].Err = err
		switch {
		case err == nil:
			// Without a poller there is no deadline, and no waiting either.
			if err := up.file.SetReadDeadline(s.idleAt()); err != nil {
				return false, errors.Join(fmt.Errorf("watch udp socket: %w", err), up.file.Close())
			}
			s.leg, s.refused, s.in.segment = i, nil, s.a.offload.longest()
			s.up.Store(up)
			return true, nil
		case isUDPShortage(err) && !errors.Is(err, unix.EADDRNOTAVAIL):
			// Lacking an address of the endpoint's family is ours, too, but
			// another leg may do.
			return false, err
		}
	}
	return false, nil
}

// disconnect needs mu.
func (s *udpSession) disconnect() {
	if up := s.up.Swap(nil); up != nil {
		_ = up.file.Close()
	}
}

// end needs mu. It says why the session ends; run, which it wakes, does the
// rest.
func (s *udpSession) end(cause Cause, err error) {
	if s.ended {
		return
	}
	s.ended, s.cause, s.err = true, cause, err
	s.disconnect()
}

// run passes on the endpoint's answers until the session has ended.
func (s *udpSession) run() {
	out := udpOutput{s: s}
	take := out.receive
	for {
		up := s.up.Load()
		if up == nil {
			if s.moving() {
				continue
			}
			break
		}
		s.attend()
		out.begin(up)
		err := up.raw.Read(take)
		if err == nil {
			err = out.err
		}
		if err != nil {
			s.unanswered(up, err)
		}
	}
	s.finish()
}

// moving waits until a change of sockets is over and tells whether there is
// one again.
func (s *udpSession) moving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.ended
}

// attend does what Cut and Wake asked for.
func (s *udpSession) attend() {
	cut := s.cutBy.Load()
	if cut == nil && !s.woken.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended:
	case cut != nil:
		s.end(CauseCut, *cut)
	case s.woken.Swap(false):
		s.ask(Attempt{Kind: Woken})
	}
}

// answered passes answers on to the client, from the address that it used.
// After a move they are late and not passed on. The client's troubles are not
// the session's end: UDP clients come and go without a word. This runs while
// the socket is in use, which Close waits for, so it must not take mu.
func (s *udpSession) answered(up *upstream, b *udpBatch, t *udpTrain) {
	s.touch()
	for s.up.Load() == up && !t.done() {
		if err := b.tx.send(s.a.fd, &s.out, t); err != nil {
			s.a.dropped.Add(int64(b.tx.drop(t)))
		}
	}
}

// unanswered looks at why there was no answer, unless that is because of a
// move.
func (s *udpSession) unanswered(up *upstream, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.up.Load() != up:
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.rest(up)
	case isRefusal(err):
		s.refused = err
	case errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.EINTR):
		// A router's word on the length of an earlier datagram.
	default:
		s.end(CauseEnded, fmt.Errorf("receive from %s: %w", up.addr, err))
	}
}

// rest needs mu. It ends an idle session, or sets the deadline to when it will be idle. The
// deadline comes before attend looks for what else it was used for: the other
// way round an interruption would be overwritten and lost.
func (s *udpSession) rest(up *upstream) {
	switch at := s.idleAt(); {
	case time.Now().Before(at):
		_ = up.file.SetReadDeadline(at)
	case s.cutBy.Load() == nil:
		s.end(CauseIdle, nil)
	default:
		_ = up.file.SetReadDeadline(time.Time{})
	}
}

// finish gives everything back and reports the end. The session has ended
// before: nobody else calls the handler for it.
func (s *udpSession) finish() {
	s.a.remove(s)
	s.a.cfg.Release(1)
	s.a.cfg.Listener.Limit.release(1)
	s.a.cfg.Handler.Done(&s.flow, Result{
		Cause: s.cause, Err: s.err, Counters: s.counters(),
		Started: s.start, Duration: time.Since(s.start),
	})
}
