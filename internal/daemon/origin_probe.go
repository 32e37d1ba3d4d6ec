package daemon

import (
	"context"
	"errors"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// probes is how many connects are under way at once to one container. 32
	// are as fast where closed ports refuse; more help where a firewall drops
	// what is not exposed.
	probes = 256
	// probeTimeout is for one connect. Containers on one bridge answer within
	// a millisecond; what takes longer is dropped on the way.
	probeTimeout = 500 * time.Millisecond
	// scans is how many containers are probed at once.
	scans = 8
)

// scanner finds the TCP ports that containers serve. It works on plain sockets:
// package net spends four times as much on each of the 65,535 connects, and
// the scan stands between the start of a container and its first connection.
type scanner struct {
	turns  chan struct{} // one for each scan under way
	atOnce int           // connects of one scan
}

func newScanner() *scanner {
	return &scanner{turns: make(chan struct{}, scans), atOnce: probesAtOnce()}
}

// probesAtOnce leaves most descriptors to connections: the links that were
// found first are in use while others are probed.
func probesAtOnce() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return probes / scans
	}
	return int(min(max(limit.Cur/8/scans, 8), probes))
}

// scan connects to every port of addr, closes at once, and tells which accepted;
// nothing is sent. It returns whether every port was tried.
func (s *scanner) scan(ctx context.Context, addr netip.Addr, found func(port uint16)) bool {
	select {
	case s.turns <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-s.turns }()
	whole := true
	for first := 1; first <= 65535 && ctx.Err() == nil; first += s.atOnce {
		b := batch{addr: addr, found: found, whole: true}
		for port := first; port < first+s.atOnce && port <= 65535; port++ {
			b.connect(uint16(port))
		}
		b.wait()
		whole = whole && b.whole
	}
	return whole && ctx.Err() == nil
}

// batch is a number of connects that are under way at the same time.
type batch struct {
	addr    netip.Addr
	found   func(port uint16)
	whole   bool // no connect failed for a lack of our own
	pending []unix.PollFd
	ports   []uint16 // in the order of pending
}

func (b *batch) connect(port uint16) {
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(port), Addr: b.addr.As16()})
	if b.addr.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(port), Addr: b.addr.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		b.done(port, err)
		return
	}
	unix.CloseOnExec(fd)
	if err = unix.SetNonblock(fd, true); err == nil {
		err = unix.Connect(fd, to)
	}
	if errors.Is(err, unix.EINPROGRESS) {
		b.pending = append(b.pending, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT})
		b.ports = append(b.ports, port)
		return
	}
	b.end(fd, port, err)
}

// wait takes the results of the connects that are under way. What has none in
// time was dropped on the way.
func (b *batch) wait() {
	deadline := time.Now().Add(probeTimeout)
	for len(b.pending) > 0 && time.Now().Before(deadline) {
		// Poll rounds down, and zero would spin to the deadline.
		if _, err := unix.Poll(b.pending, int(time.Until(deadline)/time.Millisecond)+1); err != nil && !errors.Is(err, unix.EINTR) {
			b.whole = false
			break
		}
		b.take()
	}
	for _, p := range b.pending {
		unix.Close(int(p.Fd))
	}
}

// take ends the connects that poll reported and keeps the others.
func (b *batch) take() {
	kept := 0
	for i, p := range b.pending {
		if p.Revents == 0 {
			b.pending[kept], b.ports[kept] = p, b.ports[i]
			kept++
			continue
		}
		code, err := unix.GetsockoptInt(int(p.Fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = syscall.Errno(code)
		}
		b.end(int(p.Fd), b.ports[i], err)
	}
	b.pending, b.ports = b.pending[:kept], b.ports[:kept]
}

func (b *batch) end(fd int, port uint16, err error) {
	if err == nil && meetsItself(fd) {
		err = unix.ECONNREFUSED
	}
	unix.Close(fd)
	b.done(port, err)
}

func (b *batch) done(port uint16, err error) {
	switch {
	case err == nil:
		b.found(port)
	case ownShortage(err):
		b.whole = false
	}
}

// meetsItself tells a socket that is connected to itself: the kernel may pick
// the port that is being probed for our own side, where the address is local.
func meetsItself(fd int) bool {
	own, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	switch a := own.(type) {
	case *unix.SockaddrInet4:
		b, ok := peer.(*unix.SockaddrInet4)
		return ok && a.Port == b.Port && a.Addr == b.Addr
	case *unix.SockaddrInet6:
		b, ok := peer.(*unix.SockaddrInet6)
		return ok && a.Port == b.Port && a.Addr == b.Addr
	}
	return false
}

// ownShortage tells a failure that says nothing about the port.
func ownShortage(err error) bool {
	for _, errno := range []syscall.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRNOTAVAIL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}
