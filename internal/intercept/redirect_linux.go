package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"legate/internal/spec"
)

func redirectTable() *nftables.Table {
	return &nftables.Table{Name: "legate", Family: nftables.TableFamilyINet}
}

// Set makes the redirect what it shall be, whatever was there of it before, in
// one step. It fails where somebody else serves a port, who would get no client
// any more: a host's own network is no place for it. The error is a
// *spec.UserError where a user can do something about it.
func (r Redirect) Set() error {
	taken, err := r.taken()
	if err != nil {
		return fmt.Errorf("look who listens: %w", err)
	}
	if taken != 0 {
		return spec.Errorf("run it in a container with a network of its own, without --network host",
			"redirect all ports to %d: something else serves port %d in this network, and would get no client any more", r.Port, taken)
	}
	return change("redirect all ports to "+strconv.Itoa(int(r.Port)), func(c *nftables.Conn) {
		// A table is added before it is deleted: to delete none is an error.
		c.AddTable(redirectTable())
		c.DelTable(redirectTable())
		t := c.AddTable(redirectTable())
		chain := c.AddChain(&nftables.Chain{
			Name: "omni", Table: t, Type: nftables.ChainTypeNAT,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
		})
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: r.rule()})
	})
}

// Remove takes the redirect away. It is no error that there is none.
func (r Redirect) Remove() error {
	return change("remove the redirect", func(c *nftables.Conn) {
		c.AddTable(redirectTable())
		c.DelTable(redirectTable())
	})
}

// change makes all changes in one transaction.
func change(what string, prepare func(*nftables.Conn)) error {
	c, err := nftables.New()
	if err == nil {
		prepare(c)
		err = c.Flush()
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return spec.Errorf("run Legate with the capability NET_ADMIN: docker run --cap-add NET_ADMIN", "%s: %v", what, unix.EPERM)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
		return spec.Errorf("it needs Linux 5.2 with nftables", "%s: the kernel cannot do that: %v", what, err)
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// rule is, as nft prints it,
//
//	iifname != "lo" fib daddr type local tcp flags & (fin | syn | rst | ack) == syn tcp dport != 10000 redirect to :10000
//
// A connection that was there before nothing tracked any is new to the kernel
// with its next packet, which must not be led elsewhere: only a SYN is.
func (r Redirect) rule() []expr.Any {
	const reg = 1
	port := binaryutil.BigEndian.PutUint16(r.Port)
	lo := make([]byte, unix.IFNAMSIZ)
	copy(lo, "lo")
	equal := func(op expr.CmpOp, data []byte) *expr.Cmp { return &expr.Cmp{Op: op, Register: reg, Data: data} }
	header := func(offset, size uint32) *expr.Payload {
		return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: size}
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg}, equal(expr.CmpOpNeq, lo),
		&expr.Fib{Register: reg, FlagDADDR: true, ResultADDRTYPE: true},
		equal(expr.CmpOpEq, binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, equal(expr.CmpOpEq, []byte{unix.IPPROTO_TCP}),
		header(13, 1), &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 1, Mask: []byte{0x17}, Xor: []byte{0}}, equal(expr.CmpOpEq, []byte{0x02}),
		header(2, 2), equal(expr.CmpOpNeq, port),
		&expr.Immediate{Register: reg, Data: port}, &expr.Redir{RegisterProtoMin: reg},
	}
}

// taken is a port, other than ours, that is served on an address that others
// reach; 0: none.
func (r Redirect) taken() (uint16, error) {
	for _, file := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + file)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if port, ok := served(line); ok && port != r.Port {
				return port, nil
			}
		}
	}
	return 0, nil
}

// served reads a line of /proc/net/tcp (proc_net(5)): the address, in
// hexadecimal digits, and the state are its second and fourth field.
func served(line string) (port uint16, ok bool) {
	const listening = "0A"
	f := strings.Fields(line)
	if len(f) < 4 || f[3] != listening {
		return 0, false
	}
	address, digits, _ := strings.Cut(f[1], ":")
	number, err := strconv.ParseUint(digits, 16, 16)
	return uint16(number), err == nil && !isLoopback(address)
}

// isLoopback reads an address as the kernel prints it: words in the byte order
// of the machine.
func isLoopback(digits string) bool {
	var b []byte
	for len(digits) >= 8 {
		word, err := strconv.ParseUint(digits[:8], 16, 32)
		if err != nil {
			return false
		}
		b, digits = append(b, binaryutil.NativeEndian.PutUint32(uint32(word))...), digits[8:]
	}
	a, ok := netip.AddrFromSlice(b)
	return ok && a.Unmap().IsLoopback()
}
