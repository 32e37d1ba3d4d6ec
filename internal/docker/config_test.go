package docker

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"legate/internal/spec"
	"legate/internal/testnet"
)

func TestFromEnvironment(t *testing.T) {
	tests := map[string]struct {
		env  map[string]string
		want Config
	}{
		"nothing":           {nil, Config{}},
		"a host":            {map[string]string{"DOCKER_HOST": "tcp://h:1"}, Config{Host: "tcp://h:1"}},
		"certificates only": {map[string]string{"DOCKER_CERT_PATH": "/c"}, Config{Certificates: "/c"}},
		"verify":            {map[string]string{"DOCKER_HOST": "tcp://h:1", "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": "/c"}, Config{Host: "tcp://h:1", TLS: true, Certificates: "/c"}},
		"do not verify":     {map[string]string{"DOCKER_HOST": "tcp://h:1", "DOCKER_TLS": "1", "DOCKER_CERT_PATH": "/c"}, Config{Host: "tcp://h:1", TLS: true, Insecure: true, Certificates: "/c"}},
		"both":              {map[string]string{"DOCKER_TLS": "1", "DOCKER_TLS_VERIFY": "1", "HOME": "/h"}, Config{Host: "tcp://localhost:2376", TLS: true, Certificates: "/h/.docker"}},
		"its directory":     {map[string]string{"DOCKER_HOST": "tcp://h:1", "DOCKER_TLS_VERIFY": "1", "HOME": "/h", "DOCKER_CONFIG": "/d"}, Config{Host: "tcp://h:1", TLS: true, Certificates: "/d"}},
	}
	for name, test := range tests {
		if got := FromEnvironment(func(n string) string { return test.env[n] }); got != test.want {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestConfig_Address(t *testing.T) {
	tests := map[string]struct {
		config Config
		want   string // network and address
		err    string
	}{
		"default":          {Config{}, "unix /var/run/docker.sock", ""},
		"socket":           {Config{Host: "unix:///x"}, "unix /x", ""},
		"port":             {Config{Host: "tcp://10.0.0.1:99"}, "tcp 10.0.0.1:99", ""},
		"no port":          {Config{Host: "tcp://10.0.0.1"}, "tcp 10.0.0.1:2375", ""},
		"no port, TLS":     {Config{Host: "tcp://engine", TLS: true}, "tcp engine:2376", ""},
		"IPv6, no port":    {Config{Host: "tcp://[fd00::1]"}, "tcp [fd00::1]:2375", ""},
		"a slash":          {Config{Host: "tcp://10.0.0.1:99/"}, "tcp 10.0.0.1:99", ""},
		"a path":           {Config{Host: "tcp://10.0.0.1:99/x"}, "", "has a path"},
		"ssh":              {Config{Host: "ssh://me@host"}, "", "does not speak ssh"},
		"a user":           {Config{Host: "tcp://bob:hunter2@10.0.0.1:99"}, "", `DOCKER_HOST "tcp://***@10.0.0.1:99" has a user`},
		"ssh, password":    {Config{Host: "ssh://bob:hunter2@host"}, "", `DOCKER_HOST "ssh://***@host"`},
		"a user alone":     {Config{Host: "bob:hunter2@10.0.0.1:99"}, "", `DOCKER_HOST "***@10.0.0.1:99" is neither`},
		"nothing after it": {Config{Host: "unix://"}, "", "neither unix:// nor tcp://"},
	}
	for name, test := range tests {
		network, address, err := test.config.address()
		if test.err != "" {
			wantUserError(t, err, test.err)
			continue
		}
		if got := network + " " + address; err != nil || got != test.want {
			t.Errorf("%s: %q %v, want %q", name, got, err, test.want)
		}
	}
}

func TestNewClient_Certificates(t *testing.T) {
	dir, authority := t.TempDir(), testnet.NewCA(t)
	config := Config{Host: "tcp://127.0.0.1:1", TLS: true, Certificates: dir}
	fails := func(what string) {
		t.Helper()
		_, err := NewClient(config)
		wantUserError(t, err, what)
	}
	fails("read the authority")
	write(t, dir+"/ca.pem", "nothing")
	fails("no certificate in it")
	copyFile(t, authority.File, dir+"/ca.pem")
	cert, key := authority.Client(t, "me")
	copyFile(t, cert, dir+"/cert.pem")
	fails("read the certificate for the Docker engine")
	copyFile(t, key, dir+"/key.pem")
	c, err := NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to, string(text))
}

func TestPlain(t *testing.T) {
	inner := errors.New("connection reset by peer")
	at := &net.OpError{Op: "read", Net: "tcp", Source: &net.TCPAddr{Port: 40001}, Addr: &net.TCPAddr{Port: 2375}, Err: inner}
	if got := plain(at); got != inner.Error() {
		t.Errorf("%q", got)
	}
	got := plain(errors.New("bad\x00\x1b[31m\xff " + strings.Repeat("x", 1000)))
	if strings.ContainsAny(got, "\x00\x1b") || !utf8.ValidString(got) || len(got) > 250 || !strings.HasPrefix(got, "bad [31m x") {
		t.Errorf("%q", got)
	}
}

// TestTable_EngineThatIsNone has subscribers learn what is wrong, in the same
// words each time.
func TestTable_EngineThatIsNone(t *testing.T) {
	dir := t.TempDir()
	garbage := func(answer string) string {
		path := testnet.SocketPath(t)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go serveGarbage(l, answer)
		return "unix://" + path
	}
	http := func(status, body string) string {
		return "HTTP/1.1 " + status + "\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + body
	}
	tests := map[string]struct{ host, want string }{
		"no socket":         {"unix://" + dir + "/none", "there is no Docker socket"},
		"closes":            {garbage(""), "did not answer: it closed the connection"},
		"noise":             {garbage("\x00\x01\xff noise\r\n\r\n"), "did not answer"},
		"no JSON":           {garbage(http("200 OK", "<html>")), "did not answer"},
		"JSON of something": {garbage(http("200 OK", `{"message":5}`)), "did not answer"},
		"addresses":         {garbage(http("200 OK", `[{"Id":"x","NetworkSettings":{"Networks":{"a":{"IPAddress":"999.1"}}}}]`)), "did not answer"},
		"another list":      {garbage(http("200 OK", `[{"pods":null}]`)), "did not answer: the answer is not a list of containers"},
		"an error":          {garbage(http("500 Oops", `{"message":"out of order"}`)), "out of order"},
		"a proxy":           {garbage(http("403 Forbidden", "<html>Request forbidden</html>")), "refuses the question"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			said := ""
			for range 2 {
				s := NewTable(Config{Host: test.host}).Subscribe("x")
				err := s.Next(t.Context())
				s.Close()
				wantUserError(t, err, test.want)
				if said != "" && err.Error() != said {
					t.Errorf("said %q, then %q", said, err)
				}
				said = err.Error()
			}
		})
	}
}

func serveGarbage(l net.Listener, answer string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Read(make([]byte, 4096))
		_, _ = c.Write([]byte(answer))
		c.Close()
	}
}

func TestTable_FailureIsSharedForAMoment(t *testing.T) {
	testnet.CheckLeaks(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan struct{}, 1000)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			asked <- struct{}{}
			c.Close()
		}
	}()
	table := NewTable(Config{Host: "unix://" + path})
	first := table.Subscribe("a")
	want := first.Next(t.Context())
	first.Close()
	before := len(asked)
	for range 100 {
		s := table.Subscribe("a")
		if err := s.Next(t.Context()); err == nil || err.Error() != want.Error() {
			t.Fatalf("told %v, and %v before", err, want)
		}
		s.Close()
	}
	if n := len(asked) - before; n > 2*before {
		t.Errorf("%d connections for 100 subscribers of an engine that just failed", n)
	}
}

func wantUserError(t *testing.T, err error, what string) {
	t.Helper()
	var user *spec.UserError
	if !errors.As(err, &user) || !strings.Contains(user.What, what) || user.Hint == "" {
		t.Errorf("error %v, want one of %q with a hint", err, what)
	}
}
