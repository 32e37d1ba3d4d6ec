// Package pump moves bytes between two sockets and knows nothing of links,
// targets or health.
//
// An [Engine] accepts on a [Listener] and, for every client, asks a [Handler]
// what to do next: connect somewhere, wait, or end. Once a leg is connected the
// engine carries the bytes both ways, passes on half-closes and resets as they
// were, and reports the end exactly once.
//
// A flow's sockets belong to the engine from accept to [Handler.Done]; nobody
// else reads, writes or closes them.
package pump

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Engine is one way of moving bytes. Its methods may be called from any
// goroutine.
type Engine interface {
	// Serve takes ownership of the listening (or, for UDP, bound) descriptor
	// and serves it until the Acceptor is closed. On error the descriptor is
	// closed.
	Serve(l Listener, h Handler) (Acceptor, error)
	// Dial connects a leg outside any flow, for a question to an endpoint. The
	// caller owns the connection.
	Dial(ctx context.Context, leg Leg) (net.Conn, error)
	// Resume takes up a flow that was frozen, of which data becomes Flow.Data.
	// The handler is not asked: it hears of the flow's end only, perhaps before
	// Resume returns. The state's sockets are the engine's now; on error they
	// are closed, and the handler hears nothing.
	Resume(s State, h Handler, data any) (*Flow, error)
	// Close ends every flow with CauseCut and returns when nothing of the
	// engine runs any more.
	Close() error
}

// Network is the kind of socket: "tcp", "udp" or "unix".
type Network string

// The networks that engines serve and connect.
const (
	TCP  Network = "tcp"
	UDP  Network = "udp"
	Unix Network = "unix"
)

// Listener is a socket to serve.
type Listener struct {
	Network Network
	// FD is listening, or bound for UDP; non-blocking is not required.
	FD int
	// Limit of flows at once, which listeners may share; above it TCP and unix
	// clients wait and the datagrams of new UDP clients are dropped. Nil means
	// no limit but the process's descriptors.
	Limit *Limit
	// Idle is when a UDP session ends for want of datagrams. 0 means 60 s.
	Idle time.Duration
}

// Limit is how many flows its listeners may have together.
type Limit struct{ free *budget }

// NewLimit allows n flows at once; for 0 it is nil, no limit.
func NewLimit(n int) *Limit {
	if n <= 0 {
		return nil
	}
	return &Limit{free: newBudget(n)}
}

// Acceptor is a listener being served. When Suspend or Close returns, Next has
// been called for every client that was accepted and is still there, so the
// handler knows them all; neither may be called from Next, or under a lock that Next takes.
type Acceptor interface {
	// Suspend makes the kernel refuse new clients, after those already queued
	// were accepted. The address stays taken: nobody else can bind it. On error
	// the acceptor goes on accepting.
	Suspend() error
	// Resume listens again. On error it has not listened yet, and tries again
	// until it does or another state is asked for.
	Resume() error
	// Close accepts what is queued and stops listening. Its flows go on.
	Close() error
}

// Handler decides for flows. Its methods are called one at a time for a given
// flow, concurrently for different ones, and must not block.
type Handler interface {
	// Next is asked after accept (zero Attempt), after a preface or for want of
	// one, after a failed attempt, after Wake, and at a park deadline. A UDP
	// session is asked again after Wake or when its endpoint refused a datagram.
	Next(f *Flow, last Attempt) Step
	// Connected tells which leg of the last Step won. It may still be followed
	// by Next, when that endpoint closed early.
	Connected(f *Flow, leg int)
	// Done is called exactly once, when the flow's sockets are closed and its
	// counters final.
	Done(f *Flow, r Result)
}

// Step is the handler's answer: exactly one of Dial, Park, Preface and End is
// set.
type Step struct {
	// Dial names the legs to try, in order, Stagger apart or at once when the
	// one before failed; Stagger 0 means only then. The first to connect wins
	// and the others are closed (RFC 8305). The slice stays the handler's
	// memory; the engine fills in Leg.Err.
	Dial    []Leg
	Stagger time.Duration
	// Deadline bounds all legs of the step together, beside the Timeout of
	// each: one that is under way then fails with a time-out, a later one has
	// no turn. Zero means none.
	Deadline time.Time
	// Settle delays the first client bytes after the connect.
	Settle time.Duration
	// Retry lets an endpoint that closes within EarlyClose, before a byte
	// moved either way, count as a failed attempt.
	Retry bool
	// Park keeps the client waiting, its bytes in the kernel, until Wake or
	// this moment.
	Park time.Time
	// Preface has the client's first bytes read; not for UDP. Whoever waits for
	// one hears nothing of a Wake until it parks.
	Preface *Preface
	// End gives the flow up: io.EOF closes it in an orderly way, any other
	// error resets it and is the Result's error.
	End error
}

// Preface is what a client says before its own bytes, such as a PROXY protocol
// header. One may serve any number of flows at once; it must not change.
type Preface struct {
	// Timeout from the step on; 0 means none.
	Timeout time.Duration
	// Max is how many bytes it may have; 0 means MaxPreface, and more is that.
	Max int
	// Parse is called with all bytes so far, whenever there are more. It
	// returns how many of them are the preface, 0 for want of more, or why it
	// is none. It must neither block nor keep b. The engine consumes exactly
	// the preface, counts it nowhere, and leaves what follows in the kernel.
	Parse func(f *Flow, b []byte) (n int, err error)
}

// MaxPreface is the longest preface that a client may send, in bytes: what the
// kernel's buffers hold in any case.
const MaxPreface = 4 << 10

// EarlyClose is how soon after the connect an endpoint's close still counts
// as a failed attempt.
const EarlyClose = time.Second

// Leg is one way to an endpoint.
type Leg struct {
	Network Network
	Addr    netip.AddrPort
	Path    string // of a unix socket
	// Timeout of this attempt; 0 means the kernel's.
	Timeout time.Duration
	// Prefix is written before any client byte, without waiting for one. It is
	// the handler's memory again when the engine next calls Connected, Next or
	// Done of the flow.
	Prefix []byte
	// Refuse, when set, is why this leg must not be tried: it fails with that.
	Refuse error
	// Begin, when set, is called once the connect is under way, or has failed
	// at once; it must not block.
	Begin func()
	// Socket, when set, makes the socket that is connected, and From names where
	// it does: one address may be another server's there. "" is here.
	Socket SocketFunc
	From   string
	// Open, when set, makes the connection instead; the flow owns the result.
	Open func(context.Context) (net.Conn, error)

	// Err is why the leg did not connect: set by the engine before Connected or
	// Next is called, ErrNotTried where it had no turn, ErrOvertaken where its
	// turn was cut short.
	Err error
}

// SocketFunc makes a socket where a connect is to start from: in another
// network namespace. domain and kind are as in socket(2); the result is
// unconnected, non-blocking and close-on-exec, and the caller owns it. The
// flow's loop waits for it, and with that all flows of the loop.
type SocketFunc func(domain, kind int) (fd int, err error)

// Attempt is what became of the last step.
type Attempt struct {
	// Kind is zero right after accept.
	Kind AttemptKind
	// Leg that closed early or refused a datagram; its error is in Err, as is
	// that of a preface.
	Leg int
	Err error
}

// AttemptKind says which step an Attempt reports on.
type AttemptKind uint8

// The outcomes that lead to another Next.
const (
	Accepted    AttemptKind = iota // nothing was tried yet
	DialFailed                     // no leg connected; see each Leg.Err
	ClosedEarly                    // Leg connected and closed at once: Err is io.EOF or ErrReset
	Refused                        // a UDP endpoint refused a datagram
	Woken                          // by Wake
	Expired                        // the park deadline passed
	Prefaced                       // the preface was read
	BadPreface                     // none came: Err is of Parse, ErrNoPreface, ErrLongPreface, os.ErrDeadlineExceeded, or another
)

// Errors of legs and flows. ErrOvertaken is a kind of ErrNotTried: neither says
// anything against the endpoint.
var (
	ErrNotTried    = errors.New("not tried")
	ErrOvertaken   = fmt.Errorf("%w to the end: another address was quicker", ErrNotTried)
	ErrReset       = errors.New("connection reset by peer")
	ErrNoPreface   = errors.New("the client closed before its preface was complete")
	ErrLongPreface = errors.New("the client sent no preface of the allowed length")
	ErrSelfConnect = errors.New("would loop: the socket was connected to itself")
	ErrNotMovable  = errors.New("this flow cannot be moved to another process")
	ErrState       = errors.New("this is no state of a frozen flow")
	ErrDescriptors = errors.New("the limit of open descriptors leaves none for connections")
	ErrUnsupported = errors.New("forwarding needs Linux; this system can only run the verbs")
)

// Cause says in a word why a flow ended.
type Cause string

// The causes that engines report.
const (
	CauseEOF           Cause = "eof"            // both sides said that they were done
	CauseClientReset   Cause = "client-reset"   // the client reset or broke the connection
	CauseEndpointReset Cause = "endpoint-reset" // the endpoint did
	CauseAbandoned     Cause = "abandoned"      // the client left while it was parked, or in its preface
	CausePeerVanished  Cause = "peer-vanished"  // a side's host fell silent
	CauseEnded         Cause = "ended"          // Step.End
	CauseCut           Cause = "cut"            // Flow.Cut or Engine.Close
	CauseIdle          Cause = "idle"           // a UDP session without datagrams
	CauseMoved         Cause = "moved"          // Flow.Freeze; it goes on elsewhere
)

// Result is the end of a flow.
type Result struct {
	Cause Cause
	Err   error // the detail, nil for an ordinary end
	// Early tells that the endpoint ended within EarlyClose of the connect,
	// before a byte moved either way and before the client did, where its Step
	// had no Retry: that was passed on. The client may have spoken since.
	Early    bool
	Counters Counters
	Started  time.Time // when it was accepted
	Duration time.Duration
}

// Counters of one flow, in bytes of payload; datagrams for UDP are counted by
// their payload, too.
type Counters struct {
	In  uint64 // from the client, written to the endpoint
	Out uint64 // from the endpoint, written to the client
}

// Flow is one client connection, or UDP session, and its endpoint side. Its
// methods may be called from any goroutine until Done has returned; after that
// it may already be another connection's.
type Flow struct {
	Client netip.AddrPort // zero for a unix client
	// Arrival orders the clients that an engine accepted: loops may meet them in
	// another order. 0 for a UDP session and a flow that was resumed.
	Arrival uint64
	// Data is the handler's; the engine never looks at it.
	Data any

	engine flowEngine
}

// flowEngine is the engine's side of a Flow.
type flowEngine interface {
	wake()
	cut(cause error)
	freeze() (State, error)
	counters() Counters
	local() netip.AddrPort
	original() netip.AddrPort
	hand(h Handler)
}

// State is an established flow written down, to be taken up by another engine,
// perhaps of another process: the sockets can travel there (SCM_RIGHTS, unix(7)).
type State struct {
	Client, Endpoint int    // connected sockets, of who has the State
	Record           []byte // all else; its first byte is the version of its format
}

// Wake asks for another Next: of a parked flow and of a UDP session at once, of
// another when it parks. Wakes that come in a burst may lead to one Next.
func (f *Flow) Wake() { f.engine.wake() }

// Cut ends the flow by resetting both sides; cause becomes the Result's error.
//
// With [io.EOF] it ends in an orderly way: what had reached the engine by then
// is delivered, FIN is said to each side, and each is read, and what it says
// thrown away, until its own FIN or a second has passed since the call. A side
// that has not finished by then is reset, and so is one that did not take all
// that was for it. A flow without an endpoint ends as by Step.End with io.EOF.
// One that is about to end goes on doing so. Another Cut ends the wait.
func (f *Flow) Cut(cause error) { f.engine.cut(cause) }

// Freeze takes an established flow, half-closed or not, out of its engine; its
// Done has CauseMoved. It fails with ErrNotMovable for one that is about to end,
// that has a leg with Open, or whose engine moves none, and leaves it as it
// was; and for one that is not established yet, which it ends with CauseCut. It
// waits for the engine: not to be called by a handler.
func (f *Flow) Freeze() (State, error) { return f.engine.freeze() }

// Counters returns what the flow has carried so far.
func (f *Flow) Counters() Counters { return f.engine.counters() }

// Local is the address that the client connected to; zero for a unix client and
// for UDP. It asks the kernel, and only Next may call it: later the socket may
// be gone.
func (f *Flow) Local() netip.AddrPort { return f.engine.local() }

// Original is the address that the client wanted, where a redirect in our own
// network namespace led it to the listener; the same as Local otherwise. Only
// Next may call it.
func (f *Flow) Original() netip.AddrPort { return f.engine.original() }

// Hand gives a stream flow to another handler, which is the one that is asked
// and told from then on. Only Next may call it, and returns what the other one's
// Next says.
func (f *Flow) Hand(h Handler) { f.engine.hand(h) }
