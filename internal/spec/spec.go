// Package spec holds Legate's words as plain data: links, targets, endpoints,
// callers and what is reported about them, with their parsers and validation.
//
// Nothing here opens a socket, reads a clock or keeps state, so every other
// package may import it and it imports none of them.
package spec

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// Protocol is the transport on one side of a link.
type Protocol string

// The transports a link can listen on. A unix listener and a TCP one carry the
// same kind of stream, so either may lead to an endpoint of the other kind.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	Unix Protocol = "unix"
)

// Listen is one listening address: the key of a link. It is comparable, and
// two links whose Listen are equal want the same socket.
type Listen struct {
	Protocol Protocol
	// Host is "" for every address of both families, "localhost" for the two
	// loopback addresses, or one IP address in canonical form.
	Host string
	Port uint16
	// Path of a unix socket; Host and Port are then zero.
	Path string
	// Namespace tells the network namespace that the socket is in from others;
	// "": it is ours. A link without a socket has SwitchedListen. No text names
	// it.
	Namespace string
}

// String gives the address in the form that a link is written in.
func (l Listen) String() string {
	if l.Protocol == Unix {
		return "unix:" + escape(l.Path)
	}
	s := strconv.Itoa(int(l.Port))
	if l.Host != "" {
		s = joinHostPort(l.Host, l.Port)
	}
	if l.Protocol == UDP {
		s += "/udp"
	}
	return s
}

func joinHostPort(host string, port uint16) string {
	if a, err := netip.ParseAddr(host); err == nil {
		return netip.AddrPortFrom(a, port).String()
	}
	return host + ":" + strconv.Itoa(int(port))
}

// The sources that can say which endpoints a target has.
const (
	SourceFixed    = "fixed"      // an IP address or a unix path, as written
	SourceDNS      = "dns"        // A and AAAA records of a name
	SourceSRV      = "srv"        // SRV records of a name (RFC 2782)
	SourceName     = "srv or dns" // SRV records if there are any, else A and AAAA
	SourceConsul   = "consul"     // instances of a service
	SourceConsulKV = "consul-kv"  // values in Consul's key-value store
	SourceEtcd     = "etcd"       // values in etcd
	SourceDocker   = "docker"     // containers on this host
	SourceFile     = "file"       // a list in a file
)

// Target is what a link was asked to lead to: a fixed address or a name in a
// source. It is comparable; links with equal targets share one set of
// endpoints.
type Target struct {
	Source string
	// Protocol is what the endpoints speak: TCP or UDP; Unix: the target is
	// the path of a socket.
	Protocol Protocol
	// Host is an IP address in canonical form (SourceFixed), a name as written
	// without a final dot (SourceDNS, SourceSRV, SourceName), a service
	// (SourceConsul), a container, Compose service or label (SourceDocker), or
	// the server to ask as HOST:PORT, "" for the one that the environment names
	// (SourceConsulKV, SourceEtcd).
	Host string
	// Port of the endpoints, where the source does not tell it.
	Port uint16
	// Path of a unix endpoint, of a key without a slash in front (SourceConsulKV,
	// SourceEtcd), or of a file.
	Path       string
	Tag        string // that instances must have (SourceConsul); "": any
	Datacenter string // of SourceConsul; "": the one of the server that is asked
	Project    string // of Compose (SourceDocker); "": Home first, or else the one that this process is of, else any
	Home       string // Compose project of the container that asks (SourceDocker): its servers come first; "": not known. No text names it
	// Rank is the place of its source among those in which a word is looked up:
	// while an endpoint of a lower one serves, those of higher ones do not.
	Rank uint8
}

// Question is the target without what its source need not know: targets of
// equal questions share the answer.
func (t Target) Question() Target {
	t.Protocol, t.Port, t.Rank = "", 0, 0
	return t
}

// String gives the target in the form that it is written in.
func (t Target) String() string {
	s := t.Host
	switch {
	case t.Protocol == Unix:
		return "unix:" + escape(t.Path)
	case t.Source == SourceName:
	case t.Source == SourceFixed, t.Source == SourceDNS, t.Source == "":
		s = joinHostPort(t.Host, t.Port)
	case t.Source == SourceDocker:
		s = t.sourceText()
	default:
		return t.sourceText()
	}
	if t.Protocol == UDP {
		s += "/udp"
	}
	return s
}

// Origin names who asked for a link.
type Origin string

// The places links come from.
const (
	OriginArguments   Origin = "arguments"
	OriginEnvironment Origin = "environment"
	OriginDocker      Origin = "docker links"
	OriginHosts       Origin = "/etc/hosts"
	OriginLabels      Origin = "labels"
	OriginBackends    Origin = "variables"
)

// Link is one listening address and the targets its connections go to.
type Link struct {
	// Name is what people call the link: the option name, or LISTEN as written.
	Name    string
	Listen  Listen
	Targets []Target // at least one, in the order written
	Options Options
	Origin  Origin
	// Mode is what an operator asked of it; its origin never sets it.
	Mode Mode
	// Text is the link as it was written, for messages and to tell whether an
	// override still belongs to it.
	Text string
	// For is the container that the link is for, which is then who every
	// connection is from; nil: everybody who reaches it.
	For *Container
}

// WhenDown says what new clients of a link meet while it is down.
type WhenDown string

// WhenDownHold accepts and holds; WhenDownRefuse stops listening.
const (
	WhenDownHold   WhenDown = "hold"
	WhenDownRefuse WhenDown = "refuse"
)

// Options of one link. Zero values are literal (a zero Hold turns holding
// off): start from DefaultOptions.
type Options struct {
	ConnectTimeout time.Duration // for one attempt
	Hold           time.Duration // how long connections wait while the link is down; 0: not at all
	WhenDown       WhenDown
	Settle         time.Duration // delay of the first client bytes; 0: none
	MaxConnections int           // at once; above it clients wait in the listen queue; 0: no limit
	SocketMode     uint32        // permission bits of a unix listening socket
	SocketGroup    string        // group of a unix listening socket; "": unchanged

	Balance      Balance
	Near         bool          // endpoints on this host stand before others
	SlowStart    time.Duration // how long a new or recovered endpoint takes to get its full share; 0: none
	Check        Check         // as written; EffectiveCheck is what is asked
	AllUnhealthy AllUnhealthy
	OnRemoved    Fate          // of connections whose endpoint left its source
	OnUnhealthy  Fate          // of connections whose endpoint turned unhealthy
	Rebalance    time.Duration // connections older than this end gently after an endpoint was added; 0: none

	EndpointConnections int // at one endpoint at once, of all links; others wait in the queue; 0: no limit
	CallerConnections   int // of one caller at once; others are reset; 0: no limit
	CallerRate          int // new ones of one caller per second, as a bucket of that size; others are reset; 0: no limit

	SendProxy   ProxyVersion // the header that connections to endpoints begin with
	AcceptProxy string       // who sends such a header: prefixes with commas; "": nobody, and none is read
}

// DefaultConnectTimeout is that of links which say nothing of it.
const DefaultConnectTimeout = 3 * time.Second

// DefaultOptions returns the defaults of every option.
func DefaultOptions() Options {
	return Options{
		ConnectTimeout: DefaultConnectTimeout,
		Hold:           10 * time.Second,
		WhenDown:       WhenDownHold,
		SocketMode:     0o660,
		Balance:        BalanceRoundRobin,
		Check:          Check{Kind: CheckNone, Interval: 2 * time.Second, Timeout: time.Second, Rise: 2, Fall: 3, Path: "/", Status: "200-399"},
		AllUnhealthy:   AllUnhealthyAuto,
		OnRemoved:      Fate{Kind: FateKeep},
		OnUnhealthy:    Fate{Kind: FateKeep},
		SendProxy:      ProxyOff,
	}
}

// Endpoint is one address that can serve. It is comparable and its own
// identity: links that reach the same endpoint share what is known about it.
type Endpoint struct {
	Protocol  Protocol
	Addr      netip.AddrPort // of TCP and UDP
	Path      string         // of Unix
	Container string         // the id of the container behind it; "": not known
	// Inside: Addr is one in the network of Container, and reached from there
	// alone.
	Inside bool
}

// String gives the endpoint's address as people write it, with the short id of
// the container in whose network alone it means something.
func (e Endpoint) String() string {
	switch {
	case e.Protocol == Unix:
		return "unix:" + e.Path
	case e.Inside:
		return fmt.Sprintf("%s@%.12s", e.Addr, e.Container)
	}
	return e.Addr.String()
}

// Answer is the complete set of endpoints that a source has for one target.
type Answer struct {
	Endpoints []Member
	// Err is the last failed question, nil after a good one. Endpoints are
	// then those of the last good answer.
	Err error
	// At is when Endpoints were learned; zero before the first good answer.
	At time.Time
	// Dead are containers that had endpoints here and run no more: their
	// connections end, whatever is wished of endpoints that are removed, since
	// their addresses may be somebody else's by now.
	Dead []string
}

// Caller is who opened a connection.
type Caller struct {
	Addr netip.AddrPort // zero for a unix client
	// Container is the one that the connection came from; nil: none, or not
	// known. Callers with the same container share it.
	Container *Container
}

// UserError is an error for the person at the keyboard: what happened and what
// to type next.
type UserError struct {
	What string // lower case, no full stop
	Hint string // the next thing to do; "" when there is none
}

// Error returns what happened, without the hint.
func (e *UserError) Error() string { return e.What }

// HintOf is what a UserError in the error's chain says is to be done; "":
// nothing.
func HintOf(err error) string {
	if u, ok := errors.AsType[*UserError](err); ok {
		return u.Hint
	}
	return ""
}

// WithHint gives an error with its hint in one line, for where a hint has no
// place of its own.
func WithHint(err error) string {
	if hint := HintOf(err); hint != "" {
		return err.Error() + " (" + hint + ")"
	}
	return err.Error()
}

// Errorf makes a UserError with the given hint.
func Errorf(hint, format string, args ...any) error {
	return &UserError{What: fmt.Sprintf(format, args...), Hint: hint}
}
