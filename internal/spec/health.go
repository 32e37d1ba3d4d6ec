package spec

import (
	"strconv"
	"time"
)

// Balance says in which order the candidates of a connection stand, among
// those that are equally healthy, near and of one priority.
type Balance string

// The ways to order candidates.
const (
	BalanceRoundRobin Balance = "round-robin"       // in turn, by weight
	BalanceLeast      Balance = "least-connections" // the one with the fewest for its weight
	BalanceRandom     Balance = "random"            // the less busy of two drawn by weight
	BalanceFirst      Balance = "first"             // as written: the next only when one fails
	BalanceHash       Balance = "hash"              // by the caller's address (rendezvous hashing)
)

// CheckKind says how an endpoint is asked for its health.
type CheckKind string

// The kinds of checks. Those but tcp are checks with meaning: an endpoint that
// fails one is known not to serve, though it may accept connections.
const (
	CheckNone     CheckKind = "off"
	CheckTCP      CheckKind = "tcp"      // it accepts a connection
	CheckHTTP     CheckKind = "http"     // it answers a GET with a status
	CheckRedis    CheckKind = "redis"    // it answers PING, in a role
	CheckPostgres CheckKind = "postgres" // it answers a start-up packet; with a user, in a role
	CheckMySQL    CheckKind = "mysql"    // it greets
	CheckAMQP     CheckKind = "amqp"     // it answers a protocol header
	CheckExpect   CheckKind = "expect"   // it says what is expected, perhaps after something was sent
)

// Check is one way of asking endpoints for their health. It is comparable:
// links with equal checks share what is found out. The zero value, as well as
// CheckNone, is no check.
type Check struct {
	Kind     CheckKind
	Interval time.Duration // between the starts of two checks of one endpoint, jittered
	Timeout  time.Duration // of one check
	Rise     int           // so many successes in a row make an endpoint healthy
	Fall     int           // so many failures in a row make it unhealthy

	Role         string // redis: master or replica; postgres: primary or standby; "": any
	User         string // redis, postgres; "": none
	Password     Secret // redis, postgres; "": none
	PasswordFile string // holds the password, read at each check; "": none
	Database     string // postgres; "": that of the user's name
	Host         string // http: the header Host; "": the endpoint's address
	Path         string // http; "": /
	Status       string // http: a number or a range, 200-399
	Send         string // expect: bytes to begin with, with Go's escapes; "": none
	Expect       string // expect: what the answer must contain, with Go's escapes

	// SendProxy is the header that connections to the endpoint begin with.
	// EffectiveCheck sets it; in Options it is empty.
	SendProxy ProxyVersion
}

// Active tells whether endpoints are asked at all.
func (c Check) Active() bool { return c.Kind != "" && c.Kind != CheckNone }

// Meaningful tells whether a failed check proves that the endpoint does not
// serve.
func (c Check) Meaningful() bool { return c.Active() && c.Kind != CheckTCP }

// Secret is a password. However it is printed, logged or encoded, it shows
// "***"; string(s) is the password itself.
type Secret string

const hidden = "***"

// String hides the password, and shows whether there is one.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the password from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText hides the password from JSON.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// RoleError is a check's verdict on a server that is well, in another role than
// the one that is asked for: of a primary and its standbys one is always not
// the primary.
type RoleError struct {
	Is, Want string // in the words of its protocol
}

func (e *RoleError) Error() string { return "role is " + e.Is + ", not " + e.Want }

// AllUnhealthy says what new connections of a link meet when every endpoint is
// known to be unhealthy.
type AllUnhealthy string

// AllUnhealthyAuto is try for tcp checks, since a wrong check must not cause an
// outage, and hold for checks with meaning.
const (
	AllUnhealthyAuto AllUnhealthy = "auto"
	AllUnhealthyTry  AllUnhealthy = "try"
	AllUnhealthyHold AllUnhealthy = "hold"
)

// Fate says what becomes of live connections: they are kept, may end within a
// time, or are cut. The zero value keeps.
type Fate struct {
	Kind   FateKind
	Within time.Duration // of FateDrain
}

// FateKind is the word of a Fate.
type FateKind string

// The fates of live connections.
const (
	FateKeep  FateKind = "keep"
	FateDrain FateKind = "drain"
	FateCut   FateKind = "cut"
)

// ProxyVersion is a version of the PROXY protocol, in which the sender of a
// connection tells whom it is from:
// https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
type ProxyVersion string

// The versions; "" is the same as ProxyOff.
const (
	ProxyOff ProxyVersion = "off"
	ProxyV1  ProxyVersion = "v1" // text
	ProxyV2  ProxyVersion = "v2" // binary, with TLVs
)

// Mode is what an operator asked of a link for a while. The zero value serves.
type Mode string

// The modes of a link.
const (
	ModeServe Mode = ""
	ModePause Mode = "paused"  // new connections wait, without the limit of hold
	ModeDrain Mode = "drained" // it does not listen; live connections go on
)

// Member is an endpoint as one target has it.
type Member struct {
	Endpoint
	Weight   uint16 // its share beside others of its priority; 0: as few as possible (RFC 2782)
	Priority uint16 // lower ones are used first (RFC 2782)
	// Weak: its source no longer names it, without proof. It is a last resort.
	Weak bool
	Host string // the name of the host that it is on; "": not known
	Name string // the name that it is one of the addresses of; "": none
	// Unhealthy is why its source finds it unhealthy; "": it does not.
	Unhealthy string
}

// Plain is the endpoint as a source has it that knows no more than addresses.
func (e Endpoint) Plain() Member { return Member{Endpoint: e, Weight: 1} }

// Members are endpoints as a source has them that knows no more than addresses.
func Members(list ...Endpoint) []Member {
	all := make([]Member, len(list))
	for i, e := range list {
		all[i] = e.Plain()
	}
	return all
}
