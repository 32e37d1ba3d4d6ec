package pump

import (
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel is every call by which a loop touches the world, so that a simulation
// can stand in for it. All but wait return at once, on descriptors that do not
// block; none allocates but silent, which is rare. What other goroutines may call is said so.
type kernel struct {
	// now is a clock that never goes back, in nanoseconds since start.
	now   func() int64
	start time.Time
	// wait fills in events; timeout is in milliseconds, -1 for ever, and with 0
	// it does not block. An interruption counts as no event (signal(7)).
	wait func(events []unix.EpollEvent, timeout int) int
	// wake ends a wait, or the next one. Any goroutine may call it.
	wake func()
	// watch adds a descriptor to the epoll set; its events carry key.
	watch   func(fd int, events uint32, key eventKey) unix.Errno
	unwatch func(fd int) unix.Errno

	accept func(listener int) (fd int, from netip.AddrPort, _ unix.Errno)
	// dial returns a socket whose connect is under way (EINPROGRESS), or done
	// (0); on any other error there is no socket. It is the leg's own, or else
	// one that dial makes.
	dial func(leg *Leg, own int) (fd int, _ unix.Errno)
	// local is a TCP socket's own address, zero for another socket.
	local func(fd int) netip.AddrPort
	// meetsItself tells whether a TCP socket was connected to itself.
	meetsItself func(fd int, leg *Leg) bool

	read  func(fd int, p []byte) (int, unix.Errno)
	peek  func(fd int, p []byte) (int, unix.Errno) // a read that leaves what it finds
	write func(fd int, p []byte) (int, unix.Errno)
	// splice moves at most n bytes; one of the two descriptors is a pipe's.
	splice func(from, to, n int) (int, unix.Errno)
	pipe   func() (pipe, unix.Errno)
	// shut says that nothing more will be written.
	shut func(fd int) unix.Errno
	// close closes in order, abort with RST where the socket is TCP.
	close func(fd int)
	abort func(fd int)

	// tend sets the options that only a connection needs that lives or stalls.
	tend func(fd int)
	// takeError returns the pending error, which is reported once (socket(7)).
	takeError func(fd int) unix.Errno
	unread    func(fd int) int
	// undelivered is how many bytes, our FIN being one, the peer has not
	// acknowledged; 0 when TCP has given the connection up.
	undelivered func(fd int) int
	// silent tells whether the peer's host has said nothing for so long though
	// something waits for its acknowledgement.
	silent func(fd int, after time.Duration) bool
}

// eventKey is what an event says of where it belongs: never a descriptor or a
// pointer, either of which may be somebody else's by the time it is read.
type eventKey struct {
	slot uint32 // 24 bits
	tag  uint8
	gen  uint32
}

// maxSlots is how many flows a loop can have.
const maxSlots = 1 << 24

func (k eventKey) set(e *unix.EpollEvent) {
	e.Fd = int32(k.slot<<8 | uint32(k.tag))
	e.Pad = int32(k.gen)
}

func keyOf(e *unix.EpollEvent) eventKey {
	return eventKey{slot: uint32(e.Fd) >> 8, tag: uint8(e.Fd), gen: uint32(e.Pad)}
}

// linux is the real kernel of one loop.
type linux struct {
	epoll, event int
	start        time.Time
	from         unix.RawSockaddrAny
	to           unix.RawSockaddrAny
	number       int32
}

// newKernel returns the real one, and what frees its descriptors.
func newKernel() (kernel, func(), error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return kernel{}, nil, err
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return kernel{}, nil, err
	}
	x := &linux{epoll: epoll, event: event, start: time.Now()}
	// Edge-triggered, so that the counter never has to be read (eventfd(2)).
	if errno := x.watch(event, unix.EPOLLIN|unix.EPOLLET, eventKey{slot: noSlot}); errno != 0 {
		x.free()
		return kernel{}, nil, errno
	}
	return x.kernel(), x.free, nil
}

func (x *linux) kernel() kernel {
	return kernel{
		now: x.now, start: x.start, wait: x.wait, wake: x.wake, watch: x.watch, unwatch: x.unwatch,
		accept: x.accept, dial: x.dial, local: x.local, meetsItself: x.meetsItself,
		read: rawRead, peek: rawPeek, write: rawWrite, splice: rawSplice, pipe: newPipe, shut: rawShut, close: rawClose, abort: x.abort,
		tend:      x.tend,
		takeError: x.takeError, unread: x.unread, undelivered: x.undelivered, silent: isSilentFD,
	}
}

func (x *linux) free() {
	_ = unix.Close(x.event)
	_ = unix.Close(x.epoll)
}

func (x *linux) now() int64 { return int64(time.Since(x.start)) }

// wait blocks through the ordinary call only: a raw one would keep the
// scheduler's processor, and a stop of the world would wait with it.
func (x *linux) wait(events []unix.EpollEvent, timeout int) int {
	var n uintptr
	var errno unix.Errno
	if timeout == 0 {
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(x.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	} else {
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(x.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(timeout), 0, 0)
	}
	if errno != 0 {
		return 0
	}
	return int(n)
}

func (x *linux) wake() {
	one := [8]byte{1}
	_, _ = rawWrite(x.event, one[:]) // full only after 2^64 wakes
}

func (x *linux) watch(fd int, events uint32, key eventKey) unix.Errno {
	e := unix.EpollEvent{Events: events}
	key.set(&e)
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(x.epoll), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	return errno
}

func (x *linux) unwatch(fd int) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(x.epoll), unix.EPOLL_CTL_DEL, uintptr(fd), 0, 0, 0)
	return errno
}

// accept's socket has the options of its listener: Linux copies them
// (sk_clone_lock in net/core/sock.c).
func (x *linux) accept(listener int) (int, netip.AddrPort, unix.Errno) {
	size := uint32(unsafe.Sizeof(x.from))
	for {
		fd, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), uintptr(unsafe.Pointer(&x.from)), uintptr(unsafe.Pointer(&size)), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
		switch errno {
		case 0:
			return int(fd), clientAddr(&x.from), 0
		case unix.EINTR, unix.ECONNABORTED:
			continue
		}
		return -1, netip.AddrPort{}, errno
	}
}

func clientAddr(raw *unix.RawSockaddrAny) netip.AddrPort {
	b := (*[unix.SizeofSockaddrInet6]byte)(unsafe.Pointer(raw))
	addr, scope := parseSockaddr(b[:])
	return udpKey{client: addr, scope: scope}.name()
}

func (x *linux) dial(leg *Leg, fd int) (int, unix.Errno) {
	domain := leg.domain()
	if fd == none {
		made, _, errno := unix.RawSyscall(unix.SYS_SOCKET, uintptr(domain), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if errno != 0 {
			return none, errno
		}
		fd = int(made)
	}
	errno := x.connect(fd, domain, leg)
	if errno != 0 && errno != unix.EINPROGRESS {
		rawClose(fd)
		return none, errno
	}
	return fd, errno
}

func (x *linux) connect(fd, domain int, leg *Leg) unix.Errno {
	var size int
	if domain == unix.AF_UNIX {
		if size = rawUnix(&x.to, leg.Path); size == 0 {
			return unix.EINVAL
		}
	} else {
		if errno := x.setOption(fd, &noDelay); errno != 0 {
			return errno
		}
		size = rawInet(&x.to, domain, leg.Addr)
	}
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&x.to)), uintptr(size))
		switch errno {
		case unix.EINTR:
			continue
		case unix.EALREADY:
			return unix.EINPROGRESS // the call that was interrupted goes on
		case unix.EISCONN:
			return 0
		}
		return errno
	}
}

type socketOption struct{ level, name, value int32 }

// noDelay is what a TCP socket needs before its first byte.
var noDelay = socketOption{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1}

// tendedOptions are the others. Set one by one on each socket that is dialled
// they would be a fifth of a short connection's system calls; a listener hands
// them to the sockets that it accepts.
var tendedOptions = [...]socketOption{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int32(keepAlive.Idle / time.Second)},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int32(keepAlive.Interval / time.Second)},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, int32(keepAlive.Count)},
	{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat},
}

func (x *linux) tend(fd int) {
	for i := range tendedOptions {
		_ = x.setOption(fd, &tendedOptions[i]) // fails only on a socket that is over
	}
}

func (x *linux) setOption(fd int, o *socketOption) unix.Errno {
	x.number = o.value
	_, _, errno := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(o.level), uintptr(o.name), uintptr(unsafe.Pointer(&x.number)), unsafe.Sizeof(x.number), 0)
	return errno
}

// rawUnix needs a path shorter than sun_path; it returns 0 for another.
func rawUnix(to *unix.RawSockaddrAny, path string) int {
	u := (*unix.RawSockaddrUnix)(unsafe.Pointer(to))
	if path == "" || len(path) >= len(u.Path) {
		return 0
	}
	u.Family = unix.AF_UNIX
	for i := range len(path) {
		u.Path[i] = int8(path[i])
	}
	u.Path[len(path)] = 0
	if path[0] == '@' { // an abstract name (unix(7)) ends where its length says
		u.Path[0] = 0
		return int(unsafe.Offsetof(u.Path)) + len(path)
	}
	return int(unsafe.Offsetof(u.Path)) + len(path) + 1
}

func rawInet(to *unix.RawSockaddrAny, domain int, addr netip.AddrPort) int {
	port := addr.Port()<<8 | addr.Port()>>8 // network order on the little-endian systems that we build for
	if domain == unix.AF_INET {
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(to))
		*in = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: addr.Addr().As4()}
		return unix.SizeofSockaddrInet4
	}
	in := (*unix.RawSockaddrInet6)(unsafe.Pointer(to))
	*in = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: addr.Addr().As16(), Scope_id: zoneID(addr.Addr().Zone())}
	return unix.SizeofSockaddrInet6
}

// meetsItself compares the two names: the kernel may choose the very port that
// is dialled (RFC 9293, 3.5, simultaneous open).
func (x *linux) meetsItself(fd int, leg *Leg) bool {
	if leg.Network == Unix {
		return false
	}
	own := x.local(fd)
	return own.IsValid() && own.Port() == leg.Addr.Port() && own.Addr().WithZone("") == leg.Addr.Addr().Unmap().WithZone("")
}

func (x *linux) local(fd int) netip.AddrPort {
	size := uint32(unsafe.Sizeof(x.from))
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&x.from)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return clientAddr(&x.from)
}

func rawRead(fd int, p []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if errno != unix.EINTR {
			return bytesMoved(n, errno), errno
		}
	}
}

func rawPeek(fd int, p []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return bytesMoved(n, errno), errno
		}
	}
}

// rawWrite may raise SIGPIPE, which Go ignores on all descriptors but 1 and 2
// (os/signal).
func rawWrite(fd int, p []byte) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)))
		if errno != unix.EINTR {
			return bytesMoved(n, errno), errno
		}
	}
}

func rawSplice(from, to, length int) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(length), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if errno != unix.EINTR {
			return bytesMoved(n, errno), errno
		}
	}
}

func bytesMoved(n uintptr, errno unix.Errno) int {
	if errno != 0 {
		return 0
	}
	return int(n)
}

// newPipe makes a pipe for splicing. A user with many pipes gets small ones,
// which are only slower (pipe(7)).
func newPipe() (pipe, unix.Errno) {
	var fd [2]int32
	_, _, errno := unix.RawSyscall(unix.SYS_PIPE2, uintptr(unsafe.Pointer(&fd)), unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errno != 0 {
		return pipe{}, errno
	}
	_, _, _ = unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd[0]), unix.F_SETPIPE_SZ, spliceSize)
	return pipe{r: int(fd[0]), w: int(fd[1])}, 0
}

func rawShut(fd int) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return errno
}

// rawClose never tries again: Linux has freed the descriptor whatever close(2)
// says.
func rawClose(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func (x *linux) abort(fd int) {
	l := unix.Linger{Onoff: 1}
	// On a unix socket it changes nothing: its peer sees the end of the file.
	_, _, _ = unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&l)), unsafe.Sizeof(l), 0)
	rawClose(fd)
}

func (x *linux) takeError(fd int) unix.Errno {
	size := uint32(unsafe.Sizeof(x.number))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR, uintptr(unsafe.Pointer(&x.number)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return unix.Errno(x.number)
}

func (x *linux) unread(fd int) int { return x.queued(fd, unix.SIOCINQ) }

func (x *linux) undelivered(fd int) int {
	n := x.queued(fd, unix.SIOCOUTQ)
	if n > 1 && isClosed(uintptr(fd)) {
		return 0
	}
	return n
}

func (x *linux) queued(fd int, what uintptr) int {
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), what, uintptr(unsafe.Pointer(&x.number))); errno != 0 {
		return 0
	}
	return int(x.number)
}

func isSilentFD(fd int, after time.Duration) bool { return isSilent(uintptr(fd), after) }
