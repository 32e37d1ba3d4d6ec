package forward

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// tellHeader answers with what the connection's header says.
func tellHeader(c net.Conn) {
	h, err := proxyproto.Read(bufio.NewReader(c))
	if err != nil {
		fmt.Fprintln(c, err)
		return
	}
	var ids []string
	tlvs, _ := h.TLVs()
	for _, t := range tlvs {
		ids = append(ids, fmt.Sprintf("%#x:%s", byte(t.Type), t.Value))
	}
	fmt.Fprintln(c, h.Version, h.SourceAddr, h.DestinationAddr, strings.Join(ids, ","))
}

func sends(v spec.ProxyVersion) func(*spec.Options) {
	return func(o *spec.Options) { o.SendProxy = v }
}

func accepts(o *spec.Options) { o.AcceptProxy = "127.0.0.0/8" }

func TestHeader_TellsEndpointsWhoTheCallerIs(t *testing.T) {
	w := newWorld(t, sends(spec.ProxyV1), testnet.Serve(t, "tcp4", tellHeader).String())
	c := w.dial()
	want := fmt.Sprintf("1 %s %s \n", c.LocalAddr(), w.addr)
	if got, err := read(t, c, soon); got != want || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	w.link.Options.SendProxy = spec.ProxyV2
	w.apply()
	c = w.dial()
	got, err := read(t, c, soon)
	if want := fmt.Sprintf("2 %s %s 0x5:", c.LocalAddr(), w.addr); !strings.HasPrefix(got, want) || err != nil {
		t.Errorf("got %q, %v; want %q and an id", got, err, want)
	}
}

func TestHeader_OfAUnixClientNamesNobody(t *testing.T) {
	w := newWorld(t, sends(spec.ProxyV2))
	path := testnet.SocketPath(t)
	w.link.Listen, w.addr = spec.Listen{Protocol: spec.Unix, Path: path}, "unix:"+path
	w.link.Options.SocketMode = 0o600
	w.point(testnet.Serve(t, "tcp4", tellHeader).String())
	for v, want := range map[spec.ProxyVersion]string{spec.ProxyV1: "1 <nil> <nil>", spec.ProxyV2: "2 <nil> <nil>"} {
		w.link.Options.SendProxy = v
		w.apply()
		if got, err := read(t, w.dial(), soon); !strings.HasPrefix(got, want) || err != nil {
			t.Errorf("%s: got %q, %v", v, got, err)
		}
	}
}

func TestHeader_IsTheSameAfterAnEarlyClose(t *testing.T) {
	early := testnet.Serve(t, "tcp4", func(net.Conn) {}).String()
	w := newWorld(t, func(o *spec.Options) { o.SendProxy, o.Balance = spec.ProxyV2, spec.BalanceFirst }, early, testnet.Serve(t, "tcp4", tellHeader).String())
	c := w.dial()
	if got, err := read(t, c, soon); !strings.HasPrefix(got, "2 "+c.LocalAddr().String()) || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// send connects a trusted sender.
func (w *world) send(parts ...[]byte) net.Conn {
	w.t.Helper()
	c := w.dial()
	if _, err := c.Write(join(parts...)); err != nil {
		w.t.Fatal(err)
	}
	return c
}

func TestHeader_OfATrustedSenderIsBelievedAndPassedOn(t *testing.T) {
	w := newWorld(t, func(o *spec.Options) { accepts(o); o.SendProxy = spec.ProxyV2 }, testnet.Serve(t, "tcp4", tellHeader).String())
	h := v2(0x21, 0x11, join(addresses4, tlv(1, "h2"), tlv(tlvNoop, "pad"), tlv(tlvUniqueID, "me"))...)
	if got, err := read(t, w.send(h), soon); got != "2 192.0.2.1:4660 192.0.2.2:80 0x1:h2,0x5:me\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	got, err := read(t, w.send([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n")), soon)
	if !strings.HasPrefix(got, "2 192.0.2.1:4660 192.0.2.2:80 0x5:") || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	c := w.send(v2(0x20, 0))
	if got, err := read(t, c, soon); !strings.HasPrefix(got, "2 "+c.LocalAddr().String()) || err != nil {
		t.Errorf("the sender's own connection: got %q, %v", got, err)
	}
}

var someContainer = spec.Container{ID: strings.Repeat("0123456789abcdef", 4), Name: "shop-web-1", Image: "shop/web:7", Project: "shop", Service: "web"}

// Whatever the container says of itself, as one may that is trusted to pass
// headers on.
func TestHeader_NamesTheContainerThatTheLinkIsFor(t *testing.T) {
	w := newWorld(t, func(o *spec.Options) { accepts(o); o.SendProxy = spec.ProxyV2 }, testnet.Serve(t, "tcp4", tellHeader).String())
	w.link.For = &someContainer
	w.apply()
	who := "0xe5:" + someContainer.ID + ",0xe6:shop-web-1,0xe7:shop/web:7,0xe8:shop,0xe9:web"
	h := v2(0x21, 0x11, join(addresses4, tlv(tlvContainerID, "liar"), tlv(1, "h2"), tlv(tlvContainerService, "db"), tlv(tlvUniqueID, "me"))...)
	if got, err := read(t, w.send(h), soon); got != "2 192.0.2.1:4660 192.0.2.2:80 0x1:h2,0x5:me,"+who+"\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	w.link.Options.AcceptProxy = ""
	w.link.For = &spec.Container{ID: "42", Name: strings.Repeat("n", 300)}
	w.apply()
	c := w.dial()
	got, err := read(t, c, soon)
	if want := "0xe5:42,0xe6:" + strings.Repeat("n", maxTLV) + ",0x5:"; !strings.Contains(got, " "+want) || err != nil {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

func TestHeader_NamesTheCallerEverywhere(t *testing.T) {
	w := newWorld(t, func(o *spec.Options) { accepts(o); o.CallerConnections = 1 }, testnet.Serve(t, "tcp4", testnet.Echo).String())
	first := []byte("PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n")
	c := w.send(first, []byte("x"))
	exchangeRest(t, c, "x")
	list := w.fw.Connections(nil)
	if len(list) != 1 || list[0].Caller != "192.0.2.1:4660" {
		t.Errorf("connections %+v", list)
	}
	w.resets(w.send(first), soon)
	exchangeRest(t, w.send([]byte("PROXY TCP4 192.0.2.9 192.0.2.2 4660 80\r\n"), []byte("y")), "y")
	if s := w.status(); failed(s, "caller-connections") != 1 {
		t.Errorf("failed %v", s.Counters.Failed)
	}
}

// exchangeRest waits for the echo of what was sent already.
func exchangeRest(t *testing.T, c net.Conn, text string) {
	t.Helper()
	b := make([]byte, len(text))
	_ = c.SetReadDeadline(time.Now().Add(soon))
	if _, err := c.Read(b); err != nil || string(b) != text {
		t.Fatalf("got %q, %v; want %q", b, err, text)
	}
}

func TestHeader_MissingOrBadIsReset(t *testing.T) {
	w := newWorld(t, accepts, say(t, "hello"))
	w.resets(w.send([]byte("GET / HTTP/1.1\r\n")), soon)
	start := time.Now()
	w.resets(w.dial(), 2*headerTimeout)
	if took := time.Since(start); took < headerTimeout-100*time.Millisecond {
		t.Errorf("reset after %v", took)
	}
	w.eventually(func(s spec.LinkStatus) bool { return failed(s, "proxy-header") == 2 })
}

func TestHeader_OfOthersIsNotRead(t *testing.T) {
	w := newWorld(t, func(o *spec.Options) { o.AcceptProxy = "192.0.2.0/24" }, testnet.Serve(t, "tcp4", testnet.Echo).String())
	exchange(t, w.dial(), "PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n")
}

func TestSenders_AreThoseOfTheList(t *testing.T) {
	for list, want := range map[string][]string{"": nil, "*": {"10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "unix"}, "10.0.0.0/8": {"10.0.0.1", "::ffff:10.0.0.1"}, "fd00::/8": {"fd00::1"}} {
		o := spec.Options{AcceptProxy: list}
		s := sendersOf(&o)
		for _, text := range []string{"10.0.0.1", "::ffff:10.0.0.1", "fd00::1", "unix"} {
			a, _ := netip.ParseAddr(text) // zero for unix
			if s.has(a) != slices.Contains(want, text) {
				t.Errorf("%q has %s: %v", list, text, s.has(a))
			}
		}
	}
}

func TestHeader_ServerThatRejectsItIsNamed(t *testing.T) {
	w := newWorld(t, sends(spec.ProxyV1), testnet.Serve(t, "tcp4", func(c net.Conn) { _, _ = c.Read(make([]byte, 100)) }).String())
	for range 2 * rejections {
		c := w.dial()
		_, _ = read(t, c, soon)
		c.Close()
	}
	w.eventually(func(s spec.LinkStatus) bool { return strings.Contains(s.Endpoints[0].LastError, "send-proxy=off") })
	x, err := w.fw.Explain("test", spec.CallerAt(loopback))
	if err != nil || !strings.Contains(strings.Join(x.Notes, " "), "may not expect the PROXY protocol header: send-proxy=off") {
		t.Errorf("notes %q, %v", x.Notes, err)
	}
}

// A client that comes and goes without a word says nothing about the server.
func TestHeader_SilentClientsAreNotTheServersFault(t *testing.T) {
	w := newWorld(t, sends(spec.ProxyV1), testnet.Serve(t, "tcp4", testnet.Echo).String())
	for range 2 * rejections {
		w.dial().Close()
	}
	w.eventually(func(s spec.LinkStatus) bool { return s.Counters.Total == 2*rejections && s.Counters.Current == 0 })
	if s := w.status(); s.Endpoints[0].LastError != "" {
		t.Errorf("it is said that it %s", s.Endpoints[0].LastError)
	}
}
