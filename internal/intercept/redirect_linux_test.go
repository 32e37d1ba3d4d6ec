package intercept

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"legate/internal/pump"
	"legate/internal/testnet"
)

// wanted tells the address that each client wanted.
type wanted chan netip.AddrPort

func (w wanted) Next(f *pump.Flow, _ pump.Attempt) pump.Step {
	w <- f.Original()
	return pump.Step{End: io.EOF}
}
func (w wanted) Connected(*pump.Flow, int)    {}
func (w wanted) Done(*pump.Flow, pump.Result) {}

// serveWanted listens on a host's port for both families.
func serveWanted(t *testing.T, h *testnet.Host, engine pump.Engine, port uint16) wanted {
	t.Helper()
	w := make(wanted, 1)
	h.Do(t, func() error {
		fd, err := pump.BindTCP(netip.AddrPortFrom(netip.IPv6Unspecified(), port))
		if err == nil {
			_, err = engine.Serve(pump.Listener{Network: pump.TCP, FD: fd}, w)
		}
		return err
	})
	return w
}

func (w wanted) dial(t *testing.T, from *testnet.Host, to netip.AddrPort) {
	t.Helper()
	from.Do(t, func() error {
		c, err := net.DialTimeout("tcp", to.String(), testnet.Patience)
		if err == nil {
			defer c.Close()
		}
		return err
	})
	select {
	case got := <-w:
		if got != to {
			t.Errorf("a client that connected to %s wanted %s", to, got)
		}
	case <-time.After(testnet.Patience):
		t.Errorf("no client that connected to %s came", to)
	}
}

func TestRedirect_TellsThePortThatAClientWanted(t *testing.T) {
	for name, start := range map[string]func(pump.Config) (pump.Engine, error){"epoll": pump.NewEpoll, "net": pump.NewNet} {
		t.Run(name, func(t *testing.T) {
			testnet.CheckLeaks(t)
			engine, err := start(pump.Config{})
			if err != nil {
				t.Fatal(err)
			}
			defer engine.Close()
			client, agent := testnet.NewHost(t), testnet.NewHost(t)
			testnet.Join(t, client, agent)
			w := serveWanted(t, agent, engine, 10000)
			r := Redirect{Port: 10000}
			agent.Do(t, func() error { return errors.Join(r.Set(), r.Set()) }) // the second changes nothing
			for _, a := range []netip.Addr{agent.V4, agent.V6} {
				w.dial(t, client, netip.AddrPortFrom(a, 6379))
				w.dial(t, client, netip.AddrPortFrom(a, 1))
				w.dial(t, client, netip.AddrPortFrom(a, 10000))
			}
			agent.Do(t, func() error { return refused("127.0.0.1:6379", "[::1]:6379", agent.V4.String()+":6379") })

			agent.Do(t, func() error { return errors.Join(r.Remove(), r.Remove()) })
			client.Do(t, func() error { return refused(agent.V4.String()+":6379", "["+agent.V6.String()+"]:6379") })
			w.dial(t, client, netip.AddrPortFrom(agent.V4, 10000))
		})
	}
}

// refused fails unless nobody listens at the addresses.
func refused(addresses ...string) error {
	for _, a := range addresses {
		c, err := net.DialTimeout("tcp", a, testnet.Patience)
		if err == nil {
			c.Close()
			return fmt.Errorf("connect to %s: served, want it refused", a)
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("connect to %s: %w, want it refused", a, err)
		}
	}
	return nil
}

// Before the redirect nothing may have tracked connections: those that the host
// made itself are new to the kernel then, from the other side's next packet on.
func TestRedirect_LeavesConnectionsThatAreThere(t *testing.T) {
	server, agent := testnet.NewHost(t), testnet.NewHost(t)
	testnet.Join(t, agent, server)
	var ln net.Listener
	server.Do(t, func() (err error) {
		ln, err = net.Listen("tcp", netip.AddrPortFrom(server.V4, 0).String())
		return err
	})
	defer ln.Close()
	var own net.Conn
	agent.Do(t, func() (err error) {
		own, err = net.DialTimeout("tcp", ln.Addr().String(), testnet.Patience)
		return err
	})
	defer own.Close()
	other, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	agent.Do(t, Redirect{Port: 10000}.Set)
	own.SetDeadline(time.Now().Add(testnet.Patience))
	if _, err := other.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(own, make([]byte, 1)); err != nil {
		t.Errorf("a connection that was there before the redirect got nothing more: %v", err)
	}
}

func TestRedirect_TakesNobodysPort(t *testing.T) {
	host := testnet.NewHost(t)
	var lns []net.Listener
	listen := func(address string) {
		host.Do(t, func() error {
			ln, err := net.Listen("tcp", address)
			lns = append(lns, ln)
			return err
		})
	}
	listen("127.0.0.1:22")
	listen("[::1]:22")
	listen("0.0.0.0:10000")
	host.Do(t, Redirect{Port: 10000}.Set)
	for _, address := range []string{"0.0.0.0:2222", "[::]:2222"} {
		listen(address)
		host.Do(t, func() error {
			wantUserError(t, Redirect{Port: 10000}.Set(), "something else serves port 2222", "a network of its own")
			return nil
		})
		lns[len(lns)-1].Close()
	}
	for _, ln := range lns {
		ln.Close()
	}
}

// The rules as the kernel has them, in nft's words.
func TestRedirect_Ruleset(t *testing.T) {
	host := testnet.NewHost(t)
	host.Do(t, Redirect{Port: 10000}.Set)
	const want = `table inet legate
chain omni type nat hook 0 priority -100
rule iifname != "lo" fib daddr type == 2 l4proto == 6 @th,13,1 & 0x17 == 0x02 @th,2,2 != 10000 redirect to :10000
`
	var got strings.Builder
	host.Do(t, func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		chains, err := c.ListChains()
		if err != nil {
			return err
		}
		for _, chain := range chains {
			fmt.Fprintf(&got, "table %s %s\n", map[nftables.TableFamily]string{nftables.TableFamilyINet: "inet"}[chain.Table.Family], chain.Table.Name)
			fmt.Fprintf(&got, "chain %s type %s hook %d priority %d\n", chain.Name, chain.Type, *chain.Hooknum, *chain.Priority)
			rules, err := c.GetRules(chain.Table, chain)
			if err != nil {
				return err
			}
			for _, r := range rules {
				got.WriteString("rule" + ruleText(r.Exprs) + "\n")
			}
		}
		return nil
	})
	if got.String() != want {
		t.Errorf("the kernel has\n%s\nwant\n%s", &got, want)
	}
}

func ruleText(list []expr.Any) (text string) {
	for _, e := range list {
		switch e := e.(type) {
		case *expr.Meta:
			text += " " + map[expr.MetaKey]string{expr.MetaKeyIIFNAME: "iifname", expr.MetaKeyL4PROTO: "l4proto"}[e.Key]
		case *expr.Fib:
			text += " fib"
			if e.FlagDADDR {
				text += " daddr"
			}
			if e.ResultADDRTYPE {
				text += " type"
			}
		case *expr.Payload:
			text += fmt.Sprintf(" @th,%d,%d", e.Offset, e.Len)
		case *expr.Bitwise:
			text += fmt.Sprintf(" & 0x%x", e.Mask)
		case *expr.Cmp:
			text += map[expr.CmpOp]string{expr.CmpOpEq: " ==", expr.CmpOpNeq: " !="}[e.Op] + valueText(e.Data)
		case *expr.Immediate:
			text += fmt.Sprintf(" redirect to :%d", binaryutil.BigEndian.Uint16(e.Data))
		case *expr.Redir:
		default:
			text += fmt.Sprintf(" %T", e)
		}
	}
	return text
}

func valueText(b []byte) string {
	switch {
	case len(b) == unix.IFNAMSIZ:
		return fmt.Sprintf(" %q", strings.TrimRight(string(b), "\x00"))
	case len(b) == 4:
		return fmt.Sprintf(" %d", binaryutil.NativeEndian.Uint32(b))
	case len(b) == 2:
		return fmt.Sprintf(" %d", binaryutil.BigEndian.Uint16(b))
	case b[0] == unix.IPPROTO_TCP:
		return " 6"
	}
	return fmt.Sprintf(" 0x%x", b)
}
