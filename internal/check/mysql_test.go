package check

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"legate/internal/spec"
	"legate/internal/testnet"
)

// startMariaDB starts a server that blocks a host after so few connections
// that ended in their handshake.
func startMariaDB(t *testing.T) *testnet.Process {
	t.Helper()
	server := command(t, "mariadbd")
	dir, err := os.MkdirTemp("", "srv") // short enough for a socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	user := "--user=" + os.Getenv("USER")
	if os.Geteuid() == 0 {
		user = "--user=root" // it refuses to be root unless told to
	}
	args := []string{server, "--no-defaults", user, "--datadir=" + dir, "--innodb-buffer-pool-size=8M", "--innodb-use-native-aio=0", "--innodb-flush-log-at-trx-commit=0"}
	bootstrap(t, args)
	addr, path := netip.AddrPortFrom(loopback, uint16(testnet.FreePort(t))), filepath.Join(dir, "s")
	return testnet.StartProcess(t, testnet.ProcessConfig{
		Args: append(args, "--socket="+path, "--bind-address=127.0.0.1", fmt.Sprintf("--port=%d", addr.Port()),
			"--max-connect-errors=5", "--max-connections=10", "--pid-file="+filepath.Join(dir, "pid")),
		Env: []string{"RES_OPTIONS=timeout:1 attempts:1"}, // it wants names of its clients
		Dir: dir, Addr: addr, Path: path, Ready: func() bool { return accepts(addr) },
	})
}

// bootstrap makes the system tables, as mariadb-install-db does, which needs
// the client's package.
func bootstrap(t *testing.T, args []string) {
	t.Helper()
	sql := "create database mysql;\nuse mysql;\nset @auth_root_socket=NULL;\nset @skip_auth_anonymous=1;\nset @current_hostname='localhost';\n"
	for _, name := range []string{"system_tables", "system_tables_data"} {
		found, err := filepath.Glob("/usr/share/mysql/m*_" + name + ".sql") // mysql_ or mariadb_, by version
		if err != nil || len(found) == 0 {
			testnet.Skip(t, "needs MariaDB's "+name+".sql")
		}
		b, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		sql += string(b)
	}
	// Without a user who may come from elsewhere, everybody is refused there.
	sql += "insert into mysql.global_priv (host, user, priv) values ('%', 'app', '{}');\n"
	cmd := exec.CommandContext(t.Context(), args[0], append(args[1:], "--bootstrap")...)
	cmd.Stdin = strings.NewReader(sql)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make a database: %v\n%s", err, out)
	}
}

// from dials from another address of loopback: a server never blocks 127.0.0.1.
func from(ip string) Runner {
	return Runner{Dial: func(ctx context.Context, e spec.Endpoint) (net.Conn, error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
		return d.DialContext(ctx, "tcp", e.Addr.String())
	}}
}

func TestMySQL_ChecksDoNotBlockTheirHost(t *testing.T) {
	m := startMariaDB(t)
	c, e := patient(spec.CheckMySQL), at(m)
	wants(t, c, e, "")
	wants(t, c, socket(m.Path), "")
	for i := range 200 {
		if err := from("127.0.0.2").Run(t.Context(), c, e); err != nil {
			t.Fatalf("check %d: %v", i, err)
		}
	}
	// That this server does block hosts: whoever leaves at the greeting is.
	blocked := func() bool {
		conn, err := from("127.0.0.3").dial(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		b := make([]byte, 200)
		n, _ := conn.Read(b)
		return strings.Contains(string(b[:n]), "is blocked because of many connection errors")
	}
	testnet.Await(t, "the block", blocked)
	if err := from("127.0.0.3").Run(t.Context(), c, e); err == nil || !strings.Contains(err.Error(), "is blocked because of many connection errors") {
		t.Errorf("blocked, it says %v", err)
	}
	full(t, m, c)
	m.Freeze()
	wants(t, impatient(c), e, "no answer within 200ms")
}

// full takes all of the server's connections, of which one is for
// administrators.
func full(t *testing.T, m *testnet.Process, c spec.Check) {
	t.Helper()
	for range 12 {
		conn, err := net.Dial("unix", m.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.ReadFull(conn, make([]byte, 4))
	}
	testnet.Await(t, "the server to be full", func() bool {
		return text(Runner{}.Run(t.Context(), c, at(m))) == "Too many connections (MySQL error 1040)"
	})
}

func TestMySQL_Answers(t *testing.T) {
	packet := func(sequence byte, body string) string { return string([]byte{byte(len(body)), 0, 0, sequence}) + body }
	greeting := packet(0, "\x0a8.0.36\x00\x01\x00\x00\x00abcdefgh\x00")
	for answer, want := range map[string]string{
		greeting + packet(2, "\xff\x15\x04#28000Access denied"):                                 "",
		greeting + packet(2, "\x00\x00\x00\x02\x00\x00\x00"):                                    "",
		greeting + packet(2, "\xfecaching_sha2_password\x00salt") + packet(4, "\xff\x15\x04no"): "",
		greeting + packet(2, "\xff\x10\x04#08004Too many connections"):                          "Too many connections (MySQL error 1040)",
		greeting + packet(2, "\xff\x1d\x04#08S01Server shutdown in progress"):                   "Server shutdown in progress (MySQL error 1053)",
		greeting + strings.Repeat(packet(2, "\xfe"), 9):                                         "the MySQL login has no end",
		greeting: "it closed the connection instead of an answer",
		packet(0, "\xff\x69\x04Host '10.0.0.1' is blocked"): "Host '10.0.0.1' is blocked (MySQL error 1129)",
		packet(0, "\xff"):              "a MySQL error without a text",
		packet(0, ""):                  "no MySQL greeting",
		packet(0, "\x09old\x00"):       `no MySQL greeting: "old."`,
		"HTTP/1.1 400 Bad Request\r\n": `no MySQL answer: "HTTP"`,
		"abc":                          `no answer of its protocol: "abc", and then the connection's end`,
		"":                             "it closed the connection instead of an answer",
	} {
		wants(t, patient(spec.CheckMySQL), saying(t, answer), want)
	}
	slow := testnet.Serve(t, "tcp4", func(c net.Conn) { _, _ = c.Write([]byte("abc")); drain(c) })
	wants(t, impatient(patient(spec.CheckMySQL)), spec.Endpoint{Protocol: spec.TCP, Addr: slow.Addr}, `no answer of its protocol: "abc", and then nothing more within 200ms`)
}

func TestAMQP_Answers(t *testing.T) {
	start := "\x01\x00\x00\x00\x00\x00\x0d\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x00\x00\x00\x00\xce"
	for answer, want := range map[string]string{
		start:                  "",
		"AMQP\x03\x01\x00\x00": "it speaks AMQP 1-0-0, not 0-9-1",
		"AMQP\x00\x00\x09\x00": "it speaks AMQP 0-9-0, not 0-9-1",
		"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x32\xce": "AMQP method 10.50, not connection.start",
		"HTTP/1.1 400 Bad Request\r\n":                     `no AMQP answer: "HTTP/1.1 40"`,
		"AMQP":                                             `no answer of its protocol: "AMQP", and then the connection's end`,
		start[:9]:                                          `no answer of its protocol: "...... .", and then the connection's end`,
		"":                                                 "it closed the connection instead of an answer",
	} {
		wants(t, patient(spec.CheckAMQP), saying(t, answer), want)
	}
	asked := make(chan string, 1)
	s := testnet.Serve(t, "tcp4", func(c net.Conn) {
		b := make([]byte, 100)
		n, _ := c.Read(b)
		asked <- string(b[:n])
		_, _ = c.Write([]byte(start))
	})
	wants(t, patient(spec.CheckAMQP), spec.Endpoint{Protocol: spec.TCP, Addr: s.Addr}, "")
	if got := <-asked; got != "AMQP\x00\x00\x09\x01" {
		t.Errorf("asked %q", got)
	}
}
