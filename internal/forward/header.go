package forward

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"legate/internal/pump"
	"legate/internal/spec"
)

// ErrProxyHeader ends flows of trusted senders without a good header.
var ErrProxyHeader = errors.New("no good PROXY protocol header")

// headerTimeout is how long a trusted sender may take for its header.
const headerTimeout = 3 * time.Second

// senders are those whose connections begin with a PROXY header. Of all others
// none is read: they could say that they are anybody.
type senders struct {
	prefixes []netip.Prefix
	all      bool
}

func sendersOf(o *spec.Options) (s senders) {
	s.prefixes, s.all = o.ProxySenders()
	return s
}

func (s *senders) has(a netip.Addr) bool {
	if s.all || len(s.prefixes) == 0 {
		return s.all
	}
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(s.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// parseHeader implements pump.Preface.Parse.
func (l *link) parseHeader(p *pump.Flow, b []byte) (int, error) {
	return p.Data.(*flow).told.parse(b)
}

func (l *link) badHeader(f *flow, err error) pump.Step {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fw.cfg.Log.Debug("no good PROXY protocol header", "link", l.spec.Name, "sender", callerText(f.pump.Client), "error", err)
	return l.giveUp(f, fmt.Errorf("%w: %w", ErrProxyHeader, err))
}

// sendsProxy returns the version of the header that endpoints get; "" is none.
// It needs mu.
func (l *link) sendsProxy() spec.ProxyVersion {
	if v := l.spec.Options.SendProxy; v != spec.ProxyOff {
		return v
	}
	return ""
}

// appendHeader appends what endpoints of the flow get first. Only Next may call
// it.
func (l *link) appendHeader(b []byte, f *flow, v spec.ProxyVersion) []byte {
	h := proxyHeader{source: f.pump.Client}
	switch {
	case f.told != nil && !f.told.local:
		h = *f.told
	case h.source.IsValid():
		h.destination = f.pump.Local()
	}
	var id [idSize]byte
	return appendProxy(b, v, &h, l.appendID(id[:0], f), f.pass.who)
}

// idSize is the length of the id of a connection.
const idSize = 32

// appendID appends what names the connection, here and at endpoints. Printable,
// since programs print it as it is.
func (l *link) appendID(b []byte, f *flow) []byte {
	var n [idSize / 2]byte
	binary.BigEndian.PutUint64(n[:], l.id)
	binary.BigEndian.PutUint64(n[8:], f.arrival)
	return hex.AppendEncode(b, n[:])
}

// shownID is the id that endpoints were told, or that the client's header has;
// "" when there is none.
func (l *link) shownID(f *flow, o *spec.Options) string {
	if f.entered && f.told != nil {
		if id := f.told.uniqueID(); id != nil {
			return printable(id)
		}
	}
	if o.SendProxy == spec.ProxyV2 {
		return string(l.appendID(nil, f))
	}
	return ""
}

// printable is the id as text; others may have chosen bytes.
func printable(id []byte) string {
	if slices.ContainsFunc(id, func(c byte) bool { return c <= ' ' || c > '~' }) {
		return hex.EncodeToString(id)
	}
	return string(id)
}
