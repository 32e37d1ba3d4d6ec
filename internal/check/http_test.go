package check

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// startNginx serves one server block on a unix socket and a port; the block's
// listen directives end with options.
func startNginx(t *testing.T, options string) *testnet.Process {
	t.Helper()
	dir := t.TempDir()
	path := testnet.SocketPath(t)
	addr := netip.AddrPortFrom(loopback, uint16(testnet.FreePort(t)))
	config := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr info; user root;
events { worker_connections 64; }
http {
	access_log /dev/stdout; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	server {
		listen %[2]s %[4]s; listen unix:%[3]s %[4]s; server_name _;
		location / { return 200 "fine\n"; }
		location /moved { return 301 http://192.0.2.1/; }
		location /ill { return 503; }
		location /odd { return 404; }
	}
	server { listen %[2]s %[4]s; server_name app.example; location / { return 418; } }
}`, dir, addr, path, options)
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return testnet.StartProcess(t, testnet.ProcessConfig{
		Args: []string{command(t, "nginx"), "-c", file, "-p", dir}, Dir: dir, Addr: addr, Path: path,
		Ready: func() bool { return accepts(addr) },
	})
}

func accepts(addr netip.AddrPort) bool {
	c, err := net.Dial("tcp", addr.String())
	if err == nil {
		c.Close()
	}
	return err == nil
}

func get(path, status string) spec.Check {
	c := patient(spec.CheckHTTP)
	c.Path, c.Status = path, status
	return c
}

func TestHTTP_Nginx(t *testing.T) {
	n := startNginx(t, "")
	for _, e := range []spec.Endpoint{at(n), socket(n.Path)} {
		wants(t, get("/", "200-399"), e, "")
		wants(t, get("/", "200"), e, "")
		wants(t, get("/moved", "200-399"), e, "")
		wants(t, get("/moved", "200"), e, "HTTP status 301")
		wants(t, get("/ill", "200-399"), e, "HTTP status 503")
		wants(t, get("/odd?a=b", "404"), e, "")
	}
	app := get("/", "200-399")
	app.Host = "app.example"
	wants(t, app, at(n), "HTTP status 418")
	if log := n.Log(); strings.Contains(log, " 499 ") || !strings.Contains(log, " 503 ") {
		t.Errorf("we left before the answer:\n%s", log)
	}
	n.Freeze()
	wants(t, impatient(get("/", "200")), at(n), "no answer within 200ms")
	n.Thaw()
}

func TestHTTP_Answers(t *testing.T) {
	for answer, want := range map[string]string{
		"HTTP/1.1 200\r\n\r\n": "",
		"HTTP/1.0 200 OK\n":    "",
		"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 204 None\r\n\r\n": "",
		"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 Ill\r\n\r\n":               "HTTP status 503",
		"HTTP/1.1 101 Switching\r\n\r\n":                                         "HTTP status 101",
		"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n":                              "it closed the connection instead of an answer",
		"HTTP/1.1 0200 OK\r\n":                                                   `no HTTP answer: "HTTP/1.1 0200 OK"`,
		"HTTP/1.1 -20 OK\r\n":                                                    `no HTTP answer: "HTTP/1.1 -20 OK"`,
		"HTTP/2.0 200 OK\r\n":                                                    `no HTTP answer: "HTTP/2.0 200 OK"`,
		"HTTP/1.1 200":                                                           `no HTTP answer: "HTTP/1.1 200"`,
		"SSH-2.0-OpenSSH_9.2\r\n":                                                `no HTTP answer: "SSH-2.0-OpenSSH_9.2"`,
		"":                                                                       "it closed the connection instead of an answer",
	} {
		wants(t, get("/", "200-399"), saying(t, answer), want)
	}
	endless := testnet.Serve(t, "tcp4", func(c net.Conn) {
		_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
		for b := make([]byte, 1<<16); ; {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	})
	wants(t, get("/", "200"), spec.Endpoint{Protocol: spec.TCP, Addr: endless.Addr}, "")
}

// Whoever closes before the end of a body resets the connection, which servers
// log as an error.
func TestHTTP_TakesTheBodyAlong(t *testing.T) {
	ended := make(chan error, 1)
	s := testnet.Serve(t, "tcp4", func(c net.Conn) {
		_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 8192)))
		_ = c.(*net.TCPConn).CloseWrite()
		_, err := io.ReadAll(c)
		ended <- err
	})
	wants(t, get("/", "200"), spec.Endpoint{Protocol: spec.TCP, Addr: s.Addr}, "")
	if err := <-ended; err != nil {
		t.Errorf("the server sees %v", err)
	}
}

func TestHTTP_AsksWhatIsSaid(t *testing.T) {
	asked := make(chan string, 1)
	s := testnet.Serve(t, "tcp4", func(c net.Conn) {
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		asked <- string(b[:n])
		_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\n\r\n"))
	})
	e := spec.Endpoint{Protocol: spec.TCP, Addr: s.Addr}
	wants(t, get("/health?deep", "200"), e, "")
	want := "GET /health?deep HTTP/1.1\r\nHost: " + s.Addr.String() + "\r\nUser-Agent: legate-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
	if got := <-asked; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestExpect(t *testing.T) {
	c := func(send, expect string) spec.Check {
		c := patient(spec.CheckExpect)
		c.Send, c.Expect = send, expect
		return c
	}
	wants(t, c("", "SSH-"), saying(t, "SSH-2.0\r\n"), "")
	wants(t, c("", "220 "), saying(t, "SSH-2.0\r\n"), `no "220" in its answer "SSH-2.0"`)
	wants(t, c("", "220"), saying(t, ""), "it closed the connection instead of an answer")
	wants(t, c("x", ""), saying(t, "y"), "")
	wants(t, c("", "late"), saying(t, strings.Repeat("x", 4094)+"late"), "") // over two reads
	far := text(Runner{}.Run(t.Context(), c("", "late"), saying(t, strings.Repeat("x", 3*expectLimit)+"late")))
	if !strings.HasPrefix(far, `no "late" in its answer "xxx`) || len(far) > 2*lineLimit {
		t.Errorf("far: %q", far)
	}
	echo := testnet.Serve(t, "tcp4", testnet.Echo)
	e := spec.Endpoint{Protocol: spec.TCP, Addr: echo.Addr}
	wants(t, c(`a\r\n\x00\xff`, `\x00\xff`), e, "")
	wants(t, impatient(c("hello", "bye")), e, `no "bye" in its answer "hello", and then nothing more within 200ms`)
	wants(t, impatient(c("", "bye")), e, "no answer within 200ms")
}

// Real receivers of the PROXY protocol take the addresses of a connection
// from the connection itself when its header says that it is the proxy's own.
func TestRun_SendsProxyHeaders(t *testing.T) {
	n := startNginx(t, "proxy_protocol")
	h := startHAProxy(t)
	for _, e := range []spec.Endpoint{at(n), socket(n.Path), at(h)} {
		for _, v := range []spec.ProxyVersion{spec.ProxyV1, spec.ProxyV2} {
			c := get("/", "200")
			c.SendProxy = v
			wants(t, c, e, "")
		}
	}
	if err := (Runner{}).Run(t.Context(), get("/", "200"), at(h)); err == nil {
		t.Error("HAProxy takes a connection without a header, so it proves nothing")
	}
	got := make(chan string, 1)
	s := testnet.Serve(t, "tcp4", func(c net.Conn) {
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	for v, want := range map[spec.ProxyVersion]string{
		spec.ProxyOff: "", spec.ProxyV1: "PROXY UNKNOWN\r\n", spec.ProxyV2: "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00",
	} {
		c := patient(spec.CheckTCP)
		c.SendProxy = v
		wants(t, c, spec.Endpoint{Protocol: spec.TCP, Addr: s.Addr}, "")
		if sent := <-got; sent != want {
			t.Errorf("%s: sent %q, want %q", v, sent, want)
		}
	}
}

func startHAProxy(t *testing.T) *testnet.Process {
	t.Helper()
	addr := netip.AddrPortFrom(loopback, uint16(testnet.FreePort(t)))
	dir := t.TempDir()
	file := filepath.Join(dir, "haproxy.cfg")
	config := fmt.Sprintf("defaults\n mode http\n timeout client 10s\n timeout connect 10s\n timeout server 10s\nfrontend f\n bind %s accept-proxy\n http-request return status 200\n", addr)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return testnet.StartProcess(t, testnet.ProcessConfig{
		Args: []string{command(t, "haproxy"), "-db", "-f", file}, Dir: dir, Addr: addr, Ready: func() bool { return accepts(addr) },
	})
}
