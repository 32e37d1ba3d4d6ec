package pump

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestUDP_RefusedEndpointMovesWithTheNextDatagram(t *testing.T) {
	dead := freeUDP(t)
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	good := echo(t, "127.0.0.1:0", "good ")
	w.h.set(func(f *Flow, a Attempt) Step {
		if a.Kind == Refused {
			return to(good)(f, a)
		}
		return to(dead)(f, a)
	})
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "lost, nobody was there")
	eventually(t, w.noticedRefusal)
	ask(t, c, "second", "good second")
	ask(t, c, "third", "good third")
	w.h.seen(func(h *udpHandler) {
		if len(h.attempts) != 2 || h.attempts[1].Kind != Refused || !errors.Is(h.attempts[1].Err, unix.ECONNREFUSED) {
			t.Errorf("attempts %+v", h.attempts)
		}
	})
}

// noticedRefusal tells whether the only session knows that it was refused.
func (w *udpWorld) noticedRefusal() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.sessions {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.refused != nil
	}
	return false
}

// The error that an earlier datagram caused is reported by the send of the
// next one, which then was not sent. Here nobody reads the socket before that
// send, as it happens when both come at once.
func TestUDP_DatagramInWhosePlaceARefusalWasReportedIsSent(t *testing.T) {
	dead := freeUDP(t)
	for _, also := range []string{"another endpoint", "the same endpoint"} {
		t.Run(also, func(t *testing.T) {
			w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
			back, at := listenTestUDP(t, "127.0.0.1:0")
			w.h.set(func(f *Flow, a Attempt) Step {
				if a.Kind == Refused && also == "another endpoint" {
					return to(at)(f, a)
				}
				return to(dead)(f, a)
			})
			s := newUDPSession(w.udpAcceptor, udpKey{client: at})
			if !w.acquire(1) || !s.open() {
				t.Fatal("not opened")
			}
			defer func() { s.mu.Lock(); s.end(CauseCut, nil); s.mu.Unlock(); s.finish() }()
			s.forward(trainOf("first"))
			waitForError(t, s.up.Load().fd)
			if also == "the same endpoint" {
				back.Close()
				again, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(dead))
				if err != nil {
					t.Fatal(err)
				}
				defer again.Close()
				back = again
			}
			s.forward(trainOf("second"))
			expect(t, back, "second")
			if ks := w.h.kinds(); !slices.Equal(ks, []AttemptKind{Accepted, Refused}) {
				t.Errorf("attempts %v", ks)
			}
		})
	}
}

func waitForError(t *testing.T, fd int) {
	t.Helper()
	eventually(t, func() bool {
		p := []unix.PollFd{{Fd: int32(fd)}}
		n, _ := unix.Poll(p, 0)
		return n == 1 && p[0].Revents&unix.POLLERR != 0
	})
}

func TestUDP_EndpointThatComesBackIsUsedAgain(t *testing.T) {
	at := freeUDP(t)
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, to(at))
	c := w.client(t, "127.0.0.1")
	for range 20 {
		sendTo(t, c, "nobody hears")
	}
	echo(t, at.String(), "back ")
	sendTo(t, c, "now")
	for got := ""; got != "back now"; { // after those still on their way
		got, _ = receiveFrom(t, c)
	}
	w.h.seen(func(h *udpHandler) {
		if len(h.flows) != 1 {
			t.Errorf("%d sessions, want 1", len(h.flows))
		}
	})
}

func TestUDP_WakeMovesAtOnceAndLateAnswersAreDropped(t *testing.T) {
	var where atomic.Pointer[netip.AddrPort]
	old, oldAt := listenTestUDP(t, "127.0.0.1:0")
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, byPointer(&where))
	fresh, freshAt := listenTestUDP(t, "127.0.0.1:0")
	where.Store(&oldAt)
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "a")
	_, session := receiveFrom(t, old)
	answer(t, old, session, "in time")
	expect(t, c, "in time")

	where.Store(&freshAt)
	w.h.flow(0).Wake()
	eventually(t, func() bool { return w.h.connects() == 2 })
	answer(t, old, session, "late")
	sendTo(t, c, "b")
	_, session = receiveFrom(t, fresh)
	answer(t, fresh, session, "from the new one")
	expect(t, c, "from the new one")
	if ks := w.h.kinds(); !slices.Equal(ks, []AttemptKind{Accepted, Woken}) {
		t.Errorf("attempts %v", ks)
	}
}

// The same for an answer that was read already when the session moved. Here
// nobody else works on the session, so that the order is certain.
func TestUDP_AnswerInHandDuringAMoveIsDropped(t *testing.T) {
	var where atomic.Pointer[netip.AddrPort]
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, byPointer(&where))
	_, oldAt := listenTestUDP(t, "127.0.0.1:0")
	_, freshAt := listenTestUDP(t, "127.0.0.1:0")
	where.Store(&oldAt)
	client, at := listenTestUDP(t, "127.0.0.1:0")
	s := newUDPSession(w.udpAcceptor, udpKey{client: at})
	if !w.acquire(1) || !s.open() {
		t.Fatal("not opened")
	}
	defer func() { s.mu.Lock(); s.end(CauseCut, nil); s.mu.Unlock(); s.finish() }()
	old := s.up.Load()
	where.Store(&freshAt)
	s.wake()
	s.attend()
	b, late := trainOf("late")
	s.answered(old, b, late)
	s.unanswered(old, unix.ECONNREFUSED)
	b, fresh := trainOf("fresh")
	s.answered(s.up.Load(), b, fresh)
	expect(t, client, "fresh")
	if s.refused != nil {
		t.Errorf("the old endpoint's refusal is held against the new one: %v", s.refused)
	}
}

func TestUDP_WakeWithTheSameAnswerKeepsTheSocket(t *testing.T) {
	server, at := listenTestUDP(t, "127.0.0.1:0")
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, to(at))
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "a")
	_, before := receiveFrom(t, server)
	for i := range 50 {
		w.h.flow(0).Wake()
		eventually(t, func() bool { return w.h.connects() == i+2 })
	}
	sendTo(t, c, "b")
	if _, after := receiveFrom(t, server); after != before {
		t.Errorf("the endpoint saw %v, then %v", before, after)
	}
}

// One address may be another server's in another network: who moves from there
// to here does not keep its socket.
func TestUDP_WakeWithTheSameAddressElsewhereTakesAnotherSocket(t *testing.T) {
	server, at := listenTestUDP(t, "127.0.0.1:0")
	var from atomic.Value
	from.Store("here")
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, func(f *Flow, a Attempt) Step {
		step := to(at)(f, a)
		step.Dial[0].From = from.Load().(string)
		return step
	})
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "a")
	_, before := receiveFrom(t, server)
	from.Store("elsewhere")
	w.h.flow(0).Wake()
	eventually(t, func() bool { return w.h.connects() == 2 })
	sendTo(t, c, "b")
	if _, after := receiveFrom(t, server); after == before {
		t.Error("the session kept its socket")
	}
}

func TestUDP_WakeAndCutInsideNext(t *testing.T) {
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, nil)
	at := echo(t, "127.0.0.1:0", "")
	gone := errors.New("gone")
	w.h.set(func(f *Flow, a Attempt) Step {
		switch a.Kind {
		case Accepted:
			f.Wake()
		case Woken:
			f.Cut(gone)
		}
		f.Counters()
		return to(at)(f, a)
	})
	sendTo(t, w.client(t, "127.0.0.1"), "a")
	eventually(t, func() bool { return w.h.ends() == 1 })
	if r := w.h.done(0); r.Cause != CauseCut || !errors.Is(r.Err, gone) {
		t.Errorf("ended with %v, %v", r.Cause, r.Err)
	}
	w.h.flow(0).Wake() // and after the end nothing happens
	w.h.flow(0).Cut(gone)
	if _, err := w.h.flow(0).Freeze(); !errors.Is(err, ErrNotMovable) {
		t.Errorf("freeze: %v", err)
	}
}

// Wakes and cuts that meet moves in progress must neither be lost nor hang.
func TestUDP_WakeStorm(t *testing.T) {
	var where atomic.Pointer[netip.AddrPort]
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, byPointer(&where))
	ats := []netip.AddrPort{echo(t, "127.0.0.1:0", ""), echo(t, "127.0.0.1:0", ""), freeUDP(t)}
	where.Store(&ats[0])
	c := w.client(t, "127.0.0.1")
	ask(t, c, "hello", "hello")
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for n := range 200 {
				where.Store(&ats[(n+i)%len(ats)])
				w.h.flow(0).Wake()
				_, _ = c.Write([]byte("noise")) // a refused one is an error
			}
		})
	}
	wg.Wait()
	where.Store(&ats[1])
	w.h.flow(0).Wake()
	eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, s := range w.sessions {
			up := s.up.Load()
			return up != nil && up.addr == ats[1]
		}
		return false
	})
	buf := make([]byte, 10)
	eventually(t, func() bool { // again: the queues may have been full of noise
		sendTo(t, c, "last")
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			n, err := c.Read(buf)
			if err != nil || string(buf[:n]) == "last" {
				return err == nil
			}
		}
	})
}

func TestUDP_RefusedThenNoEndpointEndsTheSession(t *testing.T) {
	dead := freeUDP(t)
	w := serveUDPOn(t, "127.0.0.1:0", Listener{}, func(f *Flow, a Attempt) Step {
		if a.Kind == Refused {
			return Step{End: a.Err}
		}
		return to(dead)(f, a)
	})
	c := w.client(t, "127.0.0.1")
	sendTo(t, c, "first")
	eventually(t, w.noticedRefusal)
	sendTo(t, c, "second")
	eventually(t, func() bool { return w.h.ends() == 1 })
	if r := w.h.done(0); r.Cause != CauseEnded || !errors.Is(r.Err, unix.ECONNREFUSED) {
		t.Errorf("result %+v", r)
	}
	if n := w.DroppedUDP(); n != 1 {
		t.Errorf("%d dropped, want 1", n)
	}
}
